"""Disk images under real guests: qcow2, overlays, full hosts, growing disks, and death by SIGKILL."""

import contextlib
import json
import os
import random
import re
import signal
import time

from harness import (Vm, case, check, debian_disk, equal, log_in, md5, run, run_script, scratch, script, shell)


def qemu_img_check(path, leaks_allowed=False):
    """What qemu-img check finds must be nothing, or else leaked clusters alone."""
    said = run(["sh", "-c", f"qemu-img check --output=json '{path}'; [ $? = 0 -o $? = 3 ]"])
    found = json.loads(said[said.find("{"):])   # what it found, one by one, comes before
    equal("corruptions", found.get("corruptions", 0), 0)
    if not leaks_allowed:
        equal("leaks", found.get("leaks", 0), 0)


def dump(path):
    """The disk's bytes as QEMU reads them."""
    raw = scratch("dump.raw")
    run(["qemu-img", "convert", "-O", "raw", path, raw])
    return raw


@case
def what_the_guest_writes_to_a_qcow2_image_is_in_it():
    image = scratch("disk.qcow2")
    run(["qemu-img", "create", "-q", "-f", "qcow2", image, "300M"])
    text = run_script("disk-md5", "--disk", image, memory="512M", timeout=600)
    wanted = re.search(r"^MD5 (\w+)", text, re.MULTILINE)[1]
    qemu_img_check(image)
    raw = dump(image)
    equal("the md5 QEMU finds", run(["sh", "-c", f"head -c $((256 << 20)) '{raw}' | md5sum"]).split()[0], wanted)


@case
def two_cpus_use_a_queue_each_at_once():
    image = scratch("disk.qcow2")
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=16k", image, "64M"])
    text = run_script("disk-queues", "--cpus", "2", "--disk", f"{image},queues=2", memory="512M", timeout=600)
    equal("queues", re.search(r"^QUEUES (\d+)", text, re.MULTILINE)[1], "2")
    wrote = re.search(r"^WROTE (\w{32})", text, re.MULTILINE)[1]
    for md5_of_one in re.search(r"^READ (\w{32}) (\w{32})", text, re.MULTILINE).groups():
        equal("what one CPU reads back", md5_of_one, wrote)
    qemu_img_check(image)
    equal("what QEMU reads", run(["sh", "-c", f"head -c 48M '{dump(image)}' | md5sum"]).split()[0], wrote)


@case
def debian_boots_from_qcow2_and_its_overlay_is_thrown_away():
    image = scratch("debian.qcow2")
    run(["qemu-img", "convert", "-O", "qcow2", debian_disk(), image], 300)
    before = md5(image)
    with Vm("--disk", f"{image},overlay=temp", "--cpus", "2", initrd="initrd-small", memory="512M") as vm:
        log_in(vm)
        shell(vm, "echo something >/root/new && sync")
        equal("what was written", shell(vm, "cat /root/new"), "something")
        vm.send("poweroff\r")
        vm.expect_exit(0)
    equal("the image's md5", md5(image), before)


@case
def a_killed_vmm_loses_nothing_that_was_flushed():
    chance = random.Random(time.time())
    slots = {}    # slot: the last write known to be flushed
    flushed = 0
    image = scratch("disk.qcow2")
    for life in range(6):
        options = "" if life % 2 else "compat=0.10,"
        if life % 3 == 0:
            run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"{options}cluster_size={[65536, 4096][life // 3]}",
                 image, "16M"])
            slots.clear()
        lives = {}
        with Vm(*script("disk-sync"), "--disk", image) as vm:
            vm.expect(r"^WRITING")
            with contextlib.suppress(Exception):
                vm.expect(r"^NEVER", chance.uniform(0.05, 2.5))
            vm.process.send_signal(signal.SIGKILL)
            vm.process.wait()
            for n in re.findall(r"^SYNCED (\d+)$", vm.text, re.MULTILINE):
                lives[int(n) * 7919 % 256] = int(n)
        flushed += len(lives)
        for slot, n in lives.items():
            slots[slot] = (life, n)
        qemu_img_check(image, leaks_allowed=True)
        with open(dump(image), "rb") as file:
            for slot, (when, n) in slots.items():
                file.seek(slot << 16)
                found = re.match(rb"write (\d+) slot (\d+)\n", file.read(40))
                check(found and int(found[2]) == slot, f"slot {slot} does not hold what was flushed: {found}")
                # A later life has begun to count anew: its unflushed writes may be there.
                if when == life:
                    check(int(found[1]) >= n, f"slot {slot} holds write {int(found[1])}, and {n} was flushed")
    check(flushed > 0, "no guest lived long enough to flush anything")


