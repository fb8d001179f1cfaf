# SPDX-License-Identifier: GPL-3.0-or-later
"""Resources of the cache: memory, disk writes, disk usage and its limit."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sandbox.steps import say

from .. import load_client, usage
from ..candidates import OURS, V3, Candidate
from ..content import Image
from ..load_client import Group
from ..measure import GIB, MIB, Bench, content_gets, one_by_one, pull_checked, results, row, together
from ..paced_upstream.state import Fault
from ..report import Goal, Result


def _split(memory: usage.Memory) -> str:
    return f"{memory.processes / MIB:.1f} MiB of the process and {memory.sockets / MIB:.1f} MiB of its sockets"


@row("memory")
def memory_use(bench: Bench, number: int = 100, size: int = GIB) -> list[Result]:
    """Anonymous, shared and socket memory: idle, and with 100 clients on a blob while it is fetched."""
    bench.upstream.set(latency=0.02, rate=50_000_000)
    image, notes = bench.image((size,)), []

    def measure(name: str, candidate: Candidate) -> dict[str, float]:
        time.sleep(2)  # wait until memory used during the start is released
        idle, memory = usage.Memory(candidate.pids()).sample(), usage.Memory(candidate.pids())
        # One in ten clients compares digests: hashing 100 GiB takes longer than everything else.
        group = Group(candidate.endpoint, [load_client.blob(image, image.layers[0])], number, options={"each": 1, "hash_every": 10})
        with usage.peak(memory.sample, every=0.5) as highest:
            seen = load_client.one(group)
        notes.append(f"{name}: {_split(memory)}, in {seen.wall:.0f} s")
        say(f"   {notes[-1]}; {idle / MIB:.1f} MiB idle")
        return {"idle": idle / MIB, "busy": highest[0] / MIB}

    found = one_by_one(bench, (OURS, V3), measure)
    bench.library.forget(image)
    what = f"memory with sockets, {number} clients on a blob of {size // MIB} MiB"
    return [
        *results("memory with sockets, idle", "MiB", found("idle"), {V3: Goal("ours", "<=", 20)}),
        *results(what, "MiB", found("busy"), {V3: Goal("ours", "<=", 60)}, "; ".join(notes)),
    ]


def _held(bench: Bench, candidate: Candidate, images: Sequence[Image]) -> int:
    """Returns the bytes of layers that a candidate serves while the upstream returns errors for them."""
    layers = [(image, layer) for image in images for layer in image.layers]
    bench.upstream.set(faults={layer.digest: Fault("error") for _, layer in layers})
    kept = load_client.run(
        Group(
            candidate.endpoint,
            [load_client.blob(*one) for one in layers],
            16,
            # A layer that is not stored is not a failure, whatever the error.
            options={"each": -(-len(layers) // 16), "expect": [200, 404, 429, 500, 502, 503, 504]},
        )
    ).groups[0]
    # One request per layer.
    assert kept.requests == len(layers)
    return kept.right().hashed * layers[0][1].size


@row("disk-writes")
def disk_writes(bench: Bench, limit: int = 512 * MIB, size: int = 4 * MIB, times: int = 2) -> list[Result]:
    """Bytes written to disk per byte fetched, and the part of the limit that holds distinct content."""
    images = [bench.image([size] * 16) for _ in range(times * limit // (16 * size))]

    def measure(name: str, candidate: Candidate) -> dict[str, float]:
        bench.upstream.set()
        before = usage.written(candidate.pids())
        for image in images:
            load_client.pulls(candidate.endpoint, image, 1)
        found = {"written": (usage.written(candidate.pids()) - before) / bench.upstream.sent()}
        if name != V3:  # distribution 3 has no limit
            found["held"] = _held(bench, candidate, images) / limit
        say(f"   {name}: {found['written']:.3f} bytes written per byte fetched, {found.get('held', 0):.3f} of the limit distinct")
        return found

    found = one_by_one(bench, (OURS, V3), measure, size=limit)
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
    """More concurrent fills than the store has room for, with slow readers."""
    notes = []

    def measure(name: str, candidate: Candidate) -> dict[str, float]:
        bench.upstream.set()
        load_client.pulls(candidate.endpoint, bench.image((MIB,)), 1)
        image = bench.image([size] * fills)
        targets = [load_client.blob(image, layer) for layer in image.layers]
        group = Group(candidate.endpoint, targets, readers, options={"each": 1, "rate": rate})
        memory = usage.Memory(candidate.pids())
        time.sleep(1)
        before = memory.sample()

        def blocks() -> int:
            return usage.at_once(lambda: usage.blocks(candidate.stores) | usage.removed(candidate.pids(), candidate.stores))

        with usage.peak(memory.sample, every=0.5) as highest, usage.peak(blocks, every=0.1) as most:
            seen = load_client.run(group).groups[0]
        found = {"cut": seen.failed, "used": most[0] / limit, "more": (highest[0] - before) / MIB}
        notes.append(f"{name}: {_split(memory)} at most, {before / MIB:.1f} MiB before; errors: {seen.errors or 'none'}")
        say(f"   {found['cut']} of {readers} cut, {found['used']:.3f} of the limit, {found['more']:.1f} MiB more; {notes[-1]}")
        return found

    found = one_by_one(bench, (OURS,), measure, size=limit)
    what = f"{fills} fills of {size // MIB} MiB, {readers} readers of {rate // 1024} KiB/s, store of {limit // MIB} MiB: "
    return [
        *results(what + "cut", "", found("cut"), {"": Goal("ours", "<=", 0)}),
        *results(what + "used blocks, removed files included, over the limit", "×", found("used"), {"": Goal("ours", "<=", 1)}),
        *results(what + "more memory with sockets than before", "MiB", found("more"), {"": Goal("ours", "<=", 40)}, "; ".join(notes)),
    ]


def _used(candidate: Candidate) -> int:
    """Returns the bytes in allocated blocks of all replicas' stores."""
    return usage.at_once(lambda: usage.blocks(candidate.stores))


@row("limit")
def limit_of_disk(bench: Bench, limit: int = 256 * MIB, size: int = 8 * MIB) -> list[Result]:
    """Allocated blocks while five times the limit is pulled, and the hottest image is pulled again and again."""
    used, refetched = {}, {}
    for name in (OURS, V3):
        bench.upstream.set()
        with together(bench, name, size=limit) as running, usage.peak(lambda c=running[name]: _used(c)) as highest:
            candidate = running[name]
            hot = bench.image((size, size))
            pull_checked(candidate.endpoint, hot)
            for number in range(5 * limit // (2 * size)):
                image = bench.image((size, size))
                pull_checked(candidate.endpoint, image)
                bench.library.forget(image)
                if number % 3 == 2:
                    pull_checked(candidate.endpoint, hot)
            before = content_gets(bench, hot)
            pull_checked(candidate.endpoint, hot)
            refetched[name] = content_gets(bench, hot) - before
        used[name] = highest[0] / limit
        say(f"   {name}: {used[name]:.3f} × the limit, hottest image fetched again: {refetched[name]:.2f}")
    return [
        *results("used disk after 5 × the limit, over the limit", "×", used, {V3: Goal("ours", "<=", 1)}),
        *results("after that, fetches per blob of the hottest image", "", refetched, {V3: Goal("ours", "<=", 0)}),
    ]
