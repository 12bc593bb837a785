# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manual: its links lead somewhere, and what it tells to type or to set is there. What can be run without a machine is run."""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
MANUAL = ROOT / "docs" / "manual"
PAGES = sorted(MANUAL.glob("*.md"))
PREFIXES = (
    r"(?:storage_host|storage_backup|monitoring|autoscaler|llm_services|llm_stack|swarm_manager|gpu_workers?|gpu_fleet|registry|mesh)"
)
# Programs of the machines and of the distribution, which this collection does not make.
PLAIN = {"nvidia-smi", "pip", "python3", "ssh", "zfs", "zpool", "cd", "export"}
SUBCOMMANDS = {("service", "ls"), ("service", "ps"), ("service", "logs"), ("node", "ls")}


def blocks(page: Path, language: str) -> Iterator[str]:
    yield from re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """Each command with its page."""
    return [(page.stem, line) for page in PAGES for block in blocks(page, "sh") for line in block.splitlines() if line.strip()]


@functools.lru_cache
def sources() -> str:
    """What playbooks and roles say."""
    paths = [*ROOT.glob("playbooks/**/*.yml"), *ROOT.glob("roles/*/*/*.yml"), *ROOT.glob("roles/*/templates/*")]
    return "".join(path.read_text(encoding="utf-8") for path in paths)


def options() -> set[str]:
    """The options of all roles."""
    found: set[str] = set()
    for path in ROOT.glob("roles/*/meta/argument_specs.yml"):
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"].values():
            found |= set(entry.get("options") or {})
    return found


def known(name: str) -> bool:
    """Whether a variable is an option of a role, or one that playbooks ask for."""
    return name in options() or bool(re.search(rf"\b{name}\b", sources()))


# --- what is typed ----------------------------------------------------------------------------------------------------------------
def playbook(words: list[str]) -> None:
    names = [word for at, word in enumerate(words) if not word.startswith("-") and words[at - 1] not in ("-i", "-e")]
    (name,) = names
    path = ROOT / "playbooks" / f"{name.rpartition('.')[2]}.yml" if name.startswith("selfhosted.llm_stack.") else ROOT / name
    assert path.is_file(), f"there is no playbook {name}"
    for at, word in enumerate(words):
        if word == "-e" and words[at + 1].startswith("@"):
            assert words[at + 1][1:].endswith(".yml"), words[at + 1]
        elif word == "-e":
            assert known(words[at + 1].partition("=")[0]), words[at + 1]
        elif word == "-i":
            assert (ROOT / words[at + 1]).is_dir(), words[at + 1]
        elif word.startswith("-"):
            assert word in ("--check", "--diff") or word.startswith("--limit="), word


def adhoc(words: list[str]) -> None:
    said = dict(part.split("=") for part in words[words.index("-a") + 1].split())
    role = said["name"].rpartition(".")[2]
    assert (ROOT / "roles" / role / "tasks" / f"{said['tasks_from']}.yml").is_file()


def make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{word}:", makefile, re.MULTILINE) for word in words)


def lab(words: list[str]) -> None:
    ended = subprocess.run([sys.executable, str(ROOT / "tests" / "lab" / "lab"), words[0], "--help"], capture_output=True, check=False)
    assert ended.returncode == 0, words[0]
    if words[0] == "exec":
        check(" ".join(words[2:]))


def docker(words: list[str]) -> None:
    assert tuple(words[:2]) in SUBCOMMANDS, words
    for name in words[2:]:
        stack, _between, service = name.partition("_")
        if service:
            text = (ROOT / "roles" / {"llm": "llm_services"}.get(stack, stack) / "templates" / "stack.yml.j2").read_text(encoding="utf-8")
            assert re.search(rf"^  {service}:$", text, re.MULTILINE), name


def unit(words: list[str]) -> None:
    name = next(word for word in reversed(words) if not word.startswith("-")).removesuffix(".service")
    assert name == "docker" or list(ROOT.glob(f"roles/*/files/{name.partition('@')[0]}*.service")), name


def curl(words: list[str]) -> None:
    (address,) = [word for word in words if word.startswith("https://")]
    path = "/" + address.split("/", 3)[3]
    edge = (ROOT / "roles" / "llm_services" / "templates" / "nginx.conf.j2").read_text(encoding="utf-8")
    assert any(path.startswith(place) for place in re.findall(r"location (?:= |)(/[a-z0-9/]+)", edge)), path


