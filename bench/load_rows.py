# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows whose clients are bench/load's: rates, fills, herds, memory, the disk, slow readers, guesses."""

from __future__ import annotations

import collections
import contextlib
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sandbox.steps import StepFailed, say

from . import load_client, usage
from .candidates import BARE, GO, NGINX, OURS, RAW, V2, V3, Candidate
from .containerd_client import Endpoint
from .content import Image
from .load_client import Group, Seen
from .measure import FAR, GIB, MIB, Bench, alternate, content_gets, results, row, together, wrk
from .paced_upstream import Fault
from .report import Goal, Result

_SMALL = (2 * MIB, 2 * MIB, MIB)
_WRK_SECONDS = 3


def _alone(
    bench: Bench, names: Sequence[str], measure: Callable[[str, Candidate], dict[str, float]], **options: Any
) -> Callable[[str], dict[str, float]]:
    """Measure candidates one after the other; gives the values of all by their key. A peer that fails is left out."""
    found: dict[str, dict[str, float]] = {}
    for name in names:
        try:
            with together(bench, name, **options) as running:
                found[name] = measure(name, running[name])
        except StepFailed as error:
            if name == OURS:
                raise
            say(f"   {name} is left out: {error}")
    return lambda key: {name: values[key] for name, values in found.items() if key in values}


def _once(endpoint: Endpoint, targets: Sequence[dict[str, Any]], times: int = 1) -> Seen:
    """One client that takes every target in turn, so many times; all must be right."""
    return load_client.one(Group(endpoint, targets, 1, options={"each": times * len(targets)}))


