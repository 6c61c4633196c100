"""Queues that others work on: the kernel's vhost-net, and by vhost-user a switch."""

import os
import subprocess

from cases.net_tap import INITRD, Network
from harness import BOOT_S, HERE, STEP_S, Vm, case, check, equal, run, scratch, script

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
