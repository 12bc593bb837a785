# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The planner as tables: one difference, one step, or one refusal with its reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi import parse
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.draft import derive_serial
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.model import Device, Group, Guards, State
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.options import parse_wanted
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.plan import plan
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._plan import Plan
from samples import DEVICE, DUMP, INITIATOR, OTHER, PASSWORD, SECRETS, SERIAL, WWN, acl, altered, lun, option, recorded

GUARDS = Guards(save_file="/etc/rtslib-fb-target/saveconfig.json")
REAL = "/dev/nvme1n1p2"
EMPTY: dict[str, Any] = {"storage_objects": [], "targets": [], "fabric_modules": []}
FREE = Device(DEVICE, exists=True, real=REAL)
VDZ = Device("/dev/vdz", exists=True, real="/dev/vdz")
TPG = "targets.0.tpgs.0"
ACL = f"{TPG}.node_acls.0"
LOGGED_IN = {Group(WWN, 1): (INITIATOR,)}


def state(dump: dict[str, Any] | None = None, *, file: Any = "same", device: Device | None = None, **known: Any) -> State:
    """What is known when the kernel has a dump, and by default the file has the same."""
    found = DUMP if dump is None else dump
    devices = [device or Device(DEVICE, exists=True, real=REAL, busy=True), VDZ]
    read = parse.read_state(found, saved=found if file == "same" else file, devices=devices)
    return replace(read, real={DEVICE: REAL} if found["storage_objects"] else {}, **known)


def planned(found: State, *targets: dict[str, Any], discovery: dict[str, Any] | None = None, guards: Guards = GUARDS) -> Plan:
    return plan(found, parse_wanted(targets, discovery), guards)


def test_the_recorded_configuration_is_what_was_declared() -> None:
    made = planned(state(), option())
    assert made.steps == () and made.refusals == () and made.warnings == () and made.diff == {"before": {}, "after": {}}


def test_an_empty_kernel_gets_everything_and_opens_the_door_last() -> None:
    made = planned(state(EMPTY, file=None, device=FREE), option(), discovery={"userid": "finder", "password": PASSWORD})
    assert [step.action for step in made.steps] == [
        "set_discovery",
        "create_target",
        "create_tpg",
        "create_backstore",
        "create_lun",
        "create_acl",
        "set_chap",
        "map_lun",
        "create_portal",
        "enable",
        "save",
    ]
    assert made.refusals == ()
    assert SERIAL in made.sentences[3]


def test_secrets_show_nowhere() -> None:
    made = planned(state(EMPTY, file=None, device=FREE), option(), discovery={"userid": "finder", "password": PASSWORD})
    assert PASSWORD not in repr(made.sentences) + repr(made.diff) + repr(made.steps)


DRIFT: dict[str, tuple[str, Any, str]] = {
    "authentication": (f"{TPG}.attributes.authentication", 0, f"Set authentication of target {WWN} to 1: it is 0"),
    "demo mode": (f"{TPG}.attributes.generate_node_acls", 1, f"Set generate_node_acls of target {WWN} to 0: it is 1"),
    "an attribute": (f"{TPG}.attributes.login_timeout", 30, f"Set login_timeout of target {WWN} to 15: it is 30"),
    "a parameter": (f"{TPG}.parameters.ImmediateData", "No", f"Set ImmediateData of target {WWN} to Yes: it is No"),
    "a node attribute": (f"{ACL}.attributes.nopin_timeout", 5, f"Set nopin_timeout of {INITIATOR} at target {WWN} to 15: it is 5"),
    "a backstore attribute": ("storage_objects.0.attributes.emulate_tpu", 1, "Set emulate_tpu of backstore disk0 to 0: it is 1"),
    "password": (f"{ACL}.chap_password", "another-password", f"Set the CHAP credentials of {INITIATOR} at target {WWN}"),
    "mutual password": (f"{ACL}.chap_mutual_password", "another-password", f"Set the CHAP credentials of {INITIATOR} at target {WWN}"),
    "portal": (f"{TPG}.portals", [], f"Listen on 10.77.0.11:3260 for target {WWN}"),
    "iSER": (f"{TPG}.portals.0.iser", True, f"Take away iSER at 10.77.0.11:3260 of target {WWN}"),
    "closed": (f"{TPG}.enable", False, f"Open target {WWN} to its initiators"),
    "mapping": (f"{ACL}.mapped_luns", [], f"Show LUN 0 as LUN 0 to {INITIATOR} at target {WWN}"),
    "write protection": (f"{ACL}.mapped_luns.0.write_protect", True, f"Make mapped LUN 0 of {INITIATOR} at target {WWN} writable"),
}
KEPT = option(
    attributes={"login_timeout": 15},
    parameters={"ImmediateData": True},
    luns=[lun(attributes={"emulate_tpu": 0})],
    acls=[acl(attributes={"nopin_timeout": 15})],
)


