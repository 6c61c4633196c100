"""Who the machine is, and what it makes of itself at its first boot: SMBIOS, systemd's credentials, cloud-init."""

import json
import os
import re
import subprocess
import time

from harness import (BOOT_S, STEP_S, Failed, Vm, case, check, debian_disk, equal, log_in, long_case, md5, run,
                     run_script, scratch, script, shell)
from net_host import LAN, LOOPBACK, OF_THE_HOST, WEB, HostNetwork

UUID = "7130c94a-213a-4e5a-8e26-6cce9662f132"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJd2dO2vYkK4gI1XvV3V0wN0iJ3kq0J5xkq1m2e4r6tY test"
# Four runs of Python before the login prompt, each of them under emulation.
CLOUD_S = 900
USER_DATA = """\
#cloud-config
users:
  - default
  - name: ann
    shell: /bin/bash
    lock_passwd: false
    plain_text_passwd: sesame
write_files:
  - path: /etc/written
    content: as asked
runcmd:
  - [touch, /run/was-run]
"""


def written(name, data):
    path = scratch(name)
    with open(path, "wb") as file:
        file.write(data)
    return path


def dmi_of(*arguments, **keywords):
    text = run_script("identity", "--uuid", UUID, "--serial-number", "SN 1", "--oem-string", "OEM=one",
                      "--oem-string", "OEM=two words", *arguments, **keywords)
    equal("the type 11 strings", re.findall(r"^OEM (.*)$", text, re.MULTILINE), ["one", "two words"])
    return dict(re.findall(r"^DMI (\S+) (.*)$", text, re.MULTILINE))


WANTED_DMI = {"sys_vendor": "minivmm", "product_name": "minivmm", "product_uuid": UUID, "product_serial": "SN 1",
              "chassis_type": "1", "bios_vendor": "minivmm"}


@case
def the_guest_finds_its_smbios_tables():
    equal("what Linux read", dmi_of(), WANTED_DMI)


@case
def a_guest_entered_by_pvh_finds_its_smbios_tables():
    equal("what Linux read", dmi_of("--transport", "mmio", kernel="vmlinux"), WANTED_DMI)


def tell_uuid():
    """The UUID of a machine without a name, and what minivmm says."""
    with Vm("--no-reboot", *script("identity")) as vm:
        return vm.expect_end(r"^DMI product_uuid (\S+)$", BOOT_S + STEP_S)[1], vm.stderr()


@case
def machines_that_run_from_one_kernel_have_identities_of_their_own():
    with Vm("--append", "quiet mv.do=idle") as first:
        first.expect(r"^MINIVMM-INIT-UP", BOOT_S)
        second, said = tell_uuid()
    # The first one was killed, and leaves its place.
    alone, quiet = tell_uuid()
    check(second != alone, f"both have the UUID {alone}")
    check("--name" in said and said.count("\n") == 1, f"minivmm says beside another machine: {said}")
    check("--name" not in quiet, f"minivmm says when it is alone: {quiet}")


@long_case
def debian_tells_its_identity_by_dmidecode_and_systemd_takes_its_credentials():
    blob = written("blob", bytes(range(256)))
    with Vm("--disk", debian_disk("rootfs-cloud"), "--name", "web", "--uuid", UUID, "--serial-number", "SN-1",
            "--oem-string", "an OEM string", "--set-credential", "greeting:hello: you", "--load-credential",
            f"blob:{blob}", "--append", "cloud-init=disabled", memory="512M") as vm:
        log_in(vm)
        # dmidecode writes its complaints between the tables, as comments and in angle brackets.
        said = shell(vm, "dmidecode 2>&1")
        check(not re.search(r"TRUNCATED|Wrong|OUT OF SPEC|BAD INDEX|[Ii]nvalid|broken|fail", said),
              f"dmidecode complains: {said}")
        for wanted in ("SMBIOS 3.0.0 present.", f"UUID: {UUID}", "Serial Number: SN-1", "String 1: an OEM string",
                       "System is a virtual machine", "Size: 512 MB"):
            check(wanted in said, f"dmidecode does not tell '{wanted}': {said}")
        equal("the platform", shell(vm, "systemd-detect-virt"), "kvm")
        # The image has none, as is the custom, and systemd takes the machine's UUID under KVM.
        equal("the machine id", shell(vm, "cat /etc/machine-id"), UUID.replace("-", ""))
        listed = shell(vm, "systemd-creds --system list --no-legend --no-pager | cat")
        for name in ("greeting", "blob", "system.hostname"):
            check(re.search(rf"^{re.escape(name)}\s", listed, re.MULTILINE), f"there is no credential {name}: {listed}")
        equal("the credential", shell(vm, "systemd-creds --system cat greeting"), "hello: you")
        equal("the binary credential", shell(vm, "systemd-creds --system cat blob | md5sum").split()[0], md5(blob))


