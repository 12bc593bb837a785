# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-in for a disk backend: Cinder's own driver that only logs, able to make a volume from an image."""

from __future__ import annotations

from typing import Any

from cinder.tests import fake_driver


class PretendDisks(fake_driver.FakeLoggingVolumeDriver):
    """Volumes that hold nothing."""

    def _update_volume_stats(self) -> None:
        super()._update_volume_stats()
        # All of the pretend space is for use.
        self._stats["pools"][0]["reserved_percentage"] = 0

    def clone_image(self, *_args: Any) -> tuple[dict[str, object], bool]:
        """Say that the image was cloned within the backend, which spares Cinder the copy."""
        return {}, True
