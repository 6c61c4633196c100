"""The command lines of minivmm and its peers: what somebody who knows each would write for a lean machine."""

QEMU = ["qemu-system-x86_64", "-enable-kvm", "-nodefaults", "-no-user-config", "-nographic"]
# No device that a direct boot of Linux with a serial console does not need. But microvm keeps its RTC, which its manual
# leaves out: Debian's kernel looks for one for seconds if there is none. This is the quickest microvm of those tried.
Q35 = "q35,usb=off,vmport=off,smbus=off,sata=off,smm=off,hpet=off"
MICROVM = "microvm,pit=off,pic=off,rtc=on"


def minivmm(vmm, kernel, memory_mib, initrd=None, cmdline="", more=()):
    argv = [vmm, "--kernel", kernel, "--memory", f"{memory_mib}M", "--cmdline", cmdline]
    return argv + (["--initrd", initrd] if initrd else []) + list(more)


def qemu(machine, kernel, memory_mib, initrd=None, cmdline="", cpu="host"):
    argv = [*QEMU, "-M", machine, "-cpu", cpu, "-smp", "1", "-m", f"{memory_mib}M", "-serial", "stdio",
            "-kernel", kernel, "-append", cmdline]
    return argv + (["-initrd", initrd] if initrd else [])
