# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options: what they mean, and a corpus of input that cannot work, each refused by a sentence and with nothing touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.fields import parse_portal
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.model import MappedLun, Portal
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.options import parse_wanted
from ansible_collections.selfhosted.llm_stack.plugins.modules import iscsi_target
from fake_rtslib import Library
from results import shown
from samples import DUMP, INITIATOR, OTHER, PASSWORD, SECRETS, WWN, Host, acl, lun, option

COLLECTIONS = Path(__file__).resolve().parents[3] / "build" / "collections"
MUTUAL = f"{SECRETS}mutual-secret"


def file_lun(**changes: Any) -> dict[str, Any]:
    return {"lun": 1, "name": "file1", "plugin": "fileio", "device": "/srv/file1.img", "size": "1GiB", **changes}


# What is declared (one entry of targets, or all of the options), and a part of the sentence that names the thing and the remedy.
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no name": (option(wwn="storage1"), "The wwn 'storage1' is no iSCSI name. Write it as iqn.YYYY-MM.reversed.domain:name"),
    "an underscore": (option(wwn="iqn.2026-01.lab.llm:a_b"), "without underscores or spaces"),
    "a month 13": (option(wwn="iqn.2026-13.lab.llm:a"), "The wwn 'iqn.2026-13.lab.llm:a' is no iSCSI name. Write it as"),
    "a name too long": (option(wwn="iqn.2026-01.lab.llm:" + "a" * 210), "at most 223 characters"),
    "no initiator name": (option(acls=[acl(initiator="gpu1")]), "The initiator 'gpu1' is no iSCSI name. Write it as"),
    "a tag 0": (option(tag=0), f"The tag 0 of target {WWN} is outside 1 to 65535. Choose another"),
    "a host name as portal": (option(portals=["storage1:3260"]), "The portal 'storage1:3260' of target"),
    "a port too high": (option(portals=["10.0.0.1:70000"]), "has a port outside 1 to 65535. Choose another; 3260 is usual."),
    "a portal twice": (option(portals=["10.0.0.1", "10.0.0.1:3260"]), "The portal 10.0.0.1:3260 is declared 2 times"),
    "a multicast portal": (option(portals=["224.0.0.1"]), "is an address that a target cannot listen on. Name one that belongs to"),
    "a portal with a zone": (option(portals=["fe80::1"]), "is an address that a target cannot listen on. Name one that belongs to"),
    "iSER where nobody listens": (
        option(iser_portals=["10.0.0.9"]),
        f"The portal 10.0.0.9:3260 is listed in iser_portals of target {WWN} but not in portals. List it in both.",
    ),
    "a LUN too high": (option(luns=[lun(lun=256)]), f"LUN 256 of target {WWN} is outside 0 to 255. Choose a free index"),
    "a LUN name": (option(luns=[lun(name="a b")]), "The LUN name 'a b' of target"),
    "a LUN name of two lines": (option(luns=[lun(name="disk0\n")]), "The LUN name 'disk0\\n' of target"),
    "a serial of two lines": (option(luns=[lun(serial="0123456789abcdef\n")]), "The serial '0123456789abcdef\\n' of LUN 0"),
    "an attribute of two lines": (option(attributes={"login_timeout\n": 1}), "'login_timeout\\n' is no name the kernel knows. Use letters"),
    "a file as device": (option(luns=[lun(device="/srv/a.img")]), "is no path below /dev. Name a block device, or set plugin to fileio"),
    "a device as file": (option(luns=[file_lun(device="/dev/vda")]), "has to be an absolute path outside /dev. Set plugin to block"),
    "a relative file": (option(luns=[file_lun(device="a.img")]), "The file 'a.img' of LUN 1 of target"),
    "a device with a comma": (
        option(luns=[lun(device="/dev/a,b")]),
        "a comma or an equals sign, which the kernel would cut off. Rename it.",
    ),
    "a file without a size": (option(luns=[file_lun(size=None)]), "The size '' of LUN 1 of target"),
    "a size of words": (option(luns=[file_lun(size="big")]), "Write a multiple of 512 bytes, such as 10GiB."),
    "half a sector": (option(luns=[file_lun(size="1000")]), "The size '1000' of LUN 1 of target"),
    "a size of a device": (option(luns=[lun(size="1GiB")]), "Leave it out, and resize the volume."),
    "a serial": (option(luns=[lun(serial="disk")]), "The serial 'disk' of LUN 0"),
    "an attribute that is no name": (option(luns=[lun(attributes={"a/b": 1})]), "'a/b' is no name the kernel knows. Use letters"),
    "an attribute that is a list": (option(luns=[lun(attributes={"emulate_tpu": [1]})]), "Give it one line of text or a whole number."),
    "a LUN twice": (option(luns=[lun(), lun(name="b", device="/dev/vdb")]), "The lun 0 is declared 2 times"),
    "a LUN name twice": (option(luns=[lun(), lun(lun=1, device="/dev/vdb")]), "The LUN name disk0 is declared 2 times"),
    "a device twice": (
        option(luns=[lun(name="a", device="/dev/vda"), lun(lun=1, name="b", device="/dev/vda")]),
        "The device /dev/vda is declared 2 times in targets. Declare it once.",
    ),
    "a serial twice": (
        option(luns=[lun(serial="0123456789abcdef"), lun(lun=1, name="b", device="/dev/vda", serial="0123456789ABCDEF")]),
        "The serial 0123456789abcdef is declared 2 times in targets. Declare it once.",
    ),
    "no password": (option(acls=[acl(password=None)]), "has only one of userid and password. Give both or neither."),
    "no credentials": (
        option(acls=[acl(userid=None, password=None)]),
        "has no userid and password. Give both, or set allow_unauthenticated",
    ),
    "a short password": (option(acls=[acl(password="short")]), "is shorter than 12 characters. Choose a longer one."),
    "the word NULL": (option(acls=[acl(userid="NULL")]), "nothing that begins with NULL. Choose another."),
    "a password that begins with NULL": (
        option(acls=[acl(password="NULL-and-more-of-it")]),
        "nothing that begins with NULL. Choose another.",
    ),
    "a password of two lines": (option(acls=[acl(password=f"{PASSWORD}\nmore")]), "printable ASCII characters"),
    "a password that is too long": (option(acls=[acl(password="x" * 256)]), "the kernel takes at most 255 printable ASCII characters"),
    "a mutual user without a password": (option(acls=[acl(mutual_userid="t")]), "has only one of mutual_userid and mutual_password."),
    "mutual alone": (
        option(acls=[{"initiator": INITIATOR, "mutual_userid": "t", "mutual_password": MUTUAL}]),
        "Mutual CHAP needs both.",
    ),
    "one password for both": (
        option(acls=[acl(mutual_userid="t", mutual_password=PASSWORD)]),
        "has one password in both directions. Choose two.",
    ),
    "authentication by another way": (option(attributes={"authentication": 0}), "cannot be set here. It follows from the credentials"),
    "everybody by an attribute": (option(attributes={"generate_node_acls": 1}), "Only initiators under acls may log in; list them there."),
    "no authentication of one": (option(acls=[acl(attributes={"authentication": 0})]), "or set allow_unauthenticated for the target."),
    "no CHAP by a parameter": (option(parameters={"AuthMethod": "None"}), "cannot be set here. It follows from the credentials"),
    "an initiator twice": (option(acls=[acl(mapped_luns=[]), acl(mapped_luns=[])]), f"The initiator {INITIATOR} is declared 2 times"),
    "an unknown LUN": (option(acls=[acl(mapped_luns=[{"lun": 3}])]), "maps LUN 3, which target"),
    "a mapped LUN too high": (
        option(acls=[acl(mapped_luns=[{"lun": 0, "index": 300}])]),
        "is outside 0 to 255. Choose an index in that range.",
    ),
    "an index twice": (
        option(luns=[lun(), lun(lun=1, name="b", device="/dev/vdb")], acls=[acl(mapped_luns=[{"lun": 0}, {"lun": 1, "index": 0}])]),
        "The mapped LUN 0 is declared 2 times",
    ),
    "a disk seen twice": (option(acls=[acl(mapped_luns=[{"lun": 0}, {"lun": 0, "index": 5}])]), "The LUN 0 is declared 2 times"),
    "two initiators without lists": (
        option(acls=[acl(), acl(initiator=OTHER)]),
        "two hosts that write to one disk destroy what is on it",
    ),
    "everybody, everywhere": (
        option(acls=[{"initiator": INITIATOR}], portals=["0.0.0.0"], allow_unauthenticated=True),
        "every network of the host would reach it. Name the address on the isolated network.",
    ),
    "half of them": (
        option(acls=[acl(mapped_luns=[]), {"initiator": OTHER, "mapped_luns": []}], allow_unauthenticated=True),
        "mixes initiators with and without credentials. Give all of them credentials, or none.",
    ),
    "declared and to be removed": (option(allow_remove=[INITIATOR.upper()]), f"declares {INITIATOR} and names it in allow_remove too."),
    "a portal declared and to be removed": (option(allow_remove=["10.77.0.11"]), "declares 10.77.0.11:3260 and names it in allow_remove"),
    "an empty confirmation": (option(allow_disconnect=[" "]), "has an empty name in allow_disconnect or allow_remove. Name what may go"),
    "a confirmation of nothing": (option(confirm=WWN), "has confirm, which only a target with state absent needs."),
    "a target twice": ({"targets": [option(), option()]}, f"The target {WWN} with tag 1 is declared 2 times in targets. Declare it once."),
    "absent and present": (
        {"targets": [option(tag=2), {"wwn": WWN, "state": "absent", "confirm": WWN}]},
        f"Target {WWN} is declared absent and present at once. Keep one of the entries.",
    ),
    "a portal in two groups": (
        {"targets": [option(), option(tag=2)]},
        f"The portal 10.77.0.11:3260 is declared 2 times in the portal groups of {WWN}. Declare it once.",
    ),
    "a disk in two targets": (
        {"targets": [option(), option(wwn="iqn.2026-01.lab.llm:b")]},
        f"The LUN name disk0 is declared in target {WWN} and in target iqn.2026-01.lab.llm:b. Give each disk a name of its own.",
    ),
    "a disk that differs between groups": (
        {"targets": [option(), option(tag=2, portals=["10.77.0.12"], luns=[lun(device="/dev/vdz")])]},
        f"The LUN disk0 of target {WWN} is declared differently in its portal groups. Declare the same disk in each.",
    ),
    "discovery without credentials": (
        {"targets": [option()], "discovery_auth": {"enforce": True}},
        "The discovery_auth has no userid and password. Give both, or set enforce to false",
    ),
    "credentials that nobody asks for": (
        {"targets": [option()], "discovery_auth": {"enforce": False, "userid": "a", "password": PASSWORD}},
        "The discovery_auth has credentials, but enforce is false. Leave the credentials out, or enforce them.",
    ),
    "a short password for discovery": (
        {"targets": [option()], "discovery_auth": {"userid": "a", "password": "short"}},
        "The password of discovery_auth is shorter than 12 characters. Choose a longer one.",
    ),
}


