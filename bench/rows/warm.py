# SPDX-License-Identifier: GPL-3.0-or-later
"""Content in the cache: bytes and requests per second, latency."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sandbox.steps import StepFailed

from .. import candidates, load_client, memory, parallel_pulls, usage
from ..cache import cache
from ..candidates import BARE, GO, NGINX, OURS, RAW, V2, V3, Candidate
from ..content import Image, Library
from ..endpoint import Endpoint
from ..load_client import Group, Seen
from ..measure import GIB, MIB, SMALL, Bench, alternate, require_right, results, row, together, wrk
from ..report import Goal, Result

_WRK_SECONDS = 3


def _once(endpoint: Endpoint, targets: Sequence[dict[str, Any]], times: int = 1) -> Seen:
    """Runs one client that requests all targets in turn, `times` times. All responses must be right."""
    return load_client.one(Group(endpoint, targets, 1, options={"each": times * len(targets)}))


class _Cpu:
    """CPU time of candidates per unit of work."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def of(self, name: str, candidate: Candidate) -> Iterator[Callable[[float], None]]:
        """Measures the block. Inside, call the yielded function with the amount of work."""
        done: list[float] = []
        before = usage.cpu(candidate.pids())
        yield done.append
        self._values.setdefault(name, []).append((usage.cpu(candidate.pids()) - before) / sum(done))

    def medians(self, factor: float = 1.0) -> dict[str, float]:
        return {name: factor * statistics.median(values) for name, values in self._values.items()}


@row("warm-bytes")
def warm_bytes(bench: Bench, number: int = 8, size: int = 256 * MIB) -> list[Result]:
    """One large blob in the cache: bytes per second, and CPU time per GiB."""
    bench.upstream.set()
    image, cpu, load = bench.image((size,)), _Cpu(), []
    target = [load_client.blob(image, image.layers[0])]

    def measure(name: str, candidate: Candidate) -> float:
        # Hash bodies after the measurement: hashing takes more time than any of the servers.
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
    note = f"the load client uses another {statistics.median(load):.2f} s of CPU time per GiB"
    return [
        *results(what, "MiB/s", values, {RAW: Goal("ratio", ">=", 0.95), V3: None, NGINX: None}, note),
        *results(f"{what}: processor time per GiB", "s", cpu.medians(), {RAW: None, V3: None, NGINX: None}),
    ]


def _rates(
    bench: Bench, image: Image, targets: Mapping[str, dict[str, Any]], **options: Any
) -> tuple[dict[str, float], dict[str, float]]:
    """Returns requests per second for a target by candidate, and CPU time per request in microseconds."""
    cpu = _Cpu()

    def measure(name: str, candidate: Candidate) -> float:
        # distribution 3 checks the password in every request, so there are few requests per second.
        seconds = _WRK_SECONDS * (4 if name == V3 else 1)
        with cpu.of(name, candidate) as did:
            rate = wrk(candidate, targets[name]["path"], seconds)
            if not rate:
                raise StepFailed(f"{name} answered no request within {seconds} s")
            did(rate * seconds)
        return rate

    with together(bench, *targets, **options) as running:
        for name, candidate in running.items():
            if name not in (RAW, GO):
                load_client.one(Group(candidate.endpoint, load_client.whole(image), 1, options={"kind": "pull", "each": 1}))
            _once(candidate.endpoint, [targets[name]], 2)
        values = alternate({name: functools.partial(measure, name, one) for name, one in running.items()}, "GET/s")
        for name, candidate in running.items():  # wrk does not verify digests
            _once(candidate.endpoint, [targets[name]], 10 if name == V3 else 100)
    return values, cpu.medians(1e6)


