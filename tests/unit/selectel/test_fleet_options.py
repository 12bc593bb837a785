# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that cannot work are refused with a sentence, and no cloud is asked for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.selfhosted.llm_stack.plugins.action.inventory_check import judge_fleet
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import BadInput
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.prices import server_price
from fleetkit import OPTIONS, Z1, wanted

NAME = "a name has 1 to 63 letters, digits, dots and dashes, and begins and ends with a letter or digit."
LONG = "x" * 64


def server(**more: Any) -> dict[str, Any]:
    return {"servers": [{"name": "gpu1", **more}]}


def place(**more: Any) -> dict[str, Any]:
    return {"placements": [{**Z1, **more}]}


def match(**more: Any) -> dict[str, Any]:
    return {"placements": [{"zone": "z1", "flavor_match": more}]}


def price(**more: Any) -> dict[str, Any]:
    return {"prices": {"servers": [{"flavor": "GL10", **more}]}}


def counted(pattern: Any, count: Any) -> dict[str, Any]:
    return {"servers": [], "name_pattern": pattern, "count": count}


BAD: list[tuple[dict[str, Any], str]] = [
    *[
        ({"fleet": name}, f"fleet is {name!r}: {NAME}")
        for name in ("", " ", "a b", "a/b", "a,b", "-a", "a-", "a_b", LONG, "é", "a\n", "..")
    ],
    *[(server(name=name), f"servers[0].name is {name!r}: {NAME}") for name in ("", "gpu 1", "gpu/1", "gpu_1", ".gpu", LONG, "gpu{n}")],
    ({"servers": []}, "No server is asked for: give servers, or name_pattern and count."),
    ({"servers": [{"name": "a"}, {"name": "a"}]}, "servers names a twice: a name stands for one server."),
    ({"name_pattern": "gpu{n}", "count": 1}, "servers lists the servers and name_pattern counts them: give only one of them."),
    ({"count": 1}, "servers lists the servers and name_pattern counts them"),
    (counted("gpu{n}", None), "name_pattern is given without count: say how many servers there are."),
    (counted(None, 2), "count is given without name_pattern"),
    (counted("gpu", 2), "name_pattern is 'gpu': it needs {n} once, where the number goes, for example gpu{n}."),
    (counted("{n}-{n}", 2), "it needs {n} once"),
    (counted("gpu{n}", -1), "count is -1: give a number from 0 to 500."),
    (counted("gpu{n}", 501), "count is 501: give a number from 0 to 500."),
    (counted("gpu {n}", 1), f"name_pattern is 'gpu 1': {NAME}"),
    (counted("{n}_", 1), f"name_pattern is '1_': {NAME}"),
    ({"placements": []}, "placements is empty: give at least one region, zone and flavor where a server may be made."),
    (server(placements=[]), "servers[0].placements is empty"),
    ({"placements": [Z1, Z1]}, "placements names r1/z1/GL10/preemptible twice: a placement that failed once fails again. Give it once."),
    (server(placements=[Z1, Z1]), "servers[0].placements names r1/z1/GL10/preemptible twice"),
    (place(flavor=""), "placements[0] has no flavor: give its name or ID, or say in flavor_match what it must have."),
    (place(flavor=" "), "placements[0] has no flavor"),
    (place(flavor_match={"gpu": "T4"}), "placements[0] has flavor and flavor_match: name the flavor, or say what it must have, not both."),
    (match(disk_gb=0), "placements[0].flavor_match asks for nothing: give gpu, vcpus or ram_mb."),
    (match(gpus=1), "placements[0].flavor_match.gpus is given without gpu: name the GPU's alias."),
    (match(gpu="T4", gpus=0), "placements[0].flavor_match.gpus is 0: give a number from 1 on, or leave it out."),
    (match(gpu="T4", vcpus=0), "placements[0].flavor_match.vcpus is 0"),
    (match(gpu="T4", ram_mb=-1), "placements[0].flavor_match.ram_mb is -1"),
    (match(gpu="T4", disk_gb=-1), "placements[0].flavor_match.disk_gb is -1: give a number from 0 on"),
    (match(gpu="T4:1"), "placements[0].flavor_match.gpu is 'T4:1': give the alias alone, and the number in gpus."),
    (match(gpu="T4,A2"), "placements[0].flavor_match.gpu is 'T4,A2'"),
    ({"image": ""}, "image is empty: give the name, a pattern or the ID of the image the servers boot from."),
    ({"image": " "}, "image is empty"),
    ({"image": None}, "image is empty"),
    ({"volume_size": None}, "boot is volume and volume_size is 0: give the size of the disk in GiB."),
    ({"volume_size": 0}, "boot is volume and volume_size is 0"),
    ({"volume_size": -5}, "boot is volume and volume_size is -5"),
    ({"boot": "local"}, "boot is local and volume_size is 10: a local disk has the size of its flavor."),
    ({"networks": [{}]}, "networks[0] needs exactly one of network and port."),
    ({"networks": [{"network": "lan", "port": "p"}]}, "networks[0] needs exactly one of network and port."),
    ({"networks": [{"network": " "}]}, "networks[0] needs exactly one of network and port."),
    ({"networks": [{"port": "p", "fixed_ip": "10.0.0.1"}]}, "networks[0] has port and fixed_ip: a port has its address already."),
    *[
        ({"networks": [{"network": "lan", "fixed_ip": text}]}, f"networks[0].fixed_ip is {text!r}, which is no IP address.")
        for text in ("10.0.0", "10.0.0.256", "10.0.0.0/24", "gpu1", "::g")
    ],
    (
        {"servers": [{"name": "a"}, {"name": "b"}], "networks": [{"network": "lan", "fixed_ip": "10.0.0.5"}]},
        "a and b are both given the address 10.0.0.5: give each server its own under servers[].networks.",
    ),
    ({"servers": [{"name": "a"}, {"name": "b"}], "networks": [{"port": "p"}]}, "a and b are both given the port p"),
    ({"security_groups": [""]}, "security_groups has an empty entry: remove it."),
    ({"security_groups": ["a", "a"]}, "security_groups names a twice: give it once."),
    ({"tags": ["a/b"]}, "tags has 'a/b': a tag has 1 to 60 characters and no slash or comma."),
    ({"tags": [LONG]}, f"tags has '{LONG}'"),
    ({"tags": [" "]}, "tags has an empty entry: remove it."),
    ({"tags": ["a", "a"]}, "tags names a twice"),
    ({"tags": ["preemptible"]}, "tags has preemptible, which makes a server preemptible: use placements[].preemptible"),
    ({"tags": [str(number) for number in range(41)]}, "tags has 41 entries, and Nova takes 50 in all: give at most 40."),
    ({"metadata": {"": "x"}}, "metadata has the key '': Nova takes 1 to 255 letters"),
    ({"metadata": {"a/b": "x"}}, "metadata has the key 'a/b'"),
    ({"metadata": {"llm_stack": "x"}}, "metadata sets llm_stack, by which this module knows its servers: choose another key."),
    ({"metadata": {"llm_stack_slot": "x"}}, "metadata sets llm_stack_slot"),
    ({"metadata": {"a": "x" * 256}}, "metadata.a has 256 characters, and Nova takes 255: shorten it."),
    ({"metadata": {"a": [1]}}, "metadata holds a list: Nova takes text only. Write it as a string."),
    ({"metadata": {"a": None}}, "metadata holds a NoneType"),
    ({"metadata": {str(number): "x" for number in range(101)}}, "metadata has 101 entries, and 100 fit beside the module's own."),
    ({"switch_to_preemptible": ["gpu9"]}, "switch_to_preemptible names gpu9, which is no server of this fleet: gpu1."),
    ({"switch_to_regular": ["gpu9"]}, "switch_to_regular names gpu9, which is no server of this fleet: gpu1."),
    ({"allow_data_loss": ["all"]}, "allow_data_loss names all, which is no server of this fleet: gpu1."),
    (
        {"switch_to_preemptible": ["gpu1"], "switch_to_regular": ["gpu1"]},
        "gpu1 is in switch_to_preemptible and in switch_to_regular: choose one.",
    ),
    ({"max_age": 0}, "max_age is 0.0: give a number of seconds above 0, or leave it out."),
    ({"max_age": -1}, "max_age is -1.0"),
    ({"deadline": 0}, "deadline is 0.0: give seconds from 1 to 86400."),
    ({"deadline": 86401}, "deadline is 86401.0"),
    ({"demote_for": -1}, "demote_for is -1.0: give seconds, 0 or more."),
    ({"api_timeout": 0}, "api_timeout is 0.0: give seconds above 0."),
    ({"regions": [""]}, "regions has an empty entry: remove it."),
    ({"memory": {"a": 1}}, "memory['a'] is not what this module returned as memory: hand that back as it is, or nothing."),
    ({"memory": {"a": {}}}, "memory['a'] is not what this module returned"),
    ({"memory": {"a": {"until": "soon"}}}, "memory['a'].until is 'soon', which is no time in seconds: hand back what was returned."),
    (price(), "prices.servers[0] has no price: give preemptible, regular or both."),
    (price(preemptible=-1), "prices.servers[0].preemptible is -1.0: a price is 0 or more an hour."),
    (price(regular=-1), "prices.servers[0].regular is -1.0"),
    ({"prices": {"servers": [{"flavor": " ", "regular": 1}]}}, "prices.servers[0] has no flavor: say whose price it is."),
    (
        {"prices": {"servers": [{"flavor": "a", "regular": 1}, {"flavor": "a", "regular": 2}]}},
        "prices.servers has a twice for the same region: give it once.",
    ),
    ({"prices": {"volume_gb": -1}}, "prices.volume_gb is -1.0: a price is 0 or more an hour."),
    ({"prices": {"address": -0.1}}, "prices.address is -0.1"),
]


