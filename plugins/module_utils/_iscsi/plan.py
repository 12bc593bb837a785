# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the kernel's targets to the declared ones: steps that add and set, never remove."""

from __future__ import annotations

import uuid
from typing import Any, Iterable

from .._plan import Plan, Refusal, Step
from .model import TPG_TAG, Acl, Backstore, Device, Guards, MappedLun, Portal, State, Tpg, WantedLun, WantedTarget
from .saved import merge_saved, same

# Serials derived in this namespace are the same on every rebuild of a host, so initiators see the same disk.
_SERIALS = uuid.UUID("5c3c1a0e-0f5e-5b0c-9b69-6c6c6d737461")
_NOBODY = Acl("")
_NOTHING = Tpg(tag=TPG_TAG, enabled=False, attributes={}, luns={}, portals=(), acls=())


def derive_serial(wwn: str, name: str) -> str:
    """Return the serial of a LUN that declares none."""
    return str(uuid.uuid5(_SERIALS, f"{wwn}/{name}"))


def plan(state: State, wanted: Iterable[WantedTarget], guards: Guards) -> Plan:
    """Plan all targets; the configuration is saved last, when anything changed or the file differs."""
    planner = _Planner(state, guards)
    targets = tuple(wanted)
    for target in targets:
        planner.target(target)
    planner.save([target.wwn for target in targets])
    return Plan(
        steps=tuple(planner.steps),
        refusals=tuple(planner.refusals),
        warnings=tuple(planner.warnings),
        before=planner.before,
        after=planner.after,
    )


