"""tools/bench footprint, instructions: our own instructions per exit, by kind, counted by callgrind."""

import base64
import collections
import glob
import os
import re
import shutil
import subprocess
import tempfile
import zlib

import peers
from boot import CMDLINE
from common import BenchError, asset, progress
from console import Guest
from report import COUNT

REPLAYS = 10000
# What is ours: everything that dispatch() calls, the C library included; the kernel's side of a system call is not.
COUNTED = "minivmm::Vcpu::dispatch(kvm_run&)"


def callgrind(context, record=None):
    """[(kind, exits, instructions)] of a replay."""
    if shutil.which("valgrind") is None:
        raise BenchError("valgrind is not there; apt-get install valgrind, or leave --only instructions out")
    program = context.make_dispatch()
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out")
        done = subprocess.run(["valgrind", "--tool=callgrind", f"--toggle-collect={COUNTED}",
                               f"--callgrind-out-file={out}", program, str(REPLAYS), *([record] if record else [])],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise BenchError(f"callgrind ended with status {done.returncode}: {done.stderr[-400:]}")
        totals = {}
        for path in glob.glob(out + ".*"):
            with open(path) as file:
                text = file.read()
            trigger = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
            if trigger:
                totals[trigger[1]] = int(re.search(r"^(?:totals|summary): (\d+)", text, re.MULTILINE)[1])
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    return [(name, int(number), totals[name]) for name, number in lines]


def host(context, report):
    if context.options.no_rig:
        tell(context, report, callgrind(context), [])


def rig_request(context):
    """A boot's exits can be had only where Linux boots."""
    if context.options.no_rig:
        return None
    kernel, initrd = asset("kernel", "initrd-small")
    context.make("record.so", ["record.c"], ["gcc", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC"])
    return "record", {"argv": peers.minivmm(context.vmm, kernel, 256, initrd, CMDLINE + " mv.do=poweroff"),
                      "observe": context.tool("observe"), "preload": context.tool("record.so")}


def record(request):
    """In the rig: the exits of a boot and power-off."""
    progress("recording the exits of a boot")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "exits")
        argv = ["/usr/bin/env", f"LD_PRELOAD={request['preload']}", f"EXIT_RECORD={path}", *request["argv"]]
        with Guest(request["observe"], argv) as guest:
            if guest.wait_end(300):
                guest.fail("failed")
        with open(path, "rb") as file:
            exits = file.read()
        if not exits:
            raise BenchError("no exits were recorded")
        return base64.b64encode(zlib.compress(exits)).decode()


def rig_results(context, report, results):
    if "record" not in results:
        return
    exits = zlib.decompress(base64.b64decode(results["record"]))
    path = context.tool("boot.exits")   # stays: dispatch and callgrind can be run on it by hand
    with open(path, "wb") as file:
        file.write(exits)
    tell(context, report, callgrind(context, path), by_address(exits))


def by_address(exits):
    """The commonest exits of a boot: [(what, count)]."""
    counts = collections.Counter()
    for at in range(0, len(exits) - 23, 24):
        address = int.from_bytes(exits[at:at + 8], "little")
        mmio, write, size = exits[at + 16:at + 19]
        counts[f"{'mmio' if mmio else 'port'} {'write' if write else 'read'} {address:#x} of {size}"] += 1
    return counts.most_common(12)


def tell(context, report, found, common):
    table = report.table("instructions", "own instructions per exit (exact: callgrind)", COUNT,
                         "tools/bench footprint --only instructions" +
                         (" --no-rig" if context.options.no_rig else ""))
    for name, number, total in found:
        table.row(name if number == REPLAYS else f"{name} ({number})", [total / number], None)
    table.commands["count"] = (f"valgrind --tool=callgrind '--toggle-collect={COUNTED}' {context.tool('dispatch')} "
                               f"{REPLAYS} {context.tool('boot.exits')}")
    if common:
        table.notes.append("the commonest exits of a boot and power-off: " +
                           ", ".join(f"{what}: {count}" for what, count in common))
        table.extra["commonest exits of a boot"] = common


