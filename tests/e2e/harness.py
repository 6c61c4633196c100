"""What the e2e cases stand on: the registry of cases, and Vm, a running minivmm that is always ended."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
TOOLS = os.path.join(os.path.dirname(os.path.dirname(HERE)), "tools")
sys.path.insert(0, os.path.join(TOOLS, "rig.d"))

from expect import Console, Failed  # noqa: E402,F401  (the cases take Failed from here)

# Seconds. All is emulated, on a machine that may be busy: a limit is there to end what hangs, not to measure.
BOOT_S = 120       # from start to init in the small initrd
DEBIAN_S = 400     # from start to Debian's login prompt
STEP_S = 120       # one step of a guest that is up

CASES = []
LONG_FORMS = []
_local = threading.local()


class Config:
    """Set once by tests/e2e/run."""

    vmm = None       # the executable
    out = None       # the folder for logs; stays
    scratch = None   # the folder for disks; goes


def case(function):
    """Registers a case; its name as a sentence is the function's name."""
    CASES.append((function.__name__.replace("_", " "), function))
    return function


def long_case(function):
    """The same for one that takes minutes: these start first, so that the others run beside them."""
    CASES.insert(0, (function.__name__.replace("_", " "), function))
    return function


def long_form(function):
    """Registers what only --only chooses: another case at a length that takes many minutes."""
    LONG_FORMS.append((function.__name__.replace("_", " "), function))
    return function


def begin_case(name):
    _local.name = re.sub(r"\W+", "-", name)
    _local.vms = 0
    _local.folder = os.path.join(Config.scratch, _local.name)
    os.makedirs(_local.folder)
    # Cases run beside each other, and their machines from the same files: they shall not know of each other. A short
    # path, for sockets are in there.
    _local.run_folder = tempfile.mkdtemp(prefix="mv-e2e.")


def end_case():
    subprocess.run(["rm", "-rf", _local.folder, _local.run_folder], check=True)


def check(condition, message):
    if not condition:
        raise Failed(message)


def equal(what, found, wanted):
    check(found == wanted, f"{what} is {found!r}, and should be {wanted!r}")


_asset_lock = threading.Lock()
_assets = {}


def asset(name):
    """The path of guest material; it must be in the cache already, for inside the rig there is no network."""
    with _asset_lock:
        if name not in _assets:
            result = subprocess.run([os.path.join(TOOLS, "assets"), "--cached", name], stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE, text=True)
            check(result.returncode == 0, result.stderr.strip())
            _assets[name] = result.stdout.strip()
        return _assets[name]


def scratch(name):
    """A path for a file of this case."""
    return os.path.join(_local.folder, name)


def empty_disk(name, mib):
    path = scratch(name)
    with open(path, "wb") as file:
        file.truncate(mib << 20)
    return path


_unpack_lock = threading.Lock()


def debian_disk(kind="rootfs"):
    """A fresh copy of a Debian disk ("rootfs", "rootfs-gpt", "rootfs-cloud") for this case to write to."""
    master = os.path.join(Config.scratch, kind)
    with _unpack_lock:
        if not os.path.exists(master):
            run(["lz4", "-dfq", asset(f"{kind}-lz4"), master + ".part"])
            os.rename(master + ".part", master)
    path = scratch("debian.img")
    run(["cp", "--sparse=always", master, path])
    return path


def run(argv, timeout=STEP_S):
    """Runs a program that has to succeed; what it says."""
    result = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
    check(result.returncode == 0, f"{' '.join(argv)}: status {result.returncode}: {result.stdout.strip()}")
    return result.stdout


def md5(path):
    return run(["md5sum", path]).split()[0]


class Vm(Console):
    """A minivmm that runs, with its console at our end of a terminal (or of pipes). Use it in a with statement."""

    def __init__(self, *arguments, kernel="kernel", initrd="initrd-small", memory="128M", terminal=True,
                 within=()):
        _local.vms += 1
        stem = os.path.join(Config.out, f"{_local.name}.{_local.vms}")
        self.argv = [*within, Config.vmm, "--memory", memory]   # within: a command that runs a command
        if kernel:
            self.argv += ["--kernel", asset(kernel)]
        if initrd:
            self.argv += ["--initrd", asset(initrd)]
        self.argv += arguments
        self.error_file = stem + ".stderr"
        with open(self.error_file, "wb") as errors:
            super().__init__(self.argv, terminal=terminal, log=stem + ".console", errors=errors,
                             env={**os.environ, "XDG_RUNTIME_DIR": _local.run_folder})

    def stderr(self):
        with open(self.error_file, errors="replace") as file:
            return file.read()

    def expect(self, pattern, timeout=STEP_S):
        try:
            return super().expect(pattern, timeout)
        except Failed as error:
            raise Failed(f"{error}\nstderr: {self.stderr().strip() or '(nothing)'}") from None

    def expect_exit(self, status=0, timeout=STEP_S):
        found = self.wait_exit(timeout)
        check(found == status, f"minivmm ended with status {found}, not {status}; stderr: {self.stderr().strip()}; "
                               f"console:\n{self.last_lines()}")

    def expect_end(self, pattern, timeout=STEP_S):
        """Waits for minivmm's end with status 0 and then finds `pattern` in all that the console said."""
        self.expect_exit(0, timeout)
        match = re.search(pattern, self.text, re.MULTILINE)
        check(match, f"no '{pattern}' on the console; its last lines:\n{self.last_lines()}")
        return match

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)


def script(name, *extra):
    """The --append for a run of tests/e2e/guest/NAME.sh."""
    return ["--append", " ".join(["quiet", "panic=-1", f"mv.script={name}", *extra])]


def run_script(name, *arguments, extra=(), timeout=BOOT_S + STEP_S, **keywords):
    """Boots, runs the guest script, which has to succeed, and returns what the console said."""
    with Vm("--no-reboot", *script(name, *extra), *arguments, **keywords) as vm:
        match = vm.expect_end(r"^MINIVMM-SCRIPT-RC (\d+)", timeout)
        check(match[1] == "0", f"{name} failed in the guest:\n{vm.last_lines()}")
        return vm.text


def log_in(vm, boot_timeout=DEBIAN_S):
    """Waits for Debian's login prompt, and logs in."""
    vm.expect(r"^debian login: ", boot_timeout)
    vm.send("root\r")
    vm.expect(r"root@debian:~# ")


def shell(vm, command, prompt=r"root@debian:~# ", timeout=STEP_S):
    """What a command says in a Debian guest that log_in has let us into."""
    # BE%s: the echo of what is typed shall not be taken for the answer.
    vm.send(f"printf 'BE%s\\n' GIN; {command}; printf 'EN%s %s\\n' D $?\r")
    match = vm.expect(r"^BEGIN\n(?P<text>(?:.*\n)*?)(?P<last>.*)END (?P<status>\d+)\n", timeout)
    vm.expect(prompt)
    check(match["status"] == "0", f"'{command}' failed in the guest: {match['text']}")
    return (match["text"] + match["last"]).strip()
