"""The machine that a stock kernel finds: kernels, CPUs, transports, memory, addresses, random numbers."""

import hashlib
import os
import re

from harness import Vm, check, empty_disk, equal, case, long_case, long_form, run_script

# What Debian's kernel says at level warn or worse on any VM of this kind, under QEMU as well. Each with its reason.
HARMLESS = [
    r"^Speculative Return Stack Overflow|^Spectre V2|^RETBleed|^MDS:|^TAA:|^MMIO Stale Data|^SRBDS|^GDS:|^SRSO",
    r"[Ss]peculat",                                 # advice about mitigations, which depend on the host's CPU
    r"^ENERGY_PERF_BIAS:",                          # an MSR that no VMM gives
    r"^TSC synchronization|^Measured \d+ cycles TSC warp|^tsc: Marking TSC unstable",   # emulated CPUs drift
    r"^clocksource: (timekeeping )?watchdog",       # L1's vCPUs are preempted for long on a busy machine
    r"^clocksource:.*(skewed|wd_nsec|cs_nsec|wd-tsc)",
    r"^hrtimer: interrupt took",                    # the same
    r"^(rcu|sched): .*(stall|delayed)",             # the same
    r"^random: crng|uninitialized urandom",
    r"^i8042: No controller found",                 # a fact, where there is none
    r"^platform rtc_cmos|^rtc_cmos .*(no alarms|alarms)",
    r"module verification failed|loading out-of-tree module|tainting kernel",
]

# A machine whose devices are virtio-mmio has no PCI, and the kernel says so.
HARMLESS_WITHOUT_PCI = [r"^PCI: (Fatal: No config space access function found|System does not support PCI)"]


def facts(text):
    found = {}
    for line in re.findall(r"^FACT (.*)$", text, re.MULTILINE):
        key, _, value = line.partition(" ")
        found.setdefault(key, []).append(value)
    return found


def warnings(text, harmless):
    return [line for level, line in re.findall(r"^DMESG (\d) (.*)$", text, re.MULTILINE)
            if not any(re.search(pattern, line) for pattern in harmless)]


def boots(kernel, cpus, transport, *options):
    disk = empty_disk("disk.img", 8)
    text = run_script("facts", "--cpus", str(cpus), "--transport", transport, "--disk", f"{disk},serial=e2e-serial",
                      *options, kernel=kernel)
    check("FACTS-END" in text, "the guest's script did not come to its end")
    found = facts(text)
    equal("nproc", found["nproc"], [str(cpus)])
    equal("the disks", [d.split(" driver=")[0] for d in found["disk"]], ["vda sectors=16384 ro=0 serial=e2e-serial"])
    ram = sum(end + 1 - start for start, end in ram_ranges(text))
    check((127 << 20) < ram <= 128 << 20, f"System RAM adds up to {ram} bytes of 128 MiB")
    equal("the clock source", found["clocksource"], ["kvm-clock"])
    check(int(found["year"][0]) >= 2024, f"the guest's clock says {found['year'][0]}")
    harmless = HARMLESS + (HARMLESS_WITHOUT_PCI if transport == "mmio" else [])
    equal("level warn or worse in dmesg", warnings(text, harmless), [])


@case
def bzImage_boots_on_1_cpu_with_virtio_pci():
    boots("kernel", 1, "pci")


@case
def bzImage_boots_on_2_cpus_with_virtio_mmio():
    boots("kernel", 2, "mmio")


@case
def vmlinux_boots_on_1_cpu_with_virtio_mmio():
    boots("vmlinux", 1, "mmio")


@case
def vmlinux_boots_on_2_cpus_with_virtio_pci():
    boots("vmlinux", 2, "pci")


@case
def bzImage_boots_by_its_own_decompressor():
    boots("kernel", 1, "pci", "--kernel-entry", "decompressor")


