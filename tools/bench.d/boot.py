"""tools/bench boot: from exec to the guest's init, minivmm and QEMU by turns."""

import os
import shutil
import tempfile

import peers
from common import asset, progress
from console import Guest
from report import S

CMDLINE = "console=ttyS0 quiet panic=-1"
MARK = b"MINIVMM-INIT-UP"
MEMORY_MIB = 256
LIMITS = {"QEMU microvm": 0.65, "QEMU q35": 0.70}


def host(context, report):
    pass


def rig_request(context):
    kernel, initrd = asset("kernel", "initrd-small")
    return "boot", {"vmm": context.vmm, "observe": context.tool("observe"), "runs": context.runs(9), "initrd": initrd,
                    "kernel": context.options.kernel or kernel, "cmdline": context.options.cmdline}


def command_lines(request, kernel, initrd):
    tail = {"kernel": kernel, "memory_mib": MEMORY_MIB, "initrd": initrd,
            "cmdline": request["cmdline"] + " mv.do=poweroff"}
    return {"minivmm": peers.minivmm(request["vmm"], **tail),
            "QEMU microvm": peers.qemu(peers.MICROVM, **tail),
            "QEMU microvm, rtc=off": peers.qemu(peers.MICROVM_OF_THE_MANUAL, **tail),
            "QEMU q35": peers.qemu(peers.Q35, **tail)}


def measure(request):
    """In the rig: the samples in ns by VMM, and minivmm's exits over a boot and power-off."""
    with tempfile.TemporaryDirectory() as folder:   # in L1's memory, where no share's cache plays a part
        kernel, initrd = (shutil.copy(request[name], os.path.join(folder, name)) for name in ("kernel", "initrd"))
        commands = command_lines(request, kernel, initrd)
        samples = {name: [] for name in commands}
        names = list(commands)
        for number in range(-1, request["runs"]):   # -1: so that everybody's files are in memory
            for name in names:
                with Guest(request["observe"], commands[name]) as guest:
                    elapsed = guest.wait_for(MARK, 180) - guest.began
                if number >= 0:
                    samples[name].append(elapsed)
            if number < 0:
                progress("everybody has booted once, which does not count")
            else:
                progress(f"boot {number + 1} of {request['runs']}: " +
                         ", ".join(f"{name} {samples[name][-1] / 1e9:.2f} s" for name in commands))
            names.append(names.pop(0))   # nobody is always the first
        with Guest(request["observe"], [*commands["minivmm"], "--stats"]) as guest:
            status = guest.wait_end(180)
            if status:
                guest.fail(f"status {status}")
            stats = guest.output.decode(errors="replace").replace("\r", "")
        return {"samples": samples, "commands": commands, "stats": stats[stats.rfind("exits by reason"):]}


def rig_results(context, report, results):
    found = results["boot"]
    again = f"tools/bench boot --runs {context.runs(9)}"
    table = report.table("boot", f"start to init, bzImage, 1 vCPU, {MEMORY_MIB} MiB", S, again,
                         [f"kernel command line of all three: {context.options.cmdline}",
                          f"rig: {results['rig']}",
                          "rtc=off is what microvm's manual advises; Debian's kernel then waits for an RTC"])
    for name, values in found["samples"].items():
        table.row(name, values, found["commands"][name])
    ours = dict(table.rows)["minivmm"].median
    for name, limit in LIMITS.items():
        table.limit(f"minivmm / {name}", ours / dict(table.rows)[name].median, limit, " x")
    table.extra["exit statistics of a boot and power-off"] = found["stats"]
    table.notes += ["minivmm's exits over a boot and power-off (--stats):",
                    *("  " + line for line in found["stats"].splitlines())]
