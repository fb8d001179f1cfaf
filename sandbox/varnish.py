# SPDX-License-Identifier: GPL-3.0-or-later
"""Varnish in Debian roots of its own: two versions around the official image's, to run beside each other."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from . import debian
from .settings import CACHE, key
from .steps import Log, StepFailed, alone, say, step


@dataclass(frozen=True)
class Package:
    """Where a version comes from; of the suites the first that still has it."""

    name: str
    upstream: str
    account: str
    suites: tuple[str, ...]


# sid moves on, testing follows days later: a root once made stays, under the version that was found.
VERSIONS = {
    "7.7": Package("varnish", "7.7", "varnish", ("trixie",)),
    # Its new name since 9.0; it keeps the old commands as links.
    "9.0": Package("vinyl-cache", "9.0", "vinyl", ("sid", "testing")),
}
PROGRAMS = ("varnishd", "varnishadm", "varnishlog", "varnishstat", "varnishtest")

# The standalone tools spare the whole of systemd, which apt would take for the account's sake.
_WITH = ("systemd-standalone-sysusers", "systemd-standalone-tmpfiles", "gcc", "libc6-dev")
# Neither docs nor what only other builds than VCL's need: half of the size.
_DPKG = """\
force-unsafe-io
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/man/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/bin/*-lto-dump-*
path-exclude=/usr/libexec/gcc/*/lto1
path-exclude=/usr/lib/*/lib*san.*
path-exclude=/usr/lib/*/lib*.a
path-include=/usr/lib/*/libc_nonshared.a
path-include=/usr/lib/*/libgcc.a
path-include=/usr/lib/*/libpthread.a
"""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PROOF = """\
folder=$(mktemp --directory)
echo 'vcl 4.1; import std; import directors; backend default none;' > "$folder/a.vcl"
varnishd -j none -n "$folder" -C -f "$folder/a.vcl" > "$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
rm -r "$folder"
"""
# An overlay in memory: no run leaves anything in the root, and many run at a time.
_ENTER = """\
root=$1; shift
mount -t tmpfs -o mode=755 scratch "$root.scratch"
mkdir "$root.scratch/upper" "$root.scratch/work" "$root.scratch/root"
new=$root.scratch/root
mount -t overlay -o "lowerdir=$root,upperdir=$root.scratch/upper,workdir=$root.scratch/work" root "$new"
mount -t proc proc "$new/proc"
mount --rbind /dev "$new/dev"
cat /etc/resolv.conf > "$new/etc/resolv.conf"
cat /etc/hosts > "$new/etc/hosts"
while [ "$1" != -- ]; do
  mkdir -p "$new$1"
  mount --rbind "$1" "$new$1"
  shift
done
shift
unset TMPDIR
export PATH=%s HOME=/root LC_ALL=C.UTF-8
exec chroot "$new" "$@"
""" % PATH


def _base(version: str) -> pathlib.Path:
    """The root's path for these pins, whether it is there or not."""
    package = VERSIONS[version]
    return CACHE / f"varnish-{version}-{key(package.name, package.upstream, *package.suites, *_WITH, _DPKG)}"


def _ready(version: str) -> pathlib.Path:
    return _base(version).with_name(f"{_base(version).name}.ready")


def found(version: str) -> str:
    """The Debian version in the root of a version, for instance 7.7.0-3+deb13u2."""
    root(version)
    return _ready(version).read_text().strip()


def root(version: str) -> pathlib.Path:
    """The root directory of a version, made unless it is there. Nothing may be changed in it."""
    tree = _base(version)
    if not _ready(version).exists():
        debian.ensure({"debootstrap": "debootstrap"})
        with step(f"Varnish {version}: Debian root", "the package mirror, or whoever makes it already") as log, alone(tree.name):
            if not _ready(version).exists():
                _make(log, tree, version)
            else:
                log.worked = False
    return tree


def _make(log: Log, tree: pathlib.Path, version: str) -> None:
    package = VERSIONS[version]
    for suite in package.suites:
        shutil.rmtree(tree, ignore_errors=True)
        log.run("debootstrap", "--variant=minbase", suite, tree)
        offered = _offered(tree, package.name)
        if offered.startswith(f"{package.upstream}."):
            break
        say(f"   {suite} has {package.name} {offered or 'no more'}")
    else:
        pin = f"{package.name} {package.upstream}"
        raise StepFailed(f"no {pin} in {', '.join(package.suites)}: pin another in sandbox/varnish.py")
    _install(log, tree, package.name)
    tree.with_name(f"{tree.name}.scratch").mkdir(exist_ok=True)
    _ready(version).write_text(f"{offered}\n")


def _inside(tree: pathlib.Path, *argv: str) -> list[str | pathlib.Path]:
    """An argv for a program in a root that is being made; /proc is mounted for it alone."""
    script = 'mount -t proc proc "$1/proc"; exec chroot "$@"'
    settings = ("env", f"PATH={PATH}", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8")
    return ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "sh", tree, *settings, *argv]


def _offered(tree: pathlib.Path, package: str) -> str:
    """The version that the root's suite has of a package; empty without one."""
    argv = [str(word) for word in _inside(tree, "apt-cache", "show", "--no-all-versions", package)]
    text = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    match = re.search(r"(?m)^Version: (.+)$", text)
    return match[1] if match else ""


def _install(log: Log, tree: pathlib.Path, package: str) -> None:
    """The package with a compiler for its VCL, without archives, lists and docs."""
    (tree / "etc/dpkg/dpkg.cfg.d/sandbox").write_text(_DPKG)
    log.run(*_inside(tree, "apt-get", "install", "--yes", "--no-install-recommends", package, *_WITH))
    for program in PROGRAMS:
        log.run(*_inside(tree, "sh", "-c", f"command -v {program}"))
    log.run(*_inside(tree, "sh", "-euc", _PROOF))
    share = ("doc", "info", "locale", "man")
    unused = ("var/cache/apt", "var/lib/apt/lists", "var/log", *(f"usr/share/{name}" for name in share))
    for entry in (entry for folder in unused for entry in (tree / folder).glob("*")):
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def command(version: str, *argv: str, share: Iterable[pathlib.Path | str] = ()) -> list[str]:
    """The argv that runs a program in the root of a version: as root, on this machine's network.

    The directories in `share` are there under the same absolute path; all else that it writes is gone at its end.
    The process is the program itself, so that signals reach it; it starts in `/`.
    """
    shared = [str(pathlib.Path(folder).resolve(strict=True)) for folder in share]
    enter = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", _ENTER, "sh", str(root(version))]
    return [*enter, *shared, "--", *argv]


if __name__ == "__main__":  # python3 -m sandbox.varnish VERSION [DIRECTORY ...] -- COMMAND ...
    split = sys.argv.index("--")
    line = command(sys.argv[1], *sys.argv[split + 1 :], share=sys.argv[2:split])
    os.execvp(line[0], line)
