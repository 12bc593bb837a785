# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Talks to a registry over HTTPS, and publishes images through the engine of the host."""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from .._errors import StackError
from .files import auth_of
from .model import Image, Published

_ACCEPT = ", ".join(
    f"application/vnd.{kind}"
    for kind in (
        "docker.distribution.manifest.v2+json",
        "oci.image.manifest.v1+json",
        "docker.distribution.manifest.list.v2+json",
        "oci.image.index.v1+json",
    )
)
_TIMEOUT = 20.0


class UnreachableError(StackError):
    """The registry does not answer."""


class Answer(NamedTuple):
    """A registry's answer."""

    status: int
    body: bytes


class Registry:
    """A registry behind TLS and a password.

    :param ca: PEM text of the certificate to trust; empty for those of the system.
    """

    def __init__(self, address: str, *, ca: str, user: str, password: str) -> None:
        self.address = address
        self._auth = auth_of(user, password)
        try:
            self._context = ssl.create_default_context(cadata=ca or None)
        except ssl.SSLError as error:
            raise StackError(
                f"The certificate to trust for the registry {address} is not valid PEM ({error}). Correct registry_ca."
            ) from error

    def get(self, path: str) -> Answer:
        """Ask for `path`.

        :raises UnreachableError: there is no answer.
        :raises StackError: the login is not accepted.
        """
        request = urllib.request.Request(f"https://{self.address}{path}", headers={"Accept": _ACCEPT})
        if self._auth:
            request.add_header("Authorization", f"Basic {self._auth}")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._context))
        try:
            with opener.open(request, timeout=_TIMEOUT) as answer:
                return Answer(answer.status, answer.read())
        except urllib.error.HTTPError as error:
            if error.code in {401, 403}:
                raise StackError(
                    f"The registry {self.address} does not accept the login given. Check registry_user and registry_password, "
                    "and run swarm.yml to set them on the registry."
                ) from None
            return Answer(error.code, error.read())
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "reason", error)
            raise UnreachableError(
                f"The registry {self.address} does not answer: {reason}. Check that it runs (`docker ps` on the first manager), that its "
                "port is reachable from here, and that its certificate is the one trusted here."
            ) from error

    def check(self, timeout: float = 30.0) -> None:
        """Make sure that the registry answers and accepts the login; one that was just started may take a moment.

        :raises StackError: it does not.
        """
        give_up = time.monotonic() + timeout
        while True:
            try:
                answer = self.get("/v2/")
                break
            except UnreachableError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.5)
        if answer.status != 200:
            raise StackError(f"{self.address} answered {answer.status} instead of 200 to GET /v2/: is it a registry?")

    def published(self, image: Image) -> Published | None:
        """Return what the registry has under an image's name."""
        answer = self.get(f"/v2/{image.repository}/manifests/{image.tag}")
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise StackError(f"The registry {self.address} answered {answer.status} when asked for {image.name}: see its log.")
        manifest = json.loads(answer.body)
        return Published(digest=str((manifest.get("config") or {}).get("digest") or ""))


class Publisher:
    """Brings images into the engine and pushes them from there.

    :param client: a ``docker.APIClient``.
    :param errors: the exceptions by which it says that the engine refused.
    """

    def __init__(self, client: Any, errors: tuple[type[Exception], ...], *, address: str, user: str, password: str) -> None:
        self._client = client
        self._errors = errors
        self._address = address
        self._login = {"username": user, "password": password} if user else None

    def publish(self, image: Image, archive: str) -> None:
        """Publish one image.

        :param archive: path of a docker-archive on this host, empty to pull the source.
        :raises StackError: the engine or the registry refused.
        """
        reference = f"{self._address}/{image.repository}"
        try:
            wanted = self._load(image, archive) if archive else self._pull(image)
            self._client.tag(wanted, reference, image.tag)
            progress = self._client.push(reference, tag=image.tag, auth_config=self._login, stream=True, decode=True)
            self._follow(progress, f"push {image.name} to {self._address}")
        except self._errors as error:
            text = str(getattr(error, "explanation", None) or error)
            raise StackError(f"Docker could not publish {image.name}: {text}") from error

    def _load(self, image: Image, archive: str) -> str:
        with Path(archive).open("rb") as stream:
            self._follow(self._client.load_image(stream), f"load the archive of {image.name}")
        return image.digest

    def _pull(self, image: Image) -> str:
        self._follow(self._client.pull(image.source, stream=True, decode=True), f"pull {image.source}")
        return image.source

    @staticmethod
    def _follow(messages: Any, what: str) -> None:
        """Read the engine's progress to its end; an error is one of its messages."""
        for message in messages:
            if "error" in message:
                raise StackError(f"Docker could not {what}: {message['error']}")