@contextlib.contextmanager
def image_on_small_host():
    """A file system with less room than the qcow2 image on it may need."""
    folder = scratch("small")
    os.mkdir(folder)
    run(["mount", "-t", "tmpfs", "-o", "size=24M", "tmpfs", folder])
    try:
        image = os.path.join(folder, "disk.qcow2")
        run(["qemu-img", "create", "-q", "-f", "qcow2", image, "64M"])
        yield folder, image
    finally:
        run(["umount", "-l", folder])


@case
def a_full_host_holds_the_guest_until_there_is_room():
    with image_on_small_host() as (folder, image):
        with Vm(*script("disk-fill", "mv.mib=40"), "--no-reboot", "--disk", image) as vm:
            vm.expect(r"^FILLING")
            wait_for_stderr(vm, "the guest is paused: .*disk.qcow2: the host has no space left")
            run(["mount", "-o", "remount,size=100M", folder])
            wait_for_stderr(vm, "the guest goes on")
            wrote = vm.expect(r"^WROTE (\w{32})$")[1]
            equal("what is read back", vm.expect(r"^READ (\w{32})$")[1], wrote)
            vm.expect_exit(0)
        qemu_img_check(image)


def wait_for_stderr(vm, pattern, seconds=240):
    """minivmm's own words; the guest may be silent meanwhile."""
    deadline = time.monotonic() + seconds
    while not re.search(pattern, vm.stderr()):
        check(time.monotonic() < deadline and vm.process.poll() is None,
              f"no '{pattern}' in what minivmm said: {vm.stderr().strip() or 'nothing'}")
        with contextlib.suppress(Exception):
            vm.expect(r"^NEVER", 0.1)


@case
def a_full_host_is_an_error_where_the_user_wants_that():
    with image_on_small_host() as (_, image):
        with Vm(*script("disk-fill", "mv.mib=40"), "--no-reboot", "--disk", f"{image},on-error=report") as vm:
            vm.expect(r"^FILLING")
            vm.expect(r"^READ (\w{32})$")
            status = vm.wait_exit(120)
            said = vm.stderr()
            check("paused" not in said, f"the guest was paused: {said}")
            check("the disk image's file system is full" in said, f"minivmm did not say why: {said}")
            # What could not be written to a full host at the end is told too.
            check(status == 0 or "could not be closed" in said, f"status {status}: {said}")
        qemu_img_check(image, leaks_allowed=True)


@case
def a_disk_that_grows_is_noticed_by_the_guest():
    image = scratch("disk.img")
    run(["truncate", "-s", "8M", image])
    with Vm(*script("disk-size"), "--no-reboot", "--disk", f"{image},format=raw") as vm:
        vm.expect(r"^SIZE 16384$")
        run(["truncate", "-s", "12M", image])
        vm.process.send_signal(signal.SIGUSR1)
        vm.expect(r"^SIZE 24576$")
        vm.expect(r"^FOUND hello$")
        vm.expect_exit(0)


@case
def a_limit_on_requests_holds_them_back():
    # A lower bound only: 40 requests of which 10 may come at once, at 10 a second, take 3 s at least.
    image = scratch("disk.img")
    run(["truncate", "-s", "8M", image])
    with Vm("--append", "quiet panic=-1 mv.do=shell", "--no-reboot", "--disk", f"{image},iops=10,iops-burst=10") as vm:
        vm.expect(r"# $")
        vm.send("sleep 2; echo BE''GIN; dd if=/dev/vda of=/dev/null bs=4k count=40 iflag=direct 2>/dev/null; echo EN''D\r")
        vm.expect(r"^BEGIN")
        began = time.monotonic()
        vm.expect(r"^END")
        check(time.monotonic() - began > 2.5, f"40 requests took {time.monotonic() - began:.1f} s")
        vm.send("poweroff -f\r")
        vm.expect_exit(0)
