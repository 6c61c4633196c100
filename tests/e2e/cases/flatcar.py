"""A disk in the shape of Flatcar's image (tools/assets flatcar): its kernel and arguments come from the disk itself."""

import json
import os
import re
import shutil
import subprocess
import urllib.parse

from harness import BOOT_S, STEP_S, Config, Vm, asset, case, check, equal, long_case, run, scratch

FLATCAR_S = 400   # from start to power-off
MIB = 1 << 20
EFI, ROOT = 2 * MIB, 358 * MIB   # where these partitions begin
FRESH_DISK = "00000000-0000-0000-0000-000000000001"
USR_A = "7130c94a-213a-4e5a-8e26-6cce9662f132"
USR_B = "e03dd35c-7c2d-4a47-b3fe-27f15780a57c"

# What Ignition sets up: this program, which tells what has become of the machine, and
REPORT = """\
#!/bin/sh
say() { echo "REPORT $*"; }
echo boot >>/var/lib/boots
say cmdline "$(cat /proc/cmdline)"
say boots "$(grep -c . /var/lib/boots)"
say file "$(cat /etc/from-ignition)"
say mode "$(stat -c '%a %U:%G' /etc/from-ignition)"
say passwd "$(grep ^tester: /etc/passwd)"
say unit "$(cat /home/tester/unit-ran)"
say key "$(cat /home/core/.ssh/authorized_keys.d/ignition)"
while read -r device folder type options rest; do say "mount:$folder" "$device $type ${options%%,*}"; done </proc/mounts
say verity "$(dmsetup status usr)"
touch /usr/written 2>/dev/null && say usr-written
say provisioned "$(sed -n 's/.*"provisioningBootID": "\\(.*\\)".*/\\1/p' /etc/.ignition-result.json)"
say boot-id "$(cat /proc/sys/kernel/random/boot_id)"
"""
# two units, one run by a user who is new as well, and one that ends the machine.
CONFIG = {
    "ignition": {"version": "3.3.0"},
    "passwd": {"users": [
        {"name": "tester", "uid": 1234, "shell": "/bin/sh"},
        {"name": "core", "sshAuthorizedKeys": ["ssh-ed25519 AAAAC3Nza core@example.org"]},
    ]},
    "storage": {"files": [
        {"path": "/opt/report", "mode": 0o755, "contents": {"source": "data:," + urllib.parse.quote(REPORT)}},
        {"path": "/etc/from-ignition", "mode": 0o640, "user": {"name": "tester"},
         "contents": {"source": "data:,read%20from%20fw_cfg%0A"}},
    ]},
    "systemd": {"units": [
        {"name": "tester.service", "enabled": True, "contents": """\
[Service]
Type=oneshot
User=tester
ExecStart=/bin/sh -c 'id -un >>/home/tester/unit-ran'
[Install]
WantedBy=multi-user.target
"""},
        {"name": "report.service", "enabled": True, "contents": """\
[Unit]
After=tester.service
SuccessAction=poweroff
FailureAction=poweroff
[Service]
Type=oneshot
ExecStart=/opt/report
StandardOutput=file:/dev/console
StandardError=file:/dev/console
[Install]
WantedBy=multi-user.target
"""},
    ]},
}


def part(name):
    return os.path.join(asset("flatcar"), name)


def fresh_disk():
    path = scratch("flatcar.qcow2")
    shutil.copyfile(part("flatcar.qcow2"), path)
    return path


def usrhash():
    with open(part("vmlinuz"), "rb") as file:
        file.seek(0x40)
        return file.read(64).decode()


def kernel_with_hash(digits):
    """A copy of the disk's kernel that vouches for another /usr."""
    path = scratch("vmlinuz")
    shutil.copyfile(part("vmlinuz"), path)
    with open(path, "r+b") as file:
        file.seek(0x40)
        file.write(digits.encode())
    return path


def ignition_file():
    path = scratch("config.ign")
    with open(path, "w") as file:
        json.dump(CONFIG, file)
    return path


def arguments(disk, *more):
    # Flatcar's kernel has its initrd built in; this one's lies beside the disk.
    return ["--disk", disk, "--initrd", part("initrd"), *more]


