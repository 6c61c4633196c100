"""tools/rig: run a command where /dev/kvm is real. This file: the command line, and which rig to use."""

import argparse
import re
import sys
import textwrap

import amd
import direct
import intel
from common import Interrupted, Job, RigError

HELP = """\
Runs COMMAND on a machine whose /dev/kvm is Linux's real kvm_amd, even if this one has no virtualization hardware:
QEMU emulates an AMD CPU with SVM, Debian's stock kernel boots on it (that is L1), and COMMAND runs there on this
machine's own file system. Everything is emulated: take ratios from it, never absolute times. The CPU has no XSAVE,
and so no AVX (this emulation of it under SVM is wrong): a guest of the x86-64-v3 model cannot run there.

What COMMAND finds:
  its files      this machine's whole file system, at the same paths; what it writes there is forgotten at the end
                 (and lives in L1's memory: put what is big into $RIG_SCRATCH)
  its place      the caller's current directory and environment; it is root
  $RIG_OUT       a folder that stays: --out DIR, or else a new one in the temporary folder, whose name is printed at
                 the end if anything was put there (an empty one is removed)
  $RIG_SCRATCH   an empty ext4 file system (--disk SIZE)
  $RIG           amd, intel or direct
  its input      /dev/null; with --interactive a terminal that is the caller's
  its output     the caller's standard output and standard error, as it comes

Exit status: COMMAND's own. 124: the time limit was reached. 125: the rig itself failed, and says why.
126, 127: COMMAND could not be run, or was not found. 128+N: signal N ended the rig.

Examples:
  tools/rig -- build/release/minivmm doctor
  tools/rig --memory 8192 --timeout 1800 --out /tmp/results -- tests/e2e/run
  tools/rig --interactive -- bash
  tools/rig --cpu intel -- build/release/minivmm --kernel bzImage ...
"""

INTEL_HELP = """\
--cpu intel: Bochs emulates an Intel CPU with VMX and EPT; Debian's cloud kernel runs kvm_intel on it. Bochs is slow
and has no shared file system: there is one vCPU, busybox, COMMAND's own executable and what --file names, each
with the libraries it needs, at its own path. Standard output and error come merged. Nothing returns from $RIG_OUT.
Bochs's clock counts instructions, so times measured inside repeat exactly.
"""


def size_mib(text):
    """'4096', '8G' or '512M' in MiB."""
    match = re.fullmatch(r"(\d+)([MGT]?)", text, re.IGNORECASE)
    if not match or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size such as 4096, 512M or 8G (plain numbers are MiB)")
    return int(match[1]) << {"": 0, "M": 0, "G": 10, "T": 20}[match[2].upper()]


def count(text):
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return int(text)


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="tools/rig", usage="tools/rig [options] -- COMMAND [ARG...]", description=HELP,
        epilog=INTEL_HELP, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--memory", type=size_mib, default=4096, metavar="M", help="L1's memory in MiB, or as 8G (default 4096)")
    add("--cpus", type=count, default=2, metavar="N", help="L1's CPUs (default 2; always 1 with --cpu intel)")
    add("--timeout", type=count, metavar="S",
        help="time limit for all of it in seconds (default 900; none with --interactive)")
    add("--stall", type=count, default=120, metavar="S",
        help="give up (status 125) when a CPU of L1 has given no sign of life for S seconds (default 120); only for "
             "the emulated AMD CPU, without --interactive")
    add("--out", metavar="DIR", help="the folder that is $RIG_OUT; made if it is not there")
    add("--disk", type=size_mib, default=8192, metavar="SIZE", help="size of $RIG_SCRATCH (default 8G; it is sparse)")
    add("--interactive", action="store_true", help="connect COMMAND to this terminal")
    add("--auto", action="store_true",
        help="run COMMAND directly if this machine's /dev/kvm has VMX or SVM hardware behind it")
    add("--cpu", choices=["amd", "intel"], default="amd", help="whose CPU to emulate (default amd)")
    add("--file", action="append", default=[], metavar="F", help="--cpu intel: a file to take along; repeatable")
    add("--verbose", action="store_true", help="say how long L1 took to come up")
    add("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not options.command:
        parser.error("no COMMAND")   # status 2
    if options.timeout is None and not options.interactive:
        options.timeout = 900
    return options


def main():
    options = parse(sys.argv[1:])
    try:
        if options.auto and direct.possible():
            rig = direct
        else:
            rig = intel if options.cpu == "intel" else amd
        with Job(options) as job:
            return rig.run(job)
    except Interrupted as signal:
        return 128 + signal.number
    except TimeoutError as error:
        print(f"rig: {error}", file=sys.stderr)
        return 124
    except (RigError, OSError) as error:
        print(f"rig: {error}", file=sys.stderr)
        sys.stderr.write(textwrap.indent(getattr(error, "log", ""), "  | "))
        return 125


sys.exit(main())
