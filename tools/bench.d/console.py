"""A VMM as a child process, with the guest's serial console on pipes and the time of what arrives there."""

import glob
import os
import select
import shlex
import subprocess
import time

from common import BenchError


class Guest:
    """Starts `argv`; ends it when the block ends. `began` is when it was executed, in ns of CLOCK_MONOTONIC; with
    `memory`, which watches the memory slots instead, `pid` is its process and ram() where guest memory is in it."""

    def __init__(self, observe, argv, memory=False):
        self.argv = argv
        self.output = b""
        told, tell = os.pipe()
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", f'exec 3>&{tell} {tell}>&-; exec "$@"', "sh", observe,
             "memory" if memory else "exec", *argv],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            pass_fds=[tell])
        os.close(tell)
        self.told = os.fdopen(told)
        words = self.told.readline().split()
        if len(words) != 2:
            self.fail("did not start")
        if memory:
            self.pid = int(words[1])
        else:
            self.began = int(words[1])
            self.pid = self.process.pid
        self.fd = self.process.stdout.fileno()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.told.close()

    def ram(self):
        """The host address ranges [(begin, end)] of the memory slots registered so far."""
        ranges = []
        while select.select([self.told], [], [], 0)[0]:
            words = self.told.readline().split()
            if not words:
                break
            ranges.append((int(words[1]), int(words[1]) + int(words[2])))
        return ranges

    def fail(self, what):
        tail = self.output[-400:].decode(errors="replace").strip()
        where = "".join(f"\n  {line}" for line in self.threads())
        raise BenchError(f"{shlex.join(self.argv)}: {what}; it wrote: {tail or 'nothing'}{where}")

    def threads(self):
        """What each thread is doing: its state, where in the kernel it waits, its CPU time in a fifth of a second."""
        def one(path, name):
            try:
                with open(os.path.join(path, name)) as file:
                    return file.read().strip()
            except OSError:
                return ""

        paths = sorted(glob.glob(f"/proc/{self.process.pid}/task/*"))
        before = [one(path, "schedstat").partition(" ")[0] for path in paths]
        time.sleep(0.2)
        for path, then in zip(paths, before):
            now = one(path, "schedstat").partition(" ")[0]
            spent = (int(now) - int(then)) // 1000 if now and then else 0
            state = one(path, "stat").rpartition(")")[2].split()[:1]
            yield f"{one(path, 'comm')}: {' '.join(state)}, {one(path, 'wchan')}, syscall {one(path, 'syscall')}, {spent} us"

    def read(self, deadline):
        """Whatever comes next, and when."""
        if not select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            self.fail("too slow, or stuck")
        data = os.read(self.fd, 1 << 16)
        now = time.monotonic_ns()
        if not data:
            self.fail("ended")
        self.output += data
        return data, now

    def wait_for(self, mark, seconds):
        """Until `mark` has arrived; returns when, in ns."""
        deadline = time.monotonic() + seconds
        while True:
            _, now = self.read(deadline)
            if mark in self.output:
                return now

    def wait_end(self, seconds):
        """Reads on until the VMM ends; its status."""
        deadline = time.monotonic() + seconds
        while select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            data = os.read(self.fd, 1 << 16)
            if not data:
                return self.process.wait()
            self.output += data
        self.fail("did not end")
