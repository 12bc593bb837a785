# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SSH host keys that are known before the server boots: made here, handed over in user data, the public part kept in metadata."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from email import message_from_string
from email.message import Message
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

from .errors import CloudError

# What cloud-init calls the kinds of user data, by how they begin; longer beginnings come first. It finds out itself what is plain.
_KINDS = {
    "#cloud-config-archive": "cloud-config-archive",
    "#cloud-config": "cloud-config",
    "#!": "x-shellscript",
    "#include-once": "x-include-once-url",
    "#include": "x-include-url",
    "#cloud-boothook": "cloud-boothook",
}
# Nova: 65535 bytes of base64.
MAX_USER_DATA = 65535


@dataclass(frozen=True)
class HostKey:
    """A pair of keys; the private one is kept out of every representation."""

    public: str
    private: str = field(repr=False)


def make_host_key() -> HostKey:
    """Make an ed25519 host key.

    :raises CloudError: the library for it is missing.
    """
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise CloudError(f"ssh_host_key needs the Python library cryptography ({error}). Install it where this task runs.") from error
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return HostKey(public.decode(), private.decode())


def with_host_key(user_data: str, key: HostKey) -> str:
    """Return user data that gives the server this host key and no other, before what the caller wants done."""
    lines = ["#cloud-config", "ssh_deletekeys: true", "ssh_genkeytypes: []", "ssh_keys:", "  ed25519_private: |"]
    lines += ["    " + line for line in key.private.strip().splitlines()]
    lines += [f"  ed25519_public: {key.public}", ""]
    whole = MIMEMultipart()
    whole.attach(_part("\n".join(lines), "cloud-config"))
    if user_data.strip():
        whole.attach(_given(user_data))
    return whole.as_string()


def _given(user_data: str) -> Message:
    """Return the caller's user data as a part."""
    message = message_from_string(user_data)
    if "MIME-Version" in message:
        # It has parts of its own, or says itself what it is. cloud-init takes the parts of a part.
        return message
    kind = next((kind for start, kind in _KINDS.items() if user_data.startswith(start)), "plain")
    return _part(user_data, kind)


def _part(text: str, kind: str) -> MIMEText:
    # As UTF-8 it would become base64 here and once more for the API, and 64 KiB are soon full.
    return MIMEText(text, kind, "us-ascii" if text.isascii() else "utf-8")


def encoded(user_data: str) -> str:
    """Return user data as the API takes it.

    :raises CloudError: it is too long.
    """
    text = base64.b64encode(user_data.encode()).decode()
    if len(text) > MAX_USER_DATA:
        raise CloudError(f"user_data is {len(text)} bytes in base64, and a cloud takes {MAX_USER_DATA}: shorten it")
    return text
