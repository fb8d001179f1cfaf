# SPDX-License-Identifier: GPL-3.0-or-later
"""A root that runs as a machine: namespaces with a process 1, cgroups and a network."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sandbox.steps import Log, StepFailed

from . import cgroups, network
from .root import PATH, VARIABLES
from .steps import ADMINISTRATOR, CLONE, USER, Step

NAME = "registry-cache-fresh"
_NAMESPACES = ("--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup")
_LOOPBACK_UP = (
    "import fcntl, socket, struct; "
    "fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh', b'lo', 1))"  # SIOCSIFFLAGS, IFF_UP
)


@dataclass(frozen=True)
class Machine:
    """A running machine. `first`: the pid of its process 1; `groups`: the cgroups of its processes."""

    first: str
    groups: str

    def run(self, log: Log, what: Step) -> None:
        """Run a step in its account's clone. Raises StepFailed."""
        account = what.account
        name, home = account.name, account.home
        login = (f"PATH={PATH}", f"HOME={home}", f"USER={name}", f"LOGNAME={name}", "SHELL=/bin/sh")
        words = ["nsenter", "--target", self.first, *_NAMESPACES, "--root"]
        words += ["/usr/bin/env", "-i", f"--chdir={home}/{CLONE}", *login]
        words += ["sh", "-c", f'. {VARIABLES}; exec "$@"', "sh"]
        if what.offline:
            words += ["unshare", "--net", "sh", "-c", f'python3 -c "{_LOOPBACK_UP}" && exec "$@"', "sh"]
        if account.number:
            words += ["setpriv", f"--reuid={name}", f"--regid={name}", "--init-groups"]
        log.run("sh", "-c", cgroups.JOIN, "sh", *words, "sh", "-c", what.command, env={"GROUPS_TO_JOIN": self.groups})


@contextlib.contextmanager
def started(root: pathlib.Path) -> Iterator[Machine]:
    """Start a machine from a root; at the end, end its processes and remove its cgroups and network."""
    hierarchies = cgroups.hierarchies(NAME)
    cgroups.remove(hierarchies)  # groups of a run that was killed
    cgroups.make(hierarchies)
    # First into the group, which thereby becomes the root of its namespace, then into the leaf.
    join = {"GROUPS_TO_JOIN": " ".join(str(hierarchy.group) for hierarchy in hierarchies if not hierarchy.delegates)}
    unshare = ("unshare", *_NAMESPACES, "--propagation", "private", "--fork", "--kill-child=KILL")
    # The kernel sends the signal when this process ends, however it ends.
    killed_with_us = ("setpriv", "--pdeathsig", "KILL")
    argv = [*killed_with_us, "sh", "-c", cgroups.JOIN, "sh", *unshare, "sh", "-c", _init(root, hierarchies)]
    holder = subprocess.Popen(
        argv, env={**os.environ, **join}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True, text=True
    )
    try:
        if not holder.stdout or holder.stdout.readline() != "ready\n":
            raise StepFailed("this machine does not allow namespaces for a fresh root; see the output of mount above")
        (first,) = pathlib.Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
        with network.connected(NAME, first):
            yield Machine(first, " ".join(str(hierarchy.leaf) for hierarchy in hierarchies))
    finally:
        holder.kill()  # ends process 1, and thereby all others
        holder.wait()
        cgroups.remove(hierarchies)


def _init(root: pathlib.Path, hierarchies: Sequence[cgroups.Hierarchy]) -> str:
    """Returns the script of process 1: it mounts file systems, then sleeps until it is killed."""
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
    for account in (ADMINISTRATOR, USER):
        lines += [f"mount --bind {shlex.quote(str(kept))} {place.lstrip('/')}" for kept, place in account.downloads.items()]
    lines += [
        "hostname fresh",
        "mkdir -p .outside",
        "pivot_root . .outside",
        # This shell is still the outer one. systemd makes mounts shared, so they are here too.
        "exec chroot . /bin/sh -euc 'umount --lazy /.outside; mount --make-rshared /"
        # Ignoring SIGCHLD leaves no zombies.
        '; trap "" CHLD; echo ready; exec sleep infinity\'',
    ]
    return "\n".join(lines)
