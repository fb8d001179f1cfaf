# SPDX-License-Identifier: GPL-3.0-or-later
"""README's commands on a machine where nothing was installed before: `python3 -m tools.fresh [12] [13]`.

A minimal Debian root with git, make, Go and Python, an empty home and no variables of the caller, in namespaces and
cgroups of its own, runs `make demo`, `make demo-down` and `make test`. Then an ordinary user builds the environment, and
runs `make check` without a network. The root is a throw-away copy of what debootstrap made.

All starts empty but for downloads: Go's module and build caches and pip's cache are kept between runs in the cache's
`fresh-downloads`. They are addressed by content, so that a program or file that is missing is missed all the same.

Needs root, and Debian's package mirror for what is missing here (debootstrap, iptables).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sandbox import debian
from sandbox.settings import CACHE, ROOT, key
from sandbox.steps import Log, StepFailed, alone, say, step, wait

NAME = "registry-cache-fresh"
# Beside the sandbox's networks, which are the upper half of 198.18.0.0/15 and 198.18.64.0 on.
_OUTER, _INNER, _BITS, _LINK = "198.18.32.1", "198.18.32.2", 30, "cache-fresh"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PACKAGES = "git,make,ca-certificates,python3"
_BUNDLE = "etc/ssl/certs/ca-certificates.crt"
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", re.DOTALL)
_CLONE = "registry_cache"
_VARIABLES = "/.reach"  # a file in the root
# This machine's loopback, and the same as the fresh root reaches it.
_LOOPBACK, _THERE = re.compile(r"(?<=//)(?:127\.0\.0\.1|localhost|\[::1\]):(\d+)"), rf"{_OUTER}:\1"
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
_GO = ("GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOPROXY", "GOPRIVATE", "GOINSECURE")
_PIP = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout", "retries", "cert")
_JOIN = 'for group in $GROUPS_TO_JOIN; do echo $$ > "$group/cgroup.procs"; done; unset GROUPS_TO_JOIN; exec "$@"'
_LOOPBACK_UP = (
    "import fcntl, socket, struct; "
    "fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh', b'lo', 1))"  # SIOCSIFFLAGS, IFF_UP
)


@dataclass(frozen=True)
class Account:
    """Who runs the commands."""

    name: str
    home: str
    number: int

    @property
    def downloads(self) -> dict[pathlib.Path, str]:
        """The caches that outlive a run, and where they are in the root."""
        kept = CACHE / "fresh-downloads" / self.name
        places = {"modules": "go/pkg/mod", "builds": ".cache/go-build", "pip": ".cache/pip"}
        if self.number == 0:
            places["image-builds"] = ".cache/registry-cache-sandbox/go-build"
        return {kept / name: f"{self.home}/{place}" for name, place in places.items()}


_ADMINISTRATOR = Account("root", "/root", 0)
_USER = Account("developer", "/home/developer", 1000)


@dataclass(frozen=True)
class Step:
    """What is run in the clone."""

    command: str
    account: Account = _ADMINISTRATOR
    offline: bool = False


STEPS = {
    "demo": Step("make demo"),
    "demo-down": Step("make demo-down"),
    "test": Step("make test"),
    "environment": Step("make lint", _USER),  # brings Go's modules and staticcheck too
    "check": Step("make check", _USER, offline=True),
}


@dataclass(frozen=True)
class Release:
    """A Debian, and the suite that its Go comes from."""

    number: str
    suite: str
    go_suite: str

    @property
    def base(self) -> pathlib.Path:
        """The root that is copied for each run."""
        return CACHE / f"fresh-{self.suite}-{key(_PACKAGES, self.go_suite, *_mirror())}"


RELEASES = {
    "12": Release("12", "bookworm", "bookworm-backports"),  # its own Go is too old
    "13": Release("13", "trixie", "trixie"),
}


# ── how this machine reaches package registries ──────────────────────────────────────────────────────────────────────


def _output(*argv: str) -> str:
    """What a command prints; nothing if it fails or is not there."""
    try:
        return subprocess.run(argv, cwd="/", check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


@functools.cache
def _reach() -> dict[str, str]:
    """The variables by which clients find this machine's registries; none on a machine with nothing but the internet."""
    found = {name: os.environ[name] for word in _PROXIES for name in (word, word.upper()) if os.environ.get(name)}
    found |= {name: value for name, value in json.loads(_output("go", "env", "-json", *_GO) or "{}").items() if value}
    for line in _output("pip", "config", "list").splitlines():
        option, _, value = line.partition("=")
        name = option.rpartition(".")[2]
        if name in _PIP:
            # The root's own bundle has what the caller's has.
            found[f"PIP_{name.upper().replace('-', '_')}"] = f"/{_BUNDLE}" if name == "cert" else value.strip("'\"")
    return found


