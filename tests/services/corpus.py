# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real documentation to look things up in: that of ansible-core's modules and plugins, as its package on PyPI ships it."""

from __future__ import annotations

import ast
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

import yaml

MARKUP = re.compile(r"[A-Z]\(([^)]*)\)")


@dataclass(frozen=True)
class Passage:
    """The documentation of one plugin. :param title: its name and short description."""

    name: str
    title: str
    text: str


def _sentences(value: Any) -> str:
    return MARKUP.sub(r"\1", " ".join(value if isinstance(value, list) else [str(value or "")]))


def _documented(path: Path) -> dict[str, Any]:
    """The documentation in a plugin's file, or none."""
    if path.suffix in (".yml", ".yaml"):
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        return dict((loaded or {}).get("DOCUMENTATION") or {})
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        named = isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == "DOCUMENTATION"
        if named and isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str):
            return dict(yaml.safe_load(statement.value.value) or {})
    return {}


def passages() -> list[Passage]:
    """Every plugin that is documented, once: an alias has the text of what it stands for."""
    spec = importlib.util.find_spec("ansible")
    assert spec is not None
    assert spec.submodule_search_locations
    top = Path(next(iter(spec.submodule_search_locations)))
    found: dict[str, Passage] = {}
    for passage in _read(top):
        found.setdefault(passage.text.partition("\n\n")[2], passage)
    return sorted(found.values(), key=lambda passage: passage.title)


def _read(top: Path) -> Iterator[Passage]:
    files = [*top.glob("modules/*.py"), *top.glob("plugins/*/*.py"), *top.glob("plugins/*/*.yml"), *top.glob("modules/*.yml")]
    for path in sorted(files):
        about = _documented(path)
        if about.get("short_description") and about.get("description"):
            title = f"{path.stem}: {_sentences(about['short_description'])}"
            options = "; ".join(
                f"{name}: {_sentences(one.get('description'))}" for name, one in (about.get("options") or {}).items() if one
            )
            text = " ".join(filter(None, (_sentences(about["description"]), options)))
            yield Passage(path.stem, title, f"{title}\n\n{text[:700]}")


# Questions as people ask them, and the plugins whose documentation answers them. None shares a word with the title of its passage.
QUESTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Give the machine another network name so it calls itself web01", ("hostname",)),
    ("Schedule a job to run every night at two o'clock", ("cron",)),
    ("Put a person on the server with a login and a home folder", ("user",)),
    ("Block incoming traffic on a port with the firewall", ("iptables",)),
    ("Install requirements from PyPI into a virtualenv", ("pip",)),
    ("Stop and ask the operator to press enter before going on", ("pause",)),
    ("Restart the operating system and come back when it is up again", ("reboot",)),
    ("Make sure the daemon is running and enabled at boot", ("service", "systemd", "systemd_service", "sysvinit")),
    ("Bring a log back from the target to the controller's disk", ("fetch",)),
    ("Extract a zip or tarball on the target", ("unarchive",)),
    ("Clone the source repository of my application at a certain tag", ("git",)),
    ("Save something from a website onto the disk", ("get_url",)),
    ("Call a REST API and look at its answer", ("uri",)),
    ("Hold on until a TCP port opens", ("wait_for",)),
    ("Encrypt a sensitive value so it may be committed", ("vault",)),
    ("Turn a figure such as 10M into a plain number", ("human_to_bytes",)),
    ("Show a size like 1.5 GB instead of a long number", ("human_readable",)),
    ("Drop duplicates from an array", ("unique",)),
    ("Elements that both arrays have in common", ("intersect",)),
    ("Elements missing in the second array", ("difference",)),
    ("Merge several hashes, the later ones overriding keys", ("combine",)),
    ("Which release is newer, 1.9 or 1.10?", ("version", "version_compare")),
    ("Set owner and permissions, or make a symlink", ("file",)),
    ("Change a single setting in a configuration such as sshd_config", ("lineinfile",)),
    ("Trust the SSH fingerprint of a server in advance", ("known_hosts",)),
    ("Find out how large a path is and when it was modified", ("stat",)),
    ("Answer interactive questions of an installer automatically", ("expect",)),
    ("Come up with a new secret for each account and remember it", ("password",)),
    ("Encrypt a login secret for /etc/shadow", ("password_hash",)),
    ("Throw an error with my own explanation", ("fail",)),
    ("Check that preconditions hold, else stop", ("assert",)),
    ("Show the value of a variable for troubleshooting", ("debug",)),
    ("Which software and which releases are installed on the machine?", ("package_facts",)),
    ("Get a scratch folder nobody else uses", ("tempfile",)),
    ("Choose between two values depending on a yes or no", ("ternary",)),
    ("Escape an argument so that a user cannot inject commands", ("quote",)),
    ("Strip the folder and keep only the last component", ("basename", "win_basename")),
    ("Reorder elements by chance", ("shuffle",)),
    ("Count from 1 to 20 in steps", ("sequence",)),
    ("Sort machines by their operating system while a play runs", ("group_by",)),
    ("Become root for a task", ("sudo", "su")),
    ("Connect to Windows machines", ("winrm", "psrp")),
    ("What is HOME or PATH set to on the controller?", ("env",)),
    ("Preselect the answers a Debian installer asks for", ("debconf",)),
    ("Hold back one program from upgrades", ("dpkg_selections",)),
)
# Words that carry no meaning, in questions and titles alike.
_STOP = """a an and are as at be been before but by can each else for from has have how i if in into is it its may my no not of on one or
other so some that the their them then there these they this to up use was what when which while who will with you your yes run runs"""
STOP = frozenset(re.findall(r"\w+", _STOP))


def words(text: str) -> list[str]:
    """The words of a text that mean something, with a plural's s cut off."""
    return [word.rstrip("s") for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in STOP]
