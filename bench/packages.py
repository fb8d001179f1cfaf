# SPDX-License-Identifier: GPL-3.0-or-later
"""Peers from Debian packages, unpacked into the cache. Nothing is installed, and no service is started."""

from __future__ import annotations

import functools
import os
import pathlib
import platform
import shutil

from sandbox.settings import CACHE, key
from sandbox.steps import StepFailed, step

PACKAGES = ("docker-registry", "nginx", "wrk")


@functools.cache
def root() -> pathlib.Path:
    """Returns the folder with the unpacked packages, including libraries that this machine lacks."""
    release = platform.freedesktop_os_release()
    target = CACHE / "bench" / f"packages-{key(*PACKAGES, release['ID'], release.get('VERSION_ID', ''))}"
    if not (target / ".ready").exists():
        with step(f"Debian packages {' '.join(PACKAGES)}, unpacked", "the package mirror") as log:
            if not shutil.which("apt-get"):
                raise StepFailed("apt-get is required to download the peers, but this machine does not have it")
            shutil.rmtree(target, ignore_errors=True)
            archives = target / "archives"
            (archives / "partial").mkdir(parents=True)
            log.run("apt-get", "update")
            log.run(
                *("apt-get", "install", "--download-only", "--yes", "--no-install-recommends", "--reinstall"),
                *("-o", f"Dir::Cache::archives={archives}", "-o", "APT::Sandbox::User=root", *PACKAGES),
            )
            for archive in sorted(archives.glob("*.deb")):
                log.run("dpkg", "-x", archive, target)
            (target / ".ready").touch()
    return target


def command(name: str) -> str:
    """Returns the full path of an unpacked command."""
    for folder in ("usr/sbin", "usr/bin"):
        if (path := root() / folder / name).exists():
            return str(path)
    raise StepFailed(f"none of the packages {', '.join(PACKAGES)} has '{name}'")


def environment() -> dict[str, str]:
    """Returns the environment in which an unpacked command finds the unpacked libraries."""
    folders = [str(path) for path in (root() / "usr" / "lib").glob("*-linux-gnu*")]
    return {"LD_LIBRARY_PATH": ":".join([*folders, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])}
