# SPDX-License-Identifier: GPL-3.0-or-later
"""Known users during an attack by password guesses and slow senders."""

from __future__ import annotations

import collections
from dataclasses import dataclass
from typing import Any

from sandbox.steps import say

from .. import load_client
from ..candidates import OURS, RAW, Candidate
from ..endpoint import Endpoint
from ..load_client import Group
from ..measure import MIB, Bench, one_by_one, results, row
from ..report import Goal, Result


@dataclass(frozen=True)
class _Attack:
    """The attackers: guesses, half of them for the password of an existing user, and senders whose header never ends."""

    guesses: int
    senders: int
    seconds: float

    def groups(self, endpoint: Endpoint, target: dict[str, Any]) -> list[Group]:
        # A guess may wait for its check. Use one client per guess, so that all are sent in time.
        answers = [401, 429, 503] if endpoint.user else [200]
        one = {"each": 1, "spread": self.seconds, "expect": answers, "timeout": 25}
        return [
            Group(endpoint, [target], self.guesses // 2, "passwords", False, {**one, "guess": "password", "user": endpoint.user}),
            Group(endpoint, [target], self.guesses // 2, "names", False, {**one, "guess": "user"}),
            Group(
                endpoint, [target], self.senders, "slow", False, {"kind": "slow-send", "seconds": self.seconds, "send_every_ms": 500}
            ),
        ]


def _known(endpoint: Endpoint, target: dict[str, Any], seconds: float) -> list[Group]:
    """Returns users with a valid credential, on persistent and on new connections."""
    paced = {"seconds": seconds, "per_second": 100}
    return [
        Group(endpoint, [target], 4, "kept", options=paced),
        Group(endpoint, [target], 4, "new", options={**paced, "reconnect": True}),
    ]


@row("attack")
def attack(bench: Bench, guesses: int = 3000, senders: int = 1000, seconds: float = 20) -> list[Result]:
    """Known users during an attack by password guesses and slow senders."""
    attackers, notes = _Attack(guesses, senders, seconds), []

    def measure(name: str, candidate: Candidate) -> dict[str, float]:
        bench.upstream.set()
        image = bench.image((MIB,))
        if name == RAW:  # without authentication, to measure what this load leaves for known users
            target = load_client.blob(image, image.blobs[0])
        else:
            load_client.pulls(candidate.endpoint, image, 1, 2)
            target = load_client.manifest(image)
        quiet = [seen.right() for seen in load_client.run(*_known(candidate.endpoint, target, seconds / 2)).groups]
        known = _known(candidate.endpoint, target, seconds)
        groups = load_client.run(*known, *attackers.groups(candidate.endpoint, target)).groups
        loud, (passwords, names, slow) = groups[: len(known)], groups[len(known) :]
        slower = max(now.latency["p99"] / before.latency["p99"] for now, before in zip(loud, quiet, strict=True))
        times = [f"{1000 * one.latency['p99']:.2f}" for pair in zip(quiet, loud, strict=True) for one in pair]
        answers = collections.Counter(passwords.statuses) + collections.Counter(names.statuses)
        notes.append(
            f"{name}: p99 [ms] without and with the attack, on persistent connections {times[0]}, {times[1]}"
            f" and on new ones {times[2]}, {times[3]};"
            f" responses to guesses: {dict(answers)}; slow senders disconnected: {slow.closed}"
        )
        say("".join(f"   {errors}\n" for errors in (one.errors for one in loud) if errors) + f"   {notes[-1]}")
        return {"failed": sum(seen.failed for seen in loud), "slower": slower}

    found = one_by_one(bench, (OURS, RAW), measure, cost=12)
    what = f"known users during {guesses:,} wrong guesses and {senders:,} slow senders, bcrypt 12: "
    return [
        *results(what + "requests failed", "", found("failed"), {RAW: Goal("ours", "<=", 0)}),
        *results(what + "p99 over the quiet p99", "×", found("slower"), {RAW: Goal("ours", "<=", 2)}, "; ".join(notes)),
    ]
