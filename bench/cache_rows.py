# SPDX-License-Identifier: GPL-3.0-or-later
"""The measures of the one program, beside today's front and its peers. Their clients are bench/load's."""

from __future__ import annotations

import collections
import contextlib
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sandbox.steps import StepFailed, say

from . import candidates, clients, front, usage
from .cache import cache
from .candidates import Candidate
from .client import Endpoint
from .clients import Group, Seen
from .content import Image
from .measure import GIB, MIB, Bench, alternate, content_gets, peak, row, wrk
from .report import Goal, Result
from .upstream import Fault

_CACHE, _FRONT = "cache", "today's front"
_V3, _BARE, _NGINX, _RAW = "distribution 3", "distribution 3 without credentials", "nginx proxy_cache", "raw nginx"
_GO = "bare net/http"
_SMALL = (2 * MIB, 2 * MIB, MIB)
_WRK_SECONDS = 3
# The cheapest that the program takes: where credentials are not what is measured.
_CHEAP = 4


@contextlib.contextmanager
def _running(bench: Bench, *names: str, cost: int = _CHEAP, size: int = 4 * GIB) -> Iterator[dict[str, Candidate]]:
    """Candidates by name. `size`: the limit of those that have one."""
    makers: dict[str, Callable[..., contextlib.AbstractContextManager[Candidate]]] = {
        _CACHE: lambda folder: cache(folder, bench.upstream, cost=cost, size=size),
        _FRONT: lambda folder: front.ours(folder, bench.upstream, cost=cost, size=size),
        _V3: lambda folder: candidates.plain(folder, bench.upstream, cost=cost),
        _BARE: lambda folder: candidates.plain(folder, bench.upstream, cost=0),
        _NGINX: lambda folder: candidates.proxy_cache(folder, bench.upstream, cost=cost),
        _RAW: lambda folder: candidates.files(folder, bench.library.folder),
        _GO: lambda folder: candidates.net_http(folder, bench.library.folder),
    }
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(makers[name](bench.new("candidate"))) for name in names}


def _alone(
    bench: Bench, names: Sequence[str], measure: Callable[[str, Candidate], dict[str, float]], **options: Any
) -> Callable[[str], dict[str, float]]:
    """Measure candidates one after the other; gives the values of all by their key. A peer that fails is left out."""
    found: dict[str, dict[str, float]] = {}
    for name in names:
        try:
            with _running(bench, name, **options) as running:
                found[name] = measure(name, running[name])
        except StepFailed as error:
            if name == _CACHE:
                raise
            say(f"   {name} is left out: {error}")
    return lambda key: {name: values[key] for name, values in found.items() if key in values}


def _results(
    measure: str, unit: str, values: Mapping[str, float], goals: Mapping[str, Goal | None], note: str = ""
) -> list[Result]:
    """The program against each of the peers named in `goals`; the note is the first row's."""
    results = [Result(f"cache: {measure}", unit, peer, values.get(_CACHE), values.get(peer), goal) for peer, goal in goals.items()]
    return [replace(results[0], note=note), *results[1:]]


def _once(endpoint: Endpoint, targets: Sequence[dict[str, Any]], times: int = 1) -> Seen:
    """One client that takes every target in turn, so many times; all must be right."""
    return clients.one(Group(endpoint, targets, 1, options={"each": times * len(targets)}))


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


@row("cache-bytes")
def cache_bytes(bench: Bench, number: int = 8, size: int = 256 * MIB) -> list[Result]:
    """One large blob that is in the cache: bytes per second, and processor time per GiB."""
    bench.upstream.set()
    image, cpu, load = bench.image((size,)), _Cpu(), []
    target = [clients.blob(image, image.layers[0])]

    def measure(name: str, candidate: Candidate) -> float:
        # Bodies are hashed when the clock has stopped: hashing takes more time than any of the servers.
        group = Group(candidate.endpoint, target, number, options={"each": 1, "keep": True})
        with cpu.of(name, candidate) as did:
            report = clients.run(group)
            seen = report.groups[0].right()
            did(seen.bytes / GIB)
        load.append(report.cpu / (seen.bytes / GIB))
        return seen.rate / MIB

    with _running(bench, _CACHE, _FRONT, _V3, _RAW) as running:
        for candidate in running.values():
            _once(candidate.endpoint, target, 2)
        values = alternate({name: functools.partial(measure, name, one) for name, one in running.items()}, "MiB/s")
    what = f"warm blob of {size // MIB} MiB, {number} clients"
    note = f"the load client takes {statistics.median(load):.2f} s of processor time per GiB beside it"
    return [
        *_results(what, "MiB/s", values, {_RAW: Goal("ratio", ">=", 0.95), _FRONT: None, _V3: None}, note),
        *_results(f"{what}: processor time per GiB", "s", cpu.medians(), {_FRONT: Goal("ratio", "<=", 0.9), _RAW: None, _V3: None}),
    ]