class _Cpu:
    """Processor time of candidates for what they did: a median for each."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def of(self, name: str, candidate: Candidate) -> Iterator[Callable[[float], None]]:
        """Call what this gives, inside, with how much was done."""
        done: list[float] = []
        before = usage.cpu(candidate.pids())
        yield done.append
        self._values.setdefault(name, []).append((usage.cpu(candidate.pids()) - before) / sum(done))

    def medians(self, factor: float = 1.0) -> dict[str, float]:
        return {name: factor * statistics.median(values) for name, values in self._values.items()}


@row("warm-bytes")
def warm_bytes(bench: Bench, number: int = 8, size: int = 256 * MIB) -> list[Result]:
    """One large blob that is in the cache: bytes per second, and processor time per GiB."""
    bench.upstream.set()
    image, cpu, load = bench.image((size,)), _Cpu(), []
    target = [load_client.blob(image, image.layers[0])]

    def measure(name: str, candidate: Candidate) -> float:
        # Bodies are hashed when the clock has stopped: hashing takes more time than any of the servers.
        group = Group(candidate.endpoint, target, number, options={"each": 1, "keep": True})
        with cpu.of(name, candidate) as did:
            report = load_client.run(group)
            seen = report.groups[0].right()
            did(seen.bytes / GIB)
        load.append(report.cpu / (seen.bytes / GIB))
        return seen.rate / MIB

    with together(bench, OURS, V3, NGINX, RAW) as running:
        for candidate in running.values():
            _once(candidate.endpoint, target, 2)
        values = alternate({name: functools.partial(measure, name, one) for name, one in running.items()}, "MiB/s")
    what = f"warm blob of {size // MIB} MiB, {number} clients"
    note = f"the load client takes {statistics.median(load):.2f} s of processor time per GiB beside it"
    return [
        *results(what, "MiB/s", values, {RAW: Goal("ratio", ">=", 0.95), V3: None, NGINX: None}, note),
        *results(f"{what}: processor time per GiB", "s", cpu.medians(), {RAW: None, V3: None, NGINX: None}),
    ]


def _rates(
    bench: Bench, image: Image, targets: Mapping[str, dict[str, Any]], **options: Any
) -> tuple[dict[str, float], dict[str, float]]:
    """Requests per second of a target by candidate, and microseconds of processor time per request."""
    cpu = _Cpu()

    def measure(name: str, candidate: Candidate) -> float:
        # It checks the password of every request: few of them in a second.
        seconds = _WRK_SECONDS * (4 if name == V3 else 1)
        with cpu.of(name, candidate) as did:
            rate = wrk(candidate, targets[name]["path"], seconds)
            if not rate:
                raise StepFailed(f"{name} answers nothing within {seconds} s")
            did(rate * seconds)
        return rate

    with together(bench, *targets, **options) as running:
        for name, candidate in running.items():
            if name not in (RAW, GO):
                load_client.one(Group(candidate.endpoint, load_client.whole(image), 1, options={"kind": "pull", "each": 1}))
            _once(candidate.endpoint, [targets[name]], 2)
        values = alternate({name: functools.partial(measure, name, one) for name, one in running.items()}, "GET/s")
        for name, candidate in running.items():  # wrk compares no digest
            _once(candidate.endpoint, [targets[name]], 10 if name == V3 else 100)
    return values, cpu.medians(1e6)


@row("small-blob")
def small_blob(bench: Bench) -> list[Result]:
    """GET/s of a blob of 2 KiB that is in the cache."""
    bench.upstream.set()
    image = bench.image((MIB,))
    target = load_client.blob(image, image.blobs[0])
    values, cpu = _rates(bench, image, dict.fromkeys((OURS, BARE, GO, RAW), target))
    what = f"warm blob of {target['size'] // 1024} KiB, GET/s"
    return [
        *results(what, "1/s", values, {RAW: Goal("ratio", ">=", 0.75), GO: None, BARE: None}),
        *results(f"{what}: processor time per GET", "µs", cpu, {RAW: None, GO: None, BARE: None}),
    ]


@row("manifest-rate")
def manifest_rate(bench: Bench) -> list[Result]:
    """Manifests with a credential that costs bcrypt 12."""
    bench.upstream.set()
    image = bench.image((MIB,))
    targets = dict.fromkeys((OURS, V3), load_client.manifest(image))
    # As large as the manifest, about.
    targets[RAW] = targets[GO] = load_client.blob(image, image.blobs[0])
    values, cpu = _rates(bench, image, targets, cost=12)
    limit = (
        f"raw nginx, which checks nothing, comes to {values[RAW] / values[V3]:,.0f} × distribution 3 here: what is left of the"
        " processors beside the load generator and the kernel's part of a request"
    )
    what = "manifest GET/s with a credential, bcrypt 12"
    first, *others = results(what, "1/s", values, {V3: Goal("ratio", ">=", 5000), GO: None, RAW: None})
    return [
        first if first.met else replace(first, note=limit),
        *others,
        *results(f"{what}: processor time per GET", "µs", cpu, {V3: None, GO: None, RAW: None}),
    ]


def _pulls(endpoint: Endpoint, image: Image, number: int, each: int = 1) -> Seen:
    """Clients that pull an image, each so many times; all of it must be right."""
    return load_client.one(Group(endpoint, load_client.whole(image), number, options={"kind": "pull", "each": each, "keep": True}))


@row("warm-pull")
def warm_pull(bench: Bench, times: int = 30) -> list[Result]:
    """A small image that is in the cache, pulled on new connections."""
    bench.upstream.set()
    image = bench.image(_SMALL)

    def measure(name: str, candidate: Candidate) -> float:
        return _pulls(candidate.endpoint, image, 1, 5 if name in (V3, V2) else times).latency["p50"]

    with together(bench, OURS, V3, BARE, V2, NGINX, cost=10) as running:
        for candidate in running.values():
            _pulls(candidate.endpoint, image, 1, 2)
        values = alternate({name: functools.partial(measure, name, one) for name, one in running.items()}, "s")
    goals = {V3: Goal("ratio", "<=", 1 / 30), BARE: Goal("ratio", "<=", 0.35), V2: None, NGINX: None}
    return results("warm pull of a small image (5 MiB, 3 layers), bcrypt 10: p50", "s", values, goals)


@row("fill")
def fill(bench: Bench, number: int = 100, seconds: float = 60, size: int = 8 * MIB, replicas: int = 3) -> list[Result]:
    """Clients that arrive all through a fill that takes 60 s alone, ours over 3 replicas."""

    def measure(name: str, candidate: Candidate) -> dict[str, float]:
        image = bench.image((size,))
        bench.upstream.set(latency=0.02, rate=int(size / seconds))
        target, options = load_client.blob(image, image.layers[0]), {"each": 1, "spread": seconds * 0.97}
        seen = load_client.one(Group(candidate.endpoint, [target], number, options=options, others=candidate.endpoints[1:]))
        gets = bench.upstream.counts().get(f"GET content {image.layers[0].digest}", 0)
        found = {"gets": gets, "first": seen.first_byte["max"], "end": seen.end["p99"]}
        say(f"   {name}: {gets} GETs, first byte after at most {found['first']:.2f} s, p99 of the ends {found['end']:.1f} s")
        return found

    found = _alone(bench, (OURS, V3, NGINX), measure, replicas=replicas)
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
    """A herd on a cold image against one client on a cold image."""
    bench.upstream.set(**FAR)
    gets: dict[str, list[float]] = {}

    def measure(name: str, candidate: Candidate) -> float:
        one = _pulls(candidate.endpoint, bench.image(_SMALL), 1).latency["p50"]
        image = bench.image(_SMALL)
        try:
            whole = _pulls(candidate.endpoint, image, number).latency["p50"]
        except StepFailed as error:
            if name == OURS:
                raise
            say(f"   {name}: {error}")
            whole = math.inf
        gets.setdefault(name, []).append(content_gets(bench, image))
        return whole / one

    with together(bench, OURS, V3, V2, NGINX) as running:
        for candidate in running.values():  # the first contact of a user is no part of it
            _pulls(candidate.endpoint, bench.image((MIB,)), 1)
        values = alternate({name: functools.partial(measure, name, one) for name, one in running.items()}, "×")
    most = {name: max(some) for name, some in gets.items()}
    what = f"herd of {number} on a cold image, 20 ms, 8 MB/s: "
    return [
        *results(what + "p50 over one client's", "×", values, {V3: Goal("ours", "<=", 1.6), V2: None, NGINX: None}),
        *results(what + "most GETs per blob", "", most, {V3: Goal("ours", "<=", 1), V2: None, NGINX: None}),
    ]


def _split(memory: usage.Memory) -> str:
    return f"{memory.processes / MIB:.1f} MiB of the process and {memory.sockets / MIB:.1f} MiB of its sockets"


@row("memory")
def memory_use(bench: Bench, number: int = 100, size: int = GIB) -> list[Result]:
    """Anonymous, shared and socket memory: idle, and with 100 clients on one blob as it comes."""
    bench.upstream.set(latency=0.02, rate=50_000_000)
    image, notes = bench.image((size,)), []

    def measure(name: str, candidate: Candidate) -> dict[str, float]:
        time.sleep(2)  # what a start leaves behind is given back
        idle, memory = usage.Memory(candidate.pids()).sample(), usage.Memory(candidate.pids())
        # One in ten compares digests: hashing 100 GiB takes longer than all the rest.
        group = Group(candidate.endpoint, [load_client.blob(image, image.layers[0])], number, options={"each": 1, "hash_every": 10})
        with usage.peak(memory.sample, every=0.5) as highest:
            seen = load_client.one(group)
        notes.append(f"{name}: {_split(memory)}, in {seen.wall:.0f} s")
        say(f"   {notes[-1]}; {idle / MIB:.1f} MiB idle")
        return {"idle": idle / MIB, "busy": highest[0] / MIB}

    found = _alone(bench, (OURS, V3), measure)
    bench.library.forget(image)
    what = f"memory with sockets, {number} clients on a blob of {size // MIB} MiB"
    return [
        *results("memory with sockets, idle", "MiB", found("idle"), {V3: Goal("ours", "<=", 20)}),
        *results(what, "MiB", found("busy"), {V3: Goal("ours", "<=", 60)}, "; ".join(notes)),
    ]


def _held(bench: Bench, candidate: Candidate, images: Sequence[Image]) -> int:
    """Bytes of layers that a candidate serves while the upstream answers each of them with an error."""
    layers = [(image, layer) for image in images for layer in image.layers]
    bench.upstream.set(faults={layer.digest: Fault("error") for _, layer in layers})
    kept = load_client.run(
        Group(
            candidate.endpoint,
            [load_client.blob(*one) for one in layers],
            16,
            # A layer that is not held is no failure, whatever the error.
            options={"each": -(-len(layers) // 16), "expect": [200, 404, 429, 500, 502, 503, 504]},
        )
    ).groups[0]
    # With as many requests as layers, each is asked for once.
    assert kept.requests == len(layers)
    return kept.right().hashed * layers[0][1].size


@row("disk-writes")
def disk_writes(bench: Bench, limit: int = 512 * MIB, size: int = 4 * MIB, times: int = 2) -> list[Result]:
    """What is written to the disk per byte fetched, and how much of the limit holds distinct content."""
    images = [bench.image([size] * 16) for _ in range(times * limit // (16 * size))]

    def measure(name: str, candidate: Candidate) -> dict[str, float]:
        bench.upstream.set()
        before = usage.written(candidate.pids())
        for image in images:
            _pulls(candidate.endpoint, image, 1)
        found = {"written": (usage.written(candidate.pids()) - before) / bench.upstream.sent()}
        if name != V3:  # it has no limit
            found["held"] = _held(bench, candidate, images) / limit
        say(f"   {name}: {found['written']:.3f} bytes written per byte, holds {found.get('held', 0):.3f} of the limit")
        return found

    found = _alone(bench, (OURS, V3), measure, size=limit)
    for image in images:
        bench.library.forget(image)
    return [
        *results("bytes written to the disk per byte fetched", "", found("written"), {V3: Goal("ours", "<=", 1.05)}),
        *results(f"distinct content held, over the limit of {limit // MIB} MiB", "", found("held"), {"": Goal("ours", ">=", 0.95)}),
    ]


@row("slow-readers")
def slow_readers(
    bench: Bench, limit: int = 64 * MIB, fills: int = 8, size: int = 14 * MIB, readers: int = 16, rate: int = MIB
) -> list[Result]:
    """More fills at once than the store has room for, with slow readers."""
    notes = []

    def measure(name: str, candidate: Candidate) -> dict[str, float]:
        bench.upstream.set()
        _pulls(candidate.endpoint, bench.image((MIB,)), 1)
        image = bench.image([size] * fills)
        targets = [load_client.blob(image, layer) for layer in image.layers]
        group = Group(candidate.endpoint, targets, readers, options={"each": 1, "rate": rate})
        memory = usage.Memory(candidate.pids())
        time.sleep(1)
        before = memory.sample()

        def blocks() -> int:
            return usage.at_once(lambda: candidate.blocks() | usage.removed(candidate.pids(), candidate.stores))

        with usage.peak(memory.sample, every=0.5) as highest, usage.peak(blocks, every=0.1) as most:
            seen = load_client.run(group).groups[0]
        found = {"cut": seen.failed, "used": most[0] / limit, "more": (highest[0] - before) / MIB}
        notes.append(f"{name}: {_split(memory)} at most, {before / MIB:.1f} MiB before; errors: {seen.errors or 'none'}")
        say(f"   {found['cut']} of {readers} cut, {found['used']:.3f} of the limit, {found['more']:.1f} MiB more; {notes[-1]}")
        return found

    found = _alone(bench, (OURS,), measure, size=limit)
    what = f"{fills} fills of {size // MIB} MiB, {readers} readers of {rate // 1024} KiB/s, store of {limit // MIB} MiB: "
    return [
        *results(what + "cut", "", found("cut"), {"": Goal("ours", "<=", 0)}),
        *results(what + "used blocks, removed files included, over the limit", "×", found("used"), {"": Goal("ours", "<=", 1)}),
        *results(what + "more memory with sockets than before", "MiB", found("more"), {"": Goal("ours", "<=", 40)}, "; ".join(notes)),
    ]


@dataclass(frozen=True)
class _Attack:
    """Who attacks: guesses, half of them of an existing user's password, and senders whose header never ends."""

    guesses: int
    senders: int
    seconds: float

    def groups(self, endpoint: Endpoint, target: dict[str, Any]) -> list[Group]:
        # A guess may wait for its check: each has a client of its own, so that all are sent in time.
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
    """Users with a good credential: on connections that stay, and on new ones."""
    paced = {"seconds": seconds, "per_second": 100}
    return [
        Group(endpoint, [target], 4, "kept", options=paced),
        Group(endpoint, [target], 4, "new", options={**paced, "reconnect": True}),
    ]


