# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The execution environment of examples/controller_project, built by a real engine on an imported Debian root and started as AWX does.

The definition is the example's. Only where things come from is replaced: the root holds Debian's packages and the wheels of a lock, the
collections are artifacts, and no step of the build has a network.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
import time
from pathlib import Path
from typing import Any, Iterator

import package
import pytest
import yaml
from labkit import debs, wheels
from labkit.config import REPO, SUITE
from labkit.lab import Lab
from places import MANAGER

pytestmark = pytest.mark.long

PROJECT = REPO / "examples" / "controller_project"
DEFINITION = yaml.safe_load((PROJECT / "execution-environment.yml").read_text())
OURS = "selfhosted.llm_stack"
LOCK = REPO / "requirements" / "execution-environment.txt"
BASE, BUILT = "llm-lab/debian:imported", "llm-lab/execution-environment:built"
PLACE = "/srv/controller-project"
# Where the root keeps what would be fetched, and how pip is told.
DEBS, WHEELS = "srv/debs", "srv/wheels"
ORIGINS = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": f"/{WHEELS}"}


def send(lab: Lab, folder: Path, command: str) -> None:
    """Run a command on the machine that gets a folder as a tar file."""
    begin = time.monotonic()
    # A container gets devices of its own.
    with subprocess.Popen(["tar", "-c", "--exclude=./dev/*", "-C", str(folder), "."], stdout=subprocess.PIPE) as pack:
        argv = [*lab.ssh_argv(MANAGER), command]
        ended = subprocess.run(
            argv, stdin=pack.stdout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=1200
        )
    print(f"{ended.stdout[-20000:]}\n`{command}` took {time.monotonic() - begin:.0f} s")
    assert ended.returncode == 0


def images(lab: Lab) -> set[str]:
    return set(lab.ssh(MANAGER, "docker images --all --quiet --no-trunc").split())


def debian(lab: Lab, root: Path) -> None:
    """A root as the distribution's own image has it, without Python, and with what the definition's step installs on offer."""
    (step,) = DEFINITION["additional_build_steps"]["prepend_base"]
    wanted = step.partition("--no-install-recommends ")[2]
    fetch = (
        f'mkdir -p "$1/{DEBS}/partial" && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get --yes --download-only --no-install-recommends '
        f'-o Dir::Cache::archives="$1/{DEBS}" install {wanted}'
    )
    argv = ["mmdebstrap", "--quiet", "--variant=minbase", f"--customize-hook={fetch}", SUITE, str(root)]
    subprocess.run(argv, stdin=subprocess.DEVNULL, check=True)
    assert not (root / "usr/bin/python3").exists()
    debs._list(root / DEBS, sorted((root / DEBS).glob("*.deb")))
    (root / "etc/apt/sources.list").write_text(f"deb [trusted=yes] file:/{DEBS} ./\n")
    shutil.copytree(wheels.fetched(lab.paths.cache, LOCK), root / WHEELS)


def installed(name: str) -> tuple[Path, dict[str, Any]]:
    """A collection that came with the `ansible` package: where it is, and what it says of itself."""
    source = Path(sysconfig.get_path("purelib")) / "ansible_collections" / Path(*name.split("."))
    return source, yaml.safe_load((source / "MANIFEST.json").read_text())["collection_info"]


def needed(names: list[str]) -> list[str]:
    """These collections and what they depend on, which a Galaxy server would be asked for."""
    found = list(names)
    for name in found:
        if name != OURS:
            found += [other for other in installed(name)[1]["dependencies"] if other not in found]
    return found


def artifact(name: str, place: Path) -> Path:
    """The artifact of a collection, made anew: the `ansible` package leaves out what is only for a collection's own tests."""
    if name == OURS:
        return package.build(place / "artifacts")
    source, told = installed(name)
    copied = place / "sources" / name
    shutil.copytree(source, copied)
    (copied / "galaxy.yml").write_text(yaml.safe_dump({key: value for key, value in told.items() if value}))
    argv = [package.tool("ansible-galaxy"), "collection", "build", "--output-path", str(place / "artifacts"), str(copied)]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return place / "artifacts" / f"{name.replace('.', '-')}-{told['version']}.tar.gz"


