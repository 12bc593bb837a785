# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for rtslib: the objects the applier uses, in memory, over one dump that is the whole state.

As strict as the kernel and stricter than rtslib, which deletes what stands in the way: here nothing goes while something needs it. Every
call that changes the state is counted, and one of them can fail, or be the last thing the process does.
"""

from __future__ import annotations

import copy
from typing import Any, Callable

# Attributes as a fresh node has them; enough of them for what the tests set.
STORE = {"block_size": 512, "emulate_tpu": 0, "emulate_write_cache": 0, "queue_depth": 128}
UNEXPORTED = ("block_size",)
GROUP = {
    "authentication": 1,
    "cache_dynamic_acls": 0,
    "demo_mode_write_protect": 1,
    "generate_node_acls": 0,
    "login_timeout": 15,
}
PARAMETERS = {"AuthMethod": "CHAP,None", "ImmediateData": "Yes", "MaxOutstandingR2T": "1"}
NODE = {"nopin_timeout": 15}
CHAP = ("userid", "password", "mutual_userid", "mutual_password")


class Killed(BaseException):
    """The process ended here."""


class Library:
    """The library over one state.

    :param fail_at: number of the changing call that fails, the first being 1.
    :param kill_after: number of the changing call after which the process is gone.
    """

    class RTSLibError(Exception):
        """The library's error."""

    def __init__(self, state: dict[str, Any] | None = None, *, fail_at: int = 0, kill_after: int = 0) -> None:
        self.state: dict[str, Any] = copy.deepcopy(state) if state else {"storage_objects": [], "targets": [], "fabric_modules": []}
        self.sessions: dict[tuple[str, int], list[str]] = {}
        self.fail_at = fail_at
        self.kill_after = kill_after
        self.calls: list[str] = []
        self.BlockStorageObject = bound(Block, self)
        self.FileIOStorageObject = bound(File, self)
        self.Target = bound(Target, self)
        self.TPG = bound(Group, self)
        self.LUN = bound(Lun, self)
        self.NodeACL = bound(Acl, self)
        self.MappedLUN = bound(Mapped, self)
        self.NetworkPortal = bound(Portal, self)

    @property
    def __name__(self) -> str:
        return "rtslib_fb"

    def RTSRoot(self) -> Root:  # noqa: N802 - the library's name for it
        return Root(self)

    def FabricModule(self, name: str) -> Fabric:  # noqa: N802
        assert name == "iscsi"
        return Fabric(self)

    def change(self, call: str, act: Callable[[], None]) -> None:
        """Count a changing call; it fails, is carried out, or is carried out as the last one."""
        self.calls.append(call)
        if len(self.calls) == self.fail_at:
            raise self.RTSLibError(f"cannot {call}")
        act()
        if len(self.calls) == self.kill_after:
            raise Killed(call)

    def require(self, true: bool, fault: str) -> None:
        if not true:
            raise self.RTSLibError(fault)

    def used(self, path: str) -> bool:
        return any(lun["storage_object"] == path for target in self.state["targets"] for tpg in target["tpgs"] for lun in tpg["luns"])


def bound(cls: type[Any], library: Library) -> Any:
    """The class with its library filled in, as a module's class has it."""
    return type(cls.__name__, (cls,), {"library": library})


class Root:
    """RTSRoot."""

    def __init__(self, library: Library) -> None:
        self.library = library

    @property
    def storage_objects(self) -> list[Any]:
        kinds = {"block": self.library.BlockStorageObject, "fileio": self.library.FileIOStorageObject}
        return [kinds[item["plugin"]](item["name"]) for item in self.library.state["storage_objects"]]

    @property
    def targets(self) -> list[Any]:
        return Fabric(self.library).targets

    def invalidate_caches(self) -> None:
        """Nothing is cached here."""