@functools.cache
def _mirror() -> list[str]:
    """The package mirror of this machine's own sources; empty for debootstrap's default."""
    form = "$(LABEL) $(REPO_URI)"
    targets = _output("apt-get", "indextargets", "--format", form, "Created-By: Packages", "Component: main")
    return [uri for label, _, uri in (line.rpartition(" ") for line in targets.splitlines()) if label == "Debian"][:1]


def _apt_settings() -> str:
    """What apt is told here about its ways, such as a proxy."""
    wanted = re.compile(r'Acquire::(?:https?::.*|Check-.*) "..*";')
    return "".join(f"{line}\n" for line in _output("apt-config", "dump").splitlines() if wanted.fullmatch(line))


def _foreign_certificates(bundle: str) -> list[str]:
    """Certificates that this machine trusts beyond a bundle."""
    named = (os.environ.get(name) for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"))
    files = {pathlib.Path(name) for name in named if name} | {pathlib.Path("/") / _BUNDLE}
    texts = [file.read_text() for file in sorted(files) if file.is_file()]
    return sorted({text for text in _CERTIFICATE.findall("\n".join(texts)) if text.strip() not in bundle})


# ── the root ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _introduce(log: Log, root: pathlib.Path) -> None:
    """Make a root trust what this machine trusts, and its apt find the mirror."""
    (root / "etc/apt/apt.conf.d/90outside").write_text(_apt_settings())
    own = root / "usr/local/share/ca-certificates"
    for file in own.glob("outside-*.crt"):
        file.unlink()
    log.run("chroot", root, "update-ca-certificates", env={"PATH": _PATH})
    for number, text in enumerate(_foreign_certificates((root / _BUNDLE).read_text())):
        (own / f"outside-{number}.crt").write_text(text)
    log.run("chroot", root, "update-ca-certificates", env={"PATH": _PATH})


def _make_base(release: Release) -> None:
    """Debian with what README asks for and no recommended package, made unless it is there."""
    base, ready = release.base, release.base.with_name(f"{release.base.name}.ready")
    if ready.exists():
        return
    with step(f"Debian {release.number} root", "the package mirror") as log:
        shutil.rmtree(base, ignore_errors=True)
        log.run("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", release.suite, base, *_mirror())
        apt, clean = base / "etc" / "apt", {**os.environ, **_reach(), "PATH": _PATH, "DEBIAN_FRONTEND": "noninteractive"}
        _introduce(log, base)
        if release.go_suite != release.suite:
            sources = "".join(file.read_text() for file in [*apt.glob("*.list"), *apt.glob("sources.list.d/*")])
            (found,) = re.findall(r"(?m)^(?:deb|URIs:) (\S+)", sources)[:1]
            (apt / "sources.list.d" / "backports.list").write_text(f"deb {found} {release.go_suite} main\n")
        log.run("chroot", base, "apt-get", "update", env=clean)
        go = ("--target-release", release.go_suite, "golang-go")
        log.run("chroot", base, "apt-get", "install", "--yes", "--no-install-recommends", *go, env=clean)
        log.run("chroot", base, "apt-get", "clean", env=clean)
        # As an installed machine has it.
        (base / "etc" / "hosts").write_text("127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 fresh\n")
        (base / "etc" / "hostname").write_text("fresh\n")
        ready.touch()


def _resolvers() -> str:
    """The lines of resolv.conf; systemd's own stub answers no other namespace."""
    behind, plain = pathlib.Path("/run/systemd/resolve/resolv.conf"), pathlib.Path("/etc/resolv.conf")
    stub = "nameserver 127.0.0.53" in plain.read_text()
    return (behind if stub and behind.exists() else plain).read_text()


def _clone(log: Log, root: pathlib.Path, account: Account) -> None:
    target = root / account.home.lstrip("/") / _CLONE
    shutil.rmtree(target, ignore_errors=True)
    log.run("git", "clone", "--quiet", "--no-local", ROOT, target)
    log.run("git", "-C", target, "remote", "remove", "origin")
    if account.number:
        log.run("chown", "--recursive", f"{account.number}:{account.number}", target)


def _copy(log: Log, release: Release, root: pathlib.Path) -> None:
    """A fresh root, with an account and the clones that are always made anew."""
    if not root.exists():
        making = root.with_name(f"{root.name}.making")
        log.run("rm", "--recursive", "--force", "--one-file-system", making)
        log.run("cp", "--archive", "--reflink=auto", release.base, making)
        _introduce(log, making)  # the base may be older than the certificates
        log.run("chroot", making, "useradd", "--create-home", "--uid", str(_USER.number), _USER.name, env={"PATH": _PATH})
        for file in [*(making / "etc/apt").glob("*.list"), *(making / "etc/apt").glob("*/*")]:
            if file.is_file() and file.suffix != ".gpg":
                text = file.read_text(errors="surrogateescape")
                file.write_text(_LOOPBACK.sub(_THERE, text), errors="surrogateescape")
        making.rename(root)
    (root / "etc" / "resolv.conf").unlink(missing_ok=True)
    (root / "etc" / "resolv.conf").write_text(re.sub(r"(?m)^(nameserver )127\..*", rf"\g<1>{_OUTER}", _resolvers()))
    variables = (f"export {name}={shlex.quote(_LOOPBACK.sub(_THERE, value))}\n" for name, value in _reach().items())
    (root / _VARIABLES.lstrip("/")).touch(0o600)  # an address may have a password in it
    (root / _VARIABLES.lstrip("/")).write_text("".join(variables))
    for account in (_ADMINISTRATOR, _USER):
        _clone(log, root, account)
        for kept, place in account.downloads.items():
            kept.mkdir(parents=True, exist_ok=True)
            os.chown(kept, account.number, account.number)
            inside = root / account.home.lstrip("/")
            for part in pathlib.Path(place).relative_to(account.home).parts:
                inside /= part
                inside.mkdir(exist_ok=True)
                os.chown(inside, account.number, account.number)


# ── namespaces and cgroups ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Hierarchy:
    """A mounted hierarchy of cgroups, and our own group in it."""

    kind: str
    options: str
    mounted: pathlib.Path
    group: pathlib.Path

    @property
    def leaf(self) -> pathlib.Path:
        """Where processes go: a group of version 2 that hands controllers on has none."""
        return self.group / "init" if self.hands_on else self.group

    @property
    def hands_on(self) -> bool:
        return self.kind == "cgroup2" and bool((self.mounted / "cgroup.controllers").read_text().split())


def _hierarchies() -> list[_Hierarchy]:
    where = {}
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        where[controllers] = path.lstrip("/")
    found = []
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        place, _, source = line.partition(" - ")
        kind, _, options = source.split()
        if kind in ("cgroup", "cgroup2"):
            mounted = pathlib.Path(place.split()[4])
            words = [word for word in options.split(",") if kind == "cgroup" and word not in ("ro", "rw")]
            # Below the caller's own group, so that its limits hold; version 2 forbids it where processes are.
            above = where.get(",".join(words), "") if kind == "cgroup" else ""
            found.append(_Hierarchy(kind, ",".join(words), mounted, mounted / above / NAME))
    return found


def _make_groups(hierarchies: Sequence[_Hierarchy]) -> None:
    for hierarchy in hierarchies:
        group = hierarchy.group
        if hierarchy.hands_on:
            _hand_on(group.parent)
        group.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):  # empty at first in version 1, which keeps processes out
            if hierarchy.kind == "cgroup" and (group / name).exists():
                (group / name).write_text((group.parent / name).read_text())
                (group / "cgroup.clone_children").write_text("1")
        hierarchy.leaf.mkdir(exist_ok=True)
        if hierarchy.hands_on:
            _hand_on(group)


