"""tools/demo --check: boots Debian the way the demo does, and drives its console.

usage: demo_check.py RIG DEMO-BOOT ASSET...
"""

import signal
import sys

from expect import Console, Failed

# All of it may be emulated, on a machine that is busy with other things.
BOOT_S = 600
STEP_S = 180


def main():
    rig, *command = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))   # by way of the clean-up
    with Console([rig, "--auto", "--interactive", "--timeout", str(BOOT_S + 3 * STEP_S), "--", *command]) as console:
        try:
            print("demo: waiting for the login prompt", flush=True)
            console.expect(r"^debian login: ", BOOT_S)
            console.send("root\r")
            console.expect(r"root@debian:~# ", STEP_S)
            # Quotes inside the word: the echo of what is typed shall not be taken for the answer.
            console.send("uname -sr; echo in''side\r")
            console.expect(r"^inside", STEP_S)
            print("demo: logged in; powering off", flush=True)
            console.send("systemctl poweroff\r")
            console.expect(r"reboot: Power down", STEP_S)
            status = console.wait_exit(STEP_S)
            if status != 0:
                raise Failed(f"the guest powered off, but minivmm ended with status {status}; "
                             f"the last lines:\n{console.last_lines()}")
        except Failed as error:
            print(f"demo: {error}", file=sys.stderr)
            console.process.terminate()   # the rig cleans up after itself
            try:
                console.process.wait(10)
            except Exception:
                pass
            return 1
    print("demo: Debian booted, let root in, powered off by itself; minivmm ended with 0")
    return 0


sys.exit(main())