class Fabric:
    """FabricModule of iSCSI."""

    exists = True

    def __init__(self, library: Library) -> None:
        self.__dict__["library"] = library

    @property
    def record(self) -> dict[str, Any]:
        found = self.library.state["fabric_modules"]
        if not found:
            found.append({"name": "iscsi", "discovery_enable_auth": False})
        return dict_of(found[0])

    @property
    def targets(self) -> list[Any]:
        return [self.library.Target(self, item["wwn"], mode="lookup") for item in self.library.state["targets"]]

    def __getattr__(self, name: str) -> Any:
        return self.record.get(name, "")

    def __setattr__(self, name: str, value: Any) -> None:
        def act() -> None:
            self.record[name] = value
            if not value and name != "discovery_enable_auth":
                del self.record[name]

        self.library.change(f"set {name}", act)

    def dump(self) -> dict[str, Any]:
        return copy.deepcopy(self.record)


def dict_of(value: Any) -> dict[str, Any]:
    assert isinstance(value, dict)
    return value


class Node:
    """What all nodes have: a record in a list of the state, attributes and parameters."""

    library: Library
    siblings: Callable[[], list[Any]]
    keys: dict[str, Any]
    path = "/nonexistent"

    @property
    def where(self) -> list[Any]:
        """The list that holds its record: looked up each time, as the library finds a node by its path."""
        return self.siblings()

    @property
    def record(self) -> dict[str, Any]:
        for item in self.where:
            if all(item[key] == value for key, value in self.keys.items()):
                return dict_of(item)
        raise self.library.RTSLibError(f"No such {type(self).__name__}: {self.keys}")

    @property
    def exists(self) -> bool:
        return any(all(item[key] == value for key, value in self.keys.items()) for item in self.where)

    def open(self, mode: str, fresh: dict[str, Any]) -> None:
        """Look the node up, or create it."""
        if mode == "any":
            mode = "lookup" if self.exists else "create"
        if mode == "lookup":
            self.library.require(self.exists, f"No such {type(self).__name__} in configfs: {self.keys}")
            return
        self.library.require(not self.exists, f"This {type(self).__name__} already exists in configFS")
        self.library.change(f"create {type(self).__name__}", lambda: self.where.append({**self.keys, **copy.deepcopy(fresh)}))

    def remove(self) -> None:
        record = self.record
        self.library.change(f"delete {type(self).__name__}", lambda: self.where.remove(record))

    def delete(self) -> None:
        self.remove()

    def dump(self) -> dict[str, Any]:
        return copy.deepcopy(self.record)

    def put(self, key: str, value: Any) -> None:
        self.library.change(f"set {type(self).__name__}.{key}", lambda: self.record.update({key: value}))

    def table(self, kind: str, name: str) -> dict[str, Any]:
        table = dict_of(self.record[kind])
        self.library.require(name in table, f"Cannot find {kind[:-1]}: {name}")
        return table

    def list_attributes(self, writable: bool | None = None) -> list[str]:
        return sorted(self.record["attributes"])

    def get_attribute(self, name: str) -> str:
        return str(self.table("attributes", name)[name])

    def set_attribute(self, name: str, value: Any) -> None:
        table = self.table("attributes", name)
        self.library.change(f"set {type(self).__name__} attribute {name}", lambda: table.update({name: int(value)}))

    def get_parameter(self, name: str) -> str:
        return str(self.table("parameters", name)[name])

    def set_parameter(self, name: str, value: Any) -> None:
        table = self.table("parameters", name)
        self.library.change(f"set {type(self).__name__} parameter {name}", lambda: table.update({name: str(value)}))

    def restore_tables(self, dump: dict[str, Any]) -> None:
        for name, value in dump.get("attributes", {}).items():
            self.set_attribute(name, value)
        for name, value in dump.get("parameters", {}).items():
            self.set_parameter(name, value)


class Store(Node):
    """StorageObject."""

    plugin = ""

    def __init__(self, name: str, dev: str | None = None, wwn: str = "", **given: Any) -> None:
        self.name = name
        self.siblings = lambda: self.library.state["storage_objects"]
        self.keys = {"plugin": self.plugin, "name": name}
        fresh = {"dev": dev, "wwn": wwn, "attributes": STORE, "alua_tpgs": [], "write_back": False, **given}
        self.open("create" if dev else "lookup", fresh)

    @property
    def used(self) -> bool:
        return self.library.used(f"/backstores/{self.plugin}/{self.name}")

    def set_attribute(self, name: str, value: Any) -> None:
        self.library.require(not (name in UNEXPORTED and self.used), f"Cannot set attribute {name}: [Errno 22] Invalid argument")
        super().set_attribute(name, value)

    def delete(self) -> None:
        self.library.require(not self.used, f"backstore {self.name} is in use")
        self.remove()


