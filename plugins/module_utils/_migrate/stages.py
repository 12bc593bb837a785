# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One stage of a move each: what it reads, plans, does and reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Mapping

from .._errors import BadInput, StackError
from .._plan import Plan, Step
from .._run import Runner
from . import chroma, files, read
from .model import DOCUMENT, MANIFEST, MODEL, Manifest, parse_manifest
from .plan import Room, Unit, plan_export, plan_import, plan_return, plan_switch, plan_upload
from .services import Services
from .upload import ChatService


class Stage:
    """What all stages have.

    :param options: the module's.
    :param rehearsal: whether nothing may be changed.
    """

    def __init__(self, options: Mapping[str, Any], *, rehearsal: bool) -> None:
        self.options, self.rehearsal = options, rehearsal
        self.manifest = Manifest()
        self.lock: Any = None

    def keep_others_out(self, folder: Path) -> None:
        """Have the folder for this run, until the process ends."""
        if not self.rehearsal:
            self.lock = files.alone(folder)

    def report(self) -> dict[str, Any]:
        """What there was to move."""
        return {"manifest": self.manifest.as_data()}


class Export(Stage):
    """On the old machine: a folder with everything, and its manifest."""

    def plan(self) -> Plan:
        """Read all that is to move, and what the folder has already."""
        self.top = Path(self.options["path"])
        self.keep_others_out(self.top)
        entries = read.models(self.options["models"])
        documents, left_out = read.documents(self.options["documents"])
        entries += documents
        passages: dict[str, int] = {}
        for option in self.options["chroma"]:
            made, counts, without = chroma.documents(Path(option["path"]), option["collections"])
            twice = sorted(set(counts) & set(passages))
            if twice:
                raise BadInput(f"Two Chroma databases have collections called {', '.join(twice)}. Name them in chroma[].collections.")
            entries += made
            passages.update(counts)
            left_out += without
        self.manifest = Manifest(tuple(entries), passages, tuple(left_out))
        found = read.found_at(self.top, [entry.place for entry in entries])
        return plan_export(self.manifest, found, read.read_manifest(self.top), Room(str(self.top), files.free(self.top)))

    def do(self, step: Step) -> None:
        """Put one file there; the manifest comes last."""
        if step.action == "list":
            files.write_json(self.top / MANIFEST, self.manifest.as_data())
        else:
            files.export(self.top, step.data, replace=step.action == "replace")


class Brought(Stage):
    """A stage that works with an export that was brought over."""

    def read_export(self, kind: str) -> dict[str, read.Found]:
        """Read the manifest and, of one kind, the files that were brought over.

        In a rehearsal before anything was brought, they are taken to arrive as the manifest given says.

        :raises StackError: there is no export.
        """
        self.top = Path(self.options["path"])
        found = read.read_manifest(self.top)
        if found is None and self.rehearsal and self.options["manifest"]:
            self.manifest = parse_manifest(json.dumps(self.options["manifest"]), "the option manifest")
            return {entry.place: read.Found(entry.size, entry.sha256) for entry in self.manifest.of(kind)}
        if found is None:
            raise StackError(f"{self.top} has no {MANIFEST}, so there is no whole export. Export, and bring the whole folder over.")
        self.manifest = found
        return read.found_at(self.top, [entry.place for entry in self.manifest.of(kind)])


class Import(Brought):
    """On the storage host: models into the folder of the model store."""

    def plan(self) -> Plan:
        """Compare what was brought with the manifest, and see what is there."""
        self.store = Path(self.options["store"])
        if not self.store.is_dir():
            raise BadInput(f"{self.store} is no folder of this machine. Run the playbook storage first, which makes it.")
        self.keep_others_out(self.store)
        staged = self.read_export(MODEL)
        found = read.found_at(self.store, [entry.name for entry in self.manifest.of(MODEL)])
        return plan_import(self.manifest, staged, found, str(self.top), Room(str(self.store), files.free(self.store)))

    def do(self, step: Step) -> None:
        """Put one model in its place."""
        files.place_model(self.top, self.store, step.data)

    def report(self) -> dict[str, Any]:
        """The models, as the option storage_host_models wants them."""
        rows = [
            {"name": one.name.rpartition(".")[0] or one.name, "file": one.name, "src": f"{self.store}/{one.name}", "sha256": one.sha256}
            for one in self.manifest.of(MODEL)
        ]
        return {**super().report(), "models": rows}


class Upload(Brought):
    """On a manager: documents into the chat service."""

    def plan(self) -> Plan:
        """Compare what was brought with the manifest, and see what the service has."""
        self.service = ChatService(self.options["url"], self.options["key"], timeout=self.options["timeout"])
        staged = self.read_export(DOCUMENT)
        if self.top.is_dir():
            self.keep_others_out(self.top)
        return plan_upload(self.manifest, staged, self.listed(), str(self.top))

    def listed(self) -> dict[str, list[dict[str, Any]]]:
        """What the service has in each collection that something moves into."""
        return {name: self.service.documents(name) for name in sorted({one.collection for one in self.manifest.of(DOCUMENT)})}

    def do(self, step: Step) -> None:
        """Upload one document."""
        self.service.upload(self.top / step.data.place, step.data)

    def report(self) -> dict[str, Any]:
        """Count what the service has now.

        :raises StackError: something that was to move is not there, or twice.
        """
        listed = self.listed()
        counts: dict[str, dict[str, int]] = {}
        for entry in self.manifest.of(DOCUMENT):
            sizes = [int(one["bytes"]) for one in listed[entry.collection] if one["name"] == entry.name]
            count = counts.setdefault(entry.collection, {"moved": 0, "there": 0})
            count["moved"] += 1
            count["there"] += sizes == [entry.size]
        wrong = [name for name, count in counts.items() if count["moved"] != count["there"]]
        if wrong and not self.rehearsal:
            raise StackError(f"Not all documents of {', '.join(wrong)} are there once and whole: {counts}. Run again, which tells of each.")
        return {**super().report(), "documents": counts}


class Switch(Stage):
    """On the old machine: its services end, and how they were is written down."""

    def plan(self) -> Plan:
        """See how the services are."""
        self.services = Services(Runner(), Path(self.options["record"]))
        # In this order: who sees a service stopped by another run also sees what that run wrote down before.
        units = self.services.look(self.options["services"])
        return plan_switch(units, self.services.record())

    def do(self, step: Step) -> None:
        """Write down, or stop."""
        if step.action == "record":
            self.services.write(step.data)
        else:
            self.services.act(step.action, step.target)

    def report(self) -> dict[str, Any]:
        """How the services were before the switch."""
        return {"services": _units(self.services.record())}


class Return(Switch):
    """On the old machine: the services are as they were before the switch."""

    def plan(self) -> Plan:
        """See how the services were and are."""
        self.services = Services(Runner(), Path(self.options["record"]))
        record = self.services.record()
        return plan_return(self.services.look(record), record)

    def do(self, step: Step) -> None:
        """Enable, start, and forget at last."""
        if step.action == "forget":
            self.services.forget()
        else:
            self.services.act(step.action, step.target)


def _units(units: Mapping[str, Unit]) -> dict[str, dict[str, bool]]:
    return {name: {"active": unit.active, "enabled": unit.enabled} for name, unit in units.items()}


STAGES = {"exported": Export, "imported": Import, "uploaded": Upload, "switched": Switch, "returned": Return}