@pytest.mark.parametrize("name", DRIFT)
def test_drift_is_repaired_by_one_step_and_saved(name: str) -> None:
    path, value, sentence = DRIFT[name]
    made = planned(state(altered(path, value)), KEPT)
    assert made.refusals == ()
    assert made.sentences[:-1] == [sentence]
    assert [step.action for step in made.steps][-1] == "save"
    assert made.after


def test_nothing_undeclared_is_compared() -> None:
    assert planned(state(altered(f"{TPG}.attributes.login_timeout", 30)), option()).steps == ()


def test_a_password_that_differs_is_told_without_a_word_of_it() -> None:
    made = planned(state(altered(f"{ACL}.chap_password", f"{SECRETS}another-secret"), sessions=LOGGED_IN), option())
    what = f"CHAP of {INITIATOR}"
    assert made.diff["before"][f"target {WWN}"] == {what: "(secret)"}
    assert made.diff["after"][f"target {WWN}"] == {what: "(secret) changed"}
    assert made.warnings == (f"{INITIATOR} stays logged in at target {WWN}, and needs its new CHAP credentials at its next login.",)
    assert SECRETS not in repr(made)


DISCOVERY = {"name": "iscsi", "discovery_enable_auth": True, "discovery_userid": "finder", "discovery_password": PASSWORD}
ASKS: dict[str, tuple[list[dict[str, Any]], dict[str, Any] | None, list[str]]] = {
    "as it is": ([DISCOVERY], {"userid": "finder", "password": PASSWORD}, []),
    "not ours": ([DISCOVERY], None, []),
    "nothing yet": ([], {"userid": "finder", "password": PASSWORD}, ["Ask for CHAP credentials before targets are listed"]),
    "another password": (
        [{**DISCOVERY, "discovery_password": "another-password"}],
        {"userid": "finder", "password": PASSWORD},
        ["Ask for CHAP credentials before targets are listed"],
    ),
    "off": ([DISCOVERY], {"enforce": False}, ["List targets to whoever asks, without credentials"]),
    "off already": ([], {"enforce": False}, []),
}


@pytest.mark.parametrize("name", ASKS)
def test_discovery(name: str) -> None:
    fabrics, declared, sentences = ASKS[name]
    made = planned(state({**DUMP, "fabric_modules": fabrics}), option(), discovery=declared)
    assert [sentence for sentence in made.sentences if not sentence.startswith("Save")] == sentences
    assert SECRETS not in repr(made)


