"""Debian 12 from its root disk, with systemd, on the command line that minivmm makes up."""

import os
import signal
import subprocess

from harness import STEP_S, Vm, check, debian_disk, equal, log_in, long_case, run, shell


@long_case
def debian_boots_to_multi_user_and_powers_off():
    disk = debian_disk()
    with Vm("--disk", disk, memory="512M") as vm:
        log_in(vm)
        equal("systemd's state", shell(vm, "systemctl is-system-running --wait"), "running")
        check("multi-user.target" in shell(vm, "systemctl list-units --type=target --state=active --no-legend"),
              "multi-user.target is not active")
        check("rw" in shell(vm, "findmnt -no OPTIONS /").split(","), "/ is not mounted read-write")
        vm.send("systemctl poweroff\r")
        vm.expect(r"reboot: Power down")
        vm.expect_exit(0)
    run(["/sbin/e2fsck", "-fn", disk])


@long_case
def debian_boots_from_a_gpt_disk_on_2_cpus_and_obeys_the_power_button():
    with Vm("--disk", debian_disk("rootfs-gpt"), "--cpus", "2", "--transport", "mmio", memory="512M") as vm:
        log_in(vm)
        check("root=PARTUUID=" in shell(vm, "cat /proc/cmdline"), "the command line has no root=PARTUUID=")
        equal("the root's device", shell(vm, "findmnt -no SOURCE /"), "/dev/vda1")
        equal("nproc", shell(vm, "nproc"), "2")
        # After ten seconds minivmm loses patience, and Debian's ordered shutdown takes longer where all is emulated: so
        # what logind starts when the button is pressed is replaced by a poweroff without ceremony.
        shell(vm, "cd /run/systemd/system; "
              "printf '[Unit]\\nDefaultDependencies=no\\nRequires=now.service\\n' >poweroff.target; "
              "printf '[Unit]\\nDefaultDependencies=no\\n[Service]\\nType=oneshot\\n"
              "ExecStart=systemctl poweroff -ff\\n' >now.service; cd; systemctl daemon-reload")
        vm.terminate()
        vm.expect(r"reboot: Power down")
        vm.expect_exit(0)


@long_case
def the_disk_of_a_killed_idle_guest_is_clean():
    disk = debian_disk()
    with Vm("--disk", disk, memory="512M") as vm:
        log_in(vm)
        shell(vm, "dd if=/dev/urandom of=/root/kept bs=1M count=16 2>/dev/null; sync")
        wanted = shell(vm, "md5sum </root/kept").split()[0]
        os.kill(vm.process.pid, signal.SIGKILL)
        vm.process.wait(STEP_S)
    # Status 1, "errors corrected", is not accepted: replaying the journal is all that there may be to do.
    run(["/sbin/e2fsck", "-p", disk])
    run(["/sbin/e2fsck", "-fn", disk])
    kept = subprocess.run(["/sbin/debugfs", "-R", "cat /root/kept", disk], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, check=True).stdout
    found = subprocess.run(["md5sum"], input=kept, stdout=subprocess.PIPE, check=True).stdout.split()[0].decode()
    equal("the md5 of a file that was synced", found, wanted)
