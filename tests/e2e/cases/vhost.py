"""Queues that others work on: the kernel's vhost-net and vhost-vsock, and by vhost-user a switch and virtiofsd."""

import os
import re
import shutil
import socket
import subprocess
import threading
import time

from cases.links import read_to_end, vsock_from_guest
from cases.net_tap import INITRD, Network
from harness import BOOT_S, HERE, STEP_S, Config, Vm, asset, case, check, equal, md5, run, scratch, script

UNIT_TESTS = os.path.join(os.path.dirname(os.path.dirname(HERE)), "build/dev/tests/unit_virtio")

USER = 1000   # no rights, and no entry in any file

ECHO = """
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        data = b""
        while more := self.request.recv(65536):
            data += more
        self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
server = Server(("10.77.0.1", 5000), Echo)
print("listening", flush=True)
server.serve_forever()
"""


class Helper:
    """A program of the host's network, which says when it listens."""

    def __init__(self, network, *argv):
        self.process = subprocess.Popen([*network.within(), "/usr/bin/python3", "-B", *argv], stdout=subprocess.PIPE,
                                        text=True)

    def __enter__(self):
        equal(f"the first word of {self.process.args}", self.process.stdout.readline(), "listening\n")
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def vhost_threads(pid):
    """Threads of the kernel; since Linux 6.4 of the process, called the same."""
    kernel = sum(name.startswith("vhost-") for name in run(["ps", "-eo", "comm"]).split())
    own = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/comm") as file:
            own += file.read().startswith("vhost-")
    return kernel or own


def end_of_script(vm, *checked):
    match = vm.expect_end(r"^MINIVMM-SCRIPT-RC (\d+)", 3 * STEP_S)
    check(match[1] == "0", f"the guest's script failed:\n{vm.last_lines(60)}")
    for name in checked:
        check(f"CHECKED {name}" in vm.text, f"the guest did not come to '{name}'")


@case
def the_unit_tests_of_the_kernels_vhost_run_where_it_is():
    check(os.access(UNIT_TESTS, os.X_OK),
          f"no executable {UNIT_TESTS}; build it first: cmake --preset dev && cmake --build --preset dev --target unit_virtio")
    run(["modprobe", "-a", "tun", "vhost_net", "vhost_vsock"])
    said = run([UNIT_TESTS, "--gtest_color=no", "--gtest_filter=VhostNetTest.*:VhostVsockTest.*"], 3 * STEP_S)
    check("[  SKIPPED ]" not in said, f"tests were skipped:\n{said}")
    passed = re.search(r"^\[  PASSED  \] (\d+) tests\.", said, re.MULTILINE)
    check(passed and int(passed[1]) >= 10, f"these are not all of them:\n{said}")


@case
def the_kernel_moves_the_frames_of_a_tap_device_with_vhost():
    run(["modprobe", "vhost_net"])
    card = ["--net", "tap,ifname=vm0,bridge=br0,queues=2,vhost=on"]
    with Network("vhost") as network, Helper(network, "-c", ECHO):
        with Vm("--cpus", "2", "--no-reboot", *script("net-vhost"), *card, initrd=INITRD, memory="256M",
                within=network.within()) as vm:
            vm.expect(r"^QUEUES 2\n", BOOT_S + STEP_S)
            vm.expect(r"^PULL-THE-CABLE")
            threads = vhost_threads(vm.process.pid)
            check(threads >= 2, f"the kernel has {threads} vhost threads, not one a queue pair")
            network.inside("ip link set vm0 down")
            vm.expect(r"^PLUG-IT-IN")
            network.inside("ip link set vm0 up")
            end_of_script(vm, "TCP", "cable", "reload")
        network.check_nothing_is_left()


@case
def a_vhost_user_back_end_moves_the_frames_and_may_come_and_go():
    path = scratch("net")
    serve = [os.path.join(HERE, "vhost-user-tap"), path, "vu0"]
    with Network("vhost-user") as network, Helper(network, "-c", ECHO):
        network.inside("ip tuntap add vu0 mode tap && ip link set vu0 master br0 up")
        with Helper(network, *serve) as first:
            with Vm("--no-reboot", *script("net-vhost", "mv.chunks=4"), "--net", f"vhost-user,socket={path}",
                    initrd=INITRD, memory="256M") as vm:
                vm.expect(r"^PULL-THE-CABLE", BOOT_S + STEP_S)
                first.process.kill()
                vm.expect(r"^PLUG-IT-IN")
                with Helper(network, *serve):
                    end_of_script(vm, "TCP", "cable", "reload")