TWO_DISKS = option(luns=[lun(), lun(lun=1, name="disk1", device="/dev/vdz")], acls=[acl(mapped_luns=[{"lun": 0}])])
FILE = {"lun": 0, "name": "disk0", "plugin": "fileio", "device": "/srv/a.img", "size": "1GiB"}
FILE_DUMP = altered("storage_objects.0", {**DUMP["storage_objects"][0], "plugin": "fileio", "dev": "/srv/a.img", "size": 2 * 1024**3})
FILE_DUMP["targets"][0]["tpgs"][0]["luns"][0]["storage_object"] = "/backstores/fileio/disk0"
REFUSED: dict[str, tuple[State, dict[str, Any], str]] = {
    "another device": (
        state(),
        option(luns=[lun(device="/dev/vdz")]),
        (
            f"Refusing to put /dev/vdz behind LUN 0 of target {WWN}: backstore disk0 serves {DEVICE}, and exchanging a disk under an "
            "initiator destroys its data. Declare that device, give the LUN another index and name, or, when /dev/vdz holds the same "
            "data, name disk0 in allow_remove."
        ),
    ),
    "another serial": (
        state(),
        option(luns=[lun(serial="00000000-0000-0000-0000-000000000001")]),
        (
            f"Refusing to change the serial of LUN 0 of target {WWN} from {SERIAL} to 00000000-0000-0000-0000-000000000001: initiators "
            "would see another disk. Declare the present serial, leave serial out, or name disk0 in allow_remove."
        ),
    ),
    "a file that shrinks": (
        state(FILE_DUMP),
        option(luns=[FILE]),
        (
            f"Refusing to shrink LUN 0 of target {WWN} from 2 GiB to 1 GiB: what is at its end would be cut off. "
            "Declare at least the present size."
        ),
    ),
    "a LUN that is taken": (
        state(),
        option(luns=[lun(name="disk1", device="/dev/vdz")]),
        (
            f"Refusing to put disk1 at LUN 0 of target {WWN}: disk0 is there, and initiators would find another disk under it. "
            "Choose a free LUN, or name disk0 in allow_remove."
        ),
    ),
    "a mapping that is taken": (
        state(altered(f"{ACL}.mapped_luns.0.tpg_lun", 7)),
        option(),
        (
            f"Refusing to show LUN 0 as LUN 0 to {INITIATOR} at target {WWN}: LUN 7 is there, and the initiator would find another disk "
            f"under it. Choose a free index, or name {INITIATOR}/0 in allow_remove."
        ),
    ),
    "another kind of backstore": (
        state(FILE_DUMP),
        option(),
        f"Refusing to use backstore disk0 for LUN 0 of target {WWN}: it is a fileio backstore, not a block one. Give the LUN another name.",
    ),
    "an attribute of a disk the kernel does not know": (
        state(),
        option(luns=[lun(attributes={"emulate_x": 1})]),
        (
            f"Backstore disk0 of target {WWN} has no attribute emulate_x that can be set: this kernel does not know it. Correct the name, "
            "or take it out."
        ),
    ),
    "an attribute of a group the kernel does not know": (
        state(),
        option(attributes={"x": 1}),
        f"The attribute x of target {WWN} cannot be set: this kernel does not know it. Correct the name, or take it out.",
    ),
    "a missing device": (
        state(EMPTY, device=Device(DEVICE, exists=False)),
        option(),
        f"{DEVICE}, declared for LUN 0 of target {WWN}, does not exist. Create the volume first, or correct the path.",
    ),
    "a file in a missing folder": (
        state(EMPTY, device=Device("/srv/a.img", exists=False, folder=False)),
        option(luns=[FILE]),
        (
            f"/srv/a.img, declared for LUN 0 of target {WWN}, lies in a folder that does not exist. Create the folder first, or correct "
            "the path."
        ),
    ),
    "a file that is longer": (
        state(EMPTY, device=Device("/srv/a.img", exists=True, is_block=False, is_file=True, real="/srv/a.img", size=2 * 1024**3)),
        option(luns=[FILE]),
        (
            f"/srv/a.img, declared for LUN 0 of target {WWN}, has 2 GiB, more than the declared 1 GiB: what is at its end could not be "
            "reached. Declare at least its size."
        ),
    ),
    "a folder as a file": (
        state(EMPTY, device=Device("/srv/a.img", exists=True, is_block=False, real="/srv/a.img")),
        option(luns=[FILE]),
        f"/srv/a.img, declared for LUN 0 of target {WWN}, is no regular file. Name a file, or a path where there is nothing yet.",
    ),
    "a device that is no block device": (
        state(EMPTY, device=Device(DEVICE, exists=True, is_block=False)),
        option(),
        f"{DEVICE}, declared for LUN 0 of target {WWN}, is no block device. Name a volume or a disk.",
    ),
    "a mounted device": (
        state(EMPTY, device=replace(FREE, busy=True)),
        option(),
        (
            f"{DEVICE}, declared for LUN 0 of target {WWN}, is in use on this host: mounted, or part of a pool or another device. "
            "Free it, or name another device."
        ),
    ),
    "a device of another backstore": (
        state(),
        option(luns=[lun(lun=1, name="disk1")]),
        f"{DEVICE}, declared for LUN 1 of target {WWN}, is served by backstore disk0 already. Use that name for the LUN.",
    ),
    "a target to go without confirmation": (
        state(),
        {"wwn": WWN, "state": "absent"},
        f"Refusing to remove target {WWN}: it offers disk0. Set confirm to {WWN}; the data on its disks stays.",
    ),
    "a target to go by another name": (
        state(),
        {"wwn": WWN, "state": "absent", "confirm": "iqn.2026-01.lab.llm:storage2"},
        f"Refusing to remove target {WWN}: it offers disk0. Set confirm to {WWN}; the data on its disks stays.",
    ),
    "a target to go with somebody logged in": (
        state(sessions=LOGGED_IN),
        {"wwn": WWN, "state": "absent", "confirm": WWN},
        f"Refusing to remove target {WWN}: {INITIATOR} is logged in. Log it out first.",
    ),
    "what only the file knows": (
        state(altered(f"{TPG}.portals", []), file=DUMP),
        option(portals=[]),
        (
            f"Refusing to save target {WWN} over {GUARDS.save_file}: the file also has 10.77.0.11:3260, which neither runs nor is "
            "declared, and would be forgotten. Declare it, bring it back with targetctl restore, or name it in allow_remove."
        ),
    ),
}


