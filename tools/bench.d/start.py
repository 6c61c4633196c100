"""tools/bench footprint, start: from exec to the first KVM_RUN, on this host directly."""

import os
import subprocess

import peers
from common import BenchError, asset, say
from report import MS

SIZES_MIB = (256, 16384)
MOST_OVER_BARE_MS = 5
MOST_OF_QEMU = 0.3
# QEMU 7.2 gives up on a software KVM that lists MSR 0x10a but cannot set it.
QEMU_CPUS = ("host", "host,-arch-capabilities", "kvm64")


def first_run_ns(context, argv):
    reader, writer = os.pipe()
    done = subprocess.Popen(["/bin/sh", "-c", f'exec 3>&{writer} {writer}>&-; exec "$@"', "sh",
                             context.tool("observe"), "run", *argv], pass_fds=[writer],
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    _, errors = done.communicate()
    with os.fdopen(reader) as file:
        words = file.readline().split()
    if len(words) != 2:
        raise BenchError(f"{' '.join(argv)} did not get to its first KVM_RUN: {errors.strip()}")
    return int(words[1])


def working_qemu_cpu(context, payload):
    """The first CPU model that QEMU can start with on this host."""
    for cpu in QEMU_CPUS:
        try:
            first_run_ns(context, peers.qemu(peers.MICROVM, payload, 256, cpu=cpu))
            return cpu
        except BenchError as error:
            last = error
    raise last


def interleaved(context, commands, runs):
    samples = {name: [] for name in commands}
    names = list(commands)
    for number in range(-1, runs):   # -1: so that everybody's files are in memory
        for name in names:
            elapsed = first_run_ns(context, commands[name])
            if number >= 0:
                samples[name].append(elapsed)
        names.append(names.pop(0))
    return samples


def host(context, report):
    payload = context.tool("idle")
    runs = context.runs(25)
    again = f"tools/bench footprint --only start --runs {runs}"
    cpu = working_qemu_cpu(context, payload)
    for size in SIZES_MIB:
        say(f"from exec to the first KVM_RUN, {size} MiB")
        commands = {"bare KVM": [context.tool("bare"), str(size), payload],
                    "minivmm": peers.minivmm(context.vmm, payload, size),
                    "QEMU microvm": peers.qemu(peers.MICROVM, payload, size, cpu=cpu)}
        table = report.table(f"start-{size}", f"exec to the first KVM_RUN, small ELF, {size} MiB untouched", MS, again,
                             [f"the same PVH ELF for all; QEMU's CPU model: {cpu}"])
        fill(table, commands, interleaved(context, commands, runs))

    kernel, initrd = asset("kernel", "initrd-small")
    say("from exec to the first KVM_RUN, Debian's bzImage")
    tail = {"kernel": kernel, "memory_mib": 256, "initrd": initrd, "cmdline": "console=ttyS0"}
    commands = {"bare KVM, small ELF": [context.tool("bare"), "256", payload],
                "minivmm": peers.minivmm(context.vmm, **tail),
                "minivmm, kernel's own decompressor": peers.minivmm(
                    context.vmm, **tail, more=["--kernel-entry", "decompressor"]),
                "QEMU microvm": peers.qemu(peers.MICROVM, **tail, cpu=cpu)}
    table = report.table("start-bzimage", "exec to the first KVM_RUN, Debian's bzImage and initrd, 256 MiB", MS, again,
                         ["no limits here: minivmm unpacks the kernel before it runs the guest, QEMU leaves that, and",
                          "the loading itself, to the guest; tools/bench boot is where both are counted"])
    for name, values in interleaved(context, commands, runs).items():
        table.row(name, values, commands[name])


def fill(table, commands, samples):
    for name, values in samples.items():
        table.row(name, values, commands[name])
    median = {name: row.median for name, row in table.rows}
    table.limit("minivmm - bare KVM", (median["minivmm"] - median["bare KVM"]) / 1e6, MOST_OVER_BARE_MS, " ms")
    table.limit("minivmm / QEMU microvm", median["minivmm"] / median["QEMU microvm"], MOST_OF_QEMU, " x")


def rig_request(context):
    return None


def rig_results(context, report, results):
    pass
