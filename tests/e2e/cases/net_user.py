"""User networking: what a guest reaches through it, and what it does not. The network is there without being asked for."""

import contextlib
import os
import re
import subprocess
import time

import frames
import net_host
from harness import BOOT_S, STEP_S, Vm, case, check, equal, run, scratch, script
from net_host import ECHO, FLOOD, LAN, LAN6, LOOPBACK, LOOPBACK6, NAME_IS, OF_THE_HOST, WEB, HostNetwork

SSH = ["-p", "2222:22"]
MUCH = 8 << 20   # bytes: more than any window or buffer on the way
GATEWAY = frames.GATEWAY
GATEWAY6 = f"[{frames.GATEWAY6}]"


class Guest:
    """A guest on user networking that SSH gets into."""

    def __init__(self, vm, host, address=LOOPBACK, port=2222):
        self.vm = vm
        self.ssh = [*host.within, "dbclient", "-y", "-y", "-T", "-p", str(port), f"root@{address}"]

    def __call__(self, command, input=None, timeout=STEP_S):
        result = subprocess.run([*self.ssh, command], input=input, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                timeout=timeout)
        check(result.returncode == 0, f"'{command}' by SSH: status {result.returncode}: "
                                      f"{result.stderr.decode().strip()}; the console:\n{self.vm.last_lines()}")
        return result.stdout.decode().strip()

    def fails(self, command):
        """Whether the guest cannot do that."""
        return self(f"if {command} >/dev/null 2>&1; then echo done; else echo failed; fi") == "failed"

    def get(self, url):
        return self(f"timeout 30 wget -qO- http://{url}")

    def udp(self, address, port, size=1000):
        return self(f"net-packets udp-ask {address} {port} {size}")

    def carries_much(self, address):
        """Much by TCP in both directions, with a checksum."""
        found = self(f"wget -qO- http://{address}:{WEB}/bytes/{MUCH} | tee /tmp/much | md5sum").split()[0]
        equal("the checksum of what the guest got", found, net_host.digest(net_host.content(MUCH)))
        header = f"POST / HTTP/1.0\\r\\nContent-Length: {MUCH}\\r\\n\\r\\n"
        found = self(f"(printf '{header}'; cat /tmp/much) | nc {address.strip('[]')} {WEB} | tail -n 1")
        equal("the checksum of what the host got", found, net_host.digest(net_host.content(MUCH)))


@contextlib.contextmanager
def networked(*arguments, lease):
    """A guest on user networking, and its host."""
    with HostNetwork(scratch("")) as host:
        with Vm("--no-reboot", *script("net-user"), *arguments, initrd="initrd-net", within=host.within) as vm:
            equal("the lease", vm.expect(r"^LEASE (.*)\n", BOOT_S)[1], lease)
            vm.expect(r"^NETWORK-UP")
            yield vm, host
            vm.send("\n")
            vm.expect_exit(0)
            equal("what minivmm says on stderr", vm.stderr().strip(), "")


def has_ipv6(guest):
    equal("the prefix of the IPv6 address",
          guest("until ip -6 addr show dev eth0 scope site | grep -q inet6; do usleep 100000; done; "
                "ip -6 addr show dev eth0 scope site | sed -n 's/.*inet6 \\([^:]*\\):.*/\\1/p' | head -n 1"), "fec0")


def hostile_frames(guest, targets):
    """Has the guest send everything that frames.py knows to those addresses."""
    attacker = frames.Attacker(guest("cat /sys/class/net/eth0/address"))
    sent = [frame for target in targets for kind, port in (("tcp", WEB), ("udp", ECHO))
            for frame in attacker.to(kind, target, port)]
    sent += [attacker.arp(sender) for sender in (GATEWAY, LOOPBACK, "0.0.0.0", frames.GUEST)]
    guest("cat >/tmp/frames", input=frames.as_hex(sent).encode())
    equal("what was sent", guest("net-packets frames eth0 </tmp/frames"), f"{len(sent)} frames")


