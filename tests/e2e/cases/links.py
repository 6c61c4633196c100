"""The links beside disks and network: vsock, console, balloon, rng."""

import hashlib
import os
import re
import socket
import threading
import time

from harness import BOOT_S, STEP_S, Failed, Vm, case, check, equal, long_case, scratch, script


def rss_mib(pid):
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(r"^VmRSS:\s+(\d+) kB", file.read(), re.MULTILINE)[1]) >> 10


def listen(path):
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(1)
    server.settimeout(BOOT_S + STEP_S)
    return server


def connect(path):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(STEP_S)
    client.connect(path)
    return client


def read_until(stream, wanted):
    tail = b""
    while wanted not in tail:
        more = stream.recv(1 << 16)
        check(more, f"the stream ended after {tail!r}, before {wanted!r}")
        tail = tail[-len(wanted):] + more


def read_to_end(stream):
    data = bytearray()
    while more := stream.recv(1 << 16):
        data += more
    return bytes(data)


def vsock_from_guest(vm, server):
    """The guest sends 4 MiB and ends its half; the answer is their checksum."""
    answered = {}

    def serve():
        stream, _ = server.accept()
        stream.settimeout(STEP_S)
        answered["md5"] = hashlib.md5(read_to_end(stream)).hexdigest()
        stream.sendall(f"host has {answered['md5']}".encode())
        stream.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    sent = vm.expect(r"^LINK sent (\w+)\n", BOOT_S + STEP_S)[1]
    answer = vm.expect(r"^LINK answer (.*)\n")[1]
    thread.join(STEP_S)
    equal("the checksum of what the host got", answered.get("md5"), sent)
    equal("the host's answer as the guest got it", answer.strip(), f"host has {sent}")
    refusal = vm.expect(r"^LINK nobody (.*)\n")[1]
    check("reset" in refusal or "refused" in refusal, f"a port that nobody listens on: {refusal}")


def vsock_from_host(vm, path):
    vm.expect(r"^VSOCK-LISTENS")
    with connect(path) as refused:
        refused.sendall(b"CONNECT 4321\n")
        equal("what a port says that nobody listens on", refused.recv(100), b"")
    data = os.urandom(1 << 20)
    with connect(path) as stream:
        stream.sendall(b"CONNECT 1234\n")
        greeting = b""
        while not greeting.endswith(b"\n"):
            greeting += stream.recv(1)
        check(re.fullmatch(rb"OK \d+\n", greeting), f"the answer to CONNECT is {greeting!r}")

        def send():
            stream.sendall(data)
            stream.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        check(read_to_end(stream) == data, "what came back is not what was sent")
        thread.join(STEP_S)
    vm.expect(r"^LINK echoed")


def vsock_rebound(vm, server):
    """The guest's driver lets go of its device, and takes it anew, while a connection is at work."""
    for number in (1, 2, 3):
        stream, _ = server.accept()
        stream.settimeout(STEP_S)
        read_until(stream, f"traffic of round {number}\n".encode())
        vm.send("go\r")
        read_to_end(stream)
        stream.close()
    stream, _ = server.accept()
    equal("what comes after them", read_to_end(stream), b"hello\n")
    stream.close()
    vm.expect(r"^LINK rebound")


def wait_for_rss(vm, limit_mib, what):
    deadline = time.monotonic() + STEP_S
    while rss_mib(vm.process.pid) > limit_mib:
        if time.monotonic() > deadline:
            raise Failed(f"{what}: minivmm still has {rss_mib(vm.process.pid)} MiB, not {limit_mib} or less")
        time.sleep(0.2)


