"""No rig at all: this machine's own /dev/kvm, under the same contract (tools/rig --auto)."""

import os
import re
import signal
import subprocess
import tempfile

from common import Interrupted


def possible():
    """Whether /dev/kvm is there, ours to use, and has hardware behind it."""
    with open("/proc/cpuinfo") as file:
        hardware = re.search(r"^flags\s*:.*\b(vmx|svm)\b", file.read(), re.MULTILINE)
    return bool(hardware) and os.access("/dev/kvm", os.R_OK | os.W_OK)


def run(job):
    interactive = job.options.interactive
    with tempfile.TemporaryDirectory(prefix="scratch.", dir=job.work) as scratch:
        try:
            # A session of its own, so that all of it can be ended; but one that is typed at needs our terminal.
            child = subprocess.Popen(job.options.command, env=job.environment("direct", scratch),
                                     stdin=None if interactive else subprocess.DEVNULL,
                                     start_new_session=not interactive)
        except OSError as error:
            print(f"{job.options.command[0]}: {error.strerror}", flush=True)
            return 127 if isinstance(error, FileNotFoundError) else 126

        def end(number):
            if interactive:
                child.send_signal(number)
            else:
                os.killpg(child.pid, number)

        try:
            status = child.wait(job.remaining())
        except subprocess.TimeoutExpired:
            end(signal.SIGKILL)
            child.wait()
            raise TimeoutError(f"time limit of {job.options.timeout} s reached") from None
        except Interrupted:
            end(signal.SIGTERM)
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                end(signal.SIGKILL)
                child.wait()
            raise
        return 128 - status if status < 0 else status
