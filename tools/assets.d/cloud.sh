# shellcheck shell=bash disable=SC2154  # sourced by tools/assets, which brings $tmp, $out, $suite and the rest
# The Debian root file system with cloud-init, as cloud images have it, for the kernel of the asset "kernel".

# What cloud-init mounts its seed with, and the card that it sets up; what they depend on comes along.
cloud_modules=(isofs virtio_net)

# What runs in the new system, as its root, after configure_rootfs. The program and its units are the package's, which
# looks for its seed as on any machine; of its modules only what a test looks at is left, for under emulation each of
# its four runs of Python takes a while. The network's configuration it writes for systemd-networkd, which systemd starts
# afterwards: cloud-init need not start it again. Nothing waits for the network, for some tests have none.
configure_cloud() {
  cat <<'SH'
cat >/etc/cloud/cloud.cfg.d/99_trimmed.cfg <<'CFG'
cloud_init_modules: [write-files, set_hostname, users-groups, ssh]
cloud_config_modules: [runcmd]
cloud_final_modules: [scripts-user]
ssh_genkeytypes: [ed25519]
disable_network_activation: true
CFG
systemctl -q enable systemd-networkd.service
systemctl -q disable systemd-networkd-wait-online.service
SH
}

build_rootfs_cloud() { # KERNEL-TREE
  local version pretend=() hook=$tmp/configure modules=$tmp/modules module
  version=$(<"$1/version")
  { configure_rootfs; configure_cloud; } >"$hook"
  mkdir -p "$modules/usr/lib/modules/$version"
  ln -s usr/lib "$modules/lib"
  for module in "${cloud_modules[@]}"; do
    /sbin/modprobe -d "$1" -S "$version" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
  done | sort -u | xargs cp -t "$modules/lib/modules/$version"
  cp "$1/lib/modules/$version"/modules.{builtin,builtin.modinfo,order} "$modules/lib/modules/$version"
  /sbin/depmod -b "$modules" "$version"
  tar -C "$modules" --owner=0 --group=0 -cf "$tmp/modules.tar" usr
  ((EUID == 0)) || pretend=(fakeroot --)
  mmdebstrap --quiet --mode=auto --variant=minbase \
    --include=systemd-sysv,udev,dbus,login,util-linux,e2fsprogs,procps,iproute2,kmod,cloud-init,dmidecode,openssh-server \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/zoneinfo/*' \
    --customize-hook="chroot \"\$1\" sh -s <'$hook'" \
    --customize-hook="tar -C \"\$1\" -xf - <'$tmp/modules.tar'" \
    "$suite" "$tmp/root.tar" ${mirror:+"$mirror"} 2>"$tmp/log" || { cat "$tmp/log"; die "mmdebstrap failed"; }
  export tmp
  "${pretend[@]}" bash -euc 'unpack_and_format "$@"' - "$tmp/root.tar" "$out"
}

rootfs_cloud_recipe() { # KERNEL-TREE
  { declare -f configure_rootfs unpack_and_format; echo "$suite"; cat "$1/version" "$here/assets.d/cloud.sh"; } | fingerprint
}