@row("attack")
def attack(bench: Bench, guesses: int = 3000, senders: int = 1000, seconds: float = 20) -> list[Result]:
    """Known users while others guess and send slowly."""
    attackers, notes = _Attack(guesses, senders, seconds), []

    def measure(name: str, candidate: Candidate) -> dict[str, float]:
        bench.upstream.set()
        image = bench.image((MIB,))
        if name == RAW:  # without credentials: what the machine leaves to known users beside this load
            target = load_client.blob(image, image.blobs[0])
        else:
            _pulls(candidate.endpoint, image, 1, 2)
            target = load_client.manifest(image)
        quiet = [seen.right() for seen in load_client.run(*_known(candidate.endpoint, target, seconds / 2)).groups]
        known = _known(candidate.endpoint, target, seconds)
        groups = load_client.run(*known, *attackers.groups(candidate.endpoint, target)).groups
        loud, (passwords, names, slow) = groups[: len(known)], groups[len(known) :]
        slower = max(now.latency["p99"] / before.latency["p99"] for now, before in zip(loud, quiet, strict=True))
        times = [f"{1000 * one.latency['p99']:.2f}" for pair in zip(quiet, loud, strict=True) for one in pair]
        answers = collections.Counter(passwords.statuses) + collections.Counter(names.statuses)
        notes.append(
            f"{name}: p99 [ms] quiet, then under attack, on kept connections {times[0]}, {times[1]} and on new ones {times[2]}, {times[3]};"
            f" answers to guesses: {dict(answers)}; slow senders cut off: {slow.closed}"
        )
        say("".join(f"   {errors}\n" for errors in (one.errors for one in loud) if errors) + f"   {notes[-1]}")
        return {"failed": sum(seen.failed for seen in loud), "slower": slower}

    found = _alone(bench, (OURS, RAW), measure, cost=12)
    what = f"known users during {guesses:,} wrong guesses and {senders:,} slow senders, bcrypt 12: "
    return [
        *results(what + "requests failed", "", found("failed"), {RAW: Goal("ours", "<=", 0)}),
        *results(what + "p99 over the quiet p99", "×", found("slower"), {RAW: Goal("ours", "<=", 2)}, "; ".join(notes)),
    ]