def _hand_on(group: pathlib.Path) -> None:
    for controller in (group / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):  # one may be refused, for instance for real-time processes
            (group / "cgroup.subtree_control").write_text(f"+{controller}")


def _remove_groups(hierarchies: Sequence[_Hierarchy]) -> None:
    def gone(group: pathlib.Path) -> bool:
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        return not group.exists()

    for hierarchy in hierarchies:
        wait(lambda group=hierarchy.group: gone(group), 30, f"the end of {hierarchy.group}")  # type: ignore[misc]


def _init(root: pathlib.Path, hierarchies: Sequence[_Hierarchy]) -> str:
    """The script of the root's process 1: mounts, then nothing until it is killed."""
    new = shlex.quote(str(root))
    lines = [
        "set -eu",
        f"mount --bind {new} {new}",
        f"cd {new}",
        "mount -t proc proc proc",
        "mount -t sysfs sysfs sys",
        "mount --rbind /dev dev",
        "mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts",
        "mount -t tmpfs -o mode=1777 shm dev/shm",
        "mount -t tmpfs -o mode=755 run run",
    ]
    if len(hierarchies) > 1:
        lines.append("mount -t tmpfs -o mode=755 cgroup sys/fs/cgroup")
    for hierarchy in hierarchies:
        place = shlex.quote(str(hierarchy.mounted).lstrip("/"))
        options = f"-o {shlex.quote(hierarchy.options)}" if hierarchy.options else ""
        lines += [f"mkdir -p {place}", f"mount -t {hierarchy.kind} {options} cgroup {place}"]
    for account in (_ADMINISTRATOR, _USER):
        lines += [f"mount --bind {shlex.quote(str(kept))} {place.lstrip('/')}" for kept, place in account.downloads.items()]
    lines += [
        "hostname fresh",
        "mkdir -p .outside",
        "pivot_root . .outside",
        # The shell is still the outer one; the mounts are shared, as systemd makes them.
        "exec chroot . /bin/sh -euc 'umount --lazy /.outside; mount --make-rshared /"
        # Who ignores its children's end leaves no zombies.
        '; trap "" CHLD; echo ready; exec sleep infinity\'',
    ]
    return "\n".join(lines)


