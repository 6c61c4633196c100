"""How a machine ends and begins anew: power-off, reset, panic, triple fault, signals."""

from harness import BOOT_S, STEP_S, Vm, case, check

INIT_UP = r"^MINIVMM-INIT-UP"


def comes_back(times, append, *arguments):
    """The same minivmm process sees the guest's init `times` times and once more."""
    with Vm("--append", f"quiet {append}", *arguments) as vm:
        for _ in range(times + 1):
            vm.expect(INIT_UP, BOOT_S)
        check(vm.process.poll() is None, "minivmm has ended")


@case
def power_off_ends_with_0():
    with Vm("--append", "quiet mv.do=poweroff") as vm:
        vm.expect(INIT_UP, BOOT_S)
        vm.expect_exit(0)


@case
def power_off_ends_with_0_on_pipes():
    with Vm("--append", "quiet mv.do=poweroff", terminal=False) as vm:
        vm.expect(INIT_UP, BOOT_S)
        vm.expect_exit(0)


@case
def the_guest_reboots_5_times_in_one_process():
    comes_back(5, "mv.do=reboot")


@case
def two_cpus_survive_a_reboot_on_virtio_mmio():
    comes_back(2, "mv.do=reboot", "--cpus", "2", "--transport", "mmio")


@case
def no_reboot_ends_with_0():
    with Vm("--no-reboot", "--append", "quiet mv.do=reboot") as vm:
        vm.expect(INIT_UP, BOOT_S)
        vm.expect_exit(0)


@case
def a_panic_resets_the_machine():
    comes_back(2, "panic=-1 mv.do=panic")


@case
def a_triple_fault_resets_the_machine():
    comes_back(2, "reboot=t mv.do=reboot")


@case
def a_second_SIGTERM_stops_a_guest_that_ignores_the_power_button():
    with Vm("--append", "quiet mv.do=idle") as vm:
        vm.expect(INIT_UP, BOOT_S)
        vm.terminate()
        try:
            vm.process.wait(3)
        except Exception:
            pass
        check(vm.process.poll() is None, "the first SIGTERM stopped the guest at once; it should press a button")
        vm.terminate()
        vm.wait_exit(5)


@case
def ctrl_a_x_quits():
    with Vm("--append", "quiet mv.do=idle") as vm:
        vm.expect(INIT_UP, BOOT_S)
        vm.send(b"\x01x")
        vm.expect_exit(0, STEP_S)
