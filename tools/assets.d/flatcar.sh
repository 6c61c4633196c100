# shellcheck shell=bash disable=SC2154  # sourced by tools/assets, which brings $tmp, $out, $suite and the rest
# A disk in the shape of Flatcar Container Linux's image, filled with Debian's programs, and the initrd that opens it.
# The layout is that of build_library/disk_layout.json in https://github.com/flatcar/scripts, the sizes scaled down;
# how /usr is hashed, and where the hash is put, is in disk_util and build_image_util.sh beside it.

# number, name, start and size in MiB, type, uuid (a dash: a random one), attributes. The types are cgpt's efi, bios,
# flatcar-rootfs, data, flatcar-reserved and flatcar-resize. cgpt's attributes are bits 48..51, the priority; 52..55,
# the tries left; 56, "successful": here priority 1, successful.
flatcar_partitions() {
  cat <<'TABLE'
1 EFI-SYSTEM 2   64  C12A7328-F81F-11D2-BA4B-00A0C93EC93B -
2 BIOS-BOOT  66  2   21686148-6449-6E6F-744E-656564454649 -
3 USR-A      68  128 5DFBF5F4-2848-4BAC-AA5E-0D9A20B745A6 7130c94a-213a-4e5a-8e26-6cce9662f132 GUID:48,56
4 USR-B      196 128 5DFBF5F4-2848-4BAC-AA5E-0D9A20B745A6 e03dd35c-7c2d-4a47-b3fe-27f15780a57c
6 OEM        324 32  0FC63DAF-8483-4772-8E79-3D69D8477DE4 -
7 OEM-CONFIG 356 2   C95DC21A-DF0E-4340-8D7B-26CBFA9A03E0 -
9 ROOT       358 256 3884DD41-8582-4404-B9A8-E9B84F2DF50E -
TABLE
}
flatcar_disk_mib=616
flatcar_usr_mib=112   # the file system; the hash tree lies behind it, in what is left of the partition

flatcar_packages=base-files,base-passwd,coreutils,cryptsetup-bin,dash,dmsetup,fdisk,grep,ignition,kmod,libc-bin,mount
flatcar_packages+=,passwd,sed,systemd,util-linux

# What the initrd and the system load; what these depend on comes along.
flatcar_modules=(virtio_pci virtio_mmio virtio_blk virtio_rng virtio_net crc32c_generic ext4 dm_verity overlay vfat
  nls_cp437 nls_ascii autofs4 qemu_fw_cfg button evdev)

# flatcar_copy_modules KERNEL-TREE ROOT: into ROOT/usr/lib/modules; ROOT/lib leads to usr/lib.
flatcar_copy_modules() {
  local version module to
  version=$(<"$1/version")
  to=$2/usr/lib/modules/$version
  mkdir -p "$to"
  for module in "${flatcar_modules[@]}"; do
    /sbin/modprobe -d "$1" -S "$version" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
  done | sort -u | xargs cp -t "$to"
  cp "$1/lib/modules/$version"/modules.{builtin,builtin.modinfo,order} "$to"
  /sbin/depmod -b "$2" "$version"
}

# The packages' files without their maintainer scripts: the /etc that those would make comes from /usr in Flatcar.
flatcar_unpack() { # ROOT
  # shellcheck disable=SC2016  # the hook's variables
  mmdebstrap --quiet --mode=auto --variant=extract --include="$flatcar_packages" \
    --setup-hook='for dir in bin sbin lib lib64; do mkdir -p "$1/usr/$dir"; ln -s "usr/$dir" "$1/$dir"; done' \
    "$suite" "$tmp/usr.tar" ${mirror:+"$mirror"} 2>"$tmp/log" || { cat "$tmp/log"; die "mmdebstrap failed"; }
  mkdir "$1"
  tar -C "$1" --no-same-owner --exclude='./dev/*' -xpf "$tmp/usr.tar"
}

# flatcar_trim USR: drops what only takes room or, booted under emulation, time.
flatcar_trim() {
  local units=$1/lib/systemd/system generators=$1/lib/systemd/system-generators
  rm -rf "$1"/share/{doc,man,locale,info,bash-completion,perl5,zoneinfo,bug,lintian,pam-configs,debconf,dict} \
    "$1/lib/x86_64-linux-gnu/gconv" "$1/bin/ignition-validate"
  rm -f "$units"/sysinit.target.wants/{dev-hugepages,dev-mqueue,sys-fs-fuse-connections,sys-kernel-config}.mount \
    "$units"/sysinit.target.wants/sys-kernel-{debug,tracing}.mount \
    "$units"/sysinit.target.wants/proc-sys-fs-binfmt_misc.automount \
    "$units"/sysinit.target.wants/systemd-{binfmt,firstboot,pcrphase,pcrphase-sysinit,repart,update-utmp}.service \
    "$units"/sysinit.target.wants/kmod-static-nodes.service \
    "$units"/multi-user.target.wants/{getty.target,systemd-logind.service,systemd-update-utmp-runlevel.service} \
    "$generators"/systemd-{cryptsetup,getty,gpt-auto,integritysetup,rc-local,sysv,veritysetup}-generator
}

