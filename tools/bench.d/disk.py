"""tools/bench disk: the block layer and disk convert beside qemu-img bench and convert, on this host, by turns."""

import os
import re
import subprocess
import tempfile
import time

from blk import AGAINST_RAW
from common import BenchError, progress
from report import S, Unit, middle_ratio

COUNT = 200_000
MIB = 1024
STEP = (1 << 20) + 28672   # bytes; prime to nothing in particular: every 4 KiB block of 1 GiB comes once in its time
IOPS = Unit("requests/s", 1, 0)
JOBS = {"read, QD 1": ("read", 1), "read, QD 32": ("read", 32), "write, QD 1": ("write", 1), "write, QD 32": ("write", 32)}
FIRST_AGAINST_QEMU = 1.3
CONVERT = {"raw to qcow2": ([], ["-O", "qcow2"], 1.2),
           "raw to zstd qcow2": (["--compress", "zstd"],
                                 ["-c", "-O", "qcow2", "-o", "compression_type=zstd", "-W", "-m", "16"], 1.1)}
# qemu-img's default, and what minivmm does: neither waits for the disk.
CONVERT_NOTE = "neither flushes its target (qemu-img: -t unsafe, its default); what was dirty is synced before each sample"


def run(*argv):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise BenchError(f"{' '.join(argv)}: {done.stdout.strip()}")
    return done.stdout


def ours(context, path, form, job):
    verb, depth = job
    return COUNT / int(run(context.tool("disk_bench"), path, form, verb, str(COUNT), str(depth), "4096", str(STEP))) * 1e9


def theirs(engine, path, form, job):
    verb, depth = job
    said = run("qemu-img", "bench", "-f", form, "-c", str(COUNT), "-d", str(depth), "-s", "4096", "-S", str(STEP), "-t",
               "writeback", "-i", engine, *(["-w"] if verb == "write" else []), path)
    return COUNT / float(re.search(r"Run completed in ([\d.]+) seconds", said)[1])


def fill(path, mib, half=False):
    """Every other 64 KiB of it text, the rest noise; of `half`, every other 64 MiB is a hole."""
    noise = os.urandom(32 << 10)
    with open(path, "wb") as file:
        for number in range(mib):
            if half and number // 64 % 2:
                file.seek(1 << 20, os.SEEK_CUR)
                continue
            text = b"%012d: the quick brown fox jumps over the lazy dog\n" % number
            for _ in range(16):
                file.write(noise)
                file.write((text * (1 + (32 << 10) // len(text)))[:32 << 10])
        file.truncate(mib << 20)


def host(context, report):
    context.make_linked("disk_bench")
    with tempfile.TemporaryDirectory(prefix="minivmm-bench.", dir=context.options.folder) as folder:
        engine(context, report, folder)
        convert(context, report, folder)


def engine(context, report, folder):
    path = {name: os.path.join(folder, name) for name in ("raw", "qcow2", "backing", "first")}
    # Both by one writer, and clean in the page cache: what a write into it costs depends on how it came there.
    source = os.path.join(folder, "source")
    fill(source, MIB)
    for form in ("raw", "qcow2"):
        run("qemu-img", "convert", "-f", "raw", "-O", form, source, path[form])
    os.unlink(source)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", path["qcow2"], "-F", "qcow2", path["backing"])
    samples = {}
    peers = {"minivmm": lambda *words: ours(context, *words), "qemu-img io_uring": lambda *words: theirs("io_uring", *words),
             "qemu-img threads": lambda *words: theirs("threads", *words)}
    for number in range(context.runs(5)):
        for image in path:
            form = "raw" if image == "raw" else "qcow2"
            for name, job in JOBS.items():
                if image == "backing" and job[0] == "write" or image == "first" and job[0] == "read":
                    continue
                for peer, measure in peers.items():
                    if image == "first":
                        run("qemu-img", "create", "-q", "-f", "qcow2", path["first"], f"{MIB}M")
                    os.sync()
                    samples.setdefault((image, name), {}).setdefault(peer, []).append(measure(path[image], form, job))
        progress(f"round {number + 1} of {context.runs(5)}")
    table = report.table("disk engine", "4 KiB requests in strides, cache=writeback, no guest", IOPS,
                         f"tools/bench disk --runs {context.runs(5)}")
    for (image, name), found in samples.items():
        for peer, values in found.items():
            table.row(f"{image}: {name}: {peer}", values)
        best = max(("qemu-img io_uring", "qemu-img threads"), key=lambda peer: sorted(found[peer])[len(found[peer]) // 2])
        against = middle_ratio(found["minivmm"], found[best])
        if image == "first":
            table.at_least(f"{image}: {name}: minivmm / {best}", against, FIRST_AGAINST_QEMU, " x")
        else:
            table.notes.append(f"{image}: {name}: minivmm / {best}: {against:.2f} x (no limit is set)")
        if image in AGAINST_RAW:
            raw = samples["raw", name]["minivmm"]
            table.at_least(f"{image}: {name}: minivmm / its raw", middle_ratio(found["minivmm"], raw),
                           AGAINST_RAW[image], " x")


def convert(context, report, folder):
    source = os.path.join(folder, "source")
    fill(source, context.options.convert_gib << 10, half=True)
    table = report.table("disk convert", f"an image of {context.options.convert_gib} GiB, half of it empty", S,
                         f"tools/bench disk --runs {context.runs(5)} --convert-gib {context.options.convert_gib}", [CONVERT_NOTE])
    for name, (we, they, wanted) in CONVERT.items():
        commands = {"minivmm": [context.vmm, "disk", "convert", "--format", "qcow2", *we, source],
                    "qemu-img": ["qemu-img", "convert", "-t", "unsafe", "-f", "raw", *they, source]}
        samples = {peer: [] for peer in commands}
        for number in range(-1, context.runs(5)):
            for peer in sorted(commands, reverse=number % 2 == 1):
                target = os.path.join(folder, "target")
                os.sync()
                began = time.monotonic_ns()
                run(*commands[peer], target)
                if number >= 0:
                    samples[peer].append(time.monotonic_ns() - began)
                os.unlink(target)
        for peer, values in samples.items():
            table.row(f"{name}: {peer}", values, commands[peer])
        table.at_least(f"{name}: minivmm's speed / qemu-img's",
                       middle_ratio(samples["qemu-img"], samples["minivmm"]), wanted, " x")


def rig_request(context):
    return None


def rig_results(context, report, results):
    pass