@pytest.mark.parametrize("there", [True, False])
def test_one_file_by_two_names_is_not_two_disks(there: bool) -> None:
    one, other = (Device(path, exists=there, is_block=False, is_file=there, real="/srv/a.img") for path in ("/srv/a.img", "/link/a.img"))
    found = parse.read_state(EMPTY, saved=None, devices=[one, other])
    declared = option(luns=[FILE, {**FILE, "lun": 1, "name": "disk1", "device": "/link/a.img"}])
    assert [refusal.reason for refusal in planned(found, declared).refusals] == [
        f"/link/a.img, declared for LUN 1 of target {WWN}, is the same as /srv/a.img behind disk0: two disks for initiators that overwrite "
        "each other. Declare it once."
    ]


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_what_why_and_what_next(name: str) -> None:
    found, declared, reason = REFUSED[name]
    made = planned(found, declared)
    assert [refusal.reason for refusal in made.refusals] == [reason]


def extra(dump: dict[str, Any]) -> dict[str, Any]:
    """A dump with an initiator, a portal and a LUN more."""
    store = {**dump["storage_objects"][0], "name": "disk9", "dev": "/dev/vdy", "wwn": "9"}
    tpg = dump["targets"][0]["tpgs"][0]
    more = {**tpg["node_acls"][0], "node_wwn": OTHER, "mapped_luns": [{"index": 3, "tpg_lun": 9, "write_protect": False, "alias": "x"}]}
    group = {
        **tpg,
        "luns": [*tpg["luns"], {"index": 9, "storage_object": "/backstores/block/disk9", "alias": "y"}],
        "portals": [*tpg["portals"], {"ip_address": "0.0.0.0", "port": 3260, "iser": False, "offload": False}],
        "node_acls": [*tpg["node_acls"], more],
    }
    return {**dump, "storage_objects": [*dump["storage_objects"], store], "targets": [{**dump["targets"][0], "tpgs": [group]}]}


EXTRA = extra(DUMP)


def test_what_is_not_declared_is_reported_and_stays() -> None:
    made = planned(state(EXTRA), option(acls=[acl(mapped_luns=[])]))
    assert made.steps == ()
    assert made.warnings == (
        f"Target {WWN} also has LUN 9 (disk9), mapped LUN {INITIATOR}/0, initiator {OTHER}, portal 0.0.0.0:3260: not declared, "
        "left as it is.",
    )


REMOVED: dict[str, tuple[list[str], list[str]]] = {
    "a portal": (["0.0.0.0"], [f"Stop listening on 0.0.0.0:3260 for target {WWN}"]),
    "an initiator": ([OTHER], [f"Take LUN 3 away from {OTHER} at target {WWN}", f"Admit {OTHER} to target {WWN} no more"]),
    "a LUN": (
        ["disk9"],
        [
            f"Take LUN 3 away from {OTHER} at target {WWN}",
            f"Withdraw LUN 9 (disk9) of target {WWN}",
            "Let go of backstore disk9; its data stays",
        ],
    ),
    "what is not there": (["disk8", "iqn.2026-01.lab.llm:gone", "10.0.0.1"], []),
    "nothing": ([], []),
}


@pytest.mark.parametrize("name", REMOVED)
def test_only_what_is_named_goes(name: str) -> None:
    names, sentences = REMOVED[name]
    made = planned(state(EXTRA), option(allow_remove=names))
    assert made.refusals == ()
    assert [sentence for sentence in made.sentences if not sentence.startswith("Save")] == sentences


def test_a_mapping_goes_when_it_is_named() -> None:
    made = planned(state(), option(acls=[acl(mapped_luns=[])], allow_remove=[f"{INITIATOR}/0"]))
    assert made.sentences[0] == f"Take LUN 0 away from {INITIATOR} at target {WWN}"


