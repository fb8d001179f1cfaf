# SPDX-License-Identifier: GPL-3.0-or-later
"""Replicas are added, removed, killed and disconnected under load, and no pull fails."""

from __future__ import annotations

import itertools
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from sandbox.client import Cluster, Google
from sandbox.seed import Blob, Image
from tests.e2e.conftest import Push, Record, Say
from tests.e2e.load import Body, Client, Load
from tests.e2e.replicas import Replicas, wait

from .conftest import REPLICAS

KEYS = 128  # small blobs, of which each of three replicas owns a fifth or more
MIN_KEYS = 14  # the minimum that a test requests
PROBE_PAUSE = 0.3
LEAVING = 5  # seconds for which replicas ask the next one instead of one that drains, or of its successor
SILENCE = 3.5  # maximum seconds that a client waits for a key of a node that vanished


class Images:
    """Images for a load, with a new one every few seconds, so that there are always uncached pulls."""

    def __init__(self, push: Push, google: Google, count: int, seconds: float) -> None:
        self.images = [push("load", [384 << 10] * 2) for _ in range(count)]
        google.fault("/test-load-", count=100_000, bytes_per_second=500_000)
        self._seconds, self._begun = seconds, time.monotonic()

    def now(self) -> Image:
        return self.images[int((time.monotonic() - self._begun) / self._seconds) % len(self.images)]

    def digests(self) -> set[str]:
        return {layer.digest for image in self.images for layer in image.layers}


def through(clients: Sequence[Callable[[], Client]], images: Images) -> Callable[[int], list[Body]]:
    """Returns a job of a load, which pulls through each endpoint in turn."""

    def pull(number: int) -> list[Body]:
        with clients[number % len(clients)]() as client:
            return client.pull(images.now())

    return pull


@dataclass
class Keys:
    """Small blobs that only their owner stores."""

    replicas: Replicas
    name: str
    blobs: Iterator[Blob]

    @classmethod
    def of(cls, replicas: Replicas, owner: int, image: Image, blobs: Sequence[Blob]) -> Keys:
        owners = replicas.owners(image.name, blobs, owner)
        owned = [blob for blob in blobs if owners[blob.digest] == owner]
        assert len(owned) >= MIN_KEYS, f"replica {owner} owns {len(owned)} of {len(blobs)}"
        return cls(replicas, image.name, iter(owned))

    def ask(self, blob: Blob, entry: int) -> Body:
        with self.replicas.entry(entry, dial=3) as client:
            return client.blob(self.name, blob)

    def probe(self, entries: Sequence[int], count: int) -> list[tuple[Blob, Future[Body]]]:
        """Start requests for `count` keys, one every PROBE_PAUSE, through these replicas in turn."""
        executor, begun, asked = ThreadPoolExecutor(count), time.monotonic(), []
        for number, blob in enumerate(itertools.islice(self.blobs, count)):
            time.sleep(max(0, begun + number * PROBE_PAUSE - time.monotonic()))
            asked.append((blob, executor.submit(self.ask, blob, entries[number % len(entries)])))
        executor.shutdown(wait=False)
        return asked


