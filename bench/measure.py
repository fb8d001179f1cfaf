# SPDX-License-Identifier: GPL-3.0-or-later
"""Common parts of rows: the test bench, registration, alternating runs, requests per second."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sandbox.steps import StepFailed, say

from . import candidates, containerd_client, packages
from .cache import cache
from .candidates import BARE, GO, NGINX, OURS, RAW, V2, V3, Candidate
from .content import MANIFEST, Image, Library
from .endpoint import Endpoint
from .paced_upstream.process import Upstream
from .paced_upstream.state import USER as UPSTREAM_USER
from .report import Goal, Result
from .sinks import Keep

MIB, GIB = 1 << 20, 1 << 30
SMALL = (2 * MIB, 2 * MIB, MIB)  # layers of a small image
RUNS, LONG_SECONDS = 5, 20  # a measurement that takes longer than LONG_SECONDS runs once
# The lowest bcrypt cost that the cache accepts, for rows that do not measure authentication.
_CHEAP = 4
FAR = {"latency": 0.02, "rate": 8_000_000}  # an upstream in another region


@dataclass
class Bench:
    """The environment of a row: a folder, the content of the upstream, the upstream."""

    folder: pathlib.Path
    library: Library
    upstream: Upstream
    _number: Iterator[int] = field(default_factory=itertools.count)

    def new(self, what: str) -> pathlib.Path:
        """Returns a new path for a candidate's folder."""
        return self.folder / f"{what}-{next(self._number)}"

    def image(self, sizes: Sequence[int]) -> Image:
        """Creates a new image."""
        return self.library.image(f"bench/image-{next(self._number)}", sizes)

    @property
    def straight(self) -> Endpoint:
        """The endpoint of the upstream itself."""
        return Endpoint(self.upstream.port, UPSTREAM_USER, self.upstream.secret)


Row = Callable[[Bench], list[Result]]
ROWS: dict[str, Row] = {}


def row(name: str) -> Callable[[Row], Row]:
    """Registers a row under a name for `--only`."""

    def register(function: Row) -> Row:
        ROWS[name] = function
        return function

    return register


@contextlib.contextmanager
def together(
    bench: Bench, *names: str, cost: int = _CHEAP, size: int = 4 * GIB, replicas: int = 1
) -> Iterator[dict[str, Candidate]]:
    """Runs candidates at the same time, and yields them by name. `size` and `replicas` apply only to this cache."""
    makers: dict[str, Callable[[pathlib.Path], contextlib.AbstractContextManager[Candidate]]] = {
        OURS: lambda folder: cache(folder, bench.upstream, cost=cost, size=size, replicas=replicas),
        V3: lambda folder: candidates.plain(folder, bench.upstream, cost=cost),
        BARE: lambda folder: candidates.plain(folder, bench.upstream, cost=0),
        V2: lambda folder: candidates.old(folder, bench.upstream, cost=cost),
        NGINX: lambda folder: candidates.proxy_cache(folder, bench.upstream, cost=cost),
        RAW: lambda folder: candidates.files(folder, bench.library.folder),
        GO: lambda folder: candidates.net_http(folder, bench.library.folder),
    }
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(makers[name](bench.new("candidate"))) for name in names}


def one_by_one(
    bench: Bench, names: Sequence[str], measure: Callable[[str, Candidate], dict[str, float]], **options: Any
) -> Callable[[str], dict[str, float]]:
    """Measures candidates one after the other. Returns the values of all candidates by key. Peers that fail are omitted."""
    found: dict[str, dict[str, float]] = {}
    for name in names:
        try:
            with together(bench, name, **options) as running:
                found[name] = measure(name, running[name])
        except StepFailed as error:
            if name == OURS:
                raise
            say(f"   {name} is omitted: {error}")
    return lambda key: {name: values[key] for name, values in found.items() if key in values}


def require_right(*pulls: containerd_client.Pull) -> None:
    """Raises StepFailed if a pull is incomplete or wrong, since only correct pulls may be measured."""
    for pull in pulls:
        for transfer in pull.transfers:
            if not transfer.right:
                what = "wrong bytes" if transfer.wrong else transfer.error
                raise StepFailed(f"{transfer.blob.digest[:19]} of {transfer.blob.size} bytes: {what}")


def pull_checked(endpoint: Endpoint, image: Image) -> containerd_client.Pull:
    """Pulls an image into preallocated memory, and checks it."""
    sinks = {blob.digest: Keep(blob.size) for blob in (image.manifest, *image.blobs)}
    pull = containerd_client.pull(endpoint, image, sinks=sinks)
    pull.check()
    require_right(pull)
    return pull


def results(
    measure: str, unit: str, values: Mapping[str, float], goals: Mapping[str, Goal | None], note: str = ""
) -> list[Result]:
    """Returns a row for each peer in `goals`, or one without a peer for "". The note is added to the first row."""
    made = [Result(measure, unit, peer, values.get(OURS), values.get(peer), goal) for peer, goal in goals.items()]
    return [replace(made[0], note=note), *made[1:]]


def alternate(measures: Mapping[str, Callable[[], float]], unit: str, runs: int = RUNS) -> dict[str, float]:
    """Returns the medians of alternating runs. A measurement that takes longer than LONG_SECONDS runs once."""
    values: dict[str, list[float]] = {name: [] for name in measures}
    long: set[str] = set()
    for run in range(runs):
        for name, measure in measures.items():
            if name in long:
                continue
            started = time.monotonic()
            values[name].append(measure())
            say(f"   {run + 1}/{runs} {name}: {values[name][-1]:.4g} {unit}")
            if time.monotonic() - started > LONG_SECONDS:
                long.add(name)
    return {name: statistics.median(some) for name, some in values.items()}


def content_gets(bench: Bench, image: Image) -> float:
    """Returns the number of transfers from the upstream per distinct blob of an image."""
    counts = bench.upstream.counts()
    return sum(counts.get(f"GET content {blob.digest}", 0) for blob in image.blobs) / len(image.blobs)


def wrk(candidate: Candidate, path: str, seconds: int) -> float:
    """Returns the requests per second for one path on 8 connections. Raises StepFailed if a request failed."""
    endpoint = candidate.endpoint
    argv = [packages.command("wrk"), "-t1", "-c8", f"-d{seconds}s", "--timeout", "30s"]
    argv += ["-H", f"Authorization: {endpoint.authorization}", "-H", f"Accept: {MANIFEST}"]
    argv.append(f"http://{endpoint.host}:{endpoint.port}{path}")
    output = subprocess.run(
        argv, capture_output=True, text=True, check=True, env={**os.environ, **packages.environment()}
    ).stdout
    match = re.search(r"Requests/sec:\s+([0-9.]+)", output)
    if not match or "Non-2xx" in output or "Socket errors" in output:
        raise StepFailed(f"wrk on {candidate.name}: {output}")
    return float(match[1])


