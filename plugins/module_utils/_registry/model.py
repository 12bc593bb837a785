# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the planners compare: a registry's files, a client's trust, published images."""

from __future__ import annotations

from dataclasses import dataclass, field

# A certificate is made anew this long before it ends.
RENEW_SECONDS = 30 * 24 * 3600


@dataclass(frozen=True)
class Server:
    """The files of a registry as they are.

    :param names: the addresses its certificate is made for; None where there is no usable pair of key and certificate.
    :param expiring: the certificate ends soon.
    :param accepts: the password file lets the wanted user in with the wanted password.
    :param passwords: the other users' lines of the password file.
    """

    names: tuple[str, ...] | None = None
    expiring: bool = False
    accepts: bool = False
    passwords: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServerSpec:
    """The files of a registry as they should be.

    :param own_certificate: a self-signed certificate is made; otherwise the user has one.
    """

    host: str
    user: str
    password: str = field(repr=False)
    own_certificate: bool = True


@dataclass(frozen=True)
class Client:
    """What a Docker client knows of a registry."""

    ca: str = ""
    auth: str = field(default="", repr=False)


@dataclass(frozen=True)
class Image:
    """An image that should be in the registry.

    :param name: repository and tag, without the registry.
    :param source: where it is pulled from; empty when it comes from an archive.
    :param digest: digest of its configuration, known for archives.
    """

    name: str
    source: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """The name without its tag."""
        return self.name.rsplit(":", 1)[0] if ":" in self.name.rsplit("/", 1)[-1] else self.name

    @property
    def tag(self) -> str:
        """The tag, ``latest`` where the name has none."""
        return self.name[len(self.repository) + 1 :] or "latest"


@dataclass(frozen=True)
class Published:
    """An image as the registry has it.

    :param digest: digest of its configuration; empty for an index of several platforms.
    """

    digest: str = ""
