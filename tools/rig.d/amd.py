"""The rig on kvm_amd: QEMU emulates an AMD CPU with SVM and nested paging; L1 is Debian's generic kernel."""

import os
import selectors
import shutil
import socket
import subprocess
import sys
import time
import tty

from common import TOOLS, Janitor, Marks, RigError, asset, new_token, tail
from tsc import tsc_khz

# No mitigations, no checks that only cost time: nothing in L1 needs protection from anything else in it. And should
# L1's kernel get lost, which this emulation brings about now and then, it shall end (status 125) instead of hang: a CPU
# that no longer takes interrupts is noticed by RCU on another one.
CMDLINE = ("console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check audit=0 apparmor=0 nowatchdog "
           "rcupdate.rcu_expedited=1 cryptomgr.notests=1 oops=panic "
           "rcupdate.rcu_cpu_stall_timeout=60 sysctl.kernel.panic_on_rcu_stall=1")

# No la57: a fifth level of page tables, in L1 and under L2, is only slower. No erms and fsrm: kernels that see them copy
# byte by byte with one instruction, of which TCG does each byte apart. No XSAVE and what needs it: this QEMU does
# not let a hypervisor intercept XSETBV, so KVM never learns the guest's XCR0, and enters it with 1 each time: the
# guest's kernel would lose SSE registers at task switches, and does complain of XSAVE's sizes.
CPU = "max,la57=off,erms=off,fsrm=off," + ",".join(f"{feature}=off" for feature in (
    "xsave", "avx", "avx2", "fma", "f16c", "vaes", "vpclmulqdq", "pku", "mpx"))


# QEMU hands this machine's own TSC through. How fast it is, L1 would measure against an emulated timer while it boots:
# on a busy machine it has found a third of the truth, and its clock then runs three times too fast.
def tsc_argument():
    try:
        return f" tsc_early_khz={tsc_khz()}"
    except OSError:   # a system that maps nothing both writable and executable
        return ""


def qemu(job, kernel, initrd, fds):
    def share(tag, path, *flags):
        # multidevs=remap: the host's mounts below / come along, and their inode numbers must not clash.
        return ["-fsdev", ",".join([f"local,id={tag},path={path.replace(',', ',,')},security_model=none", *flags]),
                "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]

    argv = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", CPU,
            "-smp", str(job.options.cpus), "-m", str(job.options.memory), "-nodefaults", "-display", "none",
            "-no-reboot", "-net", "none", "-serial", f"file:{job.work}/console",
            "-monitor", f"unix:{job.work}/monitor,server=on,wait=off",   # for whoever wonders why L1 hangs
            "-kernel", kernel, "-initrd", initrd, "-append", CMDLINE + tsc_argument(),
            "-drive", f"if=none,id=scratch,file={job.work}/scratch,format=raw,cache=unsafe",
            "-device", "virtio-blk-pci,drive=scratch", "-device", "virtio-serial-pci"]
    argv += share("root", "/", "readonly=on", "multidevs=remap")
    argv += share("out", job.out)
    argv += share("job", f"{job.work}/job", "readonly=on")
    # One console if L1's command has a terminal, or else one port each for its standard output and error.
    device = "virtconsole" if job.options.interactive else "virtserialport"
    for number, fd in enumerate(fds):
        argv += ["-chardev", f"socket,id=port{number},fd={fd}",
                 "-device", f"{device},chardev=port{number},nr={number if job.options.interactive else number + 1}"]
    return argv


def write_job(job, token, modules):
    """Fills the folder that L1 sees as /run/rig."""
    folder = os.path.join(job.work, "job")
    os.mkdir(folder)
    for name in ("l1-run", "l1-hold-kvm"):
        shutil.copy(os.path.join(TOOLS, "rig.d", name), folder)
    files = {"token": token, "out": job.out, "modules": os.path.join(modules, "lib/modules"),
             "command": job.command_script("amd", "/scratch")}
    if job.options.interactive:
        size = shutil.get_terminal_size()
        files["interactive"] = f"rows {size.lines} cols {size.columns}"
    for name, text in files.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)


def make_scratch(job):
    path = os.path.join(job.work, "scratch")
    with open(path, "wb") as file:
        file.truncate(job.options.disk << 20)
    subprocess.run(["/sbin/mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "-E",
                    "lazy_itable_init=1,nodiscard", path], check=True)


