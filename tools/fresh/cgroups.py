# SPDX-License-Identifier: GPL-3.0-or-later
"""Cgroups for a fresh machine, below the caller's, in every mounted hierarchy of version 1 or 2."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

from sandbox.steps import wait

# A process joins the groups in this variable, then becomes the command that follows.
JOIN = 'for group in $GROUPS_TO_JOIN; do echo $$ > "$group/cgroup.procs"; done; unset GROUPS_TO_JOIN; exec "$@"'


@dataclass(frozen=True)
class Hierarchy:
    """A mounted hierarchy of cgroups, and the fresh machine's group in it."""

    kind: str
    options: str
    mounted: pathlib.Path
    group: pathlib.Path

    @property
    def leaf(self) -> pathlib.Path:
        """The group for processes: one of version 2 that delegates controllers may have none."""
        return self.group / "init" if self.delegates else self.group

    @property
    def delegates(self) -> bool:
        """Whether the group passes controllers on to groups below it."""
        return self.kind == "cgroup2" and bool((self.mounted / "cgroup.controllers").read_text().split())


def hierarchies(name: str) -> list[Hierarchy]:
    """Returns the mounted hierarchies, each with the group of that name."""
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
            # Below the caller's group, so that its limits apply. Version 2 forbids that, since the caller's has processes.
            above = where.get(",".join(words), "") if kind == "cgroup" else ""
            found.append(Hierarchy(kind, ",".join(words), mounted, mounted / above / name))
    return found


def make(found: Sequence[Hierarchy]) -> None:
    """Make the groups, which must not exist."""
    for hierarchy in found:
        group = hierarchy.group
        if hierarchy.delegates:
            _delegate(group.parent)
        group.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):  # a new group of version 1 has none, and so accepts no process
            if hierarchy.kind == "cgroup" and (group / name).exists():
                (group / name).write_text((group.parent / name).read_text())
                (group / "cgroup.clone_children").write_text("1")
        hierarchy.leaf.mkdir(exist_ok=True)
        if hierarchy.delegates:
            _delegate(group)


def _delegate(group: pathlib.Path) -> None:
    for controller in (group / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):  # the kernel may refuse one, for example because of real-time processes
            (group / "cgroup.subtree_control").write_text(f"+{controller}")


def remove(found: Sequence[Hierarchy]) -> None:
    """Remove the groups, if they exist, when their last process has ended. Raises StepFailed after 30 s."""

    def gone(group: pathlib.Path) -> bool:
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        return not group.exists()

    for hierarchy in found:
        wait(lambda group=hierarchy.group: gone(group), 30, f"the end of {hierarchy.group}")  # type: ignore[misc]
