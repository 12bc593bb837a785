# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the backups of a manager say of themselves, for Prometheus and the status page: files that node_exporter reads on a storage host.

The nodes' own node_exporter is one service for all of them, and complains at each look of a folder that most do not have. A manager without
backups has none either, and says nothing here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Mapping

from exposition import Metric, NotAnswered, Query, make_server, render

HELP = {
    "llm_backup_success": "Whether the last run of a backup ended well",
    "llm_backup_last_success_timestamp_seconds": "When the newest copy that is whole was taken",
    "llm_backup_max_age_seconds": "How old the newest copy may be",
    "llm_backup_first_try_timestamp_seconds": "Since when there is to be a copy: when the backup was declared, or run for the first time",
    "llm_restore_drill_success": "Whether the newest copy could be restored and read when that was tried last",
    "llm_restore_drill_opened": "Whether what is in the copy was seen too; without its key an encrypted one is only received",
    "llm_restore_drill_last_success_timestamp_seconds": "When a copy was restored well last",
    "llm_restore_drill_max_age_seconds": "How long ago that may be",
    "llm_restore_drill_copy_age_seconds": "How old the copy was that was restored last: what a loss at that moment would have cost",
}
_SAMPLE = re.compile(
    r'^(?P<name>llm_(?:backup|restore_drill)_\w+)\{job_name="(?P<job>[A-Za-z0-9-]+)"(?:,instance="(?P<host>[^"]*)")?\}'
    r" (?P<value>[+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)$"
)
_HOST = re.compile(r'^llm_backup_host_info\{host="(?P<host>[^"\\]+)"\} 1$', re.MULTILINE)
Jobs = Mapping[str, Mapping[str, float]]


def jobs_of(text: str) -> dict[str, dict[str, float]]:
    """Read the metrics of backups among others in Prometheus' text format; by job, its metrics by name."""
    found: dict[str, dict[str, float]] = {}
    for sample in filter(None, map(_SAMPLE.match, text.splitlines())):
        found.setdefault(sample["job"], {})[sample["name"]] = float(sample["value"])
    return found


def told_by(text: str) -> str:
    """Return whose backups those are that this exporter tells of; empty when it tells of none."""
    return next((sample["host"] for sample in filter(None, map(_SAMPLE.match, text.splitlines())) if sample["host"]), "")


def metrics(jobs: Jobs, host: str) -> list[Metric]:
    """Return the metrics of all jobs.

    :param host: the name of the host in the inventory, by which alerts and the page call it.
    """
    found = {name: Metric(name, text) for name, text in HELP.items()}
    for job, values in jobs.items():
        for name in sorted(values.keys() & found.keys()):
            found[name].add(values[name], job_name=job, instance=host)
    return list(found.values())


def files(folder: Path) -> str:
    """Return the files that backups wrote, one after the other; nothing when there are none.

    :raises NotAnswered: one cannot be read.
    """
    try:
        return "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("llm-*.prom")))
    except (OSError, ValueError) as error:
        raise NotAnswered(
            f"What backups say of themselves cannot be read: {error}. Look at the files llm-*.prom on that manager."
        ) from error


def tell(folder: Path, node: str) -> str:
    """Return the metrics of this manager.

    :param node: what the swarm calls it, for the case that the role storage_backup did not say what the inventory does.
    :raises NotAnswered: a file cannot be read.
    """
    text = files(folder)
    named = _HOST.search(text)
    return render(metrics(jobs_of(text), named["host"] if named else node))


def main() -> None:
    """Answer until told to end."""
    folder, node = Path(os.environ["FOLDER"]), os.environ.get("NODE", "")

    def answer(_query: Query) -> str:
        return tell(folder, node)

    make_server(int(os.environ.get("PORT", "9777")), {"/metrics": answer}).serve_forever()


if __name__ == "__main__":
    main()
