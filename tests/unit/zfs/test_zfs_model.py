# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values, names and declarations: what counts as the same, and what is refused before anything is asked of the host."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs import values

SAME = [
    ("recordsize", "1M", "1048576"),
    ("recordsize", "128KiB", "131072"),
    ("recordsize", "1048576", "1048576"),
    ("quota", "none", "0"),
    ("quota", "0", "0"),
    ("quota", "1.5G", "1610612736"),
    ("quota", "1.7G", "1825361100"),  # libzfs drops the fraction of a byte
    ("quota", "10 GiB", "10737418240"),
    ("quota", "512B", "512"),
    ("quota", "16E", "18446744073709551616"),
    ("reservation", "0", "none"),
    ("snapshot_limit", "none", "18446744073709551615"),
    ("snapshot_limit", "none", "none"),
    ("userquota@bob", "10M", "10485760"),
    ("comment", "none", "-"),
    ("comment", "", "-"),
    ("encryption", "on", "aes-256-gcm"),
    ("acltype", "posixacl", "posix"),
    ("acltype", "noacl", "off"),
    ("compression", "zstd-3", "zstd"),
    ("compression", "zstd-fast-1", "zstd-fast"),
    ("compression", "gzip-6", "gzip"),
    ("volmode", "geom", "full"),
    ("xattr", "on", "sa"),
    ("xattr", "on", "dir"),
    ("mountpoint", "/srv/", "/srv"),
    ("feature@zstd_compress", "enabled", "active"),
]
DIFFERENT = [
    ("recordsize", "1M", "131072"),
    ("quota", "none", "1048576"),
    ("quota", "1G", "0"),
    ("quota", "1Gi", "1073741824"),  # ZFS does not know it
    ("quota", "10IB", "10"),
    ("xattr", "sa", "dir"),
    ("compression", "lz4", "on"),
    ("org.x:size", "1K", "1024"),
    ("org.x:size", "none", "0"),
    ("atime", "off", "on"),
    ("mountpoint", "/", "none"),
    ("mountpoint", "none", "/srv"),
    ("feature@zstd_compress", "enabled", "disabled"),
]


@pytest.mark.parametrize(("name", "want", "have"), SAME)
def test_same(name: str, want: Any, have: Any) -> None:
    assert values.same(name, want, have)


@pytest.mark.parametrize(("name", "want", "have"), DIFFERENT)
def test_different(name: str, want: Any, have: Any) -> None:
    assert not values.same(name, want, have)


@pytest.mark.parametrize(("value", "text"), [(True, "on"), (False, "off"), (12, "12"), ("1M", "1M"), (" lz4 ", "lz4")])
def test_yaml_values(value: Any, text: str) -> None:
    assert values.as_text("x", value) == text


@pytest.mark.parametrize(("size", "text"), [(100 << 30, "100 GiB"), (1536 << 20, "1536 MiB"), (1000, "1000 bytes"), (0, "0 bytes")])
def test_sizes_for_people(size: int, text: str) -> None:
    assert values.show_size(size) == text