def _rates(
    bench: Bench, image: Image, targets: Mapping[str, dict[str, Any]], cost: int, runs: int = 5
) -> tuple[dict[str, float], dict[str, float]]:
    """Requests per second of a target by candidate, and microseconds of processor time per request."""
    cpu = _Cpu()

    def measure(name: str, candidate: Candidate) -> float:
        with cpu.of(name, candidate) as did:
            rate = wrk(candidate, targets[name]["path"], _WRK_SECONDS)
            did(rate * _WRK_SECONDS)
        return rate

    with _running(bench, *targets, cost=cost) as running:
        for name, candidate in running.items():
            if name not in (_RAW, _GO):
                clients.one(Group(candidate.endpoint, clients.whole(image), 1, options={"kind": "pull", "each": 1}))
            _once(candidate.endpoint, [targets[name]], 2)
        values = alternate({name: functools.partial(measure, name, one) for name, one in running.items()}, "GET/s", runs)
        for name, candidate in running.items():  # wrk compares no digest
            _once(candidate.endpoint, [targets[name]], 100)
    return values, cpu.medians(1e6)


@row("cache-small-blob")
def cache_small_blob(bench: Bench) -> list[Result]:
    """GET/s of a blob of 2 KiB that is in the cache."""
    bench.upstream.set()
    image = bench.image((MIB,))
    target = clients.blob(image, image.blobs[0])
    values, cpu = _rates(bench, image, dict.fromkeys((_CACHE, _FRONT, _BARE, _GO, _RAW), target), _CHEAP)
    what = f"warm blob of {target['size'] // 1024} KiB, GET/s"
    return [
        *_results(what, "1/s", values, {_RAW: Goal("ratio", ">=", 0.75), _GO: None, _FRONT: None, _BARE: None}),
        *_results(f"{what}: processor time per GET", "µs", cpu, {_RAW: None, _GO: None, _FRONT: None, _BARE: None}),
    ]


@row("cache-manifest-rate")
def cache_manifest_rate(bench: Bench) -> list[Result]:
    """Manifests with a credential that costs bcrypt 12."""
    bench.upstream.set()
    image = bench.image((MIB,))
    targets = dict.fromkeys((_CACHE, _FRONT), clients.manifest(image))
    # As large as the manifest, about.
    targets[_RAW] = targets[_GO] = clients.blob(image, image.blobs[0])
    values, cpu = _rates(bench, image, targets, cost=12)
    what = "manifest GET/s with a credential, bcrypt 12"
    return [
        *_results(what, "1/s", values, {_FRONT: Goal("ratio", ">=", 1.2), _GO: None, _RAW: None}),
        *_results(f"{what}: processor time per GET", "µs", cpu, {_FRONT: None, _GO: None, _RAW: None}),
    ]


def _pulls(endpoint: Endpoint, image: Image, number: int, each: int = 1) -> Seen:
    """Clients that pull an image, each so many times; all of it must be right."""
    return clients.one(Group(endpoint, clients.whole(image), number, options={"kind": "pull", "each": each, "keep": True}))


@row("cache-pull")
def cache_pull(bench: Bench, times: int = 30) -> list[Result]:
    """A small image that is in the cache, pulled on new connections."""
    bench.upstream.set()
    image = bench.image(_SMALL)
    with _running(bench, _CACHE, _FRONT, _NGINX, _BARE, cost=10) as running:
        for candidate in running.values():
            _pulls(candidate.endpoint, image, 1, 2)
        measures = {name: lambda c=one: _pulls(c.endpoint, image, 1, times).latency["p50"] for name, one in running.items()}
        values = alternate(measures, "s")
    goals = {_BARE: Goal("ratio", "<=", 0.35), _FRONT: None, _NGINX: None}
    return _results("warm pull of a small image (5 MiB, 3 layers), bcrypt 10: p50", "s", values, goals)


