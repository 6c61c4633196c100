"""tools/bench blk: fio in a guest, minivmm and QEMU by turns, on the same images."""

import os
import re
import shutil
import tempfile

import peers
from common import BenchError, asset, leave_partial, progress
from console import Guest
from report import Unit, middle_ratio
from spent import EXITS, kvm_exits, need_kvm_counters, run, spent_us

MEMORY_MIB = 512
IOPS = Unit("requests/s", 1, 0)

# name: (fio's rw, block size, queue depth)
JOBS = {
    "4 KiB random read, QD 1": ("randread", "4k", 1),
    "4 KiB random write, QD 1": ("randwrite", "4k", 1),
    "4 KiB random read, QD 32": ("randread", "4k", 32),
    "4 KiB random write, QD 32": ("randwrite", "4k", 32),
    "1 MiB sequential read": ("read", "1M", 4),
    "1 MiB sequential write": ("write", "1M", 4),
}
FIRST_WRITES = {
    "4 KiB random first write, QD 1": ("randwrite", "4k", 1),
    "4 KiB random first write, QD 32": ("randwrite", "4k", 32),
    "64 KiB sequential first write, QD 4": ("write", "64k", 4),
}
AGAINST_QEMU = {"4 KiB random read, QD 1": 1.2, "4 KiB random write, QD 1": 1.2, "4 KiB random read, QD 32": 1.3,
                "4 KiB random write, QD 32": 1.3, "1 MiB sequential read": 1.1, "1 MiB sequential write": 1.1}
FIRST_AGAINST_QEMU = 1.3
AGAINST_RAW = {"qcow2": 0.9, "backing": 0.85}
READS = [name for name in JOBS if "read" in name]


def host(context, report):
    pass


def rig_request(context):
    kernel, initrd = asset("kernel", "initrd-fio")
    options = context.options
    return "blk", {"vmm": context.vmm, "observe": context.tool("observe"), "runs": context.runs(5), "kernel": kernel,
                   "initrd": initrd, "seconds": options.seconds, "cache": options.cache, "size_mib": options.size_mib}


# --- in the rig ---------------------------------------------------------------------------------------------------

def make_images(folder, mib):
    """A raw image full of data, the same as an allocated qcow2, and an empty qcow2 that it backs."""
    path = {name: os.path.join(folder, name) for name in ("raw", "qcow2", "backing")}
    block = os.urandom(1 << 20)
    with open(path["raw"], "wb") as file:
        for number in range(mib):
            file.write(number.to_bytes(8, "little") + block[8:])
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", path["raw"], path["qcow2"])
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", path["qcow2"], "-F", "qcow2", path["backing"])
    run("sync")
    return path


def command(request, peer, disks, jobs):
    """The VMM's command line; `disks` are (format, path), `jobs` (disk's index, rw, block size, depth)."""
    words = ",".join(f"vd{'abcdef'[disk]}:{rw}:{size}:{depth}:{request['seconds']}" for disk, rw, size, depth in jobs)
    tail = {"kernel": request["kernel"], "memory_mib": MEMORY_MIB, "initrd": request["initrd"],
            "cmdline": f"console=ttyS0 quiet panic=-1 mv.script=fio-jobs mv.jobs={words}"}
    more = []
    if peer == "minivmm":
        for form, path in disks:
            more += ["--disk", f"{path},format={form},cache={request['cache']}"]
        return peers.minivmm(request["vmm"], more=more, **tail)
    engine = peer.rpartition(" ")[2]   # "QEMU io_uring", "QEMU threads"
    more = ["-object", "iothread,id=io"]
    for number, (form, path) in enumerate(disks):
        more += ["-drive", f"if=none,id=d{number},file={path},format={form},cache={request['cache']},aio={engine}",
                 "-device", f"virtio-blk-pci,drive=d{number},iothread=io"]
    return peers.qemu(peers.Q35, **tail) + ["-name", "debug-threads=on"] + more   # spent_us() tells threads by name


TRIES = 3


