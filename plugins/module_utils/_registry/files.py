# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads and writes the files of a registry and of its clients."""

from __future__ import annotations

import base64
import binascii
import ctypes
import hmac
import ipaddress
import json
import os
import re
import secrets
import tempfile
from pathlib import Path
from typing import Any

from .._errors import StackError
from .._plan import Step
from .._run import Runner
from .model import RENEW_SECONDS, Client, Server, ServerSpec

_SALT = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def host_of(address: str) -> str:
    """Return the host of ``host:port``, an IPv6 address without its brackets.

    :raises StackError: there is no port.
    """
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]/]+)):(\d+)", address)
    if not found:
        raise StackError(f"The registry's address {address!r} is not HOST:PORT. Give it as in 10.77.0.21:5000.")
    return found.group(1) or found.group(2)


def crypt(password: str, setting: str) -> str:
    """Hash a password as the C library does; it is part of every Debian, other than a Python package.

    :raises StackError: the C library knows no bcrypt.
    """
    try:
        library = ctypes.CDLL("libcrypt.so.1")
    except OSError as error:
        raise StackError(f"libcrypt.so.1 cannot be loaded ({error}), so no password can be hashed. Install libcrypt1.") from error
    library.crypt.restype = ctypes.c_char_p
    answer = library.crypt(password.encode(), setting.encode())
    if not answer or not answer.startswith(b"$2"):
        raise StackError("libcrypt.so.1 knows no bcrypt, the only hash a registry accepts. Install libcrypt1 4.1 or newer.")
    return str(answer.decode("ascii"))


def read_server(runner: Runner, directory: Path, spec: ServerSpec) -> Server:
    """Read certificate and password file."""
    lines = _lines(directory / "htpasswd")
    mine = [line.split(":", 1)[1] for line in lines if line.startswith(f"{spec.user}:")]
    accepts = bool(mine) and hmac.compare_digest(crypt(spec.password, mine[0]), mine[0]) if mine and mine[0].startswith("$2") else False
    names, expiring = _read_certificate(runner, directory) if spec.own_certificate else (None, False)
    return Server(
        names=names,
        expiring=expiring,
        accepts=accepts,
        passwords=tuple(line for line in lines if not line.startswith(f"{spec.user}:")),
    )


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()] if path.exists() else []


def _read_certificate(runner: Runner, directory: Path) -> tuple[tuple[str, ...] | None, bool]:
    certificate, key = directory / "tls.crt", directory / "tls.key"
    if not (certificate.exists() and key.exists()):
        return None, False
    shown = runner.run(("openssl", "x509", "-in", str(certificate), "-noout", "-pubkey", "-ext", "subjectAltName"), ok=(0, 1))
    public = runner.run(("openssl", "pkey", "-in", str(key), "-pubout"), ok=(0, 1))
    if shown.rc or public.rc or public.stdout.strip() not in shown.stdout:
        return None, False
    ending = runner.run(("openssl", "x509", "-in", str(certificate), "-noout", "-checkend", str(RENEW_SECONDS)), ok=(0, 1))
    return parse_names(shown.stdout), bool(ending.rc)


def parse_names(text: str) -> tuple[str, ...]:
    """Read the subject's alternative names as openssl prints them."""
    found = re.findall(r"(?:DNS|IP Address):([^,\s]+)", text)
    return tuple(str(ipaddress.ip_address(name)) if _is_address(name) else name for name in found)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def write_private(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file in one rename; nobody else can read it in between."""
    path.parent.mkdir(mode=0o700 if mode == 0o600 else 0o755, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=str(path.parent))
    draft = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as new:
            new.write(text)
            new.flush()
            os.fsync(new.fileno())
        draft.chmod(mode)
        draft.replace(path)
    except BaseException:
        draft.unlink()
        raise


class ServerApplier:
    """Takes the steps of :func:`.plan.plan_server`."""

    def __init__(self, runner: Runner, directory: Path, *, current: Server, spec: ServerSpec) -> None:
        self._runner = runner
        self._directory = directory
        self._current = current
        self._spec = spec

    def do(self, step: Step) -> None:
        """Take one step."""
        if step.action == "certificate":
            self._make_certificate()
        else:
            salt = "".join(secrets.choice(_SALT) for _unused in range(21)) + "u"
            line = f"{self._spec.user}:{crypt(self._spec.password, f'$2b$10${salt}')}"
            write_private(self._directory / "htpasswd", "\n".join([*self._current.passwords, line]) + "\n")

    def _make_certificate(self) -> None:
        host = self._spec.host
        name = f"IP:{host}" if _is_address(host) else f"DNS:{host}"
        key = self._runner.run(("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")).stdout
        # The extensions are those that strict verifiers (Python 3.13) ask of a certificate that vouches for itself.
        command = ("openssl", "req", "-x509", "-new", "-key", "/dev/stdin", "-sha256", "-days", "3650", "-subj", f"/CN={host[:64]}")
        extensions = (f"subjectAltName={name}", "keyUsage=critical,digitalSignature,keyCertSign", "extendedKeyUsage=serverAuth")
        added = tuple(part for extension in extensions for part in ("-addext", extension))
        certificate = self._runner.run(command + added, stdin=key).stdout
        write_private(self._directory / "tls.key", key)
        write_private(self._directory / "tls.crt", certificate, 0o644)


def read_config(path: Path) -> dict[str, Any]:
    """Read a Docker client's configuration.

    :raises StackError: it is no JSON object.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    try:
        config = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise StackError(f"{path} is not valid JSON ({error}), so no login can be added. Correct it, or move it away.") from error
    if not isinstance(config, dict):
        raise StackError(f"{path} does not hold a JSON object, so no login can be added. Correct it, or move it away.")
    return config


def auth_of(user: str, password: str) -> str:
    """Return a login as Docker's configuration holds it."""
    return base64.b64encode(f"{user}:{password}".encode()).decode() if user else ""


def login_of(auth: str) -> tuple[str, str]:
    """Return user and password of :func:`auth_of`."""
    try:
        user, _colon, password = base64.b64decode(auth).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password


def read_client(address: str, *, certificates: Path, config: Path) -> Client:
    """Read what a Docker client knows of a registry."""
    ca = certificates / address / "ca.crt"
    entry = (read_config(config).get("auths") or {}).get(address) or {}
    return Client(ca=ca.read_text(encoding="utf-8") if ca.exists() else "", auth=entry.get("auth") or "")


def apply_client(step: Step, desired: Client, *, certificates: Path, config: Path) -> None:
    """Take one step of :func:`.plan.plan_client`."""
    if step.action == "trust":
        write_private(certificates / step.target / "ca.crt", desired.ca, 0o644)
        return
    settings = read_config(config)
    settings["auths"] = {**(settings.get("auths") or {}), step.target: {"auth": desired.auth}}
    write_private(config, json.dumps(settings, indent=2) + "\n")
