# SPDX-License-Identifier: GPL-3.0-or-later
"""The root file system: a Debian that debootstrap makes once, and a copy of it with clones for each run."""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass

from sandbox.settings import CACHE, ROOT, key
from sandbox.steps import Log, step

from . import host, network
from .steps import ADMINISTRATOR, CLONE, USER, Account

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
VARIABLES = "/.reach"  # a file in the root: the variables that lead to package registries
_PACKAGES = "git,make,ca-certificates,python3"
_THERE = rf"{network.OUTER}:\1"  # this machine's loopback as the fresh root reaches it


@dataclass(frozen=True)
class Release:
    """A Debian release, and the suite that provides its Go."""

    number: str
    suite: str
    go_suite: str

    @property
    def base(self) -> pathlib.Path:
        """The root that is copied for each run."""
        return CACHE / f"fresh-{self.suite}-{key(_PACKAGES, self.go_suite, *host.mirror())}"

    @property
    def root(self) -> pathlib.Path:
        """The copy."""
        return CACHE / f"fresh-{self.suite}-root"


RELEASES = {
    "12": Release("12", "bookworm", "bookworm-backports"),  # bookworm's Go is too old
    "13": Release("13", "trixie", "trixie"),
}


def ensure_base(release: Release) -> None:
    """Make the Debian that README asks for, without recommended packages, unless it exists."""
    base, ready = release.base, release.base.with_name(f"{release.base.name}.ready")
    if ready.exists():
        return
    with step(f"Debian {release.number} root", "the package mirror") as log:
        shutil.rmtree(base, ignore_errors=True)
        log.run("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", release.suite, base, *host.mirror())
        apt, clean = base / "etc" / "apt", {**os.environ, **host.variables(), "PATH": PATH, "DEBIAN_FRONTEND": "noninteractive"}
        _apply_host_settings(log, base)
        if release.go_suite != release.suite:
            sources = "".join(file.read_text() for file in [*apt.glob("*.list"), *apt.glob("sources.list.d/*")])
            (found,) = re.findall(r"(?m)^(?:deb|URIs:) (\S+)", sources)[:1]
            (apt / "sources.list.d" / "backports.list").write_text(f"deb {found} {release.go_suite} main\n")
        log.run("chroot", base, "apt-get", "update", env=clean)
        go = ("--target-release", release.go_suite, "golang-go")
        log.run("chroot", base, "apt-get", "install", "--yes", "--no-install-recommends", *go, env=clean)
        log.run("chroot", base, "apt-get", "clean", env=clean)
        # Debian's installer writes these files; debootstrap does not.
        (base / "etc" / "hosts").write_text("127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 fresh\n")
        (base / "etc" / "hostname").write_text("fresh\n")
        ready.touch()


def _apply_host_settings(log: Log, root: pathlib.Path) -> None:
    """Make a root trust the certificates of this machine, and its apt use the same proxy."""
    (root / "etc/apt/apt.conf.d/90outside").write_text(host.apt_settings())
    added = root / "usr/local/share/ca-certificates"
    for file in added.glob("outside-*.crt"):
        file.unlink()
    log.run("chroot", root, "update-ca-certificates", env={"PATH": PATH})
    for number, text in enumerate(host.extra_certificates((root / host.BUNDLE).read_text())):
        (added / f"outside-{number}.crt").write_text(text)
    log.run("chroot", root, "update-ca-certificates", env={"PATH": PATH})


def _clone(log: Log, root: pathlib.Path, account: Account) -> None:
    target = root / account.home.lstrip("/") / CLONE
    shutil.rmtree(target, ignore_errors=True)
    log.run("git", "clone", "--quiet", "--no-local", ROOT, target)
    log.run("git", "-C", target, "remote", "remove", "origin")
    if account.number:
        log.run("chown", "--recursive", f"{account.number}:{account.number}", target)


def ensure_copy(log: Log, release: Release) -> None:
    """Copy the base unless there is a copy. The clones are always replaced."""
    root = release.root
    if not root.exists():
        making = root.with_name(f"{root.name}.making")
        log.run("rm", "--recursive", "--force", "--one-file-system", making)
        log.run("cp", "--archive", "--reflink=auto", release.base, making)
        _apply_host_settings(log, making)  # the base may be older than the certificates
        log.run("chroot", making, "useradd", "--create-home", "--uid", str(USER.number), USER.name, env={"PATH": PATH})
        for file in [*(making / "etc/apt").glob("*.list"), *(making / "etc/apt").glob("*/*")]:
            if file.is_file() and file.suffix != ".gpg":
                text = file.read_text(errors="surrogateescape")
                file.write_text(host.LOOPBACK.sub(_THERE, text), errors="surrogateescape")
        making.rename(root)
    (root / "etc" / "resolv.conf").unlink(missing_ok=True)
    nameservers = re.sub(r"(?m)^(nameserver )127\..*", rf"\g<1>{network.OUTER}", host.resolvers())
    (root / "etc" / "resolv.conf").write_text(nameservers)
    exports = (f"export {name}={shlex.quote(host.LOOPBACK.sub(_THERE, value))}\n" for name, value in host.variables().items())
    (root / VARIABLES.lstrip("/")).touch(0o600)  # a URL may include a password
    (root / VARIABLES.lstrip("/")).write_text("".join(exports))
    for account in (ADMINISTRATOR, USER):
        _clone(log, root, account)
        for kept, place in account.downloads.items():
            kept.mkdir(parents=True, exist_ok=True)
            os.chown(kept, account.number, account.number)
            inside = root / account.home.lstrip("/")
            for part in pathlib.Path(place).relative_to(account.home).parts:
                inside /= part
                inside.mkdir(exist_ok=True)
                os.chown(inside, account.number, account.number)


def remove(root: pathlib.Path) -> None:
    """Remove a root, and nothing that is mounted in it."""
    subprocess.run(["rm", "--recursive", "--force", "--one-file-system", root], check=True)