def derived_cmdline(disk, *more):
    """The command line that minivmm makes up for this disk, without starting anything."""
    plan = subprocess.run([Config.vmm, *arguments(disk, *more), "--dry-run", "--json"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=STEP_S)
    equal("the dry run's status", (plan.returncode, plan.stderr), (0, ""))
    return json.loads(plan.stdout)["cmdline"]


def boot(disk, *more):
    """Runs the disk until its own power-off; the values that REPORT has told."""
    with Vm(*arguments(disk, "--append", "quiet", *more), kernel=None, initrd=None, memory="512M") as vm:
        vm.expect_exit(0, FLATCAR_S)
        check("MINIVMM-FLATCAR-REFUSED" not in vm.text, f"the initrd gave up:\n{vm.last_lines()}")
        facts = dict(re.findall(r"^REPORT (\S+) ?(.*)$", vm.text, re.MULTILINE))
        check(facts, f"the unit that reports did not run:\n{vm.last_lines()}")
        facts["ignition ran"] = "MINIVMM-FLATCAR-IGNITION" in vm.text
        return facts


def check_image(disk):
    """Whole, and still what it was: version 2. How many clusters are still compressed."""
    equal("the image's version", json.loads(run(["qemu-img", "info", "--output=json", disk]))
          ["format-specific"]["data"]["compat"], "0.10")
    result = json.loads(run(["qemu-img", "check", "--output=json", disk]))
    for trouble in ("corruptions", "leaks", "check-errors"):
        equal(trouble, result.get(trouble, 0), 0)
    return result.get("compressed-clusters", 0)


def check_file_systems(disk):
    """What another reader of qcow2 finds on the disk."""
    raw = scratch("disk.raw")
    run(["qemu-img", "convert", "-O", "raw", disk, raw])
    run(["/sbin/e2fsck", "-fn", f"{raw}?offset={ROOT}"])
    equal("the file that Ignition wrote", run(["/sbin/debugfs", "-R", "cat /etc/from-ignition",
                                               f"{raw}?offset={ROOT}"]).splitlines()[-1], "read from fw_cfg")
    listing = run(["mdir", "-b", "-i", f"{raw}@@{EFI}", "::/flatcar"])
    check("vmlinuz-a" in listing, f"the kernel has gone from the EFI partition: {listing}")
    check("first_boot" not in listing, "flatcar/first_boot is still on the EFI partition")
    run(["/sbin/sfdisk", "--verify", raw])
    check(run(["/sbin/sfdisk", "--disk-id", raw]).strip().lower() != FRESH_DISK, "the disk's GUID is still Flatcar's")


def words(cmdline):
    """Its arguments; but not BOOT_IMAGE=, with which GRUB tells where the kernel comes from."""
    return {word for word in cmdline.split() if not word.startswith("BOOT_IMAGE=")}


@long_case
def flatcar_sets_itself_up_at_its_first_boot_and_keeps_that_at_the_second():
    disk = fresh_disk()
    compressed = check_image(disk)
    every_boot = {"mount.usr=/dev/mapper/usr", f"verity.usr=PARTUUID={USR_A}", f"verity.usrhash={usrhash()}",
                  "rootflags=rw", "mount.usrflags=ro", "consoleblank=0", "root=LABEL=ROOT", "console=ttyS0,115200n8",
                  "flatcar.oem.id=qemu", "oem.append=seen", "quiet"}
    first_boot = {"flatcar.first_boot=detected", f"flatcar.randomize_disk_guid={FRESH_DISK}"}

    # The kernel of the EFI partition, Ignition's file by fw_cfg.
    facts = boot(disk, "--ignition", ignition_file())
    equal("the command line", words(facts["cmdline"]), every_boot | first_boot)
    check(facts["ignition ran"], "Ignition did not run")
    equal("the boot that Ignition says it ran in", facts["provisioned"], facts["boot-id"])
    equal("the number of boots", facts["boots"], "1")
    equal("the file that Ignition wrote", facts["file"], "read from fw_cfg")
    equal("its mode and owner", facts["mode"], "640 tester:root")
    check(facts["passwd"].startswith("tester:x:1234:"), f"no user: {facts['passwd']}")
    equal("what the user's unit wrote", facts["unit"], "tester")
    equal("core's key", facts["key"], "ssh-ed25519 AAAAC3Nza core@example.org")
    equal("/usr", facts["mount:/usr"], "/dev/mapper/usr ext4 ro")
    check(re.fullmatch(r"0 \d+ verity V", facts["verity"]), f"dm-verity says: {facts['verity']}")
    check("usr-written" not in facts, "/usr was written to")
    left = check_image(disk)
    check(left < compressed, f"{left} of {compressed} clusters are compressed: the guest has written to none of them")
    check_file_systems(disk)

    # And now not its first. The same kernel given by hand tells the same hash.
    kernel = ["--kernel", part("vmlinuz")]
    equal("the command line that the disk's kernel would have", words(derived_cmdline(disk)), every_boot - {"quiet"})
    facts = boot(disk, *kernel, "--ignition", scratch("config.ign"))
    equal("the command line", words(facts["cmdline"]), every_boot)
    check(not facts["ignition ran"], "Ignition ran again")
    check(facts["provisioned"] != facts["boot-id"], "Ignition has set the system up again")
    equal("the number of boots", facts["boots"], "2")
    equal("the file that Ignition wrote", facts["file"], "read from fw_cfg")
    check(facts["passwd"].startswith("tester:x:1234:"), f"no user: {facts['passwd']}")
    check_image(disk)


@long_case
def flatcar_refuses_an_usr_that_its_kernel_does_not_vouch_for():
    other = "0123456789abcdef" * 4
    kernel = kernel_with_hash(other)
    disk = fresh_disk()
    check(f"verity.usrhash={other}" in words(derived_cmdline(disk, "--kernel", kernel)), "not the given kernel's hash")
    with Vm(*arguments(disk, "--kernel", kernel, "--append", "quiet"), kernel=None, initrd=None, memory="512M") as vm:
        vm.expect(r"Kernel panic - not syncing: dm-verity device corrupted", BOOT_S)


@case
def flatcar_starts_from_the_slot_that_an_update_has_made_the_first():
    disk = fresh_disk()
    before = words(derived_cmdline(disk))
    raw = scratch("disk.raw")
    run(["qemu-img", "convert", "-O", "raw", disk, raw])
    other = "fedcba9876543210" * 4
    run(["mcopy", "-i", f"{raw}@@{EFI}", kernel_with_hash(other), "::/flatcar/vmlinuz-b"])
    run(["/sbin/sfdisk", "-q", "--part-attrs", raw, "4", "GUID:49,52"])   # priority 2, one try
    equal("what the update has changed", words(derived_cmdline(raw)) ^ before,
          {f"verity.usr=PARTUUID={USR_A}", f"verity.usr=PARTUUID={USR_B}",
           f"verity.usrhash={usrhash()}", f"verity.usrhash={other}"})