# flatcar_configure ROOT: makes of Debian's files an /usr that stands alone, with /etc's beginnings in it.
flatcar_configure() {
  local usr=$1/usr etc=$1/usr/share/flatcar/etc dir
  mkdir -p "$usr/share/flatcar" "$usr"/lib/systemd/{journald,system}.conf.d
  mv "$1/etc" "$etc"
  cp "$usr/share/libc-bin/nsswitch.conf" "$etc/nsswitch.conf"
  cp "$usr/share/base-passwd/passwd.master" "$etc/passwd"
  cp "$usr/share/base-passwd/group.master" "$etc/group"
  echo 'core:x:500:500:Flatcar Admin:/home/core:/bin/sh' >>"$etc/passwd"
  printf 'core:x:500:\nsystemd-journal:x:101:\n' >>"$etc/group"
  sed -i 's/:\*:/:x:/' "$etc/passwd" "$etc/group"
  sed 's/:.*/:*:19000::::::/' "$etc/passwd" >"$etc/shadow"
  sed 's/:.*/:*::/' "$etc/group" >"$etc/gshadow"
  chmod 640 "$etc"/{g,}shadow
  echo localhost >"$etc/hostname"
  : >"$etc/fstab"
  # Debian builds Ignition with labelling for SELinux always on. There is no policy here, and so nothing to label.
  printf 'SELINUX=disabled\nSELINUXTYPE=none\n' >"$etc/selinux/config"
  ln -s ../bin/true "$usr/sbin/setfiles"
  /sbin/ldconfig -r "$1" -f /usr/share/flatcar/etc/ld.so.conf -C /usr/share/flatcar/etc/ld.so.cache
  # Ignition enables its units by a preset; what nobody asks for stays off.
  rm "$usr"/lib/systemd/system-preset/*
  echo 'disable *' >"$usr/lib/systemd/system-preset/99-default.preset"
  ln -sf multi-user.target "$usr/lib/systemd/system/default.target"
  printf '[Journal]\nStorage=volatile\nRuntimeMaxUse=8M\n' >"$usr/lib/systemd/journald.conf.d/volatile.conf"
  printf '[Manager]\nDefaultTimeoutStopSec=45s\n' >"$usr/lib/systemd/system.conf.d/timeouts.conf"
  {
    for dir in bin sbin lib lib64; do echo "L /$dir - - - - usr/$dir"; done
    for dir in dev home mnt opt proc run sys var var/lib var/log; do echo "d /$dir 0755 root root -"; done
    printf '%s -\n' 'd /root 0700 root root' 'd /tmp 1777 root root' 'd /home/core 0755 core core'
    echo 'L /var/run - - - - ../run'
  } >"$usr/lib/tmpfiles.d/baselayout.conf"
}

# flatcar_format_usr FOLDER IMAGE: prints the root hash.
flatcar_format_usr() {
  truncate -s 128M "$2"
  /sbin/mkfs.ext4 -q -F -b 4096 -m 0 -N 8192 -O '^has_journal,^resize_inode' -d "$1" "$2" "${flatcar_usr_mib}M"
  /sbin/veritysetup format --hash=sha256 --data-block-size=4096 --hash-block-size=4096 \
    --data-blocks=$((flatcar_usr_mib * 256)) --hash-offset=$((flatcar_usr_mib << 20)) "$2" "$2" |
    sed -n 's/^Root hash:[[:space:]]*//p'
}

flatcar_format_efi() { # IMAGE VMLINUZ
  truncate -s 64M "$1"
  /sbin/mkfs.vfat -F 32 -n EFI-SYSTEM "$1" >/dev/null
  echo "If this file exists, Ignition runs, and it is removed." >"$tmp/first_boot"
  mmd -i "$1" ::/EFI ::/EFI/boot ::/flatcar ::/flatcar/grub
  mcopy -i "$1" "$2" ::/flatcar/vmlinuz-a
  mcopy -i "$1" "$tmp/first_boot" ::/flatcar/first_boot
}

flatcar_format_oem() { # IMAGE
  mkdir "$tmp/oem"
  # shellcheck disable=SC2016  # GRUB's variable
  printf '%s\n' '# Read by GRUB at each boot.' 'set oem_id="qemu"' 'set linux_append="$linux_append oem.append=seen"' \
    >"$tmp/oem/grub.cfg"
  truncate -s 32M "$1"
  mkfs.btrfs -q --mixed -m single -d single --label OEM --rootdir "$tmp/oem" "$1" >/dev/null
}

# The root is born nearly empty: mount points, and what the first boot makes of them.
flatcar_format_root() { # IMAGE
  mkdir -p "$tmp/state"/{boot,oem,usr}
  truncate -s 256M "$1"
  /sbin/mkfs.ext4 -q -F -b 4096 -L ROOT -d "$tmp/state" "$1"
}