@contextlib.contextmanager
def _namespaces(root: pathlib.Path) -> Iterator[Machine]:
    """The root with process 1, cgroups and a network; all of it is gone at the end."""
    hierarchies = _hierarchies()
    _remove_groups(hierarchies)  # of a run that was killed
    _make_groups(hierarchies)
    kinds = ("--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup")
    # First in the group itself, which so becomes the root of its namespace, then in the leaf.
    join = {"GROUPS_TO_JOIN": " ".join(str(hierarchy.group) for hierarchy in hierarchies if not hierarchy.hands_on)}
    unshare = ("unshare", *kinds, "--propagation", "private", "--fork", "--kill-child=KILL")
    # The signal comes at the end of this process, however it ends.
    argv = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", _JOIN, "sh", *unshare, "sh", "-c", _init(root, hierarchies)]
    holder = subprocess.Popen(
        argv, env={**os.environ, **join}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True, text=True
    )
    try:
        if not holder.stdout or holder.stdout.readline() != "ready\n":
            raise StepFailed("this machine does not let a fresh root have namespaces of its own; what mount said is above")
        (first,) = pathlib.Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
        with _network(first):
            yield Machine(root, first, " ".join(str(hierarchy.leaf) for hierarchy in hierarchies))
    finally:
        holder.kill()  # process 1 goes with it, and all others with that
        holder.wait()
        _remove_groups(hierarchies)


def _rules() -> list[list[str]]:
    """The firewall's rules, each without the word that adds or removes it."""
    mark = ["-m", "comment", "--comment", NAME]
    rules = [
        ["filter", "FORWARD", "-i", _LINK, "-j", "ACCEPT"],
        ["filter", "FORWARD", "-o", _LINK, "-j", "ACCEPT"],
        ["nat", "POSTROUTING", "-s", f"{_INNER}/32", "!", "-o", _LINK, "-j", "MASQUERADE"],
    ]
    texts = [*_reach().values(), _apt_settings(), *_mirror()]
    ports = {("tcp", port, "127.0.0.1") for text in texts for port in _LOOPBACK.findall(text)}
    ports |= {(kind, "53", address) for kind in ("tcp", "udp") for address in re.findall(r"(?m)^nameserver (127\.\S+)", _resolvers())}
    for kind, port, address in sorted(ports):
        to = ["-p", kind, "--dport", port, "-j", "DNAT", "--to-destination", f"{address}:{port}"]
        rules.append(["nat", "PREROUTING", "-i", _LINK, "-d", _OUTER, *to])
    return [[table, chain, *words, *mark] for table, chain, *words in rules]


def _firewall(action: str, check: bool) -> None:
    for table, chain, *words in _rules():
        subprocess.run(["iptables", "--wait", "--table", table, action, chain, *words], check=check, capture_output=not check)