def test_the_corpus_is_large_enough() -> None:
    assert len(BAD) >= 35


@pytest.mark.parametrize("check_mode", [False, True])
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_and_touches_nothing(name: str, check_mode: bool, host: Host) -> None:
    declared, sentence = BAD[name]
    library = Library(DUMP)
    before = json.dumps(library.state, sort_keys=True)
    result = host.run(library, declared if "targets" in declared else {"targets": [declared]}, check_mode=check_mode)
    assert (result["failed"], result["changed"], result["plan"]) == (True, False, [])
    assert sentence in result["msg"]
    assert result["msg"].endswith(".")
    assert SECRETS not in json.dumps(result)
    assert library.calls == []
    assert json.dumps(library.state, sort_keys=True) == before
    assert not host.saved.exists()


def run(options: dict[str, Any], path: Path) -> dict[str, Any]:
    """Run the module as Ansible does, in check mode on a machine without LIO."""
    arguments = json.dumps({"ANSIBLE_MODULE_ARGS": {**options, "_ansible_check_mode": True, "_ansible_diff": True}})
    ended = subprocess.run(
        [sys.executable, "-m", "ansible_collections.selfhosted.llm_stack.plugins.modules.iscsi_target"],
        input=arguments,
        capture_output=True,
        text=True,
        check=False,
        cwd=path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(COLLECTIONS), *sys.path])},
    )
    result = shown(ended.stdout)
    assert SECRETS not in json.dumps(result) + ended.stderr
    return result


