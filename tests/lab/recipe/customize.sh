#!/bin/sh
# Runs inside mmdebstrap, after the packages are configured. $1 is the root tree, $LAB_PUBLIC_KEY the lab's SSH key.
set -eu
root=$1

install -d -m 0700 "$root/root/.ssh"
install -m 0600 "$LAB_PUBLIC_KEY" "$root/root/.ssh/authorized_keys"
# Every machine of this image shares the host key made beside the image, so nobody accepts a key blindly.
rm -f "$root"/etc/ssh/ssh_host_*
install -m 0600 "$LAB_HOST_KEY" "$root/etc/ssh/ssh_host_ed25519_key"
install -m 0644 "$LAB_HOST_KEY.pub" "$root/etc/ssh/ssh_host_ed25519_key.pub"
printf 'UseDNS no\nUsePAM yes\nPermitRootLogin prohibit-password\nMaxStartups 50\n' > "$root/etc/ssh/sshd_config.d/lab.conf"

# No name server: a look-up fails at once instead of after a time-out.
rm -f "$root/etc/resolv.conf"
printf 'options timeout:1 attempts:1\n' > "$root/etc/resolv.conf"
printf 'LABEL=labroot / ext4 rw,noatime 0 1\n' > "$root/etc/fstab"
: > "$root/etc/machine-id"
cat "$LAB_HOSTS" > "$root/etc/hosts"
install -d "$root/etc/systemd/network" "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\n' > "$root/etc/systemd/journald.conf.d/lab.conf"

in_root() { chroot "$root" "$@"; }
# The generator reads the address from the kernel's command line.
in_root systemctl disable ssh.socket 2>/dev/null || true
in_root systemctl enable systemd-networkd systemd-network-generator ssh.service
# Roles start what they need; nothing else runs, and nothing runs by the clock. One that is not there must not keep the others on.
for unit in docker.service docker.socket containerd.service nginx.service nfs-server.service open-iscsi.service iscsid.service \
  iscsid.socket smartmontools.service sanoid.timer certbot.timer keepalived.service; do
  in_root systemctl disable "$unit" 2>/dev/null || true
done
in_root systemctl enable zfs-import-cache.service zfs-import.target zfs-mount.service zfs.target
in_root systemctl mask systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer man-db.timer \
  dpkg-db-backup.timer e2scrub_all.timer fstrim.timer systemd-firstboot.service systemd-timesyncd.service
# These find nothing in the lab, and each runs at every reload of systemd, which is slow on an emulated machine.
install -d "$root/etc/systemd/system-generators"
for generator in debug gpt-auto hibernate-resume rc-local run ssh system-update sysv tpm2; do
  ln -sf /dev/null "$root/etc/systemd/system-generators/systemd-$generator-generator"
done
in_root passwd -d root >/dev/null

kernel=$(in_root sh -c 'ls /lib/modules' | sort -V | tail -n 1)
if [ -z "$(find "$root/lib/modules/$kernel" -name 'zfs.ko*')" ]; then
  echo "kernel $kernel has no ZFS module: zfs-dkms did not build it, or it is in another package" >&2
  exit 1
fi
printf 'MODULES=list\nCOMPRESS=zstd\n' > "$root/etc/initramfs-tools/conf.d/lab"
printf '%s\n' virtio_pci virtio_blk virtio_net nvme ext4 crc32c_generic > "$root/etc/initramfs-tools/modules"
in_root update-initramfs -u -k "$kernel"
# Ubuntu has links of these names.
rm -f "$root/boot/vmlinuz" "$root/boot/initrd.img"
cp "$root/boot/vmlinuz-$kernel" "$root/boot/vmlinuz"
cp "$root/boot/initrd.img-$kernel" "$root/boot/initrd.img"

# A container machine's control groups and network settings are mounted read-only; Docker needs to write there.
cat > "$root/usr/local/sbin/lab-writable" <<'SCRIPT'
#!/bin/sh
# A mount may be busy for a moment while other machines start; what cannot be had keeps nothing from the rest.
status=0
writable() {
  for _ in 1 2 3 4 5; do
    mount -o remount,bind,rw "$1" && return
    sleep 0.2
  done
  status=1
}
while read -r _ _ _ _ at _; do
  case $at in /sys/fs/cgroup*) writable "$at" ;; esac
done < /proc/self/mountinfo
mount --bind /proc/sys/net /proc/sys/net
writable /proc/sys/net
exit $status
SCRIPT
chmod 0755 "$root/usr/local/sbin/lab-writable"
cat > "$root/etc/systemd/system/lab-writable.service" <<'UNIT'
[Unit]
Description=Make a container machine's control groups and network settings writable
ConditionVirtualization=container
DefaultDependencies=no
Before=sysinit.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/lab-writable
[Install]
WantedBy=sysinit.target
UNIT
in_root systemctl enable lab-writable.service
# A kernel module cannot be loaded from a container machine: not a failure there.
for unit in zfs-load-module zfs-import-cache zfs-mount zfs-share zfs-zed run-rpc_pipefs.mount systemd-remount-fs; do
  case $unit in *.mount) name=$unit ;; *) name=$unit.service ;; esac
  install -d "$root/etc/systemd/system/$name.d"
  printf '[Unit]\nConditionVirtualization=!container\n' > "$root/etc/systemd/system/$name.d/lab.conf"
done
