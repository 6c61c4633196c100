"""Drives a program at the other end of a terminal: wait for text, type text, wait for the end."""

import os
import pty
import re
import select
import signal
import subprocess
import time
import tty


class Failed(Exception):
    """What was expected did not come; the message carries the last lines seen."""


# What a terminal would act upon and not show: systemd colours its messages, agetty clears the line.
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07|\x1b[@-Z\\-_]|[\x00\r]")


class Console:
    """A child process on a terminal of its own (`terminal`), or else on two pipes.

    `text` is all that it has said so far, without escape sequences; expect() goes on from where the last one ended.
    """

    def __init__(self, argv, terminal=True, log=None, errors=None, env=None):
        self.log = open(log, "ab") if log else None
        self.errors = errors
        self.raw = b""
        self.text = ""
        self.seen = 0
        # What goes to the program must come out unchanged: it makes the terminal raw itself, but maybe too late.
        if terminal:
            self.input, theirs = pty.openpty()
            tty.setraw(theirs)
            self.output = self.input
            self.process = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=errors or theirs, env=env,
                                            start_new_session=True)
            os.close(theirs)
        else:
            self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=errors or subprocess.STDOUT, env=env, start_new_session=True)
            self.input = self.process.stdin.fileno()
            self.output = self.process.stdout.fileno()
        self.open = True

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.kill()
        if self.log:
            self.log.close()

    def kill(self):
        """Ends the program the hard way, with all that it started."""
        if self.process.poll() is None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait(120)   # should a kernel not let go of it, this case has failed, and the others go on

    def last_lines(self, count=15):
        return "\n".join(self.text.splitlines()[-count:])

    def _read(self, seconds):
        """Takes what comes within `seconds`; false when nothing came, or when nothing will come any more."""
        if not self.open or not select.select([self.output], [], [], max(0, seconds))[0]:
            return False
        try:
            data = os.read(self.output, 1 << 16)
        except OSError:   # a terminal's way of saying that its other end has closed
            data = b""
        if not data:
            self.open = False
            return False
        if self.log:
            self.log.write(data)
            self.log.flush()
        self.raw += data
        self.text = ESCAPES.sub("", self.raw.decode(errors="replace"))
        return True

    def expect(self, pattern, timeout):
        """Waits for the regular expression `pattern` in what comes from now on, and returns the match."""
        deadline = time.monotonic() + timeout
        regex = re.compile(pattern, re.MULTILINE)
        while True:
            match = regex.search(self.text, self.seen)
            if match:
                self.seen = match.end()
                return match
            left = deadline - time.monotonic()
            if not self._read(min(left, 1)):
                if not self.open:
                    raise Failed(f"ended (status {self.process.wait()}) before '{pattern}' came; "
                                 f"its last lines:\n{self.last_lines()}")
                if left <= 0:
                    raise Failed(f"no '{pattern}' in {timeout} s; the last lines:\n{self.last_lines()}")

    def send(self, text):
        """Types `text`; reads meanwhile, so that neither side can wait for the other for ever."""
        data = text if isinstance(text, bytes) else text.encode()
        while data:
            _, writable, _ = select.select([], [self.input], [], 0)
            if writable:
                data = data[os.write(self.input, data[:512]):]
            else:
                self._read(0.05)

    def wait_exit(self, timeout):
        """The program's exit status (minus the signal's number if one ended it); reads to the end of its output."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            if not self._read(0.1) and not self.open:
                time.sleep(0.02)
            if time.monotonic() > deadline:
                raise Failed(f"has not ended in {timeout} s; the last lines:\n{self.last_lines()}")
        while self._read(0):
            pass
        return self.process.returncode
