# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks into docker-archives, on the controller, to know what they hold before anything is sent."""

from __future__ import annotations

import hashlib
import json
import tarfile

from .._errors import StackError


def config_digest(path: str) -> str:
    """Return the digest of the configuration of the one image in an archive.

    :raises StackError: the file is no docker-archive of one image.
    """
    try:
        with tarfile.open(path) as archive:
            manifest = json.loads(_member(archive, "manifest.json", path))
            if len(manifest) != 1:
                raise StackError(f"{path} holds {len(manifest)} images. Save one image an archive: `docker save NAME:TAG -o FILE`.")
            return "sha256:" + hashlib.sha256(_member(archive, manifest[0]["Config"], path)).hexdigest()
    except FileNotFoundError as error:
        raise StackError(
            f"The image archive {path} does not exist on the controller. Build or save it there, or correct its path."
        ) from error
    except (tarfile.TarError, ValueError, KeyError, TypeError, OSError) as error:
        raise StackError(f"{path} is not a docker-archive ({error}). Make it with `docker save NAME:TAG -o FILE`.") from error


def _member(archive: tarfile.TarFile, name: str, path: str) -> bytes:
    stream = archive.extractfile(name)
    if stream is None:
        raise StackError(f"{path} is not a docker-archive: {name} is not a file. Make it with `docker save NAME:TAG -o FILE`.")
    return stream.read()
