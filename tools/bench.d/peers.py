"""The command lines of minivmm and its peers: what somebody who knows each would write for a lean machine."""

QEMU = ["qemu-system-x86_64", "-enable-kvm", "-nodefaults", "-no-user-config", "-nographic"]
# No device that a direct boot of Linux with a serial console does not need.
Q35 = "q35,usb=off,vmport=off,smbus=off,sata=off,smm=off,hpet=off"
# The quickest microvm that was found. Its manual ("microvm", "Running a microvm-based VM") goes without the RTC, which
# is off by default under KVM; but Debian's kernel waits for one for seconds where there is none.
MICROVM = "microvm,pit=off,pic=off,rtc=on"
MICROVM_OF_THE_MANUAL = "microvm,x-option-roms=off,pit=off,pic=off,rtc=off"


def minivmm(vmm, kernel, memory_mib, initrd=None, cmdline="", more=()):
    argv = [vmm, "--kernel", kernel, "--memory", f"{memory_mib}M", "--cmdline", cmdline]
    if "--net" not in more:
        argv += ["--net", "none"]   # as the peers, which make no card either unless told to
    return argv + (["--initrd", initrd] if initrd else []) + list(more)


def qemu(machine, kernel, memory_mib, initrd=None, cmdline="", cpu="host"):
    argv = [*QEMU, "-M", machine, "-cpu", cpu, "-smp", "1", "-m", f"{memory_mib}M", "-serial", "stdio",
            "-kernel", kernel, "-append", cmdline]
    return argv + (["-initrd", initrd] if initrd else [])