@row("cache-fill")
def cache_fill(bench: Bench, number: int = 100, seconds: float = 60, size: int = 8 * MIB) -> list[Result]:
    """Clients that arrive all through a fill that takes 60 s alone."""

    def measure(name: str, candidate: Candidate) -> dict[str, float]:
        image = bench.image((size,))
        bench.upstream.set(latency=0.02, rate=int(size / seconds))
        target = [clients.blob(image, image.layers[0])]
        seen = clients.one(Group(candidate.endpoint, target, number, options={"each": 1, "spread": seconds * 0.97}))
        gets = bench.upstream.counts().get(f"GET content {image.layers[0].digest}", 0)
        found = {"gets": gets, "first": seen.first_byte["max"], "end": seen.end["p99"]}
        say(f"   {name}: {gets} GETs, first byte after at most {found['first']:.2f} s, p99 of the ends {found['end']:.1f} s")
        return found

    found = _alone(bench, (_CACHE, _FRONT), measure)
    what = f"{number} clients arriving through a fill of {seconds:.0f} s: "
    return [
        *_results(what + "upstream GETs", "", found("gets"), {_FRONT: Goal("ours", "<=", 1)}),
        *_results(what + "worst first byte", "s", found("first"), {_FRONT: Goal("ours", "<=", 0.5)}),
        *_results(what + "p99 of the ends, from the fill's start", "s", found("end"), {_FRONT: Goal("ours", "<=", seconds + 3)}),
    ]


@row("cache-herd")
def cache_herd(bench: Bench, number: int = 100) -> list[Result]:
    """A herd on a cold image against one client on a cold image."""
    bench.upstream.set(latency=0.02, rate=8_000_000)
    gets: dict[str, list[float]] = {}

    def measure(name: str, candidate: Candidate) -> float:
        one = _pulls(candidate.endpoint, bench.image(_SMALL), 1).latency["p50"]
        image = bench.image(_SMALL)
        herd = _pulls(candidate.endpoint, image, number).latency["p50"]
        gets.setdefault(name, []).append(content_gets(bench, image))
        return herd / one

    with _running(bench, _CACHE, _FRONT, _NGINX) as running:
        for candidate in running.values():  # the first contact of a user is no part of it
            _pulls(candidate.endpoint, bench.image((MIB,)), 1)
        values = alternate({name: functools.partial(measure, name, one) for name, one in running.items()}, "×")
    most = {name: max(some) for name, some in gets.items()}
    what = f"herd of {number} on a cold image, 20 ms, 8 MB/s: "
    return [
        *_results(what + "p50 over one client's", "×", values, {_FRONT: Goal("ours", "<=", 1.6), _NGINX: None}),
        *_results(what + "most GETs per blob", "", most, {_FRONT: Goal("ours", "<=", 1), _NGINX: None}),
    ]


def _split(memory: usage.Memory) -> str:
    return f"{memory.processes / MIB:.1f} MiB of the process and {memory.sockets / MIB:.1f} MiB of its sockets"


@row("cache-memory")
def cache_memory(bench: Bench, number: int = 100, size: int = GIB) -> list[Result]:
    """Anonymous, shared and socket memory: idle, and with 100 clients on one blob as it comes."""
    bench.upstream.set(latency=0.02, rate=50_000_000)
    image, notes = bench.image((size,)), []

    def measure(name: str, candidate: Candidate) -> dict[str, float]:
        time.sleep(2)  # what a start leaves behind is given back
        idle, memory = usage.Memory(candidate.pids()).sample(), usage.Memory(candidate.pids())
        # One in ten compares digests: hashing 100 GiB takes longer than all the rest.
        group = Group(candidate.endpoint, [clients.blob(image, image.layers[0])], number, options={"each": 1, "hash_every": 10})
        with peak(memory.sample, every=0.5) as highest:
            seen = clients.one(group)
        notes.append(f"{name}: {_split(memory)}, in {seen.wall:.0f} s")
        say(f"   {notes[-1]}; {idle / MIB:.1f} MiB idle")
        return {"idle": idle / MIB, "busy": highest[0] / MIB}

    found = _alone(bench, (_CACHE, _FRONT, _V3), measure)
    bench.library.forget(image)
    what = f"memory with sockets, {number} clients on a blob of {size // MIB} MiB"
    return [
        *_results("memory with sockets, idle", "MiB", found("idle"), {_FRONT: Goal("ours", "<=", 20), _V3: None}),
        *_results(what, "MiB", found("busy"), {_FRONT: Goal("ours", "<=", 60), _V3: None}, "; ".join(notes)),
    ]