@case
def a_machine_has_a_working_network_without_being_told():
    with networked(*SSH, lease="10.0.2.15/24 via 10.0.2.2 dns 10.0.2.3") as (vm, host):
        guest = Guest(vm, host)
        has_ipv6(guest)
        check(NAME_IS in guest("nslookup answer.example"), "the guest's name server does not answer")
        for address, url in ((LAN, LAN), (LAN6, f"[{LAN6}]")):
            equal("what the host's service says", guest.get(f"{url}:{WEB}/answer"), OF_THE_HOST)
            check(("tcp", address) in host.seen(), f"nobody came to {address}")
            equal(f"a datagram to {address} and back", guest.udp(address, ECHO), "same")
        for target in (LAN, GATEWAY, GATEWAY6.strip("[]")):
            guest(f"ping -c 1 -W 20 {target}")
        guest.carries_much(LAN)
        guest.carries_much(f"[{LAN6}]")
        equal("bytes out by SSH", guest("dd if=/dev/zero bs=64k count=32 2>/dev/null | md5sum").split()[0],
              guest("md5sum", input=bytes(32 << 16)).split()[0])

        # The host's loopback stays the host's.
        for url in (GATEWAY, GATEWAY6):
            check(guest.fails(f"timeout 8 wget -qO- http://{url}:{WEB}/answer"), f"the guest gets something from {url}")
        equal("a datagram to the gateway", guest.udp(GATEWAY, ECHO), "nothing")
        hostile_frames(guest, [LOOPBACK, LOOPBACK6, "::ffff:127.0.0.1", GATEWAY, GATEWAY6.strip("[]")])
        equal("a datagram behind those", guest.udp(LAN, ECHO), "same")
        equal("the host's addresses that were reached", sorted({a for _, a in host.seen()}), sorted({LAN, LAN6}))
        # The same frames do get through where they may, so that the test could fail.
        before = host.seen().count(("udp", LAN)), host.seen().count(("tcp", LAN))
        hostile_frames(guest, [LAN])
        equal("a datagram behind those", guest.udp(LAN, ECHO), "same")
        after = host.seen().count(("udp", LAN)), host.seen().count(("tcp", LAN))
        check(after[0] >= before[0] + 4 and after[1] >= before[1] + 3, f"{before} before, {after} after")


@case
def user_networking_does_what_its_settings_say():
    capture = scratch("frames.pcap")
    settings = [f"mtu=9000,host-loopback=on,net=192.168.7.0/24,pcap={capture}",
                f"guestfwd=192.168.7.100:80-tcp:{LOOPBACK}:{WEB}",
                f"guestfwd=192.168.7.101:80-unix:{scratch('service')}", "hostname=there"]
    with networked("--net", ",".join(["user", *settings]), *SSH, "-p", "[::1]:2223:22", "-p", "5353:53/udp",
                   lease="192.168.7.15/24 via 192.168.7.2 dns 192.168.7.3") as (vm, host):
        guest = Guest(vm, host)
        has_ipv6(guest)
        equal("the card's MTU", guest("cat /sys/class/net/eth0/mtu"), "9000")
        for size in (8900, 20):
            equal(f"{size} bytes by UDP", guest.udp(LAN, ECHO, size), "same")
        guest.carries_much(LAN)
        writes_much_at_once(guest, host)
        larger = frames_larger_than(capture, 9014)
        for direction in ("out", "in"):
            check(larger[direction] > 20, f"{larger} frames were larger than the MTU: segments are not offloaded")
        guest("ethtool -K eth0 tx off gso off tso off gro off rx off; ethtool -k eth0 >/dev/null")
        guest.carries_much(LAN)

        equal("the service behind guestfwd", guest.get("192.168.7.100/answer"), OF_THE_HOST)
        check(("unix", "") not in host.seen(), "somebody came to the Unix socket before")
        equal("the Unix socket behind guestfwd", guest.get("192.168.7.101/answer"), OF_THE_HOST)
        check(("unix", "") in host.seen(), "nobody came to the Unix socket")
        before = host.seen().count(("tcp", LOOPBACK))
        equal("the host's loopback, through the gateway", guest.get(f"192.168.7.2:{WEB}/answer"), OF_THE_HOST)
        equal("connections to 127.0.0.1", host.seen().count(("tcp", LOOPBACK)), before + 1)

        guest("ping -c 1 -W 20 fec0::2")   # libslirp learns the guest's address
        equal("what SSH by IPv6 says", Guest(vm, host, LOOPBACK6, 2223)("echo by-ipv6"), "by-ipv6")
        guest("net-packets udp-echo 53 >/dev/null 2>&1 &")
        equal("a datagram to the forwarded port",
              run([*host.within, "python3", "-c", ASK_UDP, LOOPBACK, "5353", "hello"]).strip(), "hello")


