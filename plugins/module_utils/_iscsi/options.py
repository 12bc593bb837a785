# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the module to what is wanted; each fault is a sentence that names the option."""

from __future__ import annotations

from typing import Any, Iterable, Mapping, Sequence

from .._errors import BadInput
from .chap import parse_discovery
from .disks_options import parse_acls, parse_luns
from .fields import check_unique, parse_portal, parse_settings, parse_wwn
from .model import Acl, Portal
from .wanted import Wanted, WantedLun, WantedTarget

# The module sets these itself, from what the target declares: another value would let strangers in.
_OWN_ATTRIBUTES = {
    "authentication": "It follows from the credentials of acls and from allow_unauthenticated.",
    "generate_node_acls": "Only initiators under acls may log in; list them there.",
    "cache_dynamic_acls": "Only initiators under acls may log in; list them there.",
    "demo_mode_write_protect": "Only initiators under acls may log in; list them there.",
}
_OWN_PARAMETERS = {"AuthMethod": "It follows from the credentials of acls and from allow_unauthenticated."}


def parse_wanted(targets: Iterable[Mapping[str, Any]], discovery: Mapping[str, Any] | None = None) -> Wanted:
    """Check the options ``targets`` and ``discovery_auth`` and return what they declare.

    :raises BadInput: at the first fault.
    """
    found = tuple(_target(option) for option in targets)
    _check_groups(found)
    luns: dict[str, tuple[str, WantedLun]] = {}
    for target in found:
        for lun in target.luns:
            _check_shared(luns, target.wwn, lun)
    different = [lun for _wwn, lun in luns.values()]
    check_unique("targets", "device", [lun.device for lun in different])
    check_unique("targets", "serial", [lun.serial.lower() for lun in different if lun.serial])
    return Wanted(found, parse_discovery(discovery))


def _target(option: Mapping[str, Any]) -> WantedTarget:
    wwn = parse_wwn(option["wwn"], "wwn")
    absent = option.get("state") == "absent"
    confirm = (option.get("confirm") or "").strip().lower()
    if absent:
        return WantedTarget(wwn, absent=True, confirm=confirm)
    if confirm:
        raise BadInput(f"The target {wwn} has confirm, which only a target with state absent needs. Take one of the two out.")
    tag = option.get("tag", 1)
    if not 0 < tag < 65536:
        raise BadInput(f"The tag {tag} of target {wwn} is outside 1 to 65535. Choose another; 1 is usual.")
    luns = parse_luns(option["luns"], wwn)
    acls = parse_acls(option["acls"], wwn, luns)
    portals = _portals(option, wwn)
    allowed = _Allowed(option, wwn, acls, portals)
    return WantedTarget(
        wwn=wwn,
        portals=portals,
        luns=luns,
        acls=acls,
        authentication=_authentication(wwn, acls, portals, allowed=bool(option.get("allow_unauthenticated"))),
        tag=tag,
        extra_attributes=parse_settings(option.get("attributes"), f"attribute of target {wwn}", forbidden=_OWN_ATTRIBUTES),
        parameters=_parameters(option, wwn),
        allow_disconnect=allowed.disconnect,
        allow_remove=allowed.remove,
    )


def _parameters(option: Mapping[str, Any], wwn: str) -> dict[str, str]:
    return parse_settings(option.get("parameters"), f"parameter of target {wwn}", forbidden=_OWN_PARAMETERS, flags=("No", "Yes"))


def _portals(option: Mapping[str, Any], wwn: str) -> tuple[Portal, ...]:
    portals = [parse_portal(text, wwn) for text in option["portals"]]
    check_unique(wwn, "portal", [str(portal) for portal in portals])
    iser = [parse_portal(text, wwn) for text in option.get("iser_portals") or ()]
    for portal in iser:
        if portal not in portals:
            raise BadInput(f"The portal {portal} is listed in iser_portals of target {wwn} but not in portals. List it in both.")
    return tuple(Portal(portal.address, portal.port, iser=portal in iser) for portal in portals)


class _Allowed:
    """The two lists of names that confirm what would otherwise be refused, in the spelling the planner compares."""

    def __init__(self, option: Mapping[str, Any], wwn: str, acls: Sequence[Acl], portals: Sequence[Portal]) -> None:
        self.disconnect = tuple(_name(text, wwn) for text in option.get("allow_disconnect") or ())
        self.remove = tuple(_name(text, wwn) for text in option.get("allow_remove") or ())
        for name in [*(acl.initiator for acl in acls), *(str(portal) for portal in portals)]:
            if name in self.remove:
                raise BadInput(f"Target {wwn} declares {name} and names it in allow_remove too. Take it out of one of them.")


def _name(text: str, wwn: str) -> str:
    """A portal in its full form, an initiator in lower case, anything else as it is."""
    name = text.strip()
    if not name:
        raise BadInput(f"Target {wwn} has an empty name in allow_disconnect or allow_remove. Name what may go, or take the entry out.")
    try:
        return str(parse_portal(name, wwn))
    except BadInput:
        return name.lower() if name.lower().startswith(("iqn.", "eui.", "naa.")) else name


def _authentication(wwn: str, acls: tuple[Acl, ...], portals: tuple[Portal, ...], *, allowed: bool) -> bool:
    """Whether the target asks for CHAP; refuses what would let strangers in."""
    bare = [acl.initiator for acl in acls if not acl.chap.userid]
    if not bare:
        return True
    if not allowed:
        raise BadInput(
            f"The initiator {bare[0]} of target {wwn} has no userid and password. Give both, or set allow_unauthenticated "
            "for this target if its portals are on an isolated network."
        )
    if len(bare) < len(acls):
        raise BadInput(f"Target {wwn} mixes initiators with and without credentials. Give all of them credentials, or none.")
    for portal in portals:
        if portal.is_wildcard:
            raise BadInput(
                f"Refusing target {wwn} without authentication on {portal}: every network of the host would reach it. "
                "Name the address on the isolated network."
            )
    return False


def _check_groups(targets: Sequence[WantedTarget]) -> None:
    check_unique("targets", "target", [f"{target.wwn} with tag {target.tag}" for target in targets])
    for wwn in {target.wwn for target in targets if target.absent}:
        if len([target for target in targets if target.wwn == wwn]) > 1:
            raise BadInput(f"Target {wwn} is declared absent and present at once. Keep one of the entries.")
    for wwn in {target.wwn for target in targets}:
        check_unique(f"the portal groups of {wwn}", "portal", [str(p) for target in targets if target.wwn == wwn for p in target.portals])


def _check_shared(seen: dict[str, tuple[str, WantedLun]], wwn: str, lun: WantedLun) -> None:
    """Portal groups of one target may offer the same disk; two targets may not."""
    first_wwn, first = seen.setdefault(lun.name, (wwn, lun))
    if first_wwn != wwn:
        raise BadInput(f"The LUN name {lun.name} is declared in target {first_wwn} and in target {wwn}. Give each disk a name of its own.")
    if (first.device, first.plugin, first.size, first.serial, first.attributes) != (
        lun.device,
        lun.plugin,
        lun.size,
        lun.serial,
        lun.attributes,
    ):
        raise BadInput(f"The LUN {lun.name} of target {wwn} is declared differently in its portal groups. Declare the same disk in each.")
