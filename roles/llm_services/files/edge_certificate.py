#!/usr/bin/python3
# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands between certbot and what serves its certificate: tells what certbot has, and gives edge and Grafana a new one.

edge_certificate.py look SERVER NAME     prints account and certificate as JSON
edge_certificate.py roll STACK...        certbot's hook after a renewal; RENEWED_LINEAGE is the certificate's directory. What a service has
                               already is left alone, as are stacks that are not there, so it may be run at any time
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator, Sequence

ETC = Path(os.environ.get("CERTBOT_CONFIG_DIR", "/etc/letsencrypt"))
# How the roles' stacks have them, by the service: kind, name in the stack, file of certbot, path in the container, whose it is there.
CHAIN = "fullchain.pem"
PARTS = {
    "edge": (
        ("config", "edge_certificate", CHAIN, "/etc/nginx/tls.crt", ""),
        ("secret", "edge_tls_key", "privkey.pem", "edge_tls_key", ",mode=0400"),
    ),
    "grafana": (
        ("config", "grafana_certificate", CHAIN, "/etc/grafana/tls.crt", ""),
        ("secret", "grafana_tls_key", "privkey.pem", "grafana_tls_key", ",uid=472,gid=0,mode=0400"),
    ),
}

# The label of a service whose certificate is certbot's to give; certbot goes on renewing also where the operator has chosen another one.
GIVEN = "llm-stack.certificate"
# The module swarm_stack takes the same lock: what one of them has just made and not yet given to a service, the other would remove.
LOCK = Path("/run/lock")
PATIENCE = 900.0


@contextlib.contextmanager
def alone(stack: str) -> Iterator[None]:
    """Change the stack while nobody else on this machine does.

    :raises SystemExit: somebody else did for all of ``PATIENCE`` seconds.
    """
    path = LOCK / f"llm-stack-{stack}.lock"
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o644))
    with path.open() as held:
        for left in reversed(range(int(PATIENCE) + 1)):
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if not left:
                    raise SystemExit(f"Stack {stack} is being changed by another program (`fuser -v {path}`); nothing was done.") from error
                time.sleep(1)
        yield


def run(argv: Sequence[str], text: str | None = None) -> str:
    """What a command said.

    :raises SystemExit: it failed; with its words.
    """
    ended = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"`{' '.join(argv)}` failed: {ended.stderr.strip()}")
    return ended.stdout


def thumbprint(key: dict[str, Any]) -> str:
    """The thumbprint of a public key as JWK (RFC 7638): of its required members alone, in the order of their names."""
    members = {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y")}[key["kty"]]
    text = json.dumps({name: key[name] for name in members}, sort_keys=True, separators=(",", ":"))
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


def account(server: str) -> str:
    """The thumbprint of the account at a server; empty when there is none."""
    place = ETC / "accounts" / re.sub(r"^https?://", "", server)
    keys = sorted(place.glob("*/private_key.json"))
    return thumbprint(json.loads(keys[0].read_text())) if keys else ""


def domains(certificate: Path) -> list[str]:
    """The names a certificate is for; none when it is not there."""
    if not certificate.exists():
        return []
    said = run(["openssl", "x509", "-in", str(certificate), "-noout", "-ext", "subjectAltName"])
    return sorted(re.findall(r"DNS:([^,\s]+)", said))


def look(server: str, name: str) -> dict[str, Any]:
    """What certbot has: the account's thumbprint, the certificate's names, and the server it is from."""
    renewal = ETC / "renewal" / f"{name}.conf"
    origin = re.search(r"^server\s*=\s*(\S+)", renewal.read_text(), re.MULTILINE) if renewal.exists() else None
    return {
        "thumbprint": account(server),
        "domains": domains(ETC / "live" / name / "cert.pem"),
        "server": origin.group(1) if origin else "",
    }


def held(spec: dict[str, Any], kind: str, target: str) -> str:
    """The name of the config or secret that a service has at a path; empty when none."""
    title = kind.capitalize()
    entries = spec["TaskTemplate"]["ContainerSpec"].get(f"{title}s") or []
    return next((str(each[f"{title}Name"]) for each in entries if (each.get("File") or {}).get("Name") == target), "")


def roll(stack: str, lineage: Path) -> str:
    """Give the service of a stack that serves it what certbot has now, under the names the role would choose; a sentence about it.

    The swarm replaces one task after another, and goes back to the last certificate should one not start with the new one.
    """
    if not (lineage / CHAIN).exists():
        return f"{lineage} holds no certificate yet"
    names = run(["docker", "service", "ls", "--format", "{{.Name}}", f"--filter=label=com.docker.stack.namespace={stack}"]).split()
    part = next((name for name in PARTS if f"{stack}_{name}" in names), "")
    if not part:
        return f"The stack {stack} has no service for a certificate"
    service = f"{stack}_{part}"
    spec = json.loads(run(["docker", "service", "inspect", service]))[0]["Spec"]
    if (spec.get("Labels") or {}).get(GIVEN) != "acme":
        return f"{service} is to have another certificate than certbot's"
    options: list[str] = []
    for kind, name, file, target, owner in PARTS[part]:
        text = (lineage / file).read_text()
        new = f"{stack}_{name}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        old = held(spec, kind, target)
        if new == old:
            continue
        if new not in run(["docker", kind, "ls", "--format", "{{.Name}}"]).split():
            run(["docker", kind, "create", "--label", f"com.docker.stack.namespace={stack}", new, "-"], text)
        options += [f"--{kind}-rm={old}"] if old else []
        options.append(f"--{kind}-add=source={new},target={target}{owner}")
    if not options:
        return f"{service} has this certificate already"
    run(["docker", "service", "update", "--quiet", "--detach=false", *options, service])
    sweep(stack)
    return f"{service} has a new certificate"


def sweep(stack: str) -> None:
    """Remove what no service of the stack has any more, neither now nor should it go back to what it was before, as the role does."""
    mine = f"--filter=label=com.docker.stack.namespace={stack}"
    services = run(["docker", "service", "ls", "--quiet", mine]).split()
    wanted = set()
    for service in json.loads(run(["docker", "service", "inspect", *services])):
        for spec in (service["Spec"], service.get("PreviousSpec") or service["Spec"]):
            container = spec["TaskTemplate"]["ContainerSpec"]
            for title in ("Config", "Secret"):
                wanted |= {str(each[f"{title}Name"]) for each in container.get(f"{title}s") or []}
    for kind in ("config", "secret"):
        for name in sorted(set(run(["docker", kind, "ls", "--format", "{{.Name}}", mine]).split()) - wanted):
            run(["docker", kind, "rm", name])


def roll_all(stacks: Sequence[str], lineage: Path) -> None:
    """Roll every stack, and say what became of each.

    :raises SystemExit: one failed; the others were rolled all the same.
    """
    failed = []
    for stack in stacks:
        try:
            with alone(stack):
                sys.stdout.write(roll(stack, lineage) + "\n")
        except SystemExit as error:
            failed.append(str(error))
    if failed:
        raise SystemExit("\n".join(failed))


def main(argv: list[str]) -> None:
    """Do what is asked; see above."""
    if argv[:1] == ["look"] and len(argv) == 3:
        sys.stdout.write(json.dumps(look(argv[1], argv[2])) + "\n")
    elif argv[:1] == ["roll"] and len(argv) > 1:
        roll_all(argv[1:], Path(os.environ.get("RENEWED_LINEAGE", str(ETC / "live" / "llm-edge"))))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
