"""What the benchmarks share: where things are, building them, running parts of a benchmark in the rig."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

TOOLS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROOT = os.path.dirname(TOOLS)
HERE = os.path.join(TOOLS, "bench.d")


class BenchError(Exception):
    """A measurement could not be taken; one line that says which and why."""


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def quietly(what, *commands):
    """Runs commands in the project's folder; shows their output only if one fails."""
    for command in commands:
        result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if result.returncode:
            sys.stderr.write(result.stdout)
            raise BenchError(f"{what}: {' '.join(command)} failed")


def asset(*names):
    result = subprocess.run([os.path.join(TOOLS, "assets"), *names], stdout=subprocess.PIPE, text=True)
    if result.returncode:
        raise BenchError("tools/assets could not provide " + " ".join(names))
    return result.stdout.split("\n")[:-1]


class Context:
    """The options, and everything built: minivmm, and the small programs and payloads the measurements need."""

    def __init__(self, options):
        self.options = options
        if options.build:
            self.build = os.path.abspath(options.build)
        else:
            self.build = os.path.join(ROOT, "build/release")
            say("building minivmm (release)")
            quietly("building minivmm", ["cmake", "--preset", "release"], ["cmake", "--build", "--preset", "release"])
        self.vmm = os.path.join(self.build, "minivmm")
        if not os.access(self.vmm, os.X_OK):
            raise BenchError(f"{self.vmm} is not there; is {self.build} a build folder of minivmm?")
        self.tools = os.path.join(ROOT, "build/bench")
        os.makedirs(self.tools, exist_ok=True)
        for name in ("observe", "bare"):
            self.make(name, [f"{name}.c"], ["gcc", "-O2", "-Wall", "-Wextra"])
        link = ["-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none,--no-warn-rwx-segments,-z,noexecstack",
                "-Wl,-T," + os.path.join(HERE, "src/payload.ld")]
        for name in ("idle", "exits"):
            self.make(name, [f"{name}.S"], ["gcc", *link, "-Wa,--defsym,COUNT=2000"])

    def runs(self, default):
        return self.options.runs or default

    def tool(self, name):
        return os.path.join(self.tools, name)

    def make(self, name, sources, command, extra=()):
        """Compiles `sources` to tool(name), unless that is newer than they and what `extra` names."""
        out = self.tool(name)
        sources = [os.path.join(HERE, "src", source) for source in sources]
        inputs = [*sources, *extra, os.path.join(HERE, "src/payload.ld"), os.path.join(HERE, "common.py")]
        if not os.path.exists(out) or any(os.path.getmtime(f) > os.path.getmtime(out) for f in inputs):
            quietly(f"building {name}", [*command, "-o", out, *sources, *extra])

    def make_dispatch(self):
        """The program that replays exits."""
        return self.make_linked("dispatch")

    def make_linked(self, name):
        """A C++ program that is linked with the library that is measured."""
        library = next((path for file in ("libminivmm.a", "libminivmm.so")
                        if os.path.exists(path := os.path.join(self.build, file))), None)
        if library is None:
            raise BenchError(f"no libminivmm in {self.build}")
        flags = subprocess.run(["pkg-config", "--libs", "fmt", "zlib", "libzstd", "liblz4", "liblzma", "liburing"],
                               stdout=subprocess.PIPE, text=True).stdout.split()
        quietly(f"building {name}", ["g++", "-O2", "-g", "-std=c++23", "-Wall", "-Wextra", "-I", ROOT, "-o",
                                      self.tool(name), os.path.join(HERE, f"src/{name}.cpp"), library,
                                      f"-Wl,-rpath,{self.build}", *flags, "-pthread"])
        return self.tool(name)


SILENCE_S = 300   # no single step takes as long
TRIES = 3
RIG_FAILED = 125


def in_rig(context, requests):
    """Runs inside.py's parts [(name, arguments)] in one rig; returns their results by name."""
    for number in range(TRIES):
        folder = tempfile.mkdtemp(prefix="minivmm-bench.")
        try:
            with open(os.path.join(folder, "request.json"), "w") as file:
                json.dump(requests, file)
            say("in the rig: " + ", ".join(name for name, _ in requests))
            status = run_rig(folder)
            if status in (None, RIG_FAILED):
                requests = [(name, {**arguments, **partial(folder, name)}) for name, arguments in requests]
                say("the rig's emulated machine has broken down: once more, in a new one")
                continue
            if status:
                raise BenchError(f"the measurement in the rig failed with status {status}")
            with open(os.path.join(folder, "results.json")) as file:
                return json.load(file)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    raise BenchError(f"the rig's emulated machine broke down {TRIES} times")


def leave_partial(name, results):
    """From inside the rig: what a part has so far, added to its arguments should the rig break down."""
    folder = os.environ.get("RIG_OUT")
    if folder:
        path = os.path.join(folder, f"{name}.partial")
        with open(f"{path}.new", "w") as file:
            json.dump(results, file)
        os.rename(f"{path}.new", path)


def partial(folder, name):
    try:
        with open(os.path.join(folder, f"{name}.partial")) as file:
            return json.load(file)
    except FileNotFoundError:
        return {}


def run_rig(folder):
    """The status of inside.py; None if nothing was heard of it for SILENCE_S (its own time limits are shorter)."""
    rig = subprocess.Popen([os.path.join(TOOLS, "rig"), "--auto", "--memory", "8G", "--timeout", "7200", "--out", folder, "--",
                            "/usr/bin/python3", "-B", os.path.join(HERE, "inside.py"), folder],
                           stdin=subprocess.DEVNULL)
    try:
        heard, last = time.monotonic(), None
        while True:
            try:
                return rig.wait(1)
            except subprocess.TimeoutExpired:
                pass
            # What is written there is seen here at once; see progress().
            sign = sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))
            if sign != last:
                last, heard = sign, time.monotonic()
            if time.monotonic() - heard > SILENCE_S:
                return None
    finally:
        if rig.poll() is None:
            rig.terminate()
            rig.wait()


def progress(text):
    """say(), from inside the rig: also a sign of life."""
    say(text)
    folder = os.environ.get("RIG_OUT")
    if folder:
        with open(os.path.join(folder, "progress"), "a") as file:
            file.write(text + "\n")
