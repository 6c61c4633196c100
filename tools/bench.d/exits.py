"""tools/bench footprint, exits: time per exit, minivmm beside a bare loop that runs the same payload."""

import os
import select
import signal
import statistics
import time

import peers
from common import progress, say
from console import Guest
from report import US

COUNT = 2000   # of exits between two marks, as common.py builds the payload
ROUNDS_A_PROCESS = 8
RUNS = 40
LIMIT = 1.15
MEMORY_MIB = 256


class Paced:
    """A guest that is let run for one round of the payload at a time, and stopped between."""

    def __init__(self, guest):
        self.guest = guest
        os.kill(guest.pid, signal.SIGSTOP)

    def round(self):
        """Time per exit in ns, port and MMIO."""
        fd = self.guest.fd
        while select.select([fd], [], [], 0)[0]:   # what it wrote before it was stopped
            os.read(fd, 1 << 16)
        os.kill(self.guest.pid, signal.SIGCONT)
        deadline = time.monotonic() + 60
        times = []
        try:
            while len(times) < 3:   # p, m, p; the marks before were the rest of an interrupted round
                data, now = self.guest.read(deadline)
                if len(data) > 1:
                    times = []      # two marks at once: we were too late for the first
                elif data == b"p" and not times or times:
                    times.append(now)
        finally:
            os.kill(self.guest.pid, signal.SIGSTOP)
        return (times[1] - times[0]) / COUNT, (times[2] - times[1]) / COUNT


def measure(request):
    """Samples in ns by VMM and kind of exit, round by round in turn."""
    samples = {name: {"port": [], "mmio": []} for name in ("bare", "minivmm")}
    left = request["runs"]
    while left > 0:
        take_rounds(request, min(left, ROUNDS_A_PROCESS), samples)
        left -= ROUNDS_A_PROCESS
        progress(f"exits: {max(left, 0)} of {request['runs']} rounds to go")
    return samples


def take_rounds(request, rounds, samples):
    """So many rounds of one pair of processes: each has luck of its own with where its memory lies."""
    with Guest(request["observe"], request["bare"]) as bare, Guest(request["observe"], request["minivmm"]) as minivmm:
        for guest in (bare, minivmm):
            guest.wait_for(b"p", 60)
        paced = {"bare": Paced(bare), "minivmm": Paced(minivmm)}
        order = list(paced)
        for number in range(-1, rounds):
            for name in order:
                port, mmio = paced[name].round()
                if number >= 0:
                    samples[name]["port"].append(port)
                    samples[name]["mmio"].append(mmio)
            order.reverse()


def request(context):
    payload = context.tool("exits")
    return {"observe": context.tool("observe"), "runs": context.runs(RUNS),
            "bare": [context.tool("bare"), str(MEMORY_MIB), payload],
            "minivmm": peers.minivmm(context.vmm, payload, MEMORY_MIB)}


def host(context, report):
    say("time per exit, on this host")
    tell(context, report, "on this host", "exits-host", measure(request(context)))


def rig_request(context):
    return None if context.options.no_rig else ("exits", request(context))


def rig_results(context, report, results):
    if "exits" in results:
        tell(context, report, f"in the rig ({results['rig']})", "exits-rig", results["exits"])


def tell(context, report, where, key, samples):
    table = report.table(key, f"time per exit, {where}", US,
                         f"tools/bench footprint --only exits --runs {context.runs(RUNS)}",
                         ["the ratio is the median of the rounds' own ratios: rounds are taken by turns"])
    asked = request(context)
    names = {"port": "port read, UART line status", "mmio": "MMIO read, ECAM"}
    for kind, name in names.items():
        for vmm, label in (("bare", "bare loop"), ("minivmm", "minivmm")):
            table.row(f"{name}: {label}", samples[vmm][kind], asked[vmm])
        ratio = statistics.median(ours / bare for ours, bare in zip(samples["minivmm"][kind], samples["bare"][kind]))
        table.limit(f"{name}: minivmm / bare loop", ratio, LIMIT, " x")
