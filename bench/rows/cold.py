# SPDX-License-Identifier: GPL-3.0-or-later
"""Content that is not in the cache: one client, a herd, clients that arrive during a fill."""

from __future__ import annotations

import functools
import math

from sandbox.steps import StepFailed, say

from .. import load_client
from ..candidates import NGINX, OURS, V2, V3, Candidate
from ..endpoint import Endpoint
from ..load_client import Group
from ..measure import FAR, MIB, SMALL, Bench, alternate, content_gets, one_by_one, pull_checked, results, row, together
from ..report import Goal, Result


@row("fill")
def fill(bench: Bench, number: int = 100, seconds: float = 60, size: int = 8 * MIB, replicas: int = 3) -> list[Result]:
    """Clients that arrive during a fill that takes 60 s; 3 replicas of this cache."""

    def measure(name: str, candidate: Candidate) -> dict[str, float]:
        image = bench.image((size,))
        bench.upstream.set(latency=0.02, rate=int(size / seconds))
        target, options = load_client.blob(image, image.layers[0]), {"each": 1, "spread": seconds * 0.97}
        seen = load_client.one(Group(candidate.endpoint, [target], number, options=options, others=candidate.endpoints[1:]))
        gets = bench.upstream.counts().get(f"GET content {image.layers[0].digest}", 0)
        found = {"gets": gets, "first": seen.first_byte["max"], "end": seen.end["p99"]}
        say(f"   {name}: {gets} GETs, first byte after at most {found['first']:.2f} s, p99 of the ends {found['end']:.1f} s")
        return found

    found = one_by_one(bench, (OURS, V3, NGINX), measure, replicas=replicas)
    what = f"{number} clients arriving through a fill of {seconds:.0f} s over {replicas} replicas: "
    return [
        *results(what + "upstream GETs per blob", "", found("gets"), {V3: Goal("ours", "<=", 1), NGINX: None}),
        *results(what + "worst first byte", "s", found("first"), {V3: Goal("ours", "<=", 0.5), NGINX: None}),
        *results(
            what + "p99 of the ends, from the fill's start", "s", found("end"), {V3: Goal("ours", "<=", seconds + 3), NGINX: None}
        ),
    ]


@row("herd")
def herd(bench: Bench, number: int = 100) -> list[Result]:
    """A herd on a cold image compared with one client on a cold image."""
    bench.upstream.set(**FAR)
    gets: dict[str, list[float]] = {}

    def measure(name: str, candidate: Candidate) -> float:
        one = load_client.pulls(candidate.endpoint, bench.image(SMALL), 1).latency["p50"]
        image = bench.image(SMALL)
        try:
            whole = load_client.pulls(candidate.endpoint, image, number).latency["p50"]
        except StepFailed as error:
            if name == OURS:
                raise
            say(f"   {name}: {error}")
            whole = math.inf
        gets.setdefault(name, []).append(content_gets(bench, image))
        return whole / one

    with together(bench, OURS, V3, V2, NGINX) as running:
        for candidate in running.values():  # exclude the first request of a user
            load_client.pulls(candidate.endpoint, bench.image((MIB,)), 1)
        values = alternate({name: functools.partial(measure, name, one) for name, one in running.items()}, "×")
    most = {name: max(some) for name, some in gets.items()}
    what = f"herd of {number} on a cold image, 20 ms, 8 MB/s: "
    return [
        *results(what + "p50 over one client's", "×", values, {V3: Goal("ours", "<=", 1.6), V2: None, NGINX: None}),
        *results(what + "most GETs per blob", "", most, {V3: Goal("ours", "<=", 1), V2: None, NGINX: None}),
    ]


@row("cold-pull")
def cold_pull(bench: Bench, size: int = 16 * MIB) -> list[Result]:
    """One client on a cold image, compared with pulling it directly from the upstream."""
    bench.upstream.set(**FAR)
    straight = "straight from upstream"

    def measure(endpoint: Endpoint) -> float:
        image = bench.image((size, size, size))
        try:
            return pull_checked(endpoint, image).seconds
        finally:
            bench.library.forget(image)

    with together(bench, OURS, V3) as running:
        endpoints = {**{name: one.endpoint for name, one in running.items()}, straight: bench.straight}
        values = alternate({name: lambda e=e: measure(e) for name, e in endpoints.items()}, "s")
    what = f"cold pull, one client, 3 × {size // MIB} MiB, 20 ms, 8 MB/s"
    return results(what, "s", values, {straight: Goal("ratio", "<=", 1.05), V3: None})
