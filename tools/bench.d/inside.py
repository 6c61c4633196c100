"""Runs in the rig: takes the measurements that request.json in the folder asks for, leaves results.json there."""

import json
import os
import sys

import blk
import boot
import exits
import instructions
import memory
import net
from common import BenchError

MEASURES = {"blk": blk.measure, "boot": boot.measure, "exits": exits.measure, "memory": memory.measure,
            "net": net.measure, "record": instructions.record}


def main():
    folder = sys.argv[1]
    with open(os.path.join(folder, "request.json")) as file:
        requests = json.load(file)
    try:
        results = {name: MEASURES[name](arguments) for name, arguments in requests}
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    results["rig"] = os.environ.get("RIG", "none")
    with open(os.path.join(folder, "results.json"), "w") as file:
        json.dump(results, file)
    return 0


sys.exit(main())
