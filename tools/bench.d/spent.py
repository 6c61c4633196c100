"""What a VMM spends on a guest's work: exits, and where the time goes."""

import contextlib
import glob
import os
import subprocess
import time

from common import BenchError


def run(*argv):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise BenchError(f"{' '.join(argv)}: {done.stdout.strip()}")


def need_kvm_counters():
    if not os.path.exists("/sys/kernel/debug/kvm"):
        run("mount", "-t", "debugfs", "debugfs", "/sys/kernel/debug")


# KVM's own counters of why a guest was left: all, an instruction that idles, a doorbell or a device's register, a port,
# an interrupt of the host's (its own timers and devices', and the kick for one that is to be given to the guest), the
# guest being ready to take one that had to wait.
EXITS = {"exits": "exits", "halt": "halt_exits", "mmio": "mmio_exits", "port": "io_exits", "host irq": "irq_exits",
         "irq window": "irq_window_exits"}


def kvm_exits():
    """Exits of all guests so far, by EXITS."""
    counts = {}
    for name, path in EXITS.items():
        with open(f"/sys/kernel/debug/kvm/{path}") as file:
            counts[name] = int(file.read())
    return counts


TICK_US = 1e6 / os.sysconf("SC_CLK_TCK")


def spent_us(pid):
    """Where a VMM's time went so far, in us: its vCPU's thread in the guest, the same in KVM and in the VMM (both counted
    in ticks), and all its other threads, those that have ended too."""
    other = time.clock_gettime_ns(~pid << 3 | 2)   # clock_getcpuclockid(3)
    guest = exits = 0.0
    for path in glob.glob(f"/proc/{pid}/task/*"):
        try:
            with open(f"{path}/comm") as file:
                name = file.read()
            with open(f"{path}/schedstat") as file:
                ran = int(file.read().split()[0])
            with open(f"{path}/stat") as file:
                fields = file.read().rpartition(")")[2].split()   # from the third on, proc(5)
        except (FileNotFoundError, ProcessLookupError):
            continue   # one of a pool, gone meanwhile
        if "vcpu" in name or "KVM" in name:
            other -= ran
            guest += int(fields[40]) * TICK_US
            exits += (int(fields[11]) + int(fields[12]) - int(fields[40])) * TICK_US
    return {"guest_us": guest, "vcpu_us": exits, "threads_us": other / 1000}


def kthread_us(name):
    """The CPU time so far of the kernel's thread of that name (15 characters count), in us; 0 if there is none."""
    total = 0.0
    for path in glob.glob("/proc/[0-9]*/comm"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            with open(path) as file:
                if file.read().strip() != name[:15]:
                    continue
            with open(path.replace("comm", "schedstat")) as file:
                total += int(file.read().split()[0]) / 1000
    return total
