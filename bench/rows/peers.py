# SPDX-License-Identifier: GPL-3.0-or-later
"""Liveness of replicas: detection of one that was killed, stopped or terminated, and no false positives on a busy machine.

TestFiftyProcesses in internal/peer tests the same with names from DNS, and inspects the internal state.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from sandbox.steps import StepFailed, say, wait

from .. import containerd_client, load_client, usage
from ..candidates import OURS, Candidate
from ..content import Blob, Image
from ..endpoint import Endpoint
from ..load_client import Group
from ..measure import Bench, results, row, together
from ..report import Goal, Result
from ..sinks import Keep

_KEYS = 256  # number of small blobs: some of 50 replicas own eight of them
_ASKED = 4  # number of keys of the replica that is gone
_ENDS = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP, "told to end": signal.SIGTERM}
_IDLE_SECONDS, _BUSY_SECONDS = 10, 5
_DEAD = '"Peer is out"'  # message in the log


def _dead(candidate: Candidate) -> int:
    """Returns how often a replica was considered dead."""
    return sum(log.read_text(errors="replace").count(_DEAD) for log in candidate.folder.glob("cache-*.log"))


def _settle(candidate: Candidate, image: Image) -> None:
    """Pulls every blob from the first replica, so that it is stored there and at its owner."""
    targets = [load_client.blob(image, one) for one in image.layers]
    load_client.one(Group(candidate.endpoint, targets, 16, options={"each": -(-len(targets) // 16)}))


def _owned(candidate: Candidate, number: int, image: Image) -> list[Blob]:
    """Returns the blobs that a replica has stored."""
    there = {path.parent.name for path in candidate.stores[number].glob("upstreams/*/**/data")}
    return [blob for blob in image.layers if blob.digest.removeprefix("sha256:") in there]


def _victim(candidate: Candidate, image: Image) -> tuple[int, list[Blob]]:
    """Returns the replica, except the first, that owns the most blobs, and these blobs."""
    found: list[tuple[int, list[Blob]]] = []

    def placed() -> bool:  # the store writes asynchronously
        owned = {number: _owned(candidate, number, image) for number in range(1, len(candidate.stores))}
        number = max(owned, key=lambda one: len(owned[one]))
        found[:] = [(number, owned[number])]
        return len(owned[number]) >= _ASKED

    wait(placed, 10, f"a replica that owns {_ASKED} of {len(image.layers)} keys", every=0.2)
    return found[0]


def _talk(candidate: Candidate, image: Image, options: dict[str, float]) -> None:
    """Pulls the keys of all replicas from every replica. Each response must be right."""
    targets = [load_client.blob(image, one) for one in image.layers]
    number = max(12, len(candidate.endpoints))
    load_client.one(Group(candidate.endpoint, targets, number, options=dict(options), others=candidate.endpoints[1:]))


def _served(candidate: Candidate, image: Image, how: str) -> float:
    """Returns the time until other replicas have served all keys of a replica that has just gone, in seconds."""
    number, owned = _victim(candidate, image)
    others = [one for n, one in enumerate(candidate.endpoints) if n not in (0, number)]
    keys = owned[:_ASKED]

    def ask(blob: Blob, endpoint: Endpoint) -> float:
        pull = containerd_client.get(endpoint, image, blob, Keep(blob.size), retries=0)
        pull.check()
        if not pull.transfers[0].right:
            raise StepFailed(f"{how}: one of its keys was not served: {pull.transfers[0].error or 'wrong bytes'}")
        return pull.ended

    with ThreadPoolExecutor(len(keys)) as executor:
        gone = time.monotonic()
        os.kill(candidate.pids()[number], _ENDS[how])
        asked = [executor.submit(ask, blob, others[n % len(others)]) for n, blob in enumerate(keys)]
        seconds = max(one.result() for one in asked) - gone
    if how != "told to end":  # a terminated replica announces that it is leaving
        wait(lambda: _dead(candidate) > 0, 10, f"a replica to detect the one that was {how}", every=0.2)
    return seconds


def _spin() -> None:
    while True:
        pass


@contextlib.contextmanager
def _busy() -> Iterator[None]:
    """Runs two busy processes per CPU."""
    fork = multiprocessing.get_context("fork")
    spinning = [fork.Process(target=_spin, daemon=True) for _ in range(2 * (os.cpu_count() or 1))]
    for one in spinning:
        one.start()
    try:
        yield
    finally:
        for one in spinning:
            one.kill()
            one.join()


def _idle(candidate: Candidate) -> float:
    """Returns the maximum CPU usage of a replica, in percent of one CPU."""
    before = [usage.cpu([pid]) for pid in candidate.pids()]
    started = time.monotonic()
    time.sleep(_IDLE_SECONDS)
    spent = [usage.cpu([pid]) - had for pid, had in zip(candidate.pids(), before, strict=True)]
    return 100 * max(spent) / (time.monotonic() - started)


@row("peers")
def peers(bench: Bench) -> list[Result]:
    """3 and 50 replicas: keys of a replica that is gone, replicas wrongly considered dead, and idle CPU usage."""
    bench.upstream.set()
    image = bench.image([1024] * _KEYS)
    table = []
    for count in (3, 50):
        with together(bench, OURS, replicas=count) as running:
            candidate = running[OURS]
            _settle(candidate, image)
            time.sleep(2)  # wait until memory used during the start is released
            idle = _idle(candidate)
            with _busy():
                _talk(candidate, image, {"seconds": _BUSY_SECONDS, "per_second": 100})
            dead = _dead(candidate)
        say(f"   {count} replicas: {dead} considered dead on a busy machine; an idle one uses at most {idle:.2f} % of a CPU")
        for how in _ENDS:
            with together(bench, OURS, replicas=count) as running:
                candidate = running[OURS]
                _settle(candidate, image)
                _talk(candidate, bench.image([1024] * count), {"each": 2})
                seconds = _served(candidate, image, how)
            say(f"   {count} replicas, one {how}: its keys served after {seconds:.2f} s")
            what = f"{count} replicas, one {how}: its keys served by others after"
            table += results(what, "s", {OURS: seconds}, {"": Goal("ours", "<=", 2)})
        what = f"{count} replicas, all processors busy: living ones taken for dead"
        table += results(what, "", {OURS: dead}, {"": Goal("ours", "<=", 0)})
        what = f"{count} replicas, idle: processor time of the one that takes most"
        table += results(what, "%", {OURS: idle}, {"": Goal("ours", "<=", 1)})
    return table