# With the initiator logged in: what is declared, what it would be called, and the name that allows it (none where nothing is lost).
DISTURBS: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "a LUN that goes": (DUMP, option(luns=[], acls=[acl(mapped_luns=[])], allow_remove=["disk0"]), "remove LUN 0 (disk0)", "disk0"),
    "another device": (DUMP, option(luns=[lun(device="/dev/vdz")], allow_remove=["disk0"]), "rebuild LUN 0 (disk0)", "disk0"),
    "another serial": (DUMP, option(luns=[lun(serial="0" * 16)], allow_remove=["disk0"]), "rebuild LUN 0 (disk0)", "disk0"),
    "a file that grows": (FILE_DUMP, option(luns=[{**FILE, "size": "3GiB"}]), "rebuild LUN 0 (disk0)", "disk0"),
    "an attribute of the disk": (DUMP, option(luns=[lun(attributes={"emulate_tpu": 1})]), "set emulate_tpu of LUN 0 (disk0)", "disk0"),
    "an attribute fixed while offered": (DUMP, option(luns=[lun(attributes={"block_size": 4096})]), "rebuild LUN 0 (disk0)", "disk0"),
    "an initiator that goes": (
        DUMP,
        option(acls=[acl(initiator=OTHER)], allow_remove=[INITIATOR]),
        f"remove initiator {INITIATOR}",
        INITIATOR,
    ),
    "a mapping that goes": (
        DUMP,
        option(acls=[acl(mapped_luns=[])], allow_remove=[f"{INITIATOR}/0"]),
        f"remove mapped LUN 0 of {INITIATOR}",
        INITIATOR,
    ),
    "writing that ends": (
        DUMP,
        option(acls=[acl(mapped_luns=[{"lun": 0, "write_protect": True}])]),
        f"make mapped LUN 0 read-only for {INITIATOR}",
        INITIATOR,
    ),
    "a portal that goes": (
        DUMP,
        option(portals=["10.77.0.12"], allow_remove=["10.77.0.11"]),
        "remove portal 10.77.0.11:3260",
        "10.77.0.11:3260",
    ),
    "iSER": (DUMP, option(iser_portals=["10.77.0.11"]), "offer iSER at portal 10.77.0.11:3260", "10.77.0.11:3260"),
}


@pytest.mark.parametrize("name", DISTURBS)
def test_who_is_logged_in_loses_nothing_unless_it_is_named(name: str) -> None:
    dump, declared, what, allowed = DISTURBS[name]
    made = planned(state(dump, sessions=LOGGED_IN), declared)
    assert [refusal.reason for refusal in made.refusals] == [
        f"Refusing to {what} of target {WWN}: {INITIATOR} is logged in and would lose it. Log it out first, or name {allowed} in "
        "allow_disconnect."
    ]
    named = planned(state(dump, sessions=LOGGED_IN), {**declared, "allow_disconnect": [allowed]})
    nobody = planned(state(dump), declared)
    assert named.refusals == nobody.refusals == ()
    assert named.sentences == nobody.sentences
    assert len(named.steps) > 1


