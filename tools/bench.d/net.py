"""tools/bench net: a guest's network, minivmm and QEMU by turns, on the same back ends."""

import contextlib
import os
import re
import shutil
import statistics
import subprocess
import tempfile

import peers
from common import BenchError, asset, leave_partial, progress
from console import Guest
from report import Unit, middle_ratio
from spent import kvm_exits, kthread_us, need_kvm_counters, run, spent_us

MEMORY_MIB = 256
TAP = "bench0"
HOST, GUEST = "10.9.0.1", "10.9.0.2"
BITS = Unit("Mbit/s", 1e3, 0)          # from kbit/s
PACKETS = Unit("datagrams/s", 1, 0)
ROUND = Unit("us", 1e3, 1)             # from ns

# What net-jobs.sh calls it: (its name, the unit, whether more is better)
JOBS = {
    "tcp-out": ("TCP, from the guest", BITS, True),
    "tcp-in": ("TCP, to the guest", BITS, True),
    "small-out": ("60-byte frames, from the guest", PACKETS, True),
    "small-in": ("60-byte frames, to the guest", PACKETS, True),
    "rr-tcp": ("TCP round trip of 1 byte", ROUND, False),
    "rr-udp": ("UDP round trip of 1 byte", ROUND, False),
}


class Part:
    """One back end: its peers' arguments, the machine that the guest talks to, and jobs with their limits: how many times
    QEMU's figure ours is to be at least, or at most where less is better."""

    def __init__(self, title, limits, host, guest, ours, theirs, second=None):
        self.title, self.limits, self.host, self.guest = title, limits, host, guest
        self.arguments = {"minivmm": ours, "QEMU": theirs}
        self.second = second   # another guest's arguments by peer, and its address: that serves then

    def command(self, request, peer, jobs, arguments, address):
        cmdline = f"console=ttyS0 quiet panic=-1 mv.script=net-jobs mv.cards={address}/24"
        if jobs:
            cmdline += " mv.jobs=" + ",".join(f"{job}:eth0:{self.host}:{request['seconds']}" for job in jobs)
        tail = {"kernel": request["kernel"], "memory_mib": MEMORY_MIB, "initrd": request["initrd"], "cmdline": cmdline}
        if peer == "minivmm":
            return peers.minivmm(request["vmm"], more=arguments, **tail)
        # spent_us() tells threads by name
        return peers.qemu(peers.Q35, **tail) + ["-name", "debug-threads=on", *arguments]


def ours(card, name="bench"):
    return ["--net", card, "--name", name]


def theirs(netdev, mac="52:54:00:00:00:01"):
    return ["-netdev", f"{netdev},id=n", "-device", f"virtio-net-pci,netdev=n,mac={mac},romfile="]


SOCKET = "/run/bench-net"
PARTS = {
    "tap": Part("tap",
                {"tcp-out": 1.3, "tcp-in": 1.3, "small-out": 1.3, "small-in": 1.3, "rr-tcp": 0.85, "rr-udp": 0.85}, HOST, GUEST,
                ours(f"tap,ifname={TAP}"), theirs(f"tap,ifname={TAP},script=no,downscript=no,vhost=off")),
    "vhost": Part("tap, vhost on", {"tcp-out": 0.97, "tcp-in": 0.97}, HOST, GUEST,
                  ours(f"tap,ifname={TAP},vhost=on"), theirs(f"tap,ifname={TAP},script=no,downscript=no,vhost=on")),
    "user": Part("user networking", {"tcp-out": 1.2, "tcp-in": 1.2}, "10.0.2.2", "10.0.2.15",
                 ours("user,host-loopback=on"), theirs("user")),
    "internal": Part("two guests", {"tcp-out": 1.3, "tcp-in": 1.3, "rr-tcp": None}, HOST, GUEST,
                     ours("internal,name=bench"),
                     theirs(f"stream,server=off,addr.type=unix,addr.path={SOCKET}"),
                     {"minivmm": ours("internal,name=bench", "second"),
                      "QEMU": theirs(f"stream,server=on,addr.type=unix,addr.path={SOCKET}", "52:54:00:00:00:02")}),
}


