# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A private MariaDB: the distribution's program on data of its own, reached by a socket only."""

from __future__ import annotations

import getpass
import shutil
import subprocess
from pathlib import Path

from labkit.process import Daemon
from labkit.say import LabError

from .config import SERVICES, Paths, urls
from .settings import DATABASES

PACKAGE = "mariadb-server-core"
TABLES = Path("/usr/share/mysql")


def program() -> str:
    """Find the server.

    :raises LabError: naming the package that has it.
    """
    # Debian keeps it where only root looks.
    found = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin:/usr/local/sbin")
    if not found:
        raise LabError(f"mariadbd is missing: install the package {PACKAGE} (apt-get install {PACKAGE}).")
    return found


def _options(paths: Paths) -> list[str]:
    return ["--no-defaults", f"--datadir={paths.live / 'mysql'}", f"--user={getpass.getuser()}"]


def create(paths: Paths) -> None:
    """Make the data directory with empty databases."""
    (paths.live / "mysql").mkdir(parents=True)
    # MariaDB 11 named these files anew.
    tables = [next(TABLES.glob(f"m*_{part}.sql")) for part in ("system_tables", "performance_tables", "system_tables_data")]
    script = ["create database mysql;", "use mysql;", *(path.read_text() for path in tables)]
    script += [f"create database {name} character set utf8mb3;" for name in DATABASES]
    argv = [program(), *_options(paths), "--bootstrap", "--silent-startup"]
    ended = subprocess.run(argv, input="\n".join(script), capture_output=True, text=True, check=False)
    if ended.returncode:
        raise LabError(f"mariadbd could not make its data directory: {ended.stderr.strip()[-500:]}")


def start(paths: Paths, daemon: Daemon, ports: dict[str, int], *, known: bool) -> None:
    """Start the server.

    :param known: the data come from a snapshot, whose catalogue names the ports of the cloud it was made of.
    """
    paths.run.mkdir(mode=0o700, exist_ok=True)
    paths.socket.unlink(missing_ok=True)
    argv = [program(), *_options(paths), "--skip-networking", "--skip-grant-tables", f"--socket={paths.socket}", "--max-connections=400"]
    # Nothing in it has to survive a power cut.
    argv += ["--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--innodb-flush-method=nosync", "--sync-binlog=0"]
    argv += ["--innodb-buffer-pool-size=64M", "--innodb-log-file-size=32M", "--table-definition-cache=2000"]
    if known:
        script = paths.live / "catalogue.sql"
        script.write_text(_catalogue(ports))
        argv.append(f"--init-file={script}")
    daemon.start(argv, log=paths.logs / "mariadb.out")


def _catalogue(ports: dict[str, int]) -> str:
    """Write this cloud's ports over those of the snapshot. One statement a line: that is what the server reads."""
    addresses = urls(ports)
    statements = ("update keystone.endpoint e join keystone.service s on e.service_id = s.id set e.url = '{}' where s.type = '{}';\n",)
    return "".join(statements[0].format(addresses[service.kind], service.kind) for service in SERVICES)
