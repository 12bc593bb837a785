#!/usr/bin/python3
# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands between certbot and the edge: tells what certbot has, and gives the edge a new certificate.

edge_certificate.py look SERVER NAME     prints account and certificate as JSON
edge_certificate.py roll STACK           certbot's hook after a renewal; RENEWED_LINEAGE is the certificate's directory
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Sequence

ETC = Path(os.environ.get("CERTBOT_CONFIG_DIR", "/etc/letsencrypt"))
# How the role's stack has them in the edge: kind, name in the stack, file of certbot, path in the container, mode.
PARTS = (
    ("config", "edge_certificate", "fullchain.pem", "/etc/nginx/tls.crt", ""),
    ("secret", "edge_tls_key", "privkey.pem", "edge_tls_key", "0400"),
)


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
    """Give the edge what certbot has now, under the names the role would choose; a sentence about it.

    The swarm replaces one edge after another, and goes back to the last certificate should an edge not start with the new one.
    """
    service = f"{stack}_edge"
    spec = json.loads(run(["docker", "service", "inspect", service]))[0]["Spec"]
    options: list[str] = []
    for kind, name, file, target, mode in PARTS:
        text = (lineage / file).read_text()
        new = f"{stack}_{name}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        old = held(spec, kind, target)
        if new == old:
            continue
        if new not in run(["docker", kind, "ls", "--format", "{{.Name}}"]).split():
            run(["docker", kind, "create", "--label", f"com.docker.stack.namespace={stack}", new, "-"], text)
        options += [f"--{kind}-rm={old}"] if old else []
        options.append(f"--{kind}-add=source={new},target={target}" + (f",mode={mode}" if mode else ""))
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


def main(argv: list[str]) -> None:
    """Do what is asked; see above."""
    if argv[:1] == ["look"] and len(argv) == 3:
        sys.stdout.write(json.dumps(look(argv[1], argv[2])) + "\n")
    elif argv[:1] == ["roll"] and len(argv) == 2:
        sys.stdout.write(roll(argv[1], Path(os.environ.get("RENEWED_LINEAGE", str(ETC / "live" / "llm-edge")))) + "\n")
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