def host(context, report):
    pass


def chosen(context):
    return [name for name in PARTS if name in (context.options.only or PARTS)]


def rig_request(context):
    context.make("net_probe", ["net_probe.c"], ["gcc", "-O2", "-Wall", "-Wextra", "-static"])
    kernel, initrd = asset("kernel", "initrd-net-bench")
    return "net", {"vmm": context.vmm, "observe": context.tool("observe"), "probe": context.tool("net_probe"),
                   "runs": context.runs(5), "kernel": kernel, "initrd": initrd, "seconds": context.options.seconds,
                   "parts": chosen(context)}


# --- in the rig ---------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def servers(request):
    """What guests talk to on the host: new ones for each boot, for one that died may leave them waiting."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = [subprocess.Popen(argv, **quiet) for argv in (["iperf3", "-s"], [request["probe"], "serve", "5301"])]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def spent(guests):
    """The counters of all guests together."""
    total = {"exits": kvm_exits()["exits"], "guest_us": 0.0, "vcpu_us": 0.0, "threads_us": 0.0}
    for guest in guests:
        for key, us in spent_us(guest.pid).items():
            total[key] += us
        total["threads_us"] += kthread_us(f"vhost-{guest.pid}")
    return total


TRIES = 3


def boot(request, part, peer):
    """As one_boot(). The rig's emulation now and then breaks a guest of any VMM (docs/testing.md): then another boot."""
    for number in range(TRIES):
        try:
            return one_boot(request, part, peer)
        except BenchError as error:
            if number + 1 == TRIES:
                raise
            progress(f"once more: {error}")