def backup(words: list[str]) -> None:
    loader = importlib.machinery.SourceFileLoader("llm_backup", str(ROOT / "roles" / "storage_backup" / "files" / "llm-backup"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("llm_backup", loader))
    sys.modules["llm_backup"] = module
    loader.exec_module(module)
    module.parser().parse_args(words)


def builder(words: list[str]) -> None:
    """What is built is the project's definition: the collection's own file of that name is metadata, which cannot be built."""
    assert words[words.index("-f") + 1] == "execution-environment.yml", words
    assert (ROOT / "examples" / "controller_project" / "execution-environment.yml").is_file()


def is_there(words: list[str]) -> None:
    paths = [word for word in words if "/" in word and not word.startswith(("-", "/"))]
    assert all((ROOT / path).parent.is_dir() for path in paths), paths


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "ansible-playbook": playbook,
    "ansible": adhoc,
    "ansible-inventory": is_there,
    "ansible-vault": is_there,
    "ansible-galaxy": is_there,
    "ansible-builder": builder,
    "make": make,
    "tests/lab/lab": lab,
    "docker": docker,
    "systemctl": unit,
    "journalctl": unit,
    "curl": curl,
    "/usr/local/lib/llm-stack/llm-backup": backup,
}


def check(line: str) -> None:
    """Look at a command.

    :raises AssertionError: something it names is not there.
    """
    words = shlex.split(line)
    first = words[: next((at for at, word in enumerate(words) if word in ("|", "&&")), None)]
    if first[0] in CHECKS:
        CHECKS[first[0]](first[1:])
    else:
        assert first[0] in PLAIN, f"nothing checks {first[0]}"


@pytest.mark.parametrize(("page", "line"), commands(), ids=lambda text: str(text)[:60])
def test_a_command_names_what_is_there(page: str, line: str) -> None:
    assert page
    check(line)


@pytest.mark.parametrize(
    "line",
    [
        "ansible-playbook -i inventories/example selfhosted.llm_stack.sight",
        "ansible-playbook -i inventories/example selfhosted.llm_stack.site -e llm_stack_no_such_thing=1",
        "ansible-playbook -i inventories/none selfhosted.llm_stack.site",
        "ansible swarm_managers -m include_role -a 'name=selfhosted.llm_stack.swarm_manager tasks_from=none'",
        "ansible-builder build -f meta/execution-environment.yml",
        "make coffee",
        "docker service ps llm_engines",
        "docker swarm leave",
        "journalctl -u llm-backups@a",
        "curl https://192.0.2.21/nowhere/",
        "rm -rf /",
    ],
)
def test_a_command_that_is_wrong_is_noticed(line: str) -> None:
    with pytest.raises(AssertionError):
        check(line)


def test_the_file_of_a_move_is_one_the_playbook_takes() -> None:
    """What the page of a migration has one write is what the module knows, and the page begins with a rehearsal."""
    from ansible_collections.selfhosted.llm_stack.plugins.modules.stack_migration import arguments

    (text,) = blocks(MANUAL / "migrate.md", "yaml")
    told = yaml.safe_load(text)
    for name in ("models", "documents", "chroma"):
        known = set(arguments()[name]["options"])
        assert told[f"llm_stack_migrate_{name}"] and all(set(one) <= known for one in told[f"llm_stack_migrate_{name}"]), name
    moves = [line for page, line in commands() if page == "migrate" and "llm_stack.migrate" in line]
    assert moves[0].endswith("--check") and moves[-1].endswith("llm_stack_migrate_back=true")


# --- what is set and named --------------------------------------------------------------------------------------------------------
def keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_variables_and_alerts_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    shown = {name for block in blocks(page, "yaml") for name in keys(yaml.safe_load(block))}
    named = {word.partition(".")[0] for word in re.findall(r"`([a-z_]+(?:\.[a-z_]+)*)[=`]", text)}
    for name in sorted(shown | named):
        if re.match(PREFIXES + "_", name) or name == "gpu_fleet":
            assert known(name), f"{page.name} names {name}, which nothing asks for"
    rules = (ROOT / "roles" / "monitoring" / "templates" / "rules.yml.j2").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:[A-Z][a-z]+){2,})`", text):
        assert f"- alert: {name}\n" in rules or name in ("Authorization",), f"{page.name} names the alert {name}"


def test_the_archives_shown_are_those_the_services_write() -> None:
    (text,) = blocks(MANUAL / "backup-and-restore.md", "yaml")
    (job,) = yaml.safe_load(text)["swarm_managers"]["hosts"]["manager1"]["storage_backup_archives"]
    for database in job["databases"]:
        assert any(database.startswith(f"{path}/") for path in job["paths"]), f"{database} is below none of the paths"
    settings = (ROOT / "roles" / "llm_services" / "files" / "chat" / "analytics" / "settings.py").read_text(encoding="utf-8")
    assert "sqlite:////data/analytics.sqlite" in settings


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere_and_pages_are_short(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert not target.startswith("http"), "what is elsewhere cannot be checked here"
        path, _mark, _anchor = target.partition("#")
        assert (page.parent / path).exists(), f"{page.name} links to {target}"
    assert len(text.splitlines()) <= 130, "a page that long is not read"
    assert text.startswith("# ")


def test_every_page_is_in_the_index() -> None:
    index = (MANUAL / "index.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\(([a-z-]+\.md)\)", index))
    assert linked == {page.name for page in PAGES} - {"index.md"}