class Streams:
    """Carries L1's ports to our standard output and error, and what is typed to L1."""

    def __init__(self, job, token, ports):
        self.job = job
        self.ports = ports
        # The token's first mark comes in the first stream only.
        self.marks = {port: Marks(token, started=index > 0) for index, port in enumerate(ports)}
        self.began = time.monotonic()
        self.up = False
        self.selector = selectors.DefaultSelector()
        for index, port in enumerate(ports):
            self.selector.register(port, selectors.EVENT_READ, index + 1)

    def status(self):
        """The command's status, once every stream has come to its end."""
        found = [marks.status for marks in self.marks.values()]
        return None if None in found else found[0]

    def command_begins(self):
        self.up = True
        if self.job.options.verbose:
            print(f"rig: L1 up after {time.monotonic() - self.began:.1f} s", file=sys.stderr)
        if self.job.options.interactive:
            if os.isatty(0):
                tty.setraw(0)   # the janitor restores it
            try:
                self.selector.register(0, selectors.EVENT_READ, 0)
            except PermissionError:   # a regular file or /dev/null cannot be waited for
                self.ports[0].sendall(b"\x04")

    def run(self, ended):
        self.selector.register(ended, selectors.EVENT_READ, None)
        while self.status() is None:
            events = self.selector.select(self.patience())
            if self.job.remaining() == 0:
                raise TimeoutError(f"time limit of {self.job.options.timeout} s reached" +
                                   ("" if self.up else " before L1 was up"))
            # Output first: the emulator's end is of interest only if nothing is left to read.
            progress = False
            for key, _ in events:
                if key.data == 0:
                    self.typed()
                elif key.data is not None:
                    progress |= self.output(key.fileobj, key.data)
            if not progress and any(key.data is None for key, _ in events):
                raise RigError("L1 ended before the command did", tail(f"{self.job.work}/console") +
                               tail(f"{self.job.work}/qemu"))
            self.check_pulse()   # after the output, in which the signs of life are
        return self.status()

    def pulse(self):
        """The CPU of L1 that has been silent for longest, and the time when it was last heard."""
        beats = next(iter(self.marks.values())).beats
        return min(((beats.get(cpu, self.began), cpu) for cpu in range(self.job.options.cpus)))[::-1]

    def patience(self):
        """How long there can be nothing to do: None for ever."""
        limits = [self.job.remaining()]
        if not self.job.options.interactive:
            limits.append(max(0.0, self.pulse()[1] + self.job.options.stall - time.monotonic()))
        return min((limit for limit in limits if limit is not None), default=None)

    def check_pulse(self):
        """Raises RigError if a CPU of L1 gives no sign of life any more."""
        if self.job.options.interactive:
            return
        cpu, heard = self.pulse()
        if time.monotonic() - heard >= self.job.options.stall:
            raise RigError(f"L1 is lost: its CPU {cpu} has given no sign of life for {self.job.options.stall} s",
                           tail(f"{self.job.work}/console"))

    def output(self, port, fd):
        """Carries on what a port has; false at its end."""
        try:
            data = port.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            self.selector.unregister(port)
            return False
        data = self.marks[port].feed(data)
        if not self.up and fd == 1 and self.marks[port].started:
            self.command_begins()
        while data:
            data = data[os.write(fd, data):]
        return True

    def typed(self):
        data = os.read(0, 4096)
        if data:
            self.ports[0].sendall(data)
        else:
            self.selector.unregister(0)
            self.ports[0].sendall(b"\x04")   # a terminal's end of file


def run(job):
    kernel, modules, initrd = asset("kernel-generic", "kernel-generic-modules", "initrd-rig")
    token = new_token()
    write_job(job, token, modules)
    make_scratch(job)
    pairs = [socket.socketpair() for _ in range(1 if job.options.interactive else 2)]
    ports = [ours for ours, _ in pairs]
    fds = [theirs.detach() for _, theirs in pairs]
    with Janitor(job, qemu(job, kernel, initrd, fds), f"{job.work}/qemu", fds) as janitor:
        return Streams(job, token, ports).run(janitor.ended)