class Block(Store):
    """BlockStorageObject."""

    plugin = "block"

    def __init__(self, name: str, dev: str | None = None, wwn: str = "", readonly: bool = False, write_back: bool = False) -> None:
        super().__init__(name, dev, wwn, readonly=readonly)


class File(Store):
    """FileIOStorageObject."""

    plugin = "fileio"

    def __init__(
        self, name: str, dev: str | None = None, size: int = 0, wwn: str = "", write_back: bool = False, aio: bool = False
    ) -> None:
        super().__init__(name, dev, wwn, size=size, aio=aio)


class Target(Node):
    """Target."""

    def __init__(self, _fabric: Fabric, wwn: str, mode: str = "any") -> None:
        self.wwn = wwn
        self.siblings = lambda: self.library.state["targets"]
        self.keys = {"wwn": wwn}
        self.open(mode, {"fabric": "iscsi", "parameters": {"cmd_completion_affinity": "-1"}, "tpgs": []})

    @property
    def tpgs(self) -> list[Any]:
        return [self.library.TPG(self, item["tag"], mode="lookup") for item in self.record["tpgs"]]

    def delete(self) -> None:
        self.library.require(not self.record["tpgs"], f"target {self.wwn} has portal groups")
        self.remove()


class Group(Node):
    """TPG."""

    def __init__(self, target: Target, tag: int, mode: str = "any") -> None:
        self.target = target
        self.tag = tag
        self.siblings = lambda: target.record["tpgs"]
        self.keys = {"tag": tag}
        tables = {"attributes": GROUP, "parameters": PARAMETERS}
        self.open(mode, {"enable": False, "luns": [], "portals": [], "node_acls": [], **tables})

    @property
    def node_acls(self) -> list[Any]:
        return [self.library.NodeACL(self, item["node_wwn"], mode="lookup") for item in self.record["node_acls"]]

    @property
    def enable(self) -> bool:
        return bool(self.record["enable"])

    @enable.setter
    def enable(self, value: bool) -> None:
        if value and self.record["attributes"]["authentication"]:
            assert all(acl.get("chap_password") for acl in self.record["node_acls"]), "opened before there was a lock"
        if value != self.enable:
            self.put("enable", value)

    def delete(self) -> None:
        rest = [key for key in ("luns", "portals", "node_acls") if self.record[key]]
        self.library.require(not rest and not self.enable, f"portal group {self.tag} is open or holds {rest}")
        self.remove()

    @classmethod
    def setup(cls, target: Target, dump: dict[str, Any], _fault: Callable[[str], None]) -> None:
        made = cls(target, dump["tag"])
        made.restore_tables(dump)
        assert not dump["luns"] and not dump["portals"] and not dump["node_acls"] and not dump["enable"]


class Lun(Node):
    """LUN."""

    def __init__(self, group: Group, lun: int, storage_object: Store | None = None, alias: str = "") -> None:
        self.group = group
        self.lun = lun
        self.siblings = lambda: group.record["luns"]
        self.keys = {"index": lun}
        path = f"/backstores/{storage_object.plugin}/{storage_object.name}" if storage_object else ""
        self.library.require(not storage_object or storage_object.exists, "storage_object does not exist in configFS")
        fresh = {"storage_object": path, "alias": alias or f"alias{lun}", "alua_tg_pt_gp_name": "default_tg_pt_gp"}
        self.open("create" if storage_object else "lookup", fresh)

    def delete(self) -> None:
        seen = [acl["node_wwn"] for acl in self.group.record["node_acls"] for entry in acl["mapped_luns"] if entry["tpg_lun"] == self.lun]
        self.library.require(not seen, f"LUN {self.lun} is seen by {seen}")
        self.remove()

    @classmethod
    def setup(cls, group: Group, dump: dict[str, Any], _fault: Callable[[str], None]) -> None:
        plugin, name = dump["storage_object"].split("/")[2:]
        store = next(item for item in Root(cls.library).storage_objects if (item.plugin, item.name) == (plugin, name))
        cls(group, dump["index"], store, dump["alias"])