def fill_tree(folder):
    os.makedirs(os.path.join(folder, "a", "b c"))
    for name, size in [("empty", 0), ("small", 17), ("a/large", 3 << 20), ("a/b c/odd name \u00fc", 70000)]:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(os.urandom(size))
    for number in range(200):
        with open(os.path.join(folder, "a", str(number)), "w") as file:
            file.write(str(number))


def sums(folder):
    """As sums() of tests/e2e/guest/share.sh."""
    return run(["sh", "-c", 'cd "$1" && find . -type f | LC_ALL=C sort | while read -r file; do md5sum "$file"; done | '
                'md5sum | cut -c1-32', "sh", folder]).strip()


def servers_of(folder):
    return subprocess.run(["pgrep", "-f", "[v]irtiofsd.*" + folder], stdout=subprocess.PIPE, text=True).stdout.split()


def wait_until(what, holds):
    deadline = time.monotonic() + STEP_S
    while not holds():
        check(time.monotonic() < deadline, f"it does not come to this: {what}")
        time.sleep(0.1)


@case
def an_ordinary_users_folders_are_shared_with_the_guest():
    work, lib = scratch("work"), scratch("lib")
    fill_tree(os.path.join(work, "tree"))
    os.makedirs(lib)
    with open(os.path.join(lib, "file"), "w") as file:
        file.write("as it was")
    own = {name: scratch(name) for name in ("vmm", "kernel", "initrd")}   # where that user may read
    shutil.copy(Config.vmm, own["vmm"])
    shutil.copy(asset("kernel"), own["kernel"])
    shutil.copy(asset("initrd-links"), own["initrd"])
    os.chmod(Config.scratch, 0o711)
    run(["chown", "-R", f"{USER}:{USER}", os.path.dirname(work)])
    run(["chmod", "666", "/dev/kvm"])
    # With groups of its own, which virtiofsd would have to drop.
    as_user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", f"--groups={USER},44", "--inh-caps=-all",
               "env", f"TMPDIR={os.path.dirname(work)}", "sh", "-c", f"shift; exec {own['vmm']} \"$@\"", "sh"]
    with Vm("--no-reboot", *script("share"), "--share", f"{work}:work", "--share", f"{lib}:lib:ro",
            "--kernel", own["kernel"], "--initrd", own["initrd"], kernel=None, initrd=None, memory="256M",
            within=as_user) as vm:
        match = vm.expect_end(r"^MINIVMM-SCRIPT-RC (\d+)", BOOT_S + 3 * STEP_S)
        check(match[1] == "0", f"the guest's script failed:\n{vm.last_lines(60)}")
        said = dict(line.split()[1:3] for line in vm.text.splitlines() if line.startswith("SHARE ") and len(line.split()) == 3)
    wanted = sums(os.path.join(work, "tree"))
    equal("the tree's checksum in the guest", said.get("tree"), wanted)
    equal("the checksum of the guest's copy there", said.get("copy"), wanted)
    equal("the checksum of the guest's copy here", sums(os.path.join(work, "copy")), wanted)
    equal("the md5 of what the guest wrote", md5(os.path.join(work, "made")), said.get("made"))
    equal("the owner of what the guest wrote", os.stat(os.path.join(work, "made")).st_uid, USER)
    equal("what is shared for reading", (os.listdir(lib), open(os.path.join(lib, "file")).read()), (["file"], "as it was"))
    equal("the virtiofsds left behind", servers_of(work), [])
    with Vm("--share", f"{work}:work", "--kernel", own["kernel"], kernel=None, initrd=None, within=as_user) as vm:
        wait_until("virtiofsd is there", lambda: servers_of(work))
        vm.process.kill()
        wait_until("virtiofsd has gone with a minivmm that was killed", lambda: not servers_of(work))


@case
def a_guests_sockets_are_the_hosts_with_vhost_vsock():
    run(["modprobe", "vhost_vsock"])
    server = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    server.bind((socket.VMADDR_CID_ANY, 8080))
    server.listen(1)
    server.settimeout(BOOT_S + STEP_S)
    with server, Vm("--no-reboot", *script("vhost-vsock"), "--vsock", "cid=77,vhost=on", initrd="initrd-links") as vm:
        vsock_from_guest(vm, server)
        vm.expect(r"^VSOCK-LISTENS")
        data = os.urandom(1 << 20)
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as stream:
            stream.settimeout(STEP_S)
            stream.connect((77, 1234))

            def send():
                stream.sendall(data)
                stream.shutdown(socket.SHUT_WR)

            sender = threading.Thread(target=send, daemon=True)
            sender.start()
            check(read_to_end(stream) == data, "what came back is not what was sent")
            sender.join(STEP_S)
        vm.expect(r"^LINK echoed")
        vm.expect_end(r"^MINIVMM-SCRIPT-RC 0")