@case
def vmlinux_boots_at_its_plain_entry_on_the_x86_64_v2_model():
    boots("vmlinux", 1, "pci", "--kernel-entry", "elf", "--cpu", "x86-64-v2")


@case
def eight_cpus_come_up():
    found = facts(run_script("facts", "--cpus", "8", memory="256M"))
    equal("nproc", found["nproc"], ["8"])


def ram_ranges(text):
    return [(int(a, 16), int(b, 16)) for a, b in
            re.findall(r"^IOMEM ([0-9a-f]+)-([0-9a-f]+) : System RAM", text, re.MULTILINE)]


@long_case
def memory_of_6_GiB_works_on_both_sides_of_the_hole():
    four_gib = 4 << 30
    text = run_script("facts", memory="6G")
    ranges = ram_ranges(text)
    total = sum(end + 1 - start for start, end in ranges)
    check((6 << 30) - (2 << 20) < total <= 6 << 30, f"System RAM adds up to {total} bytes: {ranges}")
    high = [r for r in ranges if r[0] >= four_gib]
    equal("the number of ranges above 4 GiB", len(high), 1)
    equal("the start of the memory above 4 GiB", high[0][0], four_gib)
    # To touch samples instead of 6 GiB: keep from the kernel what is above 4 GiB but for the last 256 MiB. It takes
    # those first, so 640 MiB are 256 at the very end and 384 below the hole.
    end = high[0][1] + 1
    text = run_script("memory", extra=[f"memmap={end - four_gib - (256 << 20):#x}${four_gib:#x}", "mv.mib=640"],
                      memory="6G", timeout=600)
    pages = {(when, zone): int(n) for when, zone, n in re.findall(r"^ZONE (\w+) (\w+) (\d+)$", text, re.MULTILINE)}
    for zone in ("DMA32", "Normal"):
        used_mib = (pages["before", zone] - pages["after", zone]) >> 8
        check(used_mib >= 64, f"only {used_mib} MiB of zone {zone} were touched: {pages}")


@case
def the_kernel_is_at_another_address_at_every_boot():
    seen = [facts(run_script("facts"))["text"][0] for _ in range(3)]
    check(len(set(seen)) > 1, f"_text was at {seen[0]} three times")


@case
def nokaslr_keeps_the_kernel_where_it_was_linked():
    equal("_text", facts(run_script("facts", extra=["nokaslr"]))["text"], ["ffffffff81000000"])


@case
def the_guest_has_a_hardware_random_number_generator():
    first, second = (facts(run_script("facts")) for _ in range(2))
    check(first["rng"][0].startswith("virtio_rng"), f"the guest's random number generator is '{first['rng'][0]}'")
    check(re.fullmatch(r"[0-9a-f]{64}", first["random"][0]), f"32 random bytes are '{first['random'][0]}'")
    check(first["random"] != second["random"], "two guests got the same random bytes")


def check_serial_input(size):
    """That many bytes, hexadecimal digits, come to the guest unchanged and in order."""
    # On pipes: on a terminal, what a guest does not take in time is dropped, so that Ctrl-A always works.
    data = os.urandom(size // 2).hex().encode()
    with Vm("--no-reboot", "--append", f"quiet mv.script=serial-input mv.bytes={size}", terminal=False) as vm:
        vm.expect(r"^SERIAL-READY")
        vm.send(data)
        found = vm.expect(r"^SERIAL-MD5 ([0-9a-f]{32})", 900)[1]
        equal("the md5 of what came", found, hashlib.md5(data).hexdigest())
        vm.expect_exit(0)


@case
def serial_input_of_160_KiB_arrives_intact():
    # More than the pipe, the UART, and the guest's tty hold together. In the rig a byte takes 0.1 ms: Linux reads it, and
    # the line status for it, and each is an exit to an emulated hypervisor.
    check_serial_input(160 << 10)


@long_form
def serial_input_of_1_MiB_arrives_intact():
    check_serial_input(1 << 20)