@long_case
def vsock_console_balloon_and_rng_link_guest_and_host():
    vsock, console, agent = scratch("v"), scratch("console"), scratch("agent")
    server, sink = listen(vsock + "_80"), listen(vsock + "_82")
    with Vm("--no-reboot", *script("links"), "--vsock", f"cid=42,path={vsock}", "--console", f"socket:{console}",
            "--console", f"name=org.example.test,socket={agent}", "--balloon", "size=16M", "--rng", "rate=32k",
            initrd="initrd-links", memory="256M") as vm:
        rng = vm.expect(r"^LINK rng virtio_rng\S* 49152 (\S+) (\S+)\n", BOOT_S + STEP_S)
        took = float(rng[2]) - float(rng[1])
        check(took > 1.0, f"48 KiB of random bytes took {took} s, at 32 KiB a second")
        vsock_from_guest(vm, server)
        vsock_from_host(vm, vsock)
        vsock_rebound(vm, sink)

        vm.expect(r"^LINK port /dev/vport\S+\n")
        with connect(console) as hvc:
            hvc.sendall(b"echo $((6 * 7)) is the answer\n")
            read_until(hvc, b"42 is the answer")
        with connect(agent) as port:
            port.sendall(b"hello\n")
            read_until(port, b"agent heard hello\n")
            read_until(port, bytes(64))
            vm.send("go\r")
            vm.expect(r"^LINK again /dev/vport")
            read_until(port, b"agent is back\n")

        vm.expect(r"^LINK filled")
        full = rss_mib(vm.process.pid)
        check(full > 96, f"the guest has filled 96 MiB, and minivmm has only {full} MiB")
        vm.send("go\r")
        vm.expect(r"^LINK freed")
        wait_for_rss(vm, full - 64, "free pages did not come back to the host")
        vm.send("go\r")
        pages = int(vm.expect(r"^LINK ballooned (\d+)\n")[1])
        check(pages >= (16 << 20) // 4096, f"the balloon has got {pages} pages, not 16 MiB")
        vm.expect_end(r"^MINIVMM-SCRIPT-RC 0")


def told_mib(vm, what):
    """A figure of --stats."""
    line = re.search(rf"^  {what} +(\d+) (bytes|KiB|MiB)$", vm.stderr().replace("\r", ""), re.MULTILINE)
    check(line, f"--stats does not tell what the balloon's '{what}' is: {vm.stderr()}")
    return int(line[1]) >> {"bytes": 20, "KiB": 10, "MiB": 0}[line[2]]


@case
def a_balloon_takes_memory_from_a_running_guest_and_gives_it_back():
    with Vm("--no-reboot", "--stats", *script("balloon"), "--balloon", "size=128M,reporting=off",
            initrd="initrd-links", memory="256M") as vm:
        vm.expect(r"^BALLOON filled", BOOT_S + STEP_S)
        full = rss_mib(vm.process.pid)
        check(full > 128, f"the guest has filled 128 MiB, and minivmm has only {full} MiB")
        vm.send("go\r")
        vm.expect(r"^BALLOON inflated")
        wait_for_rss(vm, full - 96, "the balloon's pages did not come back to the host")
        vm.send("go\r")
        pages = int(vm.expect(r"^BALLOON deflated (\d+)\n")[1])
        check(pages > 4096, f"a guest without memory has got back {pages} pages only")
        refilled = rss_mib(vm.process.pid)
        check(refilled > full - 48, f"the guest uses its memory again, and minivmm has {refilled} MiB, not {full}")
        vm.send("go\r")
        gone = vm.expect(r"^BALLOON gone (\d+) (\d+)\n")
        equal("the pages that were left in the balloon", int(gone[1]) - int(gone[2]), 0)
        vm.expect(r"^BALLOON back")
        vm.expect_end(r"^MINIVMM-SCRIPT-RC 0")
        equal("what was asked for, in MiB", told_mib(vm, "asked for"), 128)
        equal("what the guest has given, in MiB", told_mib(vm, "given at most"), 128)
        check(200 <= told_mib(vm, "total") <= 256, f"the memory of a guest with 256 MiB: {told_mib(vm, 'total')} MiB")
