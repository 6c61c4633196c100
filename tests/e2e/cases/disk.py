"""What the guest writes is what the image holds, and nobody else's."""

import subprocess

from harness import BOOT_S, STEP_S, Config, Vm, asset, case, check, empty_disk, equal, md5, run_script


@case
def what_the_guest_writes_is_in_the_image():
    disk = empty_disk("disk.img", 256)
    text = run_script("disk-md5", "--disk", disk, memory="512M", timeout=600)
    said = text.split("MD5 ", 1)[1].split()[0]
    equal("the image's md5", md5(disk), said)


@case
def what_the_guest_writes_is_in_the_image_with_virtio_mmio():
    disk = empty_disk("disk.img", 256)
    text = run_script("disk-md5", "--disk", disk, "--transport", "mmio", "--cpus", "2", memory="512M", timeout=600)
    said = text.split("MD5 ", 1)[1].split()[0]
    equal("the image's md5", md5(disk), said)


@case
def a_read_only_disk_stays_as_it_was():
    disk = empty_disk("disk.img", 1)
    with open(disk, "r+b") as file:
        file.write(b"as it was" * 1000)
    before = md5(disk)
    text = run_script("readonly", "--disk", f"{disk},readonly=on")
    check("RO 1" in text, "the guest does not see that the disk is read-only")
    check("WRITE refused" in text and "WRITE went through" not in text, "the guest's write was not refused")
    equal("the image's md5", md5(disk), before)


@case
def two_machines_cannot_write_to_one_disk():
    disk = empty_disk("disk.img", 8)
    with Vm("--append", "quiet mv.do=idle", "--disk", disk) as vm:
        vm.expect(r"^MINIVMM-INIT-UP", BOOT_S)
        second = subprocess.run([Config.vmm, "--kernel", asset("kernel"), "--memory", "128M", "--disk", disk],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                timeout=STEP_S)
        equal("the second minivmm's status", second.returncode, 1)
        equal("the number of lines it says", len(second.stderr.splitlines()), 1)
        check(disk in second.stderr, f"the message does not name the disk: {second.stderr.strip()}")
    run_script("facts", "--disk", disk)   # and the lock went with its owner


@case
def two_machines_can_read_one_disk():
    disk = empty_disk("disk.img", 8)
    with Vm("--append", "quiet mv.do=idle", "--disk", f"{disk},readonly=on") as vm:
        vm.expect(r"^MINIVMM-INIT-UP", BOOT_S)
        run_script("facts", "--disk", f"{disk},readonly=on")
