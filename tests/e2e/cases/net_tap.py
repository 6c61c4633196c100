"""tap, hostonly, macvtap, passt and the private network: Linux guests under everything that a user does to a card."""

import os
import struct
import subprocess

from harness import BOOT_S, STEP_S, Vm, case, check, equal, run, scratch, script

INITRD = "initrd-net"


class Network:
    """A network namespace with a bridge, which has the host's addresses, a pair of linked interfaces "cable" and "wall",
    and an iperf3 that listens. Interfaces that minivmm made have to be gone in the end."""

    def __init__(self, name):
        self.name = name

    def inside(self, command):
        return run([*self.within(), "sh", "-ec", command])

    def within(self):
        return ["ip", "netns", "exec", self.name]

    def __enter__(self):
        run(["modprobe", "-a", "tun", "bridge", "8021q", "veth", "macvtap"])
        run(["ip", "netns", "add", self.name])
        # With an address of its own: else the bridge takes a port's, another one when the port is made anew, and
        # a guest that was quick goes on sending to the one it knows.
        self.inside("""ip link set lo up
                       ip link add br0 type bridge mcast_snooping 0
                       ip link set br0 address 02:00:00:77:00:01 mtu 9000 up
                       ip addr add 10.77.0.1/24 dev br0
                       ip -6 addr add fd77::1/64 dev br0 nodad
                       ip route add default via 10.77.0.254
                       ip link add link br0 name br0.5 type vlan id 5
                       ip addr add 10.78.0.1/24 dev br0.5
                       ip link set br0.5 up
                       ip link add cable type veth peer name wall
                       ip link set cable up
                       ip addr add 10.80.0.1/24 dev wall
                       ip link set wall up""")
        self.links = self.names()
        self.iperf = subprocess.Popen([*self.within(), "iperf3", "-s"], stdout=subprocess.DEVNULL,
                                      stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, *_):
        self.iperf.kill()
        self.iperf.wait()
        run(["ip", "netns", "del", self.name])

    def names(self):
        return {line.split()[0].split("@")[0] for line in self.inside("ip -br link").splitlines()}

    def make_tap(self, name):
        self.inside(f"""ip tuntap add {name} mode tap multi_queue
                        ip link set {name} mtu 9000 master br0 up""")

    def check_nothing_is_left(self):
        equal("the interfaces that are left", self.names(), self.links)


def finish(vm, checks, seconds):
    """Waits until the guest's script has come to its end by way of every check."""
    match = vm.expect_end(r"^MINIVMM-SCRIPT-RC (\d+)", seconds)
    check(match[1] == "0", f"the guest's script failed:\n{vm.last_lines(60)}")
    for name in checks:
        check(f"CHECKED {name}" in vm.text, f"the guest did not come to '{name}'")


@case
def a_guest_on_a_bridge_survives_what_is_done_to_its_card():
    with Network("net-tap") as network:
        network.make_tap("vm0")
        with Vm("--cpus", "2", "--no-reboot", *script("net-tap"), "--net", "tap,ifname=vm0,bridge=br0,queues=2",
                initrd=INITRD, memory="256M", within=network.within()) as vm:
            vm.expect(r"^PULL-THE-CABLE", BOOT_S + 3 * STEP_S)
            network.inside("ip link set vm0 down")
            vm.expect(r"^PLUG-IT-IN")
            network.inside("ip link set vm0 up")
            vm.expect(r"^TAKE-IT-AWAY")
            network.inside("ip link del vm0")
            vm.expect(r"^BRING-IT-BACK")
            network.make_tap("vm0")
            finish(vm, ["ping", "IPv6", "TCP", "jumbo", "multiqueue", "VLAN", "cable", "device", "down-and-up",
                        "reload"], 5 * STEP_S)
            check("QUEUES 2\n" in vm.text, "ethtool -l does not say 2 queues")
        check("vm0" in network.names(), "the tap device has gone, and was not ours")


@case
def a_guest_has_a_card_on_each_kind_of_the_hosts_networks():
    capture = scratch("hostonly.pcap")
    with Network("net-cards") as network:
        cards = [f"hostonly,pcap={capture}", "macvtap,link=cable", "passt,tcp=none,udp=none", "null"]
        with Vm("--no-reboot", *script("net-cards"), *[word for card in cards for word in ("--net", card)],
                initrd=INITRD, within=network.within()) as vm:
            finish(vm, ["hostonly", "macvtap", "passt", "null"], BOOT_S + 2 * STEP_S)
        network.check_nothing_is_left()
    frames = read_capture(capture)
    check(any(dhcp_message(frame, 67, 68) for frame in frames), "the capture lacks the answer to the guest's DHCP")
    check(any(dhcp_message(frame, 68, 67) for frame in frames), "the capture lacks the guest's question for DHCP")
    for icmp_type in (8, 0):
        found = sum(is_ping(frame, icmp_type) for frame in frames)
        check(found >= 3, f"the capture has {found} pings of type {icmp_type}, and not 3")


def read_capture(path):
    """The frames of a capture with times in nanoseconds (draft-ietf-opsawg-pcap), each whole."""
    with open(path, "rb") as file:
        data = file.read()
    magic, major, minor, _, _, snap_length, link_type = struct.unpack_from("<IHHIIII", data)
    equal("the capture's header", (magic, major, minor, link_type), (0xa1b23c4d, 2, 4, 1))
    frames, at, before = [], 24, 0
    while at < len(data):
        seconds, ns, captured, length = struct.unpack_from("<IIII", data, at)
        check(ns < 10**9 and captured == min(length, snap_length) and at + 16 + captured <= len(data),
              f"the capture's record at {at} makes no sense")
        now = seconds * 10**9 + ns
        check(now >= before, f"the capture's record at {at} is older than the one before")
        frames.append(data[at + 16:at + 16 + captured])
        at, before = at + 16 + captured, now
    return frames


def dhcp_message(frame, source, destination):
    return frame[12:14] == b"\x08\x00" and frame[23] == 17 and frame[34:38] == struct.pack(">HH", source, destination)


def is_ping(frame, icmp_type):
    return frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[34] == icmp_type


@case
def two_guests_on_a_private_network_reach_each_other():
    card = ["--net", f"internal,name=e2e-{os.getpid()}"]
    with Vm("--no-reboot", *script("net-internal", "mv.role=server"), *card, "--name", "server", initrd=INITRD) as server:
        with Vm("--no-reboot", *script("net-internal", "mv.role=client"), *card, "--name", "client",
                initrd=INITRD) as client:
            for vm in (client, server):
                match = vm.expect_end(r"^MINIVMM-SCRIPT-RC (\d+)", BOOT_S + 2 * STEP_S)
                equal("the script's status", match[1], "0")
            check("SAID goodbye" in server.text, "the server did not hear the last word")