def fio(request, peer, disks, jobs):
    """As one_boot(). The rig's emulation now and then breaks a guest of any VMM (docs/testing.md): then another boot."""
    for number in range(TRIES):
        try:
            return one_boot(request, peer, disks, jobs)
        except BenchError as error:
            if number + 1 == TRIES:
                raise
            progress(f"once more: {error}")


def one_boot(request, peer, disks, jobs):
    """For each job what it gave per second, and what a request cost. `disks` may be a function that makes them."""
    out = []
    disks = disks() if callable(disks) else disks
    os.sync()   # nobody pays for what the one before has written
    with Guest(request["observe"], command(request, peer, disks, jobs)) as guest:
        for number in range(1, len(jobs) + 1):
            guest.wait_for(b"JOB-BEGIN %d\r\n" % number, 120)
            exits, spent = kvm_exits(), spent_us(guest.pid)
            guest.wait_for(b"JOB-END %d " % number, 20 + 3 * request["seconds"])
            exits = {name: count - exits[name] for name, count in kvm_exits().items()}
            now = spent_us(guest.pid)
            while not re.search(rb"JOB-END %d .*\n" % number, guest.output):
                guest.wait_for(b"\n", 10)
            found = re.search(rb"JOB-END \d+ (\d+) (\d+) ([\d.]+) (\d+)", guest.output[guest.output.rfind(b"JOB-END"):])
            ios, ms, latency, interrupts = int(found[1]), int(found[2]), float(found[3]), int(found[4])
            out.append({"iops": ios / ms * 1000, "latency_us": latency, "interrupts": interrupts / ios,
                        **{name: count / ios for name, count in exits.items()}, **{key: (now[key] - spent[key]) / ios for key in now}})
    return out


def hold_back_writes():
    """In a machine of our own: what is written stays in memory while a job runs, for the machine's disk is nobody's here."""
    for name, text in (("dirty_background_ratio", "60"), ("dirty_ratio", "80"), ("dirty_expire_centisecs", "360000")):
        with open(f"/proc/sys/vm/{name}", "w") as file:
            file.write(text)


def measure(request):
    """In the rig: {peer: {image: {job: [sample, ...]}}}."""
    need_kvm_counters()
    if os.environ.get("RIG") in ("amd", "intel"):
        hold_back_writes()
    scratch = os.environ.get("RIG_SCRATCH")
    with tempfile.TemporaryDirectory(dir=scratch) as folder, tempfile.TemporaryDirectory() as memory:
        for name in ("kernel", "initrd"):
            request[name] = shutil.copy(request[name], os.path.join(memory, name))
        images = make_images(folder, request["size_mib"])
        everything = [(0, *job) for job in JOBS.values()]
        # What an emulated machine that broke down had measured is not measured again.
        qemu = request.get("qemu") or faster_engine(request, images)
        samples = request.get("samples", {})

        def keep(peer, image, names, results):
            for name, result in zip(names, results):
                samples.setdefault(peer, {}).setdefault(image, {}).setdefault(name, []).append(result)

        for number in range(request.get("rounds", 0), request["runs"]):
            order = ["minivmm", qemu] if number % 2 == 0 else [qemu, "minivmm"]
            for peer in order:
                for image in ("raw", "qcow2"):
                    keep(peer, image, JOBS, fio(request, peer, [(image, images[image])], everything))
                reads = [(0, *JOBS[name]) for name in READS]
                keep(peer, "backing", READS, fio(request, peer, [("qcow2", images["backing"])], reads))

                def fresh():
                    return [("qcow2", new_image(folder, n, request["size_mib"])) for n in range(len(FIRST_WRITES))]
                jobs = [(n, *job) for n, job in enumerate(FIRST_WRITES.values())]
                keep(peer, "first", FIRST_WRITES, fio(request, peer, fresh, jobs))
                run("qemu-img", "check", "-q", images["qcow2"])
            progress(f"round {number + 1} of {request['runs']}: " + ", ".join(
                f"{peer} {samples[peer]['raw'][job][-1]['iops']:.0f}/s" for peer in order for job in list(JOBS)[:1]))
            leave_partial("blk", {"qemu": qemu, "samples": samples, "rounds": number + 1})
    return {"samples": samples, "qemu": qemu}