HARMLESS: dict[str, dict[str, Any]] = {
    "one more disk": TWO_DISKS,
    "one more disk that it sees": {**TWO_DISKS, "acls": [acl(mapped_luns=[{"lun": 0}, {"lun": 1}])]},
    "one more initiator": option(acls=[acl(mapped_luns=[{"lun": 0}]), acl(initiator=OTHER, mapped_luns=[])]),
    "one more portal": option(portals=["10.77.0.11", "10.77.0.12"]),
    "new credentials": option(acls=[acl(password=f"{SECRETS}another-secret")]),
    "settings": option(attributes={"login_timeout": 20}, parameters={"MaxOutstandingR2T": 4}, acls=[acl(attributes={"nopin_timeout": 20})]),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_disturbs_nobody_is_done_under_a_session(name: str) -> None:
    made = planned(state(sessions=LOGGED_IN), HARMLESS[name])
    assert made.refusals == ()
    assert len(made.steps) > 1


def test_a_disk_that_the_session_does_not_see_may_go() -> None:
    made = planned(state(EXTRA, sessions=LOGGED_IN), option(allow_remove=["disk9"]))
    assert made.refusals == ()


def test_a_session_without_an_entry_sees_all_disks() -> None:
    guest = {Group(WWN, 1): ("iqn.2026-01.lab.llm:guest",)}
    made = planned(state(EXTRA, sessions=guest), option(allow_remove=["disk9"]))
    assert "iqn.2026-01.lab.llm:guest is logged in and would lose it" in made.refusals[0].reason


def test_a_disk_of_two_groups_is_not_built_anew() -> None:
    dump = recorded("rtslib_2_2_4_two_groups")
    wwn = dump["targets"][0]["wwn"]
    grown = {"lun": 0, "name": "wi0", "plugin": "fileio", "device": "/var/tmp/iscsi/wi0.img", "size": "65MiB"}
    made = planned(state(dump), option(wwn=wwn, luns=[grown], acls=[]))
    assert made.refusals[0].reason == (
        f"Refusing to build LUN 0 (wi0) of target {wwn} anew: it is LUN 7 of target {wwn}, portal group 2 as well, and would be lost "
        "there. Withdraw it there first."
    )


def test_a_disk_that_a_stranger_sees_is_not_built_anew() -> None:
    made = planned(state(), option(luns=[lun(serial="0" * 16)], acls=[acl(mapped_luns=[])], allow_remove=["disk0"]))
    assert made.refusals[0].reason == (
        f"Refusing to build LUN 0 (disk0) of target {WWN} anew: {INITIATOR}/0 sees it as well and is not declared, so it would lose it. "
        "Declare that, or name it in allow_remove."
    )


def test_another_group_of_a_target_is_reported() -> None:
    dump = altered("targets.0.tpgs", [DUMP["targets"][0]["tpgs"][0], {**DUMP["targets"][0]["tpgs"][0], "tag": 5, "portals": []}])
    made = planned(state(dump), option())
    assert made.warnings == (f"Target {WWN} also has portal group 5: not declared, left as it is.",)


@pytest.mark.parametrize(("allowed", "refusals"), [([], 1), (["portal group 5"], 0)])
def test_another_group_that_only_the_file_knows_is_not_forgotten(allowed: list[str], refusals: int) -> None:
    two = [DUMP["targets"][0]["tpgs"][0], {**DUMP["targets"][0]["tpgs"][0], "tag": 5}]
    made = planned(state(file=altered("targets.0.tpgs", two)), option(allow_remove=allowed))
    assert len(made.refusals) == refusals
    assert all("the file also has portal group 5, which neither runs nor is declared" in refusal.reason for refusal in made.refusals)


def test_the_target_of_another_entry_is_created_once() -> None:
    made = planned(state(EMPTY, file=None, device=FREE), option(), option(tag=2, portals=["10.77.0.12"]))
    actions = [step.action for step in made.steps]
    assert (actions.count("create_target"), actions.count("create_tpg"), actions.count("create_backstore")) == (1, 2, 1)


def test_a_target_that_is_not_there_need_not_go() -> None:
    assert planned(state(EMPTY, file=EMPTY), {"wwn": WWN, "state": "absent"}).steps == ()
    assert planned(state(EMPTY, file=None), {"wwn": WWN, "state": "absent"}).steps == ()


ZVOL = "/dev/zvol/llm/vm/disk0"
PENDING = [
    pytest.param(Guards(check_mode=True), ZVOL, 0, 1, id="a zvol in check mode warns"),
    pytest.param(Guards(check_mode=True, pending=(ZVOL,)), ZVOL, 0, 0, id="a pending zvol is expected"),
    pytest.param(Guards(check_mode=True, pending=()), ZVOL, 1, 0, id="a zvol nobody will create"),
    pytest.param(Guards(check_mode=True), "/dev/vdw", 1, 0, id="a disk does not appear by itself"),
    pytest.param(Guards(pending=(ZVOL,)), ZVOL, 1, 0, id="pending means nothing when it is done for real"),
]


@pytest.mark.parametrize(("guards", "device", "refusals", "warnings"), PENDING)
def test_missing_devices(guards: Guards, device: str, refusals: int, warnings: int) -> None:
    found = state(EMPTY, device=Device(device, exists=False))
    made = planned(found, option(luns=[lun(device=device)]), guards=guards)
    assert (len(made.refusals), len(made.warnings)) == (refusals, warnings)


def test_a_derived_serial_depends_on_the_names_only() -> None:
    assert derive_serial(WWN, "disk0") == SERIAL
    assert derive_serial(WWN, "disk1") != SERIAL
