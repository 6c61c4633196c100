"""The files of the fw_cfg device, as Linux's own driver hands them out."""

import json
import os
import re

from harness import case, check, equal, md5, run_script, scratch


def files_in_guest(*arguments, **keywords):
    """Name to (size, md5) of what a guest finds in /sys/firmware/qemu_fw_cfg."""
    text = run_script("fw-cfg", *arguments, **keywords)
    check("FW-CFG-END" in text, "the guest did not come to its end")
    check("FW-CFG rev 3" in text, "the driver does not see both interfaces")
    check("FW-CFG driver fw_cfg" in text, "no driver is bound to the ACPI device")
    return {m[1]: (int(m[2]), m[3]) for m in re.finditer(r"^FW-CFG file (\S+) (\d+) (\S+)", text, re.MULTILINE)}


def written(name, data):
    path = scratch(name)
    with open(path, "wb") as file:
        file.write(data)
    return path


@case
def the_guest_reads_the_ignition_config_under_both_names():
    config = {"ignition": {"version": "3.3.0"}, "storage": {"files": [{"path": "/etc/x", "contents": {
        "source": "data:," + "x" * 6000}}]}}
    path = written("config.ign", json.dumps(config).encode())
    wanted = (os.path.getsize(path), md5(path))
    equal("what the guest reads",
          files_in_guest("--ignition", path, kernel="kernel-generic", initrd="initrd-small-generic", memory="256M"),
          {"opt/org.flatcar-linux/config": wanted, "opt/com.coreos/config": wanted})


@case
def the_guest_reads_files_and_strings_given_by_name():
    path = written("bytes", os.urandom(5000))
    text = written("text", b"one, two")
    found = files_in_guest("--fw-cfg", f"name=opt/org.example/bytes,file={path}",
                           "--fw-cfg", "name=opt/org.example/text,string=one,, two")
    equal("what the guest reads", found, {"opt/org.example/bytes": (5000, md5(path)),
                                          "opt/org.example/text": (8, md5(text))})