def _held(bench: Bench, candidate: Candidate, images: Sequence[Image]) -> int:
    """Bytes of layers that a candidate serves while the upstream answers each of them with an error."""
    layers = [(image, layer) for image in images for layer in image.layers]
    bench.upstream.set(faults={layer.digest: Fault("error") for _, layer in layers})
    kept = clients.run(
        Group(
            candidate.endpoint,
            [clients.blob(*one) for one in layers],
            16,
            # A layer that is not held is no failure, whatever the error.
            options={"each": -(-len(layers) // 16), "expect": [200, 404, 429, 500, 502, 503, 504]},
        )
    ).groups[0]
    # With as many requests as layers, each is asked for once.
    assert kept.requests == len(layers)
    return kept.right().hashed * layers[0][1].size


@row("cache-disk")
def cache_disk(bench: Bench, limit: int = 512 * MIB, size: int = 4 * MIB, times: int = 2) -> list[Result]:
    """What is written to the disk per byte fetched, and how much of the limit holds distinct content."""
    images = [bench.image([size] * 16) for _ in range(times * limit // (16 * size))]

    def measure(name: str, candidate: Candidate) -> dict[str, float]:
        bench.upstream.set()
        before = usage.written(candidate.pids())
        for image in images:
            _pulls(candidate.endpoint, image, 1)
        found = {"written": (usage.written(candidate.pids()) - before) / bench.upstream.sent()}
        if name != _V3:  # it has no limit
            found["held"] = _held(bench, candidate, images) / limit
        say(f"   {name}: {found['written']:.3f} bytes written per byte, holds {found.get('held', 0):.3f} of the limit")
        return found

    found = _alone(bench, (_CACHE, _FRONT, _V3), measure, size=limit)
    for image in images:
        bench.library.forget(image)
    return [
        *_results("bytes written to the disk per byte fetched", "", found("written"), {_FRONT: Goal("ours", "<=", 1.05), _V3: None}),
        *_results(f"distinct content held, over the limit of {limit // MIB} MiB", "", found("held"), {_FRONT: Goal("ours", ">=", 0.95)}),
    ]


@row("cache-tight")
def cache_tight(
    bench: Bench, limit: int = 64 * MIB, fills: int = 8, size: int = 14 * MIB, readers: int = 16, rate: int = MIB
) -> list[Result]:
    """More fills at once than the store has room for, with slow readers."""
    notes = []

    def measure(name: str, candidate: Candidate) -> dict[str, float]:
        bench.upstream.set()
        _pulls(candidate.endpoint, bench.image((MIB,)), 1)
        image = bench.image([size] * fills)
        targets = [clients.blob(image, layer) for layer in image.layers]
        group = Group(candidate.endpoint, targets, readers, options={"each": 1, "rate": rate})
        memory = usage.Memory(candidate.pids())
        time.sleep(1)
        before = memory.sample()

        def blocks() -> int:
            return usage.at_once(lambda: candidate.blocks() | usage.removed(candidate.pids(), candidate.stores))

        with peak(memory.sample, every=0.5) as highest, peak(blocks, every=0.1) as most:
            seen = clients.run(group).groups[0]
        found = {"cut": seen.failed, "used": most[0] / limit, "more": (highest[0] - before) / MIB}
        notes.append(f"{name}: {_split(memory)} at most, {before / MIB:.1f} MiB before; errors: {seen.errors or 'none'}")
        say(f"   {found['cut']} of {readers} cut, {found['used']:.3f} of the limit, {found['more']:.1f} MiB more; {notes[-1]}")
        return found

    found = _alone(bench, (_CACHE, _FRONT), measure, size=limit)
    what = f"{fills} fills of {size // MIB} MiB, {readers} readers of {rate // 1024} KiB/s, store of {limit // MIB} MiB: "
    return [
        *_results(what + "cut", "", found("cut"), {_FRONT: Goal("ours", "<=", 0)}),
        *_results(what + "used blocks, removed files included, over the limit", "×", found("used"), {_FRONT: Goal("ours", "<=", 1)}),
        *_results(what + "more memory with sockets than before", "MiB", found("more"), {_FRONT: Goal("ours", "<=", 40)}, "; ".join(notes)),
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


@row("cache-attack")
def cache_attack(bench: Bench, guesses: int = 3000, senders: int = 1000, seconds: float = 20) -> list[Result]:
    """Known users while others guess and send slowly."""
    attack, notes = _Attack(guesses, senders, seconds), []

    def measure(name: str, candidate: Candidate) -> dict[str, float]:
        bench.upstream.set()
        image = bench.image((MIB,))
        if name == _RAW:  # without credentials: what the machine leaves to known users beside this load
            target = clients.blob(image, image.blobs[0])
        else:
            _pulls(candidate.endpoint, image, 1, 2)
            target = clients.manifest(image)
        quiet = [seen.right() for seen in clients.run(*_known(candidate.endpoint, target, seconds / 2)).groups]
        known = _known(candidate.endpoint, target, seconds)
        groups = clients.run(*known, *attack.groups(candidate.endpoint, target)).groups
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

    found = _alone(bench, (_CACHE, _FRONT, _RAW), measure, cost=12)
    what = f"known users during {guesses:,} wrong guesses and {senders:,} slow senders, bcrypt 12: "
    return [
        *_results(what + "requests failed", "", found("failed"), {_FRONT: Goal("ours", "<=", 0), _RAW: None}),
        *_results(what + "p99 over the quiet p99", "×", found("slower"), {_FRONT: Goal("ours", "<=", 2), _RAW: None}, "; ".join(notes)),
    ]