class Acl(Node):
    """NodeACL."""

    def __init__(self, group: Group, node_wwn: str, mode: str = "any") -> None:
        self.__dict__["group"] = group
        self.__dict__["node_wwn"] = node_wwn
        self.__dict__["siblings"] = lambda: group.record["node_acls"]
        self.__dict__["keys"] = {"node_wwn": node_wwn}
        self.open(mode, {"attributes": NODE, "mapped_luns": []})

    @property
    def session(self) -> dict[str, Any] | None:
        names = self.library.sessions.get((self.group.target.wwn, self.group.tag), [])
        return {"id": 1} if self.node_wwn in names else None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("chap_"):
            return self.record.get(name, "")
        raise AttributeError(name)

    def __setattr__(self, name: str, value: Any) -> None:
        def act() -> None:
            self.record[name] = value
            if not value:
                del self.record[name]

        self.library.change(f"set NodeACL.{name}", act)

    def delete(self) -> None:
        self.library.require(not self.record["mapped_luns"], f"{self.node_wwn} sees LUNs")
        self.remove()

    @classmethod
    def setup(cls, group: Group, dump: dict[str, Any], _fault: Callable[[str], None]) -> None:
        made = cls(group, dump["node_wwn"])
        made.restore_tables(dump)
        for key in CHAP:
            if dump.get("chap_" + key):
                setattr(made, "chap_" + key, dump["chap_" + key])


class Mapped(Node):
    """MappedLUN."""

    def __init__(
        self, acl: Acl, mapped_lun: int, tpg_lun: int | Lun | None = None, write_protect: bool | None = None, alias: str = ""
    ) -> None:
        number = tpg_lun.lun if isinstance(tpg_lun, Lun) else tpg_lun
        self.siblings = lambda: acl.record["mapped_luns"]
        self.keys = {"index": mapped_lun}
        known = [item["index"] for item in acl.group.record["luns"]]
        self.library.require(number is None or number in known, f"LUN {number} does not exist in this TPG")
        fresh = {"tpg_lun": number, "write_protect": bool(write_protect), "alias": alias or f"alias{mapped_lun}"}
        self.open("create" if number is not None else "lookup", fresh)

    @property
    def write_protect(self) -> bool:
        return bool(self.record["write_protect"])

    @write_protect.setter
    def write_protect(self, value: bool) -> None:
        self.put("write_protect", value)

    @classmethod
    def setup(cls, _group: Group, acl: Acl, dump: dict[str, Any], _fault: Callable[[str], None]) -> None:
        cls(acl, dump["index"], dump["tpg_lun"], dump["write_protect"], dump["alias"])


class Portal(Node):
    """NetworkPortal."""

    def __init__(self, group: Group, ip_address: str, port: int = 3260, mode: str = "any") -> None:
        self.siblings = lambda: group.record["portals"]
        self.keys = {"ip_address": ip_address, "port": port}
        others = [item for tpg in group.target.record["tpgs"] if tpg["tag"] != group.tag for item in tpg["portals"]]
        taken = any((item["ip_address"], item["port"]) == (ip_address, port) for item in others)
        self.library.require(not taken, "portal is in another group of the target")
        self.open(mode, {"iser": False, "offload": False})

    @property
    def iser(self) -> bool:
        return bool(self.record["iser"])

    @iser.setter
    def iser(self, value: bool) -> None:
        self.put("iser", value)

    @classmethod
    def setup(cls, group: Group, dump: dict[str, Any], _fault: Callable[[str], None]) -> None:
        made = cls(group, dump["ip_address"], dump["port"])
        if dump["iser"]:
            made.iser = True
