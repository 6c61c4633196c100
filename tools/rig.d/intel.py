"""The rig on kvm_intel: Bochs emulates an Intel CPU with VMX and EPT; L1 is Debian's cloud kernel and an initramfs."""

import os
import re
import select
import shutil
import subprocess
import sys
import time

from common import TOOLS, Janitor, Marks, RigError, asset, new_token, tail

# ips: how many instructions Bochs takes for a second. A fast-moving clock makes the guest's timeouts come too early.
BOCHSRC = """\
plugin_ctrl: unmapped=1, biosdev=1, speaker=0, extfpuirq=1, parallel=1, serial=1
config_interface: textconfig
display_library: term
megs: {memory}
romimage: file="/usr/share/bochs/BIOS-bochs-latest", address=0x0
vgaromimage: file="/usr/share/vgabios/vgabios.bin"
boot: cdrom
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path="{work}/l1.iso", status=inserted
cpu: model=corei7_skylake_x, count=1, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=1
clock: sync=none, time0=local
com1: enabled=1, mode=file, dev={work}/serial
log: {work}/bochs.log
panic: action=fatal
error: action=report
info: action=ignore
debug: action=ignore
"""

GRUB = """\
set timeout=0
menuentry L1 {
  linux /boot/vmlinuz console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check
  initrd /boot/initrd
}
"""

# The status goes out by the same wire as the output, as a mark; see Marks.
INIT = """\
#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts; mount -t tmpfs tmpfs /dev/shm
ln -s /proc/self/fd /dev/fd
stty -opost
for module in irqbypass kvm kvm-intel; do insmod /modules/$module.ko; done
ip link set lo up
printf '{token}+'
sh /command </dev/null
printf '{token}=%03d' $?
sleep 1000   # the host ends us when it has seen the mark
"""


def libraries(path):
    """What the dynamic linker would load for an executable; nothing for a static one or a script."""
    result = subprocess.run(["ldd", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return re.findall(r"(/\S+) \(0x", result.stdout) if result.returncode == 0 else []


def make_root(job, modules, token):
    """The initramfs's folder: busybox, kvm_intel, and the files taken along."""
    root = os.path.join(job.work, "root")
    for name in ("bin", "proc", "sys", "dev", "tmp", "modules"):
        os.makedirs(os.path.join(root, name))

    def place(source, path):
        target = root + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy(source, target)

    place("/bin/busybox", "/bin/busybox")
    for applet in subprocess.run(["/bin/busybox", "--list"], stdout=subprocess.PIPE, text=True).stdout.split():
        if applet != "busybox":
            os.symlink("busybox", f"{root}/bin/{applet}")
    with open(os.path.join(modules, "version")) as file:
        kernel = os.path.join(modules, "lib/modules", file.read().strip(), "kernel")
    for module in ("virt/lib/irqbypass", "arch/x86/kvm/kvm", "arch/x86/kvm/kvm-intel"):
        place(f"{kernel}/{module}.ko", f"/modules/{os.path.basename(module)}.ko")

    files = list(job.options.file)
    program = job.options.command[0]
    if "/" in program and os.path.isfile(program):   # else it is one of busybox's
        files.append(program)
    for name in files:
        if not os.path.isfile(name):
            raise RigError(f"--file {name}: there is no such file")
        path = os.path.abspath(name)
        place(path, path)
        for library in libraries(path):
            place(library, library)

    for folder in (os.getcwd(), job.out, "/scratch"):
        os.makedirs(root + folder, exist_ok=True)
    for path, text in {"/command": job.command_script("intel", "/scratch").replace("export PATH=", "export PATH=/bin:"),
                       "/init": INIT.replace("{token}", token)}.items():
        with open(root + path, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        os.chmod(root + path, 0o755)
    return root


def make_iso(job, kernel, root):
    boot = os.path.join(job.work, "iso/boot")
    os.makedirs(os.path.join(boot, "grub"))
    shutil.copy(kernel, os.path.join(boot, "vmlinuz"))
    with open(os.path.join(boot, "grub/grub.cfg"), "w") as file:
        file.write(GRUB)
    with open(os.path.join(boot, "initrd"), "wb") as file:
        subprocess.run(["sh", "-c", "find . | cpio -o -H newc -R 0:0 --quiet | lz4 -l -9 -q"], cwd=root, stdout=file,
                       check=True)
    made = subprocess.run(["grub-mkrescue", "-o", f"{job.work}/l1.iso", f"{job.work}/iso"], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    if made.returncode:
        raise RigError("grub-mkrescue could not make L1's disk", made.stdout)


def run(job):
    if job.options.interactive:
        raise RigError("--cpu intel has no --interactive: its one wire goes outward")
    if subprocess.run([os.path.join(TOOLS, "deps"), "intel"]).returncode:
        raise RigError("tools/deps could not install what --cpu intel needs")
    kernel, modules = asset("kernel", "kernel-modules")
    token = new_token()
    make_iso(job, kernel, make_root(job, modules, token))
    for name, text in {"bochsrc": BOCHSRC.format(memory=min(job.options.memory, 2048), work=job.work),
                       "commands": "c\n",   # the debugger's "continue", should this Bochs have one
                       "serial": ""}.items():
        with open(os.path.join(job.work, name), "w") as file:
            file.write(text)
    # Bochs draws its screen on a terminal; this one nobody looks at.
    screen, theirs = os.openpty()
    os.environ["TERM"] = "xterm"
    argv = ["bochs", "-q", "-f", f"{job.work}/bochsrc", "-rc", f"{job.work}/commands"]
    with Janitor(job, argv, f"{job.work}/bochs", stdio=theirs) as janitor:
        return follow(job, Marks(token, started=False), screen, janitor.ended)


def follow(job, marks, screen, ended):
    """Carries what L1 writes to our standard output, until it says the command's status."""
    began = time.monotonic()
    up = False
    with open(f"{job.work}/serial", "rb", buffering=0) as serial:
        while True:
            # A file cannot be waited for: look twenty times a second, and keep the screen's terminal from filling up.
            over = ended in select.select([ended], [], [], 0.05)[0]
            while select.select([screen], [], [], 0)[0]:
                try:
                    os.read(screen, 65536)
                except OSError:   # how a terminal says that its other end has closed
                    break
            while data := serial.read(65536):
                data = marks.feed(data)
                while data:
                    data = data[os.write(1, data):]
            if marks.started and not up:
                up = True
                if job.options.verbose:
                    print(f"rig: L1 up after {time.monotonic() - began:.1f} s", file=sys.stderr)
            if marks.status is not None:
                return marks.status
            if over:
                raise RigError("L1 ended before the command did", tail(f"{job.work}/serial") +
                               tail(f"{job.work}/bochs.log", 5))
            if job.remaining() == 0:
                raise TimeoutError(f"time limit of {job.options.timeout} s reached" +
                                   ("" if up else " before L1 was up"))