WRONG_TYPES = [
    ({"targets": [{"wwn": WWN}]}, "state is present but all of the following are missing: portals, luns, acls"),
    ({"targets": [option(state="gone")]}, "value of state must be one of: present, absent"),
    ({"targets": [option(luns=[lun(plugin="rd_mcp")])]}, "value of plugin must be one of: block, fileio"),
    ({"targets": [option(lun=1)]}, "lun"),
    ({"targets": [option(luns=[{"lun": 0}])]}, "missing required arguments: device, name"),
    ({"targets": [option(luns=[lun(lun="first")])]}, "lun"),
    ({}, "missing required arguments: targets"),
]


@pytest.mark.parametrize(("options", "text"), WRONG_TYPES)
def test_options_of_a_wrong_type_are_named(options: dict[str, Any], text: str, tmp_path: Path) -> None:
    result = run(options, tmp_path)
    assert result["failed"]
    assert text in result["msg"]
    assert not result.get("changed", False)


EXAMPLES = yaml.safe_load(iscsi_target.EXAMPLES)


@pytest.mark.parametrize("task", EXAMPLES, ids=[task["name"] for task in EXAMPLES])
def test_examples_are_understood(task: dict[str, Any], tmp_path: Path) -> None:
    text = json.dumps(task["selfhosted.llm_stack.iscsi_target"])
    for name in ("vault_iscsi_password", "vault_iscsi_discovery_password"):
        text = text.replace("{{ " + name + " }}", f"{SECRETS}{name}")
    options = json.loads(text)
    devices = [lun["device"] for target in options["targets"] for lun in target.get("luns", [])]
    result = run({**options, "pending": devices, "save_file": str(tmp_path / "saveconfig.json")}, tmp_path)
    present = any(target.get("state") != "absent" for target in options["targets"])
    assert (result.get("failed", False), result["changed"]) == (False, present), result