def test_there_are_enough_of_them() -> None:
    assert len(BAD) >= 80


@pytest.mark.parametrize(("options", "sentence"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_bad_input_is_refused_with_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        wanted(**options)
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(".")


def test_the_inventory_check_says_the_same_and_no_secret() -> None:
    assert judge_fleet({key: value for key, value in OPTIONS.items() if key != "deadline"}) == ""
    assert judge_fleet({**OPTIONS, "fleet": "a b"}) == f"fleet is 'a b': {NAME}"
    assert "imagee" in judge_fleet({**OPTIONS, "imagee": "x"})
    # What the playbooks say is not said in the inventory.
    assert "confirm" in judge_fleet({**OPTIONS, "confirm": "llm"})
    wrong = judge_fleet({**OPTIONS, "count": "hunter2", "auth": {"password": "hunter2"}})
    assert "count" in wrong
    assert "hunter2" not in wrong


def test_a_spare_server_may_be_named_where_there_is_one() -> None:
    fleet = {**OPTIONS, "allow_data_loss": ["gpu1", "spare1"]}
    assert "spare1, which is no server of this fleet" in judge_fleet(fleet)
    assert judge_fleet(fleet, "1") == ""
    assert "gpu_workers_spare" in judge_fleet(fleet, "some")


def test_every_input_may_be_a_string() -> None:
    plain = wanted(servers=[], name_pattern="gpu{n}", count=2, allow_regular=True, max_age=60, deadline=100, metadata={"a": 1, "b": True})
    texts = {"name_pattern": "gpu{n}", "count": "2", "allow_regular": "true", "max_age": "60", "deadline": "100", "volume_size": "10"}
    found = wanted(servers=[], **texts, metadata='{"a": 1, "b": true}')
    assert found == plain
    assert found.metadata == {"a": "1", "b": "true"}
    assert [slot.name for slot in found.slots] == ["gpu1", "gpu2"]


def test_the_last_resort_comes_last() -> None:
    (slot,) = wanted(allow_regular=True).slots
    assert [one.key for one in slot.placements] == [
        "r1/z1/GL10/preemptible",
        "r1/z2/GL10/preemptible",
        "r1/z1/GL10/regular",
        "r1/z2/GL10/regular",
    ]


@pytest.mark.parametrize("where", ["inventories/example", "examples/controller_project/inventory"])
def test_the_examples_price_all_they_may_start(where: str) -> None:
    """Both offer a budget, and a budget refuses what has no price."""
    text = (Path(__file__).parents[3] / where / "group_vars/all/main.yml").read_text(encoding="utf-8")
    (block,) = re.findall(r"^(?:# )?gpu_fleet:\n(?:(?:# )?  .*\n)+", text, re.MULTILINE)
    declared = yaml.safe_load(re.sub("^# ", "", block, flags=re.MULTILINE))["gpu_fleet"]
    desired = wanted(servers=[], **{**declared, "count": 2, "allow_data_loss": [], "allow_regular": True})
    for one in desired.slots[0].placements:
        cost = server_price(desired.prices, flavor=one.flavor, region=one.region, preemptible=one.preemptible)
        assert cost, one.key
    assert desired.prices.volume_gb
    assert desired.prices.address
