"""The command lines of minivmm and its peers: what somebody who knows each would write for a lean machine."""

QEMU = ["qemu-system-x86_64", "-enable-kvm", "-nodefaults", "-no-user-config", "-nographic"]
# No device that a direct boot of Linux with a serial console does not need. microvm's are those of its manual, "Running
# a microvm-based VM", which keeps the serial port.
Q35 = "q35,usb=off,vmport=off,smbus=off,sata=off,smm=off,hpet=off"
MICROVM = "microvm,pit=off,pic=off,rtc=off"


def minivmm(vmm, kernel, memory_mib, initrd=None, cmdline="", more=()):
    argv = [vmm, "--kernel", kernel, "--memory", f"{memory_mib}M", "--cmdline", cmdline]
    return argv + (["--initrd", initrd] if initrd else []) + list(more)


def qemu(machine, kernel, memory_mib, initrd=None, cmdline="", cpu="host"):
    argv = [*QEMU, "-M", machine, "-cpu", cpu, "-smp", "1", "-m", f"{memory_mib}M", "-serial", "stdio",
            "-kernel", kernel, "-append", cmdline]
    return argv + (["-initrd", initrd] if initrd else [])