def new_image(folder, number, mib):
    path = os.path.join(folder, f"fresh{number}")
    if os.path.exists(path):
        os.unlink(path)
    run("qemu-img", "create", "-q", "-f", "qcow2", path, f"{mib}M")
    return path


def faster_engine(request, images):
    """QEMU with io_uring where it helps it: the better of the two, by one short run of each at depth 1 and 32."""
    best = {}
    for peer in ("QEMU io_uring", "QEMU threads"):
        jobs = [(0, *JOBS[name]) for name in JOBS if name.startswith("4 KiB")]
        best[peer] = 1.0
        for result in fio({**request, "seconds": 2}, peer, [("raw", images["raw"])], jobs):
            best[peer] *= result["iops"]
    found = max(best, key=best.get)
    progress(f"QEMU is faster with {found.rpartition(' ')[2]}")
    return found


# --- the report ---------------------------------------------------------------------------------------------------

def rig_results(context, report, results):
    found = results["blk"]
    samples, qemu = found["samples"], found["qemu"]
    options = context.options
    again = f"tools/bench blk --runs {context.runs(5)} --seconds {options.seconds} --cache {options.cache}"

    def iops(peer, image, job):
        return [sample["iops"] for sample in samples[peer][image][job]]

    for image, title in (("raw", "raw"), ("qcow2", "qcow2, allocated"), ("backing", "empty qcow2 over an allocated one"),
                         ("first", "empty qcow2")):
        jobs = samples["minivmm"][image]
        table = report.table(f"blk {image}", f"fio in the guest, 1 vCPU, {title}, cache={options.cache}", IOPS, again,
                             [f"rig: {results['rig']}; {qemu}: the faster of io_uring and threads"])
        for job in jobs:
            for peer in ("minivmm", qemu):
                table.row(f"{job}: {peer}", iops(peer, image, job))
            against = middle_ratio(iops("minivmm", image, job), iops(qemu, image, job))
            wanted = AGAINST_QEMU.get(job) if image == "raw" else FIRST_AGAINST_QEMU if image == "first" else None
            if wanted:
                table.at_least(f"{job}: minivmm / QEMU", against, wanted, " x")
            else:
                table.notes.append(f"{job}: minivmm / QEMU: {against:.2f} x (no limit is set)")
            if image in AGAINST_RAW:
                ours = middle_ratio(iops("minivmm", image, job), iops("minivmm", "raw", job))
                table.at_least(f"{job}: minivmm / its raw", ours, AGAINST_RAW[image], " x")
        costs(table, samples, qemu, image)
        table.extra["costs"] = {peer: samples[peer][image] for peer in samples}


def costs(table, samples, qemu, image):
    """Exits and interrupts per request, and where a request's time goes."""
    def median(peer, job, what):
        values = sorted(sample[what] for sample in samples[peer][image][job])
        return values[len(values) // 2]

    reasons = [name for name in EXITS if name != "exits"]
    table.notes.append(f"per request: exits ({', '.join(reasons)}), interrupts, latency; us of the vCPU's thread in the guest, "
                       "of the same in KVM and the VMM, of the VMM's other threads")
    for job in samples["minivmm"][image]:
        for peer in ("minivmm", qemu):
            why = ", ".join(f"{median(peer, job, name):.2f}" for name in reasons)
            table.notes.append(f"  {job}: {peer}: {median(peer, job, 'exits'):.2f} ({why}), {median(peer, job, 'interrupts'):.2f}, "
                               f"{median(peer, job, 'latency_us'):.0f} us; " +
                               ", ".join(f"{median(peer, job, what):.0f}" for what in ("guest_us", "vcpu_us", "threads_us")))
        for what in ("exits", "interrupts"):
            table.limit(f"{job}: {what} per request, minivmm / QEMU",
                        median("minivmm", job, what) / max(median(qemu, job, what), 1e-9), 1.0, " x")