# flatcar_partition DISK: a table with Flatcar's initial disk GUID.
flatcar_partition() {
  local number name start size type uuid attributes
  truncate -s "${flatcar_disk_mib}M" "$1"
  {
    printf 'label: gpt\nlabel-id: 00000000-0000-0000-0000-000000000001\n'
    flatcar_partitions | while read -r number name start size type uuid attributes; do
      [[ $uuid == - ]] && uuid='' || uuid=", uuid=$uuid"
      attributes=${attributes:+, attrs=\"$attributes\"}
      echo "disk$number : start=${start}MiB, size=${size}MiB, type=$type, name=$name$uuid$attributes"
    done
  } | /sbin/sfdisk -q "$1"
}

# flatcar_put DISK NUMBER IMAGE: writes IMAGE into that partition.
flatcar_put() {
  local start
  start=$(flatcar_partitions | awk -v number="$2" '$1 == number { print $3 }')
  dd if="$3" of="$1" bs=1M seek="$start" conv=notrunc,sparse status=none
}

# flatcar_fill KERNEL-TREE: makes $tmp/disk and $tmp/vmlinuz of $tmp/root. As root, or under fakeroot.
flatcar_fill() {
  local root=$tmp/root hash
  chown -R 0:0 "$root"
  flatcar_copy_modules "$1" "$root"
  flatcar_trim "$root/usr"
  flatcar_configure "$root"
  hash=$(flatcar_format_usr "$root/usr" "$tmp/usr")
  [[ $hash =~ ^[0-9a-f]{64}$ ]] || die "veritysetup told no root hash"
  # Into the boot sector's message, where Flatcar's GRUB looks for it.
  install -m 644 "$(readlink -f "$1/boot/vmlinuz")" "$tmp/vmlinuz"
  printf %s "$hash" | dd of="$tmp/vmlinuz" bs=1 seek=$((0x40)) conv=notrunc status=none
  flatcar_format_efi "$tmp/efi" "$tmp/vmlinuz"
  flatcar_format_oem "$tmp/oem.btrfs"
  flatcar_format_root "$tmp/root.ext4"
  flatcar_partition "$tmp/disk"
  flatcar_put "$tmp/disk" 1 "$tmp/efi"
  flatcar_put "$tmp/disk" 3 "$tmp/usr"
  flatcar_put "$tmp/disk" 6 "$tmp/oem.btrfs"
  flatcar_put "$tmp/disk" 9 "$tmp/root.ext4"
}

# flatcar_initrd_files ROOT: what of ROOT gets the initrd to /usr, one path a line: the programs, and their libraries.
flatcar_initrd_files() {
  local todo=(usr/sbin/{veritysetup,dmsetup,blkid}) file needed
  declare -A seen
  while ((${#todo[@]})); do
    file=${todo[0]}
    todo=("${todo[@]:1}")
    [[ -z ${seen[$file]:-} ]] || continue
    seen[$file]=1
    echo "$file"
    while read -r needed; do
      case $needed in
        ld-linux*) todo+=("usr/lib64/$needed") ;;
        *) todo+=("usr/lib/x86_64-linux-gnu/$needed") ;;
      esac
    done < <(readelf -d "$1/$file" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
    echo usr/lib64/ld-linux-x86-64.so.2
  done
}

flatcar_pack_initrd() { # KERNEL-TREE
  local root=$tmp/initrd file
  mkdir -p "$root"/{bin,dev,proc,run,sys,usr/{lib,lib64,sbin}}
  ln -s usr/lib usr/lib64 usr/sbin "$root"
  install -m 755 /bin/busybox "$root/bin/busybox"
  install -m 755 "$here/assets.d/flatcar-init" "$root/init"
  flatcar_initrd_files "$tmp/root" | sort -u | while read -r file; do
    install -m 755 -D "$tmp/root/$file" "$root/$file"
  done
  flatcar_copy_modules "$1" "$root"
  out=$out/initrd pack_initrd "$root"
}

# A folder: flatcar.qcow2; vmlinuz, the kernel that lies on it; initrd, for that kernel: Flatcar's has its own inside.
build_flatcar() { # KERNEL-TREE
  "$here/deps" flatcar
  mkdir "$out"
  flatcar_unpack "$tmp/root"
  flatcar_pack_initrd "$1"
  if ((EUID == 0)); then
    flatcar_fill "$1"
  else
    export here tmp
    # shellcheck disable=SC2016  # the inner shell's
    fakeroot -- bash -euc 'shopt -s inherit_errexit; die() { echo "assets: $*" >&2; exit 1; }
      . "$here/assets.d/flatcar.sh"; flatcar_fill "$1"' - "$1"
  fi
  # As Flatcar's: version 2, 16-bit refcounts, zlib.
  qemu-img convert -c -f raw -O qcow2 -o compat=0.10 "$tmp/disk" "$out/flatcar.qcow2"
  mv "$tmp/vmlinuz" "$out/vmlinuz"
}
