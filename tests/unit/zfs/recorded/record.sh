#!/bin/sh
# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Record what the ZFS of a machine prints, for the readers' tests: run it as root on a lab machine, such as
#   tests/lab/lab ssh storage24 'sh -s' < tests/unit/zfs/recorded/record.sh | tar x -C tests/unit/zfs/recorded
# It makes pools on files of its own below /var/tmp/pool and /var/tmp/recorded and takes them away again.
set -eu
disks=/var/tmp/pool
to=/var/tmp/recorded
version=$(zfs version | sed -n 's/^zfs-kmod-\([0-9.]*\).*/\1/p')
exec 3>&1 >&2

hold_scan() { echo "$1" >/sys/module/zfs/parameters/zfs_scan_suspend_progress; }
gone() {
  hold_scan 0
  for pool in wpoola wpoold wpoolh wdata; do zpool destroy -f "$pool" 2>/dev/null || true; done
  rm -rf "$disks" "$to"
}
gone
# The daemon would put spares to use by itself.
zed=$(systemctl is-active zfs-zed || true)
systemctl stop zfs-zed
trap 'gone; [ "$zed" != active ] || systemctl start zfs-zed' EXIT
mkdir -p "$disks" "$to"
for name in a b c d e f g h i j k m r1 r2 r3 r4 r5; do truncate -s 96M "$disks/$name"; done

text() { # what zpool status says of a pool, by the name of its file
  name=$1
  shift
  zpool status -P "$@" >"$to/$name-$version.txt"
}
both() { # the same as text and, where this version has it, as JSON
  text "$@"
  name=$1
  shift
  zpool status -P -j --json-int "$@" >"$to/$name-$version.json" 2>/dev/null || rm -f "$to/$name-$version.json"
}
until_idle() { zpool wait -t scrub,resilver,initialize "$1"; }

zpool create -o ashift=12 wpoola mirror $disks/a $disks/b special mirror $disks/c $disks/d dedup mirror $disks/e $disks/f \
  log mirror $disks/g $disks/h cache $disks/i spare $disks/j
both all_classes wpoola
zpool get -Hp -o property,value all wpoola >"$to/get-$version.txt"
zdb -C wpoola >"$to/zdb-$version.txt"
zpool scrub -w wpoola
both scrub wpoola
zpool offline wpoola $disks/b
both offline wpoola
zpool online wpoola $disks/b
until_idle wpoola
zpool initialize -w wpoola $disks/a
both initializing -i wpoola
zpool export wpoola
zpool import -d $disks >"$to/import-$version.txt"
mv $disks/b $to/lost
zpool import -d $disks wpoola
both lost_disk wpoola
zpool replace wpoola "$(zpool status -P wpoola | sed -n 's/^ *\t* *\([0-9]\{10,\}\) .*/\1/p')" $disks/j
until_idle wpoola
both spare_in_use wpoola
zpool destroy wpoola
mv $to/lost $disks/b

zpool create -f wpoola mirror $disks/a $disks/b special mirror $disks/c $disks/d log $disks/e cache $disks/i spare $disks/f
dd if=/dev/urandom of=/wpoola/data bs=1M count=24 status=none
zpool sync wpoola
# No progress while the state is looked at.
hold_scan 1
zpool replace -f wpoola $disks/a $disks/g
both replacing wpoola
hold_scan 0
until_idle wpoola
hold_scan 1
zpool scrub wpoola
zpool scrub -p wpoola
both paused wpoola
hold_scan 0
zpool destroy wpoola

zpool create -f wpoold draid1:2d:5c:1s $disks/r1 $disks/r2 $disks/r3 $disks/r4 $disks/r5
hold_scan 1
zpool offline -f wpoold $disks/r1
zpool replace wpoold $disks/r1 draid1-0-0
both draid_spared wpoold
hold_scan 0
zpool destroy wpoold

hostid=$(hostid)
zpool create -f wpoolh $disks/k
zpool export wpoolh
# The pool is moved as if another machine had used it last: its label names that host.
zgenhostid -f 0xdeadbeef -o $to/hostid
echo 0xdeadbeef >/sys/module/spl/parameters/spl_hostid
zpool import -d $disks/k wpoolh
dd if=$disks/k of=$disks/copy bs=1M status=none
zpool export wpoolh
mv $disks/copy $disks/k
printf '0x%s\n' "$hostid" >/sys/module/spl/parameters/spl_hostid
zpool import -d $disks/k >"$to/import_other_host-$version.txt"
echo 0 >/sys/module/spl/parameters/spl_hostid
rm -f $to/hostid

zpool create -f -m /wdata wdata $disks/m
zfs create wdata/a
zfs get -Hp -o name,property,value,source all wdata/a >"$to/all_properties-$version.txt"
zfs set userquota@nobody=10M wdata/a
zfs snapshot wdata/a@s1
zfs hold keep wdata/a@s1
zfs hold keep2 wdata/a@s1
zfs bookmark wdata/a@s1 wdata/a#b1
zfs clone wdata/a@s1 wdata/c
echo lab-only-passphrase | zfs create -o encryption=on -o keyformat=passphrase wdata/enc
zfs allow -s @set1 create,mount wdata/a
zfs allow -c destroy wdata/a
zfs allow -l -u 4711 create wdata/a
zfs allow -d -g users destroy,mount wdata/a
zfs allow -u nobody send,snapshot wdata/a
zfs allow -e mount wdata/a
zfs allow -u nobody @set1 wdata
zfs allow wdata/a >"$to/allow-$version.txt"
zfs list -H -p -r -t all -o name,type,createtxg,clones,userrefs wdata/a wdata/c >"$to/below-$version.txt"
zfs holds -H wdata/a@s1 >"$to/holds-$version.txt"
asked=type,quota,userquota@nobody,userquota@root,userquota@nosuch,groupquota@4711,groupobjquota@4711,userrefs,clones,origin
asked=$asked,encryption,encryptionroot,keystatus,keylocation,keyformat,pbkdf2iters,written,guid,casesensitivity,x:y
zfs get -Hp -o name,property,value,source \
  "$asked" wdata wdata/a wdata/a@s1 'wdata/a#b1' wdata/c wdata/enc >"$to/datasets-$version.txt"

rm -f "$to/lost"
tar c -C "$to" . >&3
