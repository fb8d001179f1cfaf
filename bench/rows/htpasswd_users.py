# SPDX-License-Identifier: GPL-3.0-or-later
"""Module htpasswd compared with community.general.htpasswd."""

from __future__ import annotations

from .. import htpasswd
from ..candidates import OURS
from ..measure import Bench, alternate, results, row
from ..report import Goal, Result


@row("htpasswd")
def htpasswd_users(bench: Bench, users: int = 1000, cost: int = 5, looped: int = 20) -> list[Result]:
    """Module htpasswd with many unchanged users."""
    made = htpasswd.make(bench.new("htpasswd"), users, cost)
    alone, peer = "bcrypt alone, all processors", f"community.general.htpasswd, a loop of {looped} extrapolated"
    process = alternate({OURS: lambda: htpasswd.module(made), alone: lambda: htpasswd.alone(made)}, "s")
    runs = {OURS: htpasswd.ours(made), "nothing": htpasswd.nothing(made), "loop": htpasswd.peer(made, looped)}
    task = alternate(runs, "s")
    task[peer] = task["nothing"] + (task["loop"] - task["nothing"]) * users / looped
    what = f"{users:,} users at bcrypt {cost}, none changes: "
    return [
        *results(what + "in the module's process", "s", process, {alone: Goal("ratio", "<=", 1.2)}),
        *results(what + "a run of ansible-playbook", "s", task, {peer: None}),
    ]