class _Planner:
    """Collects what differs, target by target."""

    def __init__(self, state: State, guards: Guards) -> None:
        self.state = state
        self.guards = guards
        self.steps: list[Step] = []
        self.refusals: list[Refusal] = []
        self.warnings: list[str] = []
        self.before: dict[str, Any] = {}
        self.after: dict[str, Any] = {}

    def target(self, want: WantedTarget) -> None:
        """Plan one target: closed first, then disks, initiators, and only then an open door."""
        groups = self.state.targets.get(want.wwn)
        have = next((tpg for tpg in groups or () if tpg.tag == TPG_TAG), None)
        if groups is None:
            self.add("create_target", want.wwn, f"Create target {want.wwn}", want.wwn)
        if have is None:
            self.add("create_tpg", want.wwn, f"Create portal group {TPG_TAG} of target {want.wwn}, closed", (want.wwn, want.attributes))
        else:
            self.attributes(want, have)
        current = have or _NOTHING
        for lun in want.luns:
            self.backstore(want, lun)
            self.lun(want, lun, current)
        for acl in want.acls:
            self.acl(want, acl, current)
        for portal in want.portals:
            self.portal(want, portal, current)
        self.enable(want, current)
        self.report_undeclared(want, current)

    def attributes(self, want: WantedTarget, have: Tpg) -> None:
        for name, value in want.attributes.items():
            found = have.attributes.get(name)
            if found is None or str(found) == str(value):
                continue
            self.add("set_attribute", want.wwn, f"Set {name} of target {want.wwn} to {value}: it is {found}", (want.wwn, name, value))
            self.differs(want, name, found, value)

    def backstore(self, want: WantedTarget, lun: WantedLun) -> None:
        """Plan the storage object behind a LUN."""
        have = next((store for store in self.state.backstores if store.name == lun.name), None)
        if have is not None:
            self.check_backstore(want, lun, have)
            return
        if not self.device_usable(want, lun):
            return
        serial = lun.serial or derive_serial(want.wwn, lun.name)
        sentence = f"Create backstore {lun.name} on {lun.device} with serial {serial}"
        self.add("create_backstore", lun.name, sentence, Backstore("block", lun.name, lun.device, serial))

    def check_backstore(self, want: WantedTarget, lun: WantedLun, have: Backstore) -> None:
        where = f"LUN {lun.index} of target {want.wwn}"
        if have.plugin != "block":
            self.refuse(
                lun.name,
                f"Refusing to use backstore {lun.name} for {where}: it is a {have.plugin} backstore, not a block one. "
                "Give the LUN another name.",
            )
            return
        device = self.state.devices.get(lun.device)
        if have.device != lun.device and (not device or self.state.real.get(have.device) != device.real):
            self.refuse(
                lun.name,
                f"Refusing to put {lun.device} behind {where}: backstore {lun.name} serves {have.device}, and exchanging a disk "
                "under an initiator destroys its data. Declare that device, or give the LUN another index and name.",
            )
        if lun.serial and lun.serial.lower() != have.serial.lower():
            self.refuse(
                lun.name,
                f"Refusing to change the serial of {where} from {have.serial} to {lun.serial}: initiators would see another disk. "
                "Declare the present serial, or leave serial out.",
            )

    def device_usable(self, want: WantedTarget, lun: WantedLun) -> bool:
        device = self.state.devices.get(lun.device, Device(lun.device, exists=False))
        where = f"LUN {lun.index} of target {want.wwn}"
        if not device.exists:
            return self.may_be_missing(lun.device, where)
        holder = next((name for name, real in self.holders().items() if real == device.real), None)
        if not device.is_block:
            self.refuse(lun.device, f"{lun.device}, declared for {where}, is no block device. Name a volume or a disk.")
        elif holder:
            self.refuse(
                lun.device, f"{lun.device}, declared for {where}, is served by backstore {holder} already. Use that name for the LUN."
            )
        elif device.busy:
            self.refuse(
                lun.device,
                f"{lun.device}, declared for {where}, is in use on this host: mounted, or part of a pool or another device. "
                "Free it, or name another device.",
            )
        else:
            return True
        return False

    def holders(self) -> dict[str, str]:
        """Real paths of the devices served, by backstore name."""
        return {store.name: self.state.real.get(store.device, "") for store in self.state.backstores}

    def may_be_missing(self, path: str, where: str) -> bool:
        if self.guards.check_mode and path in (self.guards.pending or ()):
            return True
        if self.guards.check_mode and self.guards.pending is None and path.startswith("/dev/zvol/"):
            self.warnings.append(f"{path}, declared for {where}, does not exist yet; an earlier task has to create it.")
            return True
        self.refuse(path, f"{path}, declared for {where}, does not exist. Create the volume first, or correct the path.")
        return False

    def lun(self, want: WantedTarget, lun: WantedLun, have: Tpg) -> None:
        store = have.luns.get(lun.index)
        if store is None:
            sentence = f"Offer {lun.name} as LUN {lun.index} of target {want.wwn}"
            self.add("create_lun", want.wwn, sentence, (want.wwn, lun.index, lun.name))
            self.differs(want, f"lun {lun.index}", None, f"{lun.name} on {lun.device}")
        elif store[1] != lun.name:
            self.refuse(
                want.wwn,
                f"Refusing to put {lun.name} at LUN {lun.index} of target {want.wwn}: {store[1]} is there, and initiators would find "
                "another disk under it. Choose a free LUN.",
            )

    def acl(self, want: WantedTarget, acl: Acl, tpg: Tpg) -> None:
        """Plan one initiator: admitted, then authenticated, then given disks."""
        have = next((item for item in tpg.acls if item.initiator == acl.initiator), None)
        if have is None:
            self.add("create_acl", acl.initiator, f"Admit {acl.initiator} to target {want.wwn}", (want.wwn, acl.initiator))
            self.differs(want, f"initiator {acl.initiator}", None, f"CHAP user {acl.chap.userid}" if acl.chap.userid else "no CHAP")
        current = have or _NOBODY
        if current.chap != acl.chap:
            self.add(
                "set_chap",
                acl.initiator,
                f"Set the CHAP credentials of {acl.initiator} at target {want.wwn}",
                (want.wwn, acl.initiator, acl.chap),
            )
            if have is not None:
                self.differs(want, f"CHAP of {acl.initiator}", "differs from what is declared", "as declared")
        for entry in acl.mapped:
            self.mapping(want, acl, entry, current)

    def mapping(self, want: WantedTarget, acl: Acl, entry: MappedLun, have: Acl) -> None:
        whom = f"{acl.initiator} at target {want.wwn}"
        found = next((item for item in have.mapped if item.index == entry.index), None)
        if found is None:
            access = ", read-only" if entry.write_protect else ""
            sentence = f"Show LUN {entry.lun} as LUN {entry.index} to {whom}{access}"
            self.add("map_lun", acl.initiator, sentence, (want.wwn, acl.initiator, entry))
            self.differs(want, f"mapped LUN {entry.index} of {acl.initiator}", None, f"LUN {entry.lun}{access}")
        elif found.lun != entry.lun:
            self.refuse(
                acl.initiator,
                f"Refusing to show LUN {entry.lun} as LUN {entry.index} to {whom}: LUN {found.lun} is there, and the initiator would "
                "find another disk under it. Choose a free index.",
            )
        elif found.write_protect != entry.write_protect:
            access = "read-only" if entry.write_protect else "writable"
            sentence = f"Make mapped LUN {entry.index} of {whom} {access}"
            self.add("set_write_protect", acl.initiator, sentence, (want.wwn, acl.initiator, entry))
            self.differs(want, f"mapped LUN {entry.index} of {acl.initiator}", "writable" if entry.write_protect else "read-only", access)

    def portal(self, want: WantedTarget, portal: Portal, have: Tpg) -> None:
        if portal not in have.portals:
            self.add("create_portal", want.wwn, f"Listen on {portal} for target {want.wwn}", (want.wwn, portal))
            self.differs(want, f"portal {portal}", None, "listening")

    def enable(self, want: WantedTarget, have: Tpg) -> None:
        if not have.enabled:
            self.add("enable", want.wwn, f"Open target {want.wwn} to its initiators", want.wwn)
            self.differs(want, "enabled", False, True)

    def report_undeclared(self, want: WantedTarget, have: Tpg) -> None:
        """What is there and not declared is drift to report, not to remove."""
        extra = [f"LUN {index} ({store[1]})" for index, store in sorted(have.luns.items()) if index not in {lun.index for lun in want.luns}]
        declared = {acl.initiator: {entry.index for entry in acl.mapped} for acl in want.acls}
        for acl in have.acls:
            if acl.initiator not in declared:
                extra.append(f"initiator {acl.initiator}")
                continue
            more = [entry.index for entry in acl.mapped if entry.index not in declared[acl.initiator]]
            extra += [f"mapped LUN {index} of {acl.initiator}" for index in sorted(more)]
        extra += [f"portal {portal}" for portal in have.portals if portal not in want.portals]
        if extra:
            self.warnings.append(f"Target {want.wwn} also has {', '.join(extra)}: not declared, left as it is.")

    def save(self, wwns: list[str]) -> None:
        """The last step: what the boot service restores must be what runs now."""
        path = self.guards.save_file
        merged = merge_saved(self.state.saved, self.state.dump, wwns)
        if self.steps or not same(self.state.saved, merged):
            sentence = f"Save the configuration to {path}, so that it outlives a reboot"
            self.add("save", path, sentence, tuple(wwns))
            self.before.setdefault("saved", "differs from what is declared" if self.state.saved else "nothing")
            self.after.setdefault("saved", "as declared")

    def add(self, action: str, target: str, sentence: str, data: Any) -> None:
        self.steps.append(Step(action, target, sentence, data))

    def refuse(self, target: str, reason: str) -> None:
        self.refusals.append(Refusal(target, reason))

    def differs(self, want: WantedTarget, what: str, before: Any, after: Any) -> None:
        if before is not None:
            self.before.setdefault(want.wwn, {})[what] = before
        self.after.setdefault(want.wwn, {})[what] = after