@long_case
def cloud_init_makes_the_users_and_sets_the_host_name():
    user_data = written("user-data", USER_DATA.encode())
    network = written("network-config", b"config: disabled\n")
    key = written("key.pub", KEY.encode() + b"\n")
    with Vm("--disk", debian_disk("rootfs-cloud"), "--name", "web", "--uuid", UUID, "--cloud-init",
            f"{user_data},network-config={network}", "--ssh-key", key, memory="512M") as vm:
        vm.expect(r"^web login: ", CLOUD_S)
        vm.send("ann\r")
        vm.expect(r"^Password: ")
        vm.send("sesame\r")
        vm.expect(r"ann@web:~\$ ")
        vm.send("su -\r")     # root has no password here
        vm.expect(r"root@web:~# ")

        def root(command, timeout=STEP_S):
            return shell(vm, command, prompt=r"root@web:~# ", timeout=timeout)

        equal("cloud-init's status", root("cloud-init status --wait", CLOUD_S).split()[-1], "done")
        result = json.loads(root("cat /run/cloud-init/result.json"))["v1"]
        equal("cloud-init's errors", result["errors"], [])
        check(result["datasource"].startswith("DataSourceNoCloud [seed=/dev/vdb]"), result["datasource"])
        equal("the instance id", root("cat /var/lib/cloud/data/instance-id"), UUID)
        equal("the host name", root("cat /etc/hostname"), "web")
        check(KEY in root("cat /home/debian/.ssh/authorized_keys"), "the default user has no key")
        equal("what was written", root("cat /etc/written"), "as asked")
        root("test -e /run/was-run")
        check("disabled" in root("grep -o 'network config is disabled[^.]*\\|config disabled by ds' "
                                 "/var/log/cloud-init.log | sort -u"), "the network config was not looked at")
        equal("the root's device", root("findmnt -no SOURCE /"), "/dev/vda")
        equal("whether the seed is read-only", root("cat /sys/block/vdb/ro"), "1")
        root("mount -o ro /dev/disk/by-label/cidata /mnt")
        equal("the user-data on the seed", root("md5sum </mnt/user-data").split()[0], md5(user_data))
        equal("who can read the seed", root("stat -c %a /mnt/user-data"), "400")


class Ssh:
    """The default user of a Debian guest, by SSH with a key that was made for it."""

    def __init__(self, vm, host, key):
        self.vm = vm
        self.command = [*host.within, "dbclient", "-i", key, "-y", "-y", "-T", "-p", "2222", f"debian@{LOOPBACK}"]

    def try_once(self, command, timeout=STEP_S):
        return subprocess.run([*self.command, command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=timeout)

    def __call__(self, command, timeout=STEP_S):
        result = self.try_once(command, timeout)
        check(result.returncode == 0, f"'{command}' by SSH: status {result.returncode}: {result.stderr.strip()}; the "
                                      f"console:\n{self.vm.last_lines()}")
        return result.stdout.strip()

    def wait(self):
        """Until the guest lets us in. The port is open from the start; who comes too early is sent away."""
        deadline = time.monotonic() + CLOUD_S
        while True:
            try:
                result = self.try_once("true")
                if result.returncode == 0:
                    return
                said = result.stderr.strip()
            except subprocess.TimeoutExpired:
                said = "no answer"
            check(time.monotonic() < deadline, f"no SSH: {said}; the console:\n{self.vm.last_lines(40)}")
            try:   # a second for the guest, unless minivmm has ended
                self.vm.process.wait(1)
            except subprocess.TimeoutExpired:
                continue
            raise Failed(f"minivmm has ended: {self.vm.stderr().strip()}")


@long_case
def a_debian_image_given_only_an_ssh_key_lets_its_owner_in():
    key = scratch("id")
    public = re.search(r"^ssh-ed25519 \S+", run(["dropbearkey", "-t", "ed25519", "-f", key]), re.MULTILINE)[0]
    public_file = written("id.pub", public.encode() + b" somebody\n")
    with HostNetwork(scratch("")) as host:
        with Vm("--disk", debian_disk("rootfs-cloud"), "--name", "web", "--ssh-key", public_file, "-p", "2222:22",
                memory="512M", within=host.within) as vm:
            vm.expect(r"^web login: ", CLOUD_S)
            ssh = Ssh(vm, host, key)
            ssh.wait()
            equal("who is logged in, and where", ssh("id -un; uname -n").split(), ["debian", "web"])
            equal("cloud-init's status", ssh("cloud-init status --wait", CLOUD_S).split()[-1], "done")
            equal("cloud-init's errors", json.loads(ssh("cat /run/cloud-init/result.json"))["v1"]["errors"], [])
            check(public in ssh("cat .ssh/authorized_keys"), "the key is not where sshd looks for it")
            # The image has more of them, of its own: these are cloud-init's.
            equal("the host's keys", ssh("ls /etc/ssh/ssh_host_*_key"), "/etc/ssh/ssh_host_ed25519_key")
            check(ssh("cat /etc/ssh/ssh_host_ed25519_key.pub").endswith(" root@web"), "the host's key is another's")

            # systemd-networkd has the lease, by the configuration that cloud-init made up.
            card = ssh("basename /sys/class/net/e*")
            equal("the network's configuration", ssh("ls /etc/systemd/network"), f"10-cloud-init-{card}.network")
            addresses = ssh(f"ip -4 -br addr show dev {card}").split()
            equal("the guest's address", addresses[2].split("/")[0], "10.0.2.15")
            check(re.search(r"^default via 10\.0\.2\.2 .*proto dhcp", ssh("ip -4 route"), re.MULTILINE),
                  "there is no default route by DHCP")
            check("10.0.2.3" in ssh("grep ^DNS= /run/systemd/netif/state"), "DHCP told of no name server")
            ask = f"exec 3<>/dev/tcp/{LAN}/{WEB}; printf 'GET /answer HTTP/1.0\\r\\n\\r\\n' >&3; tail -n 1 <&3"
            equal("what a service of the LAN says", ssh(f"bash -c \"{ask}\""), OF_THE_HOST)
            check(("tcp", LAN) in host.seen(), f"nobody came to {LAN}")
            equal("what minivmm says on stderr", vm.stderr().strip(), "")