def kill_repeatedly(kill: Callable[[], bool], seconds: float) -> None:
    """Kill a replica until the kubelet waits before the next restart."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if not kill():
                return
        except subprocess.CalledProcessError:  # it ended, and the kubelet has not noticed yet
            pass
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize("how", ["registry killed", "pod deleted without grace"])
def test_a_dead_owner(
    replicas: Replicas, cluster: Cluster, google: Google, push: Push, say: Say, record_property: Record, how: str
) -> None:
    image = push("dead", [12 << 20, *[1 << 10] * KEYS])
    slow, small = image.layers[0], image.layers[1:]
    images = Images(push, google, 12, 1.5)
    google.fault(slow.digest, count=1, bytes_per_second=400_000)

    def fill(client: Client) -> Body:
        with client:
            return client.blob(image.name, slow)

    def kill() -> None:
        if how == "registry killed":
            replicas.kill(owner)
        else:
            replicas.delete(owner)

    wait(lambda: replicas.filling() is None, 30, "the end of fetches of earlier tests")
    with ThreadPoolExecutor(2 * REPLICAS + 1) as executor:
        first = executor.submit(fill, replicas.at(cluster.nodes[0]))
        wait(lambda: replicas.filling() is not None, 10, "a fetch")
        owner = replicas.filling()
        assert owner is not None
        others = [ordinal for ordinal in range(REPLICAS) if ordinal != owner]
        fills = [first, *(executor.submit(fill, replicas.entry(entry)) for entry in (*others, *others))]
        keys = Keys.of(replicas, owner, image, small)
        ways = [lambda node=node: replicas.at(node) for node in cluster.nodes]
        with Load(6, through(ways, images), pause=0.1) as load:
            time.sleep(1)
            assert not first.done(), "the fill ended before its owner died"
            killed = time.monotonic()
            kill()
            probes = keys.probe(others, 5)
            if how == "registry killed":
                kill_repeatedly(lambda: replicas.kill(owner), 10)
            probes += keys.probe(others, 8)  # a pod that is deleted in the API still serves for a second or two
            answered = [(blob, future.result()) for blob, future in probes]
            filled = [future.result() for future in fills]
            replicas.settle(REPLICAS)
            back = time.monotonic() - killed
            time.sleep(LEAVING + 1)
    # The second fetch is of another replica, or of the owner after its restart; then it stores the blob again.
    again = replicas.stored(owner) if how != "registry killed" else set()
    moved = [body for blob, body in answered if google.blob_counters(blob.digest)["blob_get"] > 1 and blob.digest not in again]
    gets = google.blob_counters(slow.digest)["blob_get"]
    say(
        f"{how}: keys served by another replica {min((body.asked + body.seconds for body in moved), default=killed + 99) - killed:.2f} s "
        f"later, {len(moved)} of {len(answered)} keys moved, slowest answer {max(body.seconds for _, body in answered):.2f} s; "
        f"owner back after {back:.0f} s; {len(filled)} clients of the fill that broke off: slowest "
        f"{max(body.seconds for body in filled):.1f} s, upstream GETs {gets}"
    )
    say(f"load meanwhile: {load.summary()}")
    record_property(f"pulls failed, owner's {how}", len(load.failures))
    assert not load.failures, load.failures[:3]
    assert moved
    assert 2 <= gets <= REPLICAS

    # The owner is asked again. It serves the blob from disk if it still has it, else it fetches again.
    blob = next(keys.blobs)
    keys.ask(blob, others[0])
    assert google.blob_counters(blob.digest)["blob_get"] == (1 if how == "registry killed" else 2)

    def holders() -> list[int]:
        return [ordinal for ordinal, held in replicas.holders(range(REPLICAS)).items() if blob.digest in held]

    wait(lambda: holders() == sorted((owner, others[0])), 10, "the blob only at its owner and the replica that was asked")


@pytest.mark.parametrize("how", ["cut off", "paused"])
def test_a_stopped_node(
    replicas: Replicas, cluster: Cluster, google: Google, push: Push, say: Say, record_property: Record, how: str
) -> None:
    dns = {
        pod["spec"]["nodeName"]
        for pod in cluster.get("pods", "--namespace", "kube-system", "--selector", "k8s-app=kube-dns")["items"]
    }
    nodes = {ordinal: replicas.node(ordinal) for ordinal in range(REPLICAS)}
    owner, node = next((at, name) for at, name in nodes.items() if name not in {*dns, cluster.nodes[0]})
    others = [ordinal for ordinal in range(REPLICAS) if ordinal != owner]
    image = push("stopped", [1 << 10] * KEYS)
    keys = Keys.of(replicas, owner, image, image.layers)
    images = Images(push, google, 8, 1.5)
    live = [lambda ordinal=ordinal: replicas.entry(ordinal) for ordinal in others]
    # kube-proxy still sends some of these to the vanished node, where they wait for its return.
    ways = [lambda name=name: replicas.at(name, dial=60, answer=60) for name in cluster.nodes if name != node]
    hot = next(keys.blobs)
    with (
        ThreadPoolExecutor(2) as executor,
        Load(4, through(live, images), pause=0.1) as load,
        Load(4, through(ways, images), pause=0.1) as balanced,
    ):
        time.sleep(1.5)
        stopped = time.monotonic()
        try:
            (cluster.cut if how == "cut off" else cluster.pause)(node)
            stopped = time.monotonic()
            early = executor.submit(keys.ask, hot, others[0])
            probes = keys.probe(others, 10)
            # A client has been waiting for this key since before the outage was noticed.
            late = executor.submit(keys.ask, hot, others[0])
            answered = [(blob, future.result()) for blob, future in probes]
            waited, after = early.result(), late.result()
        finally:
            (cluster.mend if how == "cut off" else cluster.unpause)(node)
        down = time.monotonic() - stopped
        replicas.settle(REPLICAS)
        back = time.monotonic() - stopped - down
        time.sleep(1)
    moved = [body for blob, body in answered if google.blob_counters(blob.digest)["blob_get"] > 1]
    soon = [body for _, body in answered if body.asked - stopped < 2]
    later = [body for _, body in answered if body.asked - stopped >= 2]
    served = min((body.asked + body.first for body in moved), default=stopped + 99) - stopped
    say(
        f"node {how} for {down:.1f} s: its keys served by another replica after {served:.2f} s; slowest of {len(soon)} asked in "
        f"the first 2 s: {max(body.seconds for body in soon):.2f} s, of {len(later)} asked later: "
        f"{max(body.seconds for body in later):.2f} s; one key asked at once and again later: {waited.seconds:.2f} s, "
        f"{after.seconds:.2f} s; back {back:.1f} s after its return"
    )
    say(f"load through the other replicas: {load.summary()}")
    say(f"load through the other nodes: {balanced.summary()}")
    record_property(f"pulls failed, owner's node {how}", len(load.failures) + len(balanced.failures))
    record_property(f"keys served by another replica, owner's node {how} [s]", served)
    assert not load.failures, load.failures[:3]
    assert not balanced.failures, balanced.failures[:3]
    assert moved and later
    assert served <= 2
    assert max(body.seconds for body in later) <= 1
    assert max(waited.seconds, after.seconds) <= SILENCE

    blob = next(keys.blobs)
    keys.ask(blob, others[0])
    assert google.blob_counters(blob.digest)["blob_get"] == 1, "the owner did not get its keys back"


def test_scaling(
    replicas: Replicas, cluster: Cluster, google: Google, push: Push, say: Say, record_property: Record
) -> None:
    images = Images(push, google, 16, 2.5)
    large, many = push("large", [6 << 20]), push("many", [1 << 10] * 48)
    ways = [lambda node=node: replicas.at(node) for node in cluster.nodes]
    steps: list[str] = []

    def read_slowly(ordinal: int) -> Body:
        with replicas.entry(ordinal, bytes_per_second=350_000) as client:
            return client.blob(large.name, large.layers[0])

    try:
        replicas.scale(2)
        replicas.settle(2)
        with ThreadPoolExecutor(2) as executor, Load(6, through(ways, images), pause=0.1) as load:
            time.sleep(4)
            replicas.scale(5)
            steps.append(f"5 after {replicas.settle(5):.0f} s")
            owners = Counter(replicas.owners(many.name, many.layers, 0, 5).values())
            time.sleep(3)
            # A read in progress, and one that starts before every kube-proxy knows that its replica is stopping.
            slow = [executor.submit(read_slowly, 3)]
            time.sleep(1)
            replicas.scale(3)
            time.sleep(0.7)
            slow.append(executor.submit(read_slowly, 4))
            steps.append(f"3 after {replicas.settle(3):.0f} s")
            time.sleep(2)
    finally:
        replicas.scale(REPLICAS)
        replicas.settle(REPLICAS)
    gets = [google.blob_counters(digest)["blob_get"] for digest in images.digests()]
    spread = [owners[ordinal] for ordinal in range(5)]
    say(
        f"scaling 2 → {' → '.join(steps)}: {sum(gets) / len(gets):.2f} upstream GETs a blob, at most {max(gets)}; "
        f"{len(many.layers)} keys among five: {spread}"
    )
    say(f"load meanwhile: {load.summary()}")
    record_property("pulls failed, scaling 2 → 5 → 3", len(load.failures))
    read = [future.result() for future in slow]
    say(
        f"two slow reads from replicas that stop: {max(body.seconds for body in read):.1f} s, "
        f"longest silence {max(body.silent for body in read):.1f} s"
    )
    assert not load.failures, load.failures[:3]
    assert not any(body.troubles for body in read), "a replica stopped before its transfers were complete"
    assert min(spread) > 0
    assert max(gets) <= 3  # the owners among 2, 5 and 3 replicas


def test_node_drain(
    replicas: Replicas, cluster: Cluster, google: Google, push: Push, say: Say, record_property: Record
) -> None:
    """A replica is evicted during a transfer and starts on another node."""
    images, large = Images(push, google, 8, 2.5), push("large", [6 << 20])
    ways = [lambda node=node: replicas.at(node) for node in cluster.nodes]
    ordinal = 2
    node = replicas.node(ordinal)

    def read_slowly() -> Body:
        with replicas.entry(ordinal, bytes_per_second=700_000) as client:
            return client.blob(large.name, large.layers[0])

    try:
        with ThreadPoolExecutor(1) as executor, Load(4, through(ways, images), pause=0.1) as load:
            time.sleep(2)
            slow = executor.submit(read_slowly)
            time.sleep(1)
            only = ("--pod-selector", "app.kubernetes.io/name=registry-cache", "--delete-emptydir-data", "--timeout=120s")
            cluster.kubectl("drain", node, *only)
            replicas.settle(REPLICAS)
    finally:
        cluster.kubectl("uncordon", node)
    read = slow.result()
    say(f"a drained node: {load.summary()}; a slow read from its replica: {read.seconds:.1f} s, {read.troubles}")
    record_property("pulls cut or failed, node drained", len(load.failures) + bool(read.troubles))
    assert replicas.node(ordinal) != node
    assert not load.failures, load.failures[:3]
    assert not read.troubles
