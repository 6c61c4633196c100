"""tools/bench: the command line; builds what is measured, measures, prints."""

import argparse
import json
import os
import sys

import blk
import boot
import disk
import exits
import instructions
import memory
import net
import start
from common import BenchError, Context, in_rig
from report import Report

HELP = """\
Measures minivmm beside its peers, all in the same run on the same machine, and prints tables with the limits that the
project holds itself to. docs/benchmarks.md tells how each figure is taken and what it cannot tell.

  boot       start to init: Debian's kernel from its bzImage with a small initrd, 1 vCPU, 256 MiB, serial console, in
             minivmm, QEMU q35 and QEMU microvm by turns, in one machine with real KVM (tools/rig --auto)
  footprint  what minivmm itself costs, in four parts (--only takes one or more of them):
               start         from exec to the first KVM_RUN, beside a bare C program and QEMU microvm, on this host
               memory        private memory beyond guest pages, on this host and with an idle Linux guest in the rig
               exits         time per port and MMIO exit, beside a bare loop, on this host and in the rig
               instructions  our own instructions per exit, by kind, counted by callgrind
  blk        fio in a guest of 1 vCPU, in the rig, minivmm beside QEMU (virtio-blk-pci with an iothread): raw, qcow2,
             qcow2 over a backing file, first writes; requests per second, exits and interrupts per request
  net        iperf3, short packets and round trips of a guest of 1 vCPU, in the rig, minivmm beside QEMU (virtio-net-pci), in
             four parts (--only takes one or more of them):
               tap           to the host by a tap device
               vhost         the same with the kernel's vhost-net, for both
               user          to the host by user networking
               internal      two guests: minivmm's private network beside QEMU's -netdev stream
  disk       the block layer without a guest beside qemu-img bench, and disk convert beside qemu-img convert, on this host

Where /dev/kvm has no hardware behind it the rig emulates one: there only ratios mean anything. Other work on the
machine makes figures worse, and unevenly: see the spread before believing a ratio.

Status: 0 measured (with --check: and within every limit), 1 something failed, 2 usage.

examples:
  tools/bench boot
  tools/bench boot --runs 3 --json
  tools/bench footprint --only start --only exits --check
"""


def count(text):
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return int(text)


PARTS = {"start": start, "memory": memory, "exits": exits, "instructions": instructions}


def parse(argv):
    parser = argparse.ArgumentParser(prog="tools/bench", usage="tools/bench boot|footprint|blk|net|disk [options]", description=HELP,
                                     formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("what", choices=["boot", "footprint", "blk", "net", "disk"], help=argparse.SUPPRESS)
    add("--json", action="store_true", help="one JSON object instead of tables: every sample, in ns, bytes, counts")
    add("--check", action="store_true", help="status 1 if a figure is over its limit")
    add("--runs", type=count, metavar="N", help="repetitions: boots of each VMM (default 9), starts (default 25), "
        "rounds of exits (default 40), boots with fio or iperf3 (default 5)")
    add("--only", action="append", choices=[*PARTS, *net.PARTS], metavar="PART",
        help="footprint, net: this part; repeatable")
    add("--no-rig", action="store_true", help="footprint: leave out what is measured in the rig")
    add("--build", metavar="DIR", help="measure the minivmm in this build folder as it is; without this the release "
        "preset is built first, and measured")
    add("--cmdline", metavar="TEXT", default=boot.CMDLINE, help=f"boot: kernel command line for all (default: "
        f"\"{boot.CMDLINE}\")")
    add("--kernel", metavar="FILE", help="boot: another bzImage than Debian's cloud kernel (tools/assets kernel)")
    add("--seconds", type=count, default=4, metavar="S", help="blk, net: how long each job runs (default 4)")
    add("--cache", choices=["writeback", "none"], default="writeback", help="blk: the images' cache mode, for both")
    add("--size-mib", type=count, default=512, metavar="M", help="blk: the images' size (default 512)")
    add("--convert-gib", type=count, default=8, metavar="G", help="disk: the size of what is converted (default 8)")
    add("--folder", metavar="DIR", help="disk: where the images are made (default: the temporary folder)")
    options = parser.parse_args(argv)
    parts = {"footprint": PARTS, "net": net.PARTS}.get(options.what, {})
    if wrong := [part for part in options.only or [] if part not in parts]:
        parser.error(f"{options.what} has no part '{wrong[0]}'")
    if options.what != "footprint" and options.no_rig:
        parser.error("--no-rig is for footprint")
    return options


def main():
    options = parse(sys.argv[1:])
    report = Report(sys.argv[1:])
    try:
        context = Context(options)
        if options.what == "footprint":
            parts = [PARTS[name] for name in (options.only or PARTS)]
        else:
            parts = [{"boot": boot, "blk": blk, "net": net, "disk": disk}[options.what]]
        for part in parts:
            part.host(context, report)
        # What needs the rig shares one: the same L1 for all of it.
        requests = [request for part in parts if (request := part.rig_request(context))]
        if requests:
            results = in_rig(context, requests)
            for part in parts:
                part.rig_results(context, report, results)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    report.finish(context)
    if options.json:
        json.dump(report.as_json(), sys.stdout, indent=1)
        print()
    else:
        report.print_tables()
    return 1 if options.check and report.over() else 0


os.environ["LC_ALL"] = "C.UTF-8"
sys.exit(main())