@row("small-blob")
def small_blob(bench: Bench) -> list[Result]:
    """GETs per second of a 2 KiB blob in the cache."""
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
    """GETs per second of a manifest, with a credential at bcrypt cost 12."""
    bench.upstream.set()
    image = bench.image((MIB,))
    targets = dict.fromkeys((OURS, V3), load_client.manifest(image))
    # About as large as the manifest.
    targets[RAW] = targets[GO] = load_client.blob(image, image.blobs[0])
    values, cpu = _rates(bench, image, targets, cost=12)
    limit = (
        f"raw nginx, without authentication, reaches {values[RAW] / values[V3]:,.0f} × distribution 3 here, limited by the CPU time that"
        " the load generator and the kernel leave"
    )
    what = "manifest GET/s with a credential, bcrypt 12"
    first, *others = results(what, "1/s", values, {V3: Goal("ratio", ">=", 5000), GO: None, RAW: None})
    return [
        first if first.met else replace(first, note=limit),
        *others,
        *results(f"{what}: processor time per GET", "µs", cpu, {V3: None, GO: None, RAW: None}),
    ]


@row("warm-pull")
def warm_pull(bench: Bench, times: int = 30) -> list[Result]:
    """A small image in the cache, pulled on new connections."""
    bench.upstream.set()
    image = bench.image(SMALL)

    def measure(name: str, candidate: Candidate) -> float:
        return load_client.pulls(candidate.endpoint, image, 1, 5 if name in (V3, V2) else times).latency["p50"]

    with together(bench, OURS, V3, BARE, V2, NGINX, cost=10) as running:
        for candidate in running.values():
            load_client.pulls(candidate.endpoint, image, 1, 2)
        values = alternate({name: functools.partial(measure, name, one) for name, one in running.items()}, "s")
    goals = {V3: Goal("ratio", "<=", 1 / 30), BARE: Goal("ratio", "<=", 0.35), V2: None, NGINX: None}
    return results("warm pull of a small image (5 MiB, 3 layers), bcrypt 10: p50", "s", values, goals)


def _bytes_rate(candidate: Candidate, image: Image, clients: int, rounds: int) -> float:
    """Returns MiB per second of clients that each pull one blob per round, different ones if possible."""
    blobs, received, seconds = image.layers, 0, 0.0
    for number in range(rounds):
        wanted = [blobs[(number * clients + n) % len(blobs)] for n in range(clients)]
        pulls = parallel_pulls.run([parallel_pulls.Job(candidate.endpoint, image, blob) for blob in wanted], processes=clients)
        require_right(*pulls)
        received += sum(pull.bytes for pull in pulls)
        seconds += max(pull.ended for pull in pulls) - min(pull.started for pull in pulls)
    return received / seconds / MIB


def _copy(image: Image, library: Library, folder: pathlib.Path) -> pathlib.Path:
    """Returns a copy of the layers that is on disk, but not in the page cache."""
    (folder / "blobs").mkdir(parents=True)
    for blob in image.layers:
        path = folder / "blobs" / blob.digest.removeprefix("sha256:")
        shutil.copyfile(library.blob(blob.digest), path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return folder


@row("warm-bytes-large")
def warm_bytes_large(
    bench: Bench, clients: int = 8, blobs: int = 12, size: int = 256 * MIB, limit: int = GIB
) -> list[Result]:
    """Warm blobs with more content than memory: each candidate in a cgroup of 1 GiB, including page cache."""
    what = f"warm blobs, {clients} clients, {blobs * size / GIB:.0f} GiB through {limit / GIB:.0f} GiB of memory"
    goal = Goal("ratio", ">=", 0.9)
    bench.upstream.set()
    with memory.limit("ours", limit) as first, memory.limit("files", limit) as second:
        if first is None or second is None:
            return [Result(what, "MiB/s", RAW, None, None, goal, "a memory cgroup cannot be created here")]
        image = bench.image([size] * blobs)
        copy = _copy(image, bench.library, bench.new("copy"))
        with (
            cache(bench.new("large"), bench.upstream, size=2 * blobs * size, cgroup=first) as mine,
            candidates.files(bench.new("files"), copy, second) as files,
        ):
            for candidate in (mine, files):
                for blob in image.layers:
                    require_right(*parallel_pulls.run([parallel_pulls.Job(candidate.endpoint, image, blob, keep=False)], processes=1))
            rounds = -(-2 * blobs // clients)  # pull each blob twice
            values = alternate({c.name: lambda c=c: _bytes_rate(c, image, clients, rounds) for c in (mine, files)}, "MiB/s")
        shutil.rmtree(copy)
        bench.library.forget(image)
    return results(what, "MiB/s", values, {RAW: goal})
