# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The swarm rung: real engines in three container machines that boot in seconds, beside whatever else the lab runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, Sequence

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lab"))

from labkit import network
from labkit.artifacts import prepare, python
from labkit.config import REPO
from labkit.lab import Lab
from labkit.play import Outcome, play
from places import MACHINES, MANAGER, MODELS, SITE, TOKEN

HERE = Path(__file__).resolve().parent


def forget(lab: Lab) -> None:
    """Drop our machines, so that the rest of the lab is as we found it."""
    kinds = {machine.spec.name: machine.spec.kind for machine in lab.machines()}
    for machine in lab.machines():
        if machine.spec.name in MACHINES:
            machine.stop()
            machine.discard()
    lab._remember_kinds({name: kind for name, kind in kinds.items() if name not in MACHINES})


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Three fresh machines."""
    found = Lab()
    others_run = any(machine.running for machine in found.machines() if machine.spec.name not in MACHINES)
    forget(found)
    found.up(MACHINES)
    prepare(found.paths)
    yield found
    forget(found)
    if not others_run:
        found.down()


@dataclass(frozen=True)
class Origin:
    """Where the workers copy their models from.

    :param folder: the files it serves.
    :param certificate: the text of the certificate to trust.
    """

    folder: Path
    certificate: str
    server: subprocess.Popen[bytes]


@pytest.fixture(scope="session")
def origin(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    """The models' HTTPS server."""
    place = tmp_path_factory.mktemp("models")
    served = place / "top" / "models"
    served.mkdir(parents=True)
    made = [str(python()), str(REPO / "tests" / "standins" / "tiny_gguf.py"), str(served / "tiny.gguf"), "--name", "tiny"]
    # `make bench` asks for a model of a size that takes time to copy.
    made += ["--size", os.environ.get("LLM_LAB_MODEL_BYTES", "0")]
    entry = json.loads(subprocess.run(made, check=True, capture_output=True, text=True).stdout)
    (served / "manifest.json").write_text(json.dumps({"models": [entry]}))
    certificate, key = place / "tls.crt", place / "tls.key"
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=models", "-addext", f"subjectAltName=IP:{MODELS[0]}"]
    subprocess.run([*request, *names, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    argv = [*network.inside(lab.paths), str(python()), str(HERE / "models_server.py")]
    server = subprocess.Popen([*argv, str(place / "top"), *MODELS, str(certificate), str(key), TOKEN])
    yield Origin(served, certificate.read_text(), server)
    server.terminate()
    server.wait(10)


@pytest.fixture(scope="session")
def models(origin: Origin) -> str:
    """The text of the certificate of the models' server."""
    return origin.certificate


@pytest.fixture(scope="session")
def run(lab: Lab, models: str) -> Callable[..., Outcome]:
    """Run playbooks by name, such as ``run("swarm", "workers", check=True)``."""

    def run_playbooks(*names: str, check: bool = False, **variables: object) -> Outcome:
        # A name with a path stays what it is.
        paths = [REPO / "playbooks" / (name if name.endswith(".yml") else f"{name}.yml") for name in names]
        options = [*(str(path) for path in paths[1:]), *(["--check", "--diff"] if check else [])]
        extra = {"gpu_worker_models_ca": models, **variables}
        return play(lab, paths[0], *options, variables=extra, inventory=(HERE / "inventory",))

    return run_playbooks


@pytest.fixture(scope="session")
def converged(lab: Lab, run: Callable[..., Outcome]) -> Lab:
    """The swarm after the first run of the three playbooks."""
    outcome = run(*SITE)
    assert outcome.status == 0
    return lab


@pytest.fixture
def docker(converged: Lab) -> Callable[[str], str]:
    """Ask the manager's engine: ``docker("node ls -q")``."""
    return lambda command: converged.ssh(MANAGER, f"docker {command}").strip()


@pytest.fixture
def until() -> Callable[..., None]:
    """Wait until something is so, or fail with what it was last."""

    def wait(look: Callable[[], object], wanted: object, *, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        seen = look()
        while seen != wanted:
            assert time.monotonic() < end, f"after {seconds:.0f} s it is still {seen!r} and not {wanted!r}"
            time.sleep(1)
            seen = look()

    return wait


@pytest.fixture
def load(converged: Lab, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start clients at the edge; the result is JSON on the standard output of the process returned."""
    certificate = tmp_path / "edge.crt"
    certificate.write_text(converged.ssh(MANAGER, "cat /etc/llm-stack/edge/tls.crt"))

    def start(
        *,
        clients: int,
        seconds: float,
        first_token: float,
        edges: Sequence[str] = (MANAGER,),
        patience: float = 60,
        address: str = "",
        trust: bool = True,
        times: bool = False,
    ) -> subprocess.Popen[str]:
        address = address or ",".join(converged.get(edge).spec.address for edge in edges)
        argv = [*network.inside(converged.paths), str(python()), str(HERE / "load.py"), address, str(certificate) if trust else ""]
        argv += [str(clients), str(seconds), str(first_token), str(patience), *(["times"] if times else [])]
        started = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert started.stdin is not None
        started.stdin.write("lab-only-api-key\n")
        started.stdin.flush()
        return started

    return start