def test_portals_are_read_in_every_form() -> None:
    forms = ["10.0.0.1", "10.0.0.1:3261", "[fd00::1]:3260", "fd00::1", "[FD00:0::1]", "[::1]"]
    assert [parse_portal(text, WWN) for text in forms] == [
        Portal("10.0.0.1"),
        Portal("10.0.0.1", 3261),
        Portal("[fd00::1]"),
        Portal("[fd00::1]"),
        Portal("[fd00::1]"),
        Portal("[::1]"),
    ]


def test_confirmations_are_read_in_every_form() -> None:
    (target,) = parse_wanted([option(allow_remove=["fd00::1", "IQN.2026-01.lab.llm:gpu9/3", "Disk9"])]).targets
    assert target.allow_remove == ("[fd00::1]:3260", "iqn.2026-01.lab.llm:gpu9/3", "Disk9")


def test_without_authentication_the_attribute_says_so() -> None:
    (target,) = parse_wanted([option(acls=[{"initiator": INITIATOR}], allow_unauthenticated=True)]).targets
    assert target.attributes["authentication"] == "0"
    assert target.attributes["generate_node_acls"] == "0"


def test_settings_are_read_as_the_kernel_writes_them() -> None:
    (target,) = parse_wanted([option(parameters={"ImmediateData": False}, attributes={"t10_pi": True, "login_timeout": 20})]).targets
    assert target.parameters == {"ImmediateData": "No"}
    assert target.extra_attributes == {"t10_pi": "1", "login_timeout": "20"}


def test_an_only_initiator_sees_all_disks() -> None:
    (target,) = parse_wanted([option(luns=[lun(), file_lun()])]).targets
    assert target.acls[0].mapped == (MappedLun(0, 0), MappedLun(1, 1))
