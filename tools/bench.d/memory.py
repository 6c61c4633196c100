"""tools/bench footprint, memory: what a VMM keeps for itself beside its guest's pages."""

import os
import re
import shutil
import struct
import tempfile
import time

import peers
from boot import CMDLINE
from common import asset, progress, say
from console import Guest
from report import MIB

LIMIT_MIB = 5
PAGE = os.sysconf("SC_PAGE_SIZE")
SETTLE_S = 1


def outside(begin, end, ranges):
    """What of [begin, end) no range covers."""
    pieces = [(begin, end)]
    for low, high in ranges:
        pieces = [piece for a, b in pieces for piece in ((a, min(b, low)), (max(a, high), b)) if piece[0] < piece[1]]
    return pieces


def present(pid, begin, end):
    """Bytes of present pages in a range (bit 63 of a page's entry in pagemap)."""
    with open(f"/proc/{pid}/pagemap", "rb") as file:
        file.seek(begin // PAGE * 8)
        entries = file.read((end - begin) // PAGE * 8)
    return PAGE * sum(entry >> 63 for (entry,) in struct.iter_unpack("=Q", entries))


def private(pid, ram):
    """Private bytes outside guest memory: (all of it, dirty, of files)."""
    whole = dirty = files = 0
    mapping = None
    with open(f"/proc/{pid}/smaps") as file:
        for line in file:
            if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+ *(.*)", line):
                begin, end, path = int(found[1], 16), int(found[2], 16), found[3]
                mapping = outside(begin, end, ram)
                is_guests = mapping != [(begin, end)]
                if is_guests:   # the kernel may have merged other anonymous memory with it
                    extra = sum(present(pid, *piece) for piece in mapping)
                    whole += extra
                    dirty += extra
            elif mapping is not None and not is_guests:
                if found := re.match(r"Private_(Clean|Dirty): +(\d+) kB", line):
                    size = int(found[2]) * 1024
                    whole += size
                    dirty += size if found[1] == "Dirty" else 0
                    files += size if path.startswith("/") else 0
    return whole, dirty, files


def sample(observe, argv, mark):
    with Guest(observe, argv, memory=True) as guest:
        guest.wait_for(mark, 240)
        time.sleep(SETTLE_S)
        return private(guest.pid, guest.ram())


def measure(request):
    """Private memory by VMM, in bytes: a list of samples for each."""
    with tempfile.TemporaryDirectory() as folder:
        kernel, initrd = (shutil.copy(request[name], os.path.join(folder, name)) for name in ("kernel", "initrd"))
        tail = {"kernel": kernel, "memory_mib": request["memory_mib"], "initrd": initrd,
                "cmdline": CMDLINE + " mv.do=shell"}
        commands = {"minivmm": peers.minivmm(request["vmm"], **tail),
                    "QEMU microvm": peers.qemu(peers.MICROVM, **tail)}
        samples = {}
        for name, argv in commands.items():
            samples[name] = []
            for _ in range(request["runs"]):
                progress(f"memory with an idle Linux guest: {name}")
                samples[name].append(sample(request["observe"], argv, b"# "))
        return {"samples": samples, "commands": commands}


def host(context, report):
    payload = context.tool("idle")
    say("memory with an idle payload")
    table = report.table("memory-payload", "private memory beyond guest pages, idle small ELF, on this host", MIB,
                         "tools/bench footprint --only memory")
    for size in (256, 16384):
        argv = peers.minivmm(context.vmm, payload, size)
        fill(table, f"minivmm, {size} MiB guest", [sample(context.tool("observe"), argv, b"i") for _ in range(3)], argv,
             True)


def rig_request(context):
    if context.options.no_rig:
        return None
    kernel, initrd = asset("kernel", "initrd-small")
    return "memory", {"vmm": context.vmm, "observe": context.tool("observe"), "kernel": kernel, "initrd": initrd,
                      "memory_mib": 256, "runs": 3}


def rig_results(context, report, results):
    if "memory" not in results:
        return
    table = report.table("memory-linux", "private memory beyond guest pages, Linux idle at a shell, 256 MiB guest", MIB,
                         "tools/bench footprint --only memory", [f"rig: {results['rig']}"])
    for name, values in results["memory"]["samples"].items():
        fill(table, name, values, results["memory"]["commands"][name], name == "minivmm")


def fill(table, name, samples, argv, limited):
    row = table.row(name, [whole for whole, _, _ in samples], argv)
    table.row(f"  {name}: dirty", [dirty for _, dirty, _ in samples])
    table.row(f"  {name}: of files", [files for _, _, files in samples])
    if limited:
        table.limit(f"{name}, private", row.median / (1 << 20), LIMIT_MIB, " MiB")