# From the host, until there is an answer: the one that answers may not be there yet.
ASK_UDP = """
import socket, sys
asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asker.settimeout(2)
for _ in range(20):
    asker.sendto(sys.argv[3].encode(), (sys.argv[1], int(sys.argv[2])))
    try:
        print(asker.recv(100).decode())
        break
    except TimeoutError:
        pass
"""


def writes_much_at_once(guest, host):
    """By TCP to the host, 128 KiB a write: of what comes in small writes the guest makes large segments only where the
    host is slower than it."""
    server = subprocess.Popen([*host.within, "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
    try:
        guest(f"for i in $(seq 50); do iperf3 -c {LAN} -n {MUCH} >/dev/null 2>&1 && exit; usleep 100000; done; exit 1")
    finally:
        server.kill()
        server.wait()


def frames_larger_than(capture, size):
    """How many in a capture file are, by direction; the guest's own address is the first sender's."""
    with open(capture, "rb") as file:
        data = file.read()
    count = {"in": 0, "out": 0}
    guests = data[24 + 16 + 6:24 + 16 + 12]
    at = 24
    while at + 16 <= len(data):
        stored, length = (int.from_bytes(data[at + offset:at + offset + 4], "little") for offset in (8, 12))
        sender = data[at + 16 + 6:at + 16 + 12]
        count["out" if sender == guests else "in"] += length > size
        at += 16 + stored
    return count


@case
def a_restricted_guest_reaches_nothing_but_what_it_was_given():
    service = f"guestfwd=10.0.2.100:80-tcp:{LOOPBACK}:{WEB}"
    with networked("--net", f"user,restrict=on,{service}", *SSH, lease="10.0.2.15/24 via 10.0.2.2 dns 10.0.2.3") as (vm, host):
        guest = Guest(vm, host)
        has_ipv6(guest)
        guest("ip -6 route | grep -q default || ip -6 route add default via fe80::2 dev eth0")
        for url in (GATEWAY, "10.0.2.3", LAN, GATEWAY6, "[fec0::3]", f"[{LAN6}]"):
            check(guest.fails(f"timeout 8 wget -qO- http://{url}:{WEB}/answer"), f"the guest gets something from {url}")
            equal(f"a datagram to {url}", guest.udp(url.strip("[]"), ECHO), "nothing")
        for server in ("10.0.2.3", "fec0::3", LAN, LAN6):
            check(guest.fails(f"nslookup answer.example {server}"), f"the guest gets names from {server}")
        for target in (LAN, LAN6):
            check(guest.fails(f"ping -c 1 -W 3 {target}"), f"{target} answers the guest's ping")
        # A kernel would keep this to itself.
        guest(f"ip addr del {LOOPBACK}/8 dev lo; ip route add {LOOPBACK} via {GATEWAY}")
        check(guest.fails(f"timeout 8 wget -qO- http://{LOOPBACK}:{WEB}/answer"), "the guest gets something from 127.0.0.1")
        hostile_frames(guest, [LOOPBACK, LAN, GATEWAY, "10.0.2.3", "10.0.2.100", "169.254.169.254", LOOPBACK6,
                               "::ffff:127.0.0.1", f"::ffff:{LAN}", LAN6, "fec0::2", "fec0::3"])
        before = [entry for entry in host.seen() if entry != ("tcp", LOOPBACK)]
        equal("who came to the host", before, [])
        known = host.seen().count(("tcp", LOOPBACK))
        equal("the service that the guest was given", guest.get("10.0.2.100/answer"), OF_THE_HOST)
        equal("connections to it", host.seen().count(("tcp", LOOPBACK)), known + 1)
        equal("connections to it before", known, 0)


@case
def the_threads_of_an_idle_machine_on_user_networking_sleep():
    with networked(*SSH, lease="10.0.2.15/24 via 10.0.2.2 dns 10.0.2.3") as (vm, host):
        tried = []
        for _ in range(9):   # the guest itself has something to say about its addresses in the first minute
            tried.append(wake_ups(vm.process.pid, 10))
            if not tried[-1]:
                break
        check(not tried[-1], f"threads woke up in each 10 s: {tried}")


def wake_ups(pid, seconds):
    """How often each thread but the vCPUs' came to run within that time, of those that did."""
    def switches():
        found = {}
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/status") as file:
                text = file.read()
            name = re.search(r"^Name:\t(.*)$", text, re.MULTILINE)[1]
            if not name.startswith("vcpu"):
                counts = re.findall(r"^(?:non)?voluntary_ctxt_switches:\t(\d+)$", text, re.MULTILINE)
                found[f"{name} {task}"] = sum(map(int, counts))
        return found

    before = switches()
    time.sleep(seconds)
    return {name: count - before.get(name, 0) for name, count in switches().items() if count != before.get(name, 0)}


@case
def a_flooding_guest_is_held_to_its_rate():
    rate = 8e6
    with networked("--net", "user,rate=8M", *SSH, lease="10.0.2.15/24 via 10.0.2.2 dns 10.0.2.3") as (vm, host):
        guest = Guest(vm, host)
        before = virtual_kib(vm)
        guest(f"net-packets udp-flood {LAN} {FLOOD} 8")
        size, seconds = host.flood()
        check(seconds > 4, f"the flood lasted {seconds:.1f} s")
        # A burst after the rest before, of a tenth of a second's; headers count, too.
        most = rate * (seconds + 0.1) / 8
        check(0.3 * most < size < 1.05 * most, f"{size} bytes came in {seconds:.1f} s, and {most:.0f} should at most")
        check(virtual_kib(vm) < before + (16 << 10), f"minivmm has grown from {before} KiB to {virtual_kib(vm)}")
        equal("what SSH says afterwards", guest("echo still-there"), "still-there")


def virtual_kib(vm):
    with open(f"/proc/{vm.process.pid}/status") as file:
        return int(re.search(r"^VmSize:\s+(\d+) kB", file.read(), re.MULTILINE)[1])


@case
def without_libslirp_a_machine_starts_without_a_network_and_says_so():
    with HostNetwork(scratch("")) as host:
        library = re.search(r"libslirp\.so\.0 .*=> (\S+)", run(["/sbin/ldconfig", "-p"]))[1]
        run([*host.within, "mount", "--bind", "/dev/null", os.path.realpath(library)])
        common = ["--no-reboot", "--append", "quiet mv.do=poweroff"]
        with Vm(*common, within=host.within) as vm:
            vm.expect_exit(0, BOOT_S)
            said = vm.stderr().strip().splitlines()
            equal("lines of warning", len(said), 1)
            check("without --net" in said[0] and "libslirp0" in said[0], f"the warning is: {said[0]}")
        with Vm(*common, "--net", "none", within=host.within) as vm:
            vm.expect_exit(0, BOOT_S)
            equal("what is said with --net none", vm.stderr().strip(), "")
        for asked in (["--net", "user"], ["-p", "2222:22"]):
            with Vm(*common, *asked, within=host.within) as vm:
                vm.expect_exit(1, BOOT_S)
                check("libslirp0" in vm.stderr(), f"the error with {asked} is: {vm.stderr()}")
