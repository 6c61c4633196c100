"""Disks that are no raw or qcow2 image: of other systems, by qemu-nbd, and of NBD servers."""

import contextlib
import hashlib
import os
import select
import signal

from harness import BOOT_S, STEP_S, Vm, case, check, equal, md5, run, run_script, scratch


def sample():
    """8 MiB, with a hole in the middle."""
    content = os.urandom(3 << 20) + b"\0" * (2 << 20) + b"some text\n" * 314572 + b"12345678"
    path = scratch("raw")
    with open(path, "wb") as file:
        file.write(content)
    equal("the sample's size", len(content), 8 << 20)
    return path, content


def convert(raw, name, *options):
    path = scratch(name)
    run(["qemu-img", "convert", "-f", "raw", *options, raw, path])
    return path


def written(content, disk):
    """The md5 after the guest's script has written to it."""
    text = (f"written to {disk}\n" * (1 << 17))[:1 << 20].encode()
    return hashlib.md5(content[:1 << 20] + text + content[2 << 20:]).hexdigest()


@contextlib.contextmanager
def server(path):
    """A URL of an NBD server of this file."""
    socket, pid = scratch("nbd"), scratch("nbd.pid")
    run(["qemu-nbd", "--fork", "--persistent", f"--socket={socket}", f"--pid-file={pid}", "--format=raw", path])
    try:
        yield f"nbd+unix:///?socket={socket}"
    finally:
        with open(pid) as file:
            os.kill(int(file.read()), signal.SIGKILL)


@case
def disks_of_other_systems_and_of_servers_are_read_and_written_as_they_should():
    raw, content = sample()
    said = hashlib.md5(content).hexdigest()
    vmdk = convert(raw, "a.vmdk", "-O", "vmdk", "-o", "subformat=streamOptimized")
    vhdx = convert(raw, "b.vhdx", "-O", "vhdx")
    before = md5(vmdk), md5(vhdx)
    with server(raw) as url:
        text = run_script("disks-md5", "--disk", vmdk, "--disk", url, "--disk", f"{vhdx},overlay=temp")
    check(f"MD5 vda {said} ro=1" in text, "the VMDK does not read as it should")
    check(f"MD5 vdb {said} ro=0" in text, "the server's disk does not read as it should")
    check(f"MD5 vdc {said} ro=0" in text, "the overlay does not read as it should")
    for disk in "vdb", "vdc":
        check(f"THEN {disk} {written(content, disk)}" in text, f"what the guest wrote to {disk} is not there")
    equal("the images after the run", (md5(vmdk), md5(vhdx)), before)
    equal("the server's file after the run", md5(raw), written(content, "vdb"))


@case
def the_helper_that_reads_an_image_goes_with_a_killed_minivmm():
    raw, _ = sample()
    vdi = convert(raw, "a.vdi", "-O", "vdi")
    with Vm("--append", "quiet mv.do=idle", "--disk", vdi) as vm:
        vm.expect(r"^MINIVMM-INIT-UP", BOOT_S)
        children = run(["pgrep", "--parent", str(vm.process.pid), "qemu-nbd"]).split()
        equal("the number of helpers", len(children), 1)
        helper = os.pidfd_open(int(children[0]))
        vm.process.kill()
        vm.wait_exit(STEP_S)
    try:
        check(select.select([helper], [], [], STEP_S)[0], "qemu-nbd still runs")
    finally:
        os.close(helper)