@contextlib.contextmanager
def _network(first: str) -> Iterator[None]:
    """A pair of interfaces between process 1's network and this machine's, which forwards and translates addresses."""
    if any(not line.startswith("default") for line in _output("ip", "-4", "route", "show", "match", _INNER).splitlines()):
        raise StepFailed(f"this machine has a route to {_OUTER}/{_BITS} already, which the fresh root's network needs")

    def ip(*words: str, inside: bool = False) -> None:
        enter = ["nsenter", "--target", first, "--net"] if inside else []
        subprocess.run([*enter, "ip", *words], check=True)

    forward = pathlib.Path("/proc/sys/net/ipv4/ip_forward")
    before = forward.read_text()
    _firewall("-D", check=False)  # of a run that was killed
    try:
        ip("link", "add", _LINK, "type", "veth", "peer", "name", "eth0", "netns", first)
        ip("address", "add", f"{_OUTER}/{_BITS}", "dev", _LINK)
        ip("link", "set", _LINK, "up")
        ip("address", "add", f"{_INNER}/{_BITS}", "dev", "eth0", inside=True)
        ip("link", "set", "lo", "up", inside=True)
        ip("link", "set", "eth0", "up", inside=True)
        ip("route", "add", "default", "via", _OUTER, inside=True)
        forward.write_text("1")
        pathlib.Path(f"/proc/sys/net/ipv4/conf/{_LINK}/route_localnet").write_text("1")  # to a proxy on loopback
        _firewall("-I", check=True)
        yield
    finally:
        _firewall("-D", check=False)
        forward.write_text(before)
        subprocess.run(["ip", "link", "delete", _LINK], check=False, capture_output=True)


@dataclass(frozen=True)
class Machine:
    """A fresh root that runs."""

    root: pathlib.Path
    first: str
    groups: str

    def run(self, log: Log, what: Step) -> None:
        """Run a step in its account's clone. Raises StepFailed."""
        account = what.account
        name, home = account.name, account.home
        login = (f"PATH={_PATH}", f"HOME={home}", f"USER={name}", f"LOGNAME={name}", "SHELL=/bin/sh")
        enter = ["nsenter", "--target", self.first, "--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--root"]
        words = [*enter, "/usr/bin/env", "-i", f"--chdir={home}/{_CLONE}", *login]
        words += ["sh", "-c", f'. {_VARIABLES}; exec "$@"', "sh"]
        if what.offline:
            words += ["unshare", "--net", "sh", "-c", f'python3 -c "{_LOOPBACK_UP}" && exec "$@"', "sh"]
        if account.number:
            words += ["setpriv", f"--reuid={name}", f"--regid={name}", "--init-groups"]
        log.run("sh", "-c", _JOIN, "sh", *words, "sh", "-c", what.command, env={"GROUPS_TO_JOIN": self.groups})


# ── a run ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _remove(root: pathlib.Path) -> None:
    subprocess.run(["rm", "--recursive", "--force", "--one-file-system", root], check=True)


def run(release: Release, chosen: dict[str, Step], keep: bool) -> str:
    """Run steps on a fresh Debian; the name of the one that failed, or nothing."""
    root = CACHE / f"fresh-{release.suite}-root"
    current = "root"
    try:
        _make_base(release)
        if not keep:
            _remove(root)
        with step(f"copy of the Debian {release.number} root") as log:
            _copy(log, release, root)
        with _namespaces(root) as machine:
            for name, what in chosen.items():
                current = name
                with step(f"Debian {release.number}: {what.command}") as log:
                    machine.run(log, what)
        return ""
    except SystemExit:  # a step's, which has said why
        return current
    except (StepFailed, OSError, subprocess.SubprocessError) as error:
        say(f"   FAILED: {error}")
        return current
    finally:
        if not keep:
            _remove(root)


def _terminated(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m tools.fresh", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("release", nargs="*", metavar="RELEASE", help=f"of Debian: {' or '.join(RELEASES)}; all unless told")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--only", action="append", choices=STEPS, help="run this step alone; may be given again")
    only.add_argument("--run", metavar="COMMAND", help="run this shell command as root in the clone instead of the steps")
    parser.add_argument("--keep", action="store_true", help="go on in the root that an earlier --keep left, and leave it again")
    arguments = parser.parse_args()
    if unknown := set(arguments.release) - RELEASES.keys():
        parser.error(f"no Debian {', '.join(sorted(unknown))} here; there are {', '.join(RELEASES)}")
    if os.geteuid():
        sys.exit("A fresh root needs root: run this as root.")
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
        sys.exit("interrupted; what was started is gone")
    print("\n".join(f"Debian {number}: {result}" for number, result in results.items()))
    failures = sum(result.startswith("FAILED") for result in results.values())
    print(f"{len(results) - failures} passed, {failures} failed in {time.monotonic() - started:.0f}s", flush=True)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