def context(place: Path) -> Path:
    """What ansible-builder makes of a copy of the project in which the origins are replaced."""
    project = place / "project"
    shutil.copytree(PROJECT, project)
    told = {**DEFINITION, "images": {"base_image": {"name": BASE}}}
    told["additional_build_files"] = [{"src": "artifacts/*.tar.gz", "dest": "artifacts"}]
    told["build_arg_defaults"] = {"ANSIBLE_GALAXY_CLI_COLLECTION_OPTS": "--offline"}
    (project / "execution-environment.yml").write_text(yaml.safe_dump(told))
    requirements = project / "collections" / "requirements.yml"
    names = [one["name"] for one in yaml.safe_load(requirements.read_text())["collections"]]
    origins = [{"name": f"artifacts/{artifact(name, project).name}", "type": "file"} for name in needed(names)]
    requirements.write_text(yaml.safe_dump({"collections": origins}))
    argv = [package.tool("ansible-builder"), "create", "-f", "execution-environment.yml", "--output-filename", "Dockerfile"]
    subprocess.run([*argv, "--context", str(place / "context")], cwd=project, check=True)
    return place / "context"


@pytest.fixture(scope="module")
def built(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A machine with the image and the project; neither stays there."""
    place = tmp_path_factory.mktemp("execution-environment")
    # Nothing has started the engine where no playbook has run yet.
    lab.ssh(MANAGER, "systemctl start docker")
    before = images(lab)
    try:
        debian(lab, place / "root")
        changes = " ".join(f"--change 'ENV {name}={value}'" for name, value in ORIGINS.items())
        send(lab, place / "root", f"docker import {changes} - {BASE}")
        send(lab, context(place), f"docker build --force-rm --network none --tag {BUILT} -")
        send(lab, PROJECT, f"mkdir -p {PLACE} && tar -x -C {PLACE}")
        yield lab
    finally:
        lab.ssh(MANAGER, f"rm -rf {PLACE}; docker image rm --force {BUILT} {BASE}", check=False)
        # Some of the stages' images go with the image that was made of them. One that a container still runs from would stay.
        lab.ssh(MANAGER, f"docker image rm --force {' '.join(images(lab) - before)}", check=False)
        shutil.rmtree(place)
    assert images(lab) == before


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("ansible-runner --version", DEFINITION["dependencies"]["ansible_runner"]["package_pip"].partition("==")[2]),
        ("ansible-playbook --version", f"[core {DEFINITION['dependencies']['ansible_core']['package_pip'].partition('==')[2]}]"),
        ("ansible-galaxy collection list selfhosted.llm_stack", "selfhosted.llm_stack"),
        ("ansible-galaxy collection list community.docker", "community.docker"),
        ("ansible-galaxy collection list ansible.posix", "ansible.posix"),
        ("ansible-playbook -i inventory/hosts.yml recover.yml --syntax-check", "playbook: recover.yml"),
        # As AWX does, whose runner finds the project below /runner.
        ("ansible-runner run /runner -p recover.yml --inventory inventory/hosts.yml --cmdline=--syntax-check", "playbook: recover.yml"),
        # By the collection's metadata alone.
        ("python3 -c 'import openstack; print(openstack.__name__)'", "openstack"),
        ("ssh -V 2>&1", "OpenSSH"),
    ],
)
def test_the_image_has_what_a_job_needs(built: Lab, command: str, said: str) -> None:
    run = f"docker run --rm --network none --volume {PLACE}:/runner/project:ro --workdir /runner/project {BUILT}"
    printed = built.ssh(MANAGER, f"{run} {command}")
    print(printed)
    assert said in printed
