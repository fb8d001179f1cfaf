# SPDX-License-Identifier: GPL-3.0-or-later
"""Run README's commands on a machine where nothing was installed before: `python3 -m tools.fresh [12] [13]`.

A minimal Debian with git, make, Go and Python runs `make demo`, `make demo-down` and `make test` as root. It has an empty
home, none of the caller's variables, and separate namespaces and cgroups. Then an ordinary user builds the environment
and runs `make check` without a network. Each run starts from a fresh copy of a root that debootstrap made.

Only downloads are kept between runs, in `fresh-downloads` of the cache directory: Go's module and build caches and pip's
cache. They are addressed by content, so a missing program or file is still noticed.

Needs root, and Debian's package mirror for what is missing here (debootstrap, iptables).
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time

from sandbox import debian
from sandbox.steps import StepFailed, alone, say, step

from . import machine, root
from .root import RELEASES, Release
from .steps import STEPS, Step


def run(release: Release, chosen: dict[str, Step], keep: bool) -> str:
    """Run steps on a fresh Debian. Returns the name of the step that failed, or nothing."""
    current = "root"
    try:
        root.ensure_base(release)
        if not keep:
            root.remove(release.root)
        with step(f"copy of the Debian {release.number} root") as log:
            root.ensure_copy(log, release)
        with machine.started(release.root) as running:
            for name, what in chosen.items():
                current = name
                with step(f"Debian {release.number}: {what.command}") as log:
                    running.run(log, what)
        return ""
    except SystemExit:  # from a step, which has shown why
        return current
    except (StepFailed, OSError, subprocess.SubprocessError) as error:
        say(f"   FAILED: {error}")
        return current
    finally:
        if not keep:
            root.remove(release.root)


def _terminated(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m tools.fresh", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("release", nargs="*", metavar="RELEASE", help=f"Debian {' or '.join(RELEASES)} (default: all)")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--only", action="append", choices=STEPS, help="run only this step; can be repeated")
    only.add_argument("--run", metavar="COMMAND", help="run this shell command as root in the clone instead of the steps")
    parser.add_argument("--keep", action="store_true", help="keep the root for the next run, and use one that was kept")
    arguments = parser.parse_args()
    if unknown := set(arguments.release) - RELEASES.keys():
        parser.error(f"RELEASE must be one of {', '.join(RELEASES)} (got {', '.join(sorted(unknown))})")
    if os.geteuid():
        sys.exit("tools.fresh needs root, for namespaces and debootstrap. Run it as root.")
    chosen = {name: what for name, what in STEPS.items() if name in (arguments.only or STEPS)}
    if arguments.run:
        chosen = {"run": Step(arguments.run)}
    signal.signal(signal.SIGTERM, _terminated)
    started, results = time.monotonic(), {}
    debian.ensure({"debootstrap": "debootstrap", "iptables": "iptables", "ip": "iproute2", "git": "git"})
    try:
        with alone("fresh"):
            for number in arguments.release or RELEASES:
                begun = time.monotonic()
                failed = run(RELEASES[number], chosen, arguments.keep)
                results[number] = f"{f'FAILED at {failed}' if failed else 'ok'}, {time.monotonic() - begun:.0f} s"
    except KeyboardInterrupt:
        sys.exit("Interrupted. Everything that was started has been removed.")
    print("\n".join(f"Debian {number}: {result}" for number, result in results.items()))
    failures = sum(result.startswith("FAILED") for result in results.values())
    print(f"{len(results) - failures} passed, {failures} failed in {time.monotonic() - started:.0f}s", flush=True)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
