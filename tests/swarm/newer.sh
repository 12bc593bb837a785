#!/bin/sh
# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# newer.sh PACKAGE SUFFIX [broken]: offer APT the installed package once more, as a newer version, from a source on this machine; nothing
# else is found any more. A broken one cannot be configured, until /run/mended is there.
set -eu
package=$1 suffix=$2 broken=${3:-}
at=/srv/newer
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$at" "$tree/DEBIAN"
version=$(dpkg-query -W -f '${Version}' "$package")
dpkg-query -s "$package" | sed -e '/^Status:/d' -e '/^Conffiles:/,/^[A-Z]/{/^Conffiles:/d;/^ /d}' -e "s/^Version:.*/Version: $version$suffix/" \
  >"$tree/DEBIAN/control"
for script in preinst postinst prerm postrm conffiles; do
  [ ! -e "/var/lib/dpkg/info/$package.$script" ] || cp -p "/var/lib/dpkg/info/$package.$script" "$tree/DEBIAN/"
done
[ -z "$broken" ] || sed -i '2i [ -e /run/mended ] || { echo "this version cannot be configured" >\&2; exit 1; }' "$tree/DEBIAN/postinst"
# What the machine's image left out of the package stays out.
dpkg -L "$package" | while read -r name; do [ ! -e "$name" ] || echo "$name"; done |
  tar -c --no-recursion -P -T - | tar -x -P --transform "s|^/|$tree/|" --no-overwrite-dir 2>/dev/null || true
(
  cd "$at"
  dpkg-deb -Znone -b "$tree" "$package.deb" >/dev/null
  {
    dpkg-deb --field "$package.deb"
    printf 'Filename: ./%s.deb\nSize: %s\nSHA256: %s\n\n' "$package" "$(stat -c %s "$package.deb")" "$(sha256sum "$package.deb" | cut -d' ' -f1)"
  } >Packages
)
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /var/lib/apt/lists/*
echo "deb [trusted=yes] file:$at ./" >/etc/apt/sources.list
