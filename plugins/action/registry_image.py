# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of registry_image: looks into the archives, and sends those that have to be published."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import StackError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._registry.archive import config_digest

MODULE = "selfhosted.llm_stack.registry_image"


class ActionModule(ActionBase):
    """Runs the module once when nothing has to be sent, twice otherwise."""

    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Compare, send what is missing, publish."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        arguments["images"] = self._described(arguments.get("images"))
        result = dict(self._execute_module(module_name=MODULE, module_args=arguments, task_vars=task_vars))
        if result.get("failed") or not result.get("unstaged"):
            return result
        self._make_tmp_path()
        try:
            arguments["images"] = self._sent(arguments["images"], result["unstaged"])
            return dict(self._execute_module(module_name=MODULE, module_args=arguments, task_vars=task_vars))
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)

    def _described(self, images: Any) -> Any:
        """Add the digest to every image that comes from an archive; what is malformed is left for the module to refuse."""
        if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
            return images
        try:
            return [{**image, "digest": config_digest(self._path(image))} if image.get("archive") else image for image in images]
        except (StackError, AnsibleError) as error:
            raise AnsibleActionFail(str(error)) from error

    def _path(self, image: dict[str, Any]) -> str:
        return str(self._loader.path_dwim(image["archive"]))

    def _sent(self, images: list[dict[str, Any]], wanted: list[str]) -> list[dict[str, Any]]:
        """Send the archives of the images wanted."""
        sent = []
        for position, image in enumerate(images):
            if image["name"] not in wanted:
                sent.append(image)
                continue
            target = self._connection._shell.join_path(self._connection._shell.tmpdir, f"image{position}.tar")
            self._transfer_file(self._path(image), target)
            self._fixup_perms2((self._connection._shell.tmpdir, target))
            sent.append({**image, "staged": target})
        return sent