def one_boot(request, part, peer):
    """For each job its value, and what a frame, or with TCP a megabyte, cost."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(servers(request))
        guests = []
        if part.second:
            argv = part.command(request, peer, [], part.second[peer], part.host)
            guests.append(stack.enter_context(Guest(request["observe"], argv)))
            guests[0].wait_for(b"SERVER-UP", 120)
        jobs = list(part.limits)
        argv = part.command(request, peer, jobs, part.arguments[peer], part.guest)
        guest = stack.enter_context(Guest(request["observe"], argv))
        guests.append(guest)
        return {job: one_job(guest, guests, number, request["seconds"], job.startswith("tcp"))
                for number, job in enumerate(jobs, 1)}


def one_job(guest, guests, number, seconds, tcp):
    guest.wait_for(b"JOB-BEGIN %d\r\n" % number, 120)
    before = spent(guests)
    guest.wait_for(b"JOB-END %d " % number, 30 + 3 * seconds)
    after = spent(guests)
    while not (found := re.search(rb"JOB-END %d (\S+) (\d+) (\d+)\r\n" % number, guest.output)):
        guest.wait_for(b"\n", 10)
    value = float(found[1])
    # Frames have any size with TCP, which both ends segment as they like: there a megabyte is what is alike.
    of = value * seconds / 8000 if tcp else int(found[2])
    of = max(of, 1e-9)
    return {"value": value, "interrupts": int(found[3]) / of, **{key: (after[key] - before[key]) / of for key in after}}


def make_tap():
    run("ip", "tuntap", "add", TAP, "mode", "tap", "vnet_hdr")
    run("ip", "addr", "add", f"{HOST}/24", "dev", TAP)
    run("ip", "link", "set", TAP, "up")


def accepts(request, part):
    """Whether this minivmm knows the back end."""
    argv = peers.minivmm(request["vmm"], request["kernel"], MEMORY_MIB, more=[*part.arguments["minivmm"], "--dry-run"])
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        progress(f"left out: {part.title}: {done.stdout.strip().splitlines()[-1]}")
    return done.returncode == 0


def measure(request):
    """In the rig: {part: {peer: {job: [sample, ...]}}}."""
    need_kvm_counters()
    make_tap()
    with tempfile.TemporaryDirectory() as memory:
        for name in ("kernel", "initrd"):
            request[name] = shutil.copy(request[name], os.path.join(memory, name))
        names = [name for name in request["parts"] if accepts(request, PARTS[name])]
        # What an emulated machine that broke down had measured is not measured again.
        samples, done = request.get("samples", {}), request.get("done", [])
        for number in range(request["runs"]):
            for name in names:
                if [number, name] in done:
                    continue
                order = ["minivmm", "QEMU"] if number % 2 == 0 else ["QEMU", "minivmm"]
                found = {peer: boot(request, PARTS[name], peer) for peer in order}
                for peer, jobs in found.items():
                    for job, sample in jobs.items():
                        samples.setdefault(name, {}).setdefault(peer, {}).setdefault(job, []).append(sample)
                done.append([number, name])
                progress(f"round {number + 1} of {request['runs']}, {PARTS[name].title}: " + "; ".join(
                    f"{JOBS[job][0]} " + ", ".join(f"{peer} {JOBS[job][1].text(found[peer][job]['value'])}" for peer in found)
                    + f" {JOBS[job][1].name}" for job in PARTS[name].limits))
                leave_partial("net", {"samples": samples, "done": done})
    return {"samples": samples}


# --- the report ---------------------------------------------------------------------------------------------------

def rig_results(context, report, results):
    samples = results["net"]["samples"]
    again = f"tools/bench net --runs {context.runs(5)} --seconds {context.options.seconds}"
    for name in chosen(context):
        if name not in samples:
            continue
        part = PARTS[name]
        of_part = samples[name]
        units = {JOBS[job][1]: None for job in part.limits}   # in their order
        for unit in units:
            table = report.table(f"net {name} {unit.name}", f"{part.title}, 1 vCPU", unit, f"{again} --only {name}",
                                 [f"rig: {results['rig']}; QEMU q35, virtio-net-pci"])
            for job in part.limits:
                title, of_job, more = JOBS[job]
                if of_job is not unit:
                    continue
                values = {peer: [sample["value"] for sample in of_part[peer][job]] for peer in ("minivmm", "QEMU")}
                for peer, list_of in values.items():
                    table.row(f"{title}: {peer}", list_of)
                against = middle_ratio(values["minivmm"], values["QEMU"])
                wanted = part.limits[job]
                if wanted is None:
                    table.notes.append(f"{title}: minivmm / QEMU: {against:.2f} x (no limit is set)")
                elif more:
                    table.at_least(f"{title}: minivmm / QEMU", against, wanted, " x")
                else:
                    table.limit(f"{title}: minivmm / QEMU", against, wanted, " x")
                costs(table, of_part, job)
            table.extra["costs"] = {peer: {job: of_part[peer][job] for job in part.limits if JOBS[job][1] is unit}
                                    for peer in of_part}


def costs(table, of_part, job):
    """Exits and interrupts per frame, or with TCP per megabyte, and where the time goes."""
    def median(peer, what):
        return statistics.median(sample[what] for sample in of_part[peer][job])

    note = f"per {'MB' if job.startswith('tcp') else 'frame'}: exits, interrupts; us of the vCPU's thread in the guest, of the " \
           "same in KVM and the VMM, of the VMM's other threads"
    if note not in table.notes:
        table.notes.append(note)
    for peer in ("minivmm", "QEMU"):
        table.notes.append(f"  {JOBS[job][0]}: {peer}: {median(peer, 'exits'):.2f}, {median(peer, 'interrupts'):.2f}; " +
                           ", ".join(f"{median(peer, what):.1f}" for what in ("guest_us", "vcpu_us", "threads_us")))
