"""What the rigs share: the job (where things are, what to run), the marks in the output, the janitor."""

import os
import secrets
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time

TOOLS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class RigError(Exception):
    """The rig itself failed; `log` is what to show of the machine's own words."""

    def __init__(self, message, log=""):
        super().__init__(message)
        self.log = log


class Interrupted(Exception):
    """A signal asks us to end."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number


def asset(*names):
    """Paths of guest material, built if need be."""
    result = subprocess.run([os.path.join(TOOLS, "assets"), *names], stdout=subprocess.PIPE, text=True)
    if result.returncode:
        raise RigError("tools/assets could not provide " + " ".join(names))
    return result.stdout.split("\n")[:-1]


def tail(path, lines=20):
    try:
        with open(path, errors="replace") as file:
            return "".join(line.rstrip() + "\n" for line in file.read().splitlines()[-lines:])
    except OSError:
        return ""


class Job:
    """One run: its options, its output folder, and a work folder that goes when it ends."""

    def __init__(self, options):
        self.options = options
        self.deadline = time.monotonic() + options.timeout if options.timeout else None
        self.given_out = options.out is not None
        self.work = None
        self.out = None

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self.interrupt)
        if self.given_out:
            os.makedirs(self.options.out, exist_ok=True)
            self.out = os.path.realpath(self.options.out)
        else:
            self.out = os.path.realpath(tempfile.mkdtemp(prefix="minivmm-rig-out."))
        self.work = os.path.realpath(tempfile.mkdtemp(prefix="minivmm-rig."))
        return self

    def __exit__(self, kind, error, trace):
        shutil.rmtree(self.work, ignore_errors=True)
        self.drop_empty_out()
        if not self.given_out and os.path.exists(self.out):
            print(f"rig: what the command put into $RIG_OUT is in {self.out}", file=sys.stderr)

    def drop_empty_out(self):
        if not self.given_out:
            try:
                os.rmdir(self.out)
            except OSError:
                pass   # it is not empty, or has gone already

    @staticmethod
    def interrupt(number, frame):
        for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(other, signal.SIG_IGN)   # once is enough: nothing may disturb the clean-up
        raise Interrupted(number)

    def remaining(self):
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def environment(self, kind, scratch):
        """What COMMAND finds in its environment, in every rig."""
        env = dict(os.environ)
        env.update(RIG=kind, RIG_OUT=self.out, RIG_SCRATCH=scratch)
        have = env.get("PATH", "").split(":")
        env["PATH"] = ":".join(have + [d for d in ("/usr/sbin", "/usr/bin", "/sbin", "/bin") if d not in have])
        return env

    def command_script(self, kind, scratch):
        """A shell script that becomes COMMAND, in the caller's directory with the caller's environment."""
        lines = [f"export {name}={shlex.quote(value)}" for name, value in self.environment(kind, scratch).items()
                 if name.isidentifier() and name not in ("PWD", "OLDPWD", "SHLVL", "_")]
        lines.append(f"cd {shlex.quote(os.getcwd())} || exit 125")
        lines.append("exec " + shlex.join(self.options.command))
        return "\n".join(lines) + "\n"


class Marks:
    """Takes the token's marks out of a stream: TOKEN+ (all before it is noise), TOKEN.NNN (CPU NNN lives) and TOKEN=NNN
    (the end, and a status).

    Text is let through as it comes, except for a tail that may turn out to be the beginning of a mark.
    """

    def __init__(self, token, started):
        self.token = token.encode()
        self.pending = b""
        self.started = started
        self.status = None
        self.beats = {}   # the number of a CPU: when it last gave a sign of life

    def feed(self, data):
        """The bytes of the command's output that have become known for sure by `data`."""
        self.pending += data
        if not self.started:
            at = self.pending.find(self.token + b"+")
            if at < 0:
                return b""
            self.pending = self.pending[at + len(self.token) + 1:]
            self.started = True
        text = b""
        while self.status is None and (at := self.pending.find(self.token)) >= 0:
            text, self.pending = text + self.pending[:at], self.pending[at:]
            end = len(self.token) + 4
            if len(self.pending) < end:
                return text
            kind, number = self.pending[end - 4:end - 3], int(self.pending[end - 3:end])
            self.pending = self.pending[end:]
            if kind == b"=":
                self.status = number
            else:
                self.beats[number] = time.monotonic()
        if self.status is not None:
            return text
        # The longest tail that is a beginning of a mark stays back.
        keep = next((n for n in range(min(len(self.token), len(self.pending)), 0, -1)
                     if self.token.startswith(self.pending[-n:])), 0)
        end = len(self.pending) - keep
        text, self.pending = text + self.pending[:end], self.pending[end:]
        return text


def new_token():
    return "rig" + secrets.token_hex(12)


class Janitor:
    """A child process that owns the emulator and the work folder, so that both go however we die.

    It holds the read end of a pipe whose write end is ours alone: end of file there means that we are done, or dead.
    It is in a session of its own, where a Ctrl-C in our terminal does not reach it.
    """

    def __init__(self, job, argv, log, pass_fds=(), stdio=None):
        """Starts `argv` with `pass_fds` (closed here), on the file descriptor `stdio`, or else with its output in
        the file `log`. `self.ended` becomes readable (end of file) when the emulator has ended."""
        alive, self.alive = os.pipe()
        self.ended, ended = os.pipe()
        self.pid = os.fork()
        if self.pid:
            for fd in (alive, ended, *pass_fds, *([] if stdio is None else [stdio])):
                os.close(fd)
            return
        try:
            self._serve(job, argv, log, pass_fds, stdio, alive, ended)
        finally:
            os._exit(0)

    def _serve(self, job, argv, log, pass_fds, stdio, alive, ended):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.setsid()
        os.close(self.alive)
        os.close(self.ended)
        terminal = termios.tcgetattr(0) if job.options.interactive and os.isatty(0) else None
        try:
            with open(log, "wb") as sink:
                out = sink if stdio is None else stdio
                child = subprocess.Popen(argv, stdin=subprocess.DEVNULL if stdio is None else stdio, stdout=out,
                                         stderr=out, pass_fds=pass_fds, start_new_session=True)
            # Theirs alone now: the end of the emulator is an end of file on their other ends.
            for fd in pass_fds:
                os.close(fd)
            select.select([alive, os.pidfd_open(child.pid)], [], [])
            os.close(ended)
            select.select([alive], [], [])   # the logs must stay until the front end has read them
            child.kill()
            child.wait()
        finally:
            if terminal is not None:
                termios.tcsetattr(0, termios.TCSANOW, terminal)
            shutil.rmtree(job.work, ignore_errors=True)
            job.drop_empty_out()

    def close(self):
        """Ends the emulator; when this returns, nothing of it is left."""
        os.close(self.alive)
        os.waitpid(self.pid, 0)
        os.close(self.ended)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.close()
