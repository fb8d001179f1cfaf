# SPDX-License-Identifier: GPL-3.0-or-later
"""Replicas restart in turn, each with an empty disk, while clients pull some of the cached content."""

from __future__ import annotations

import time

import pytest

from sandbox.client import NAMESPACE, Cluster, Google
from tests.e2e.conftest import Push, Record, Say
from tests.e2e.load import Body, Load
from tests.e2e.replicas import Replicas

_REPLICAS = 3  # in the scenario
# Number of images, number of those that clients pull during the restart, bytes of each, and bytes per second of a client.
_CONTENT = {"128 MiB": (8, 8, 16 << 20, 8_000_000), "5 GiB": (80, 4, 64 << 20, 16_000_000)}


@pytest.mark.parametrize("content", _CONTENT)
def test_rolling_restart_with_empty_disks(
    replicas: Replicas, cluster: Cluster, google: Google, push: Push, say: Say, record_property: Record, content: str
) -> None:
    count, requested, size, bytes_per_second = _CONTENT[content]
    assert not cluster.get("persistentvolumeclaims", "--namespace", NAMESPACE)["items"], "the disks outlive the pods"
    images = [push("content", [size]) for _ in range(count)]
    for ordinal in range(_REPLICAS):
        with replicas.entry(ordinal) as client:
            for image in images:
                client.pull(image)
    google.reset_counters()
    ways = [lambda node=node: replicas.at(node, bytes_per_second=bytes_per_second) for node in cluster.nodes]

    def pull(number: int) -> list[Body]:
        with ways[number % len(ways)]() as client:
            return client.pull(images[number % requested])

    before = {ordinal: replicas.uid(ordinal) for ordinal in range(_REPLICAS)}
    started = time.monotonic()
    with Load(6, pull) as load:
        time.sleep(3)
        replicas.restart()
        replicas.settle(_REPLICAS)
        took = time.monotonic() - started
        time.sleep(3)
    for number, image in enumerate(images):  # most of them for the first time since the restart
        with replicas.entry(number % _REPLICAS) as client:
            client.pull(image)
    total = count * size
    fetched = sum(google.blob_counters(image.layers[0].digest)["blob_bytes"] for image in images)
    say(
        f"rolling restart of {_REPLICAS} replicas with empty disks in {took:.0f} s: {fetched / total:.3f} of {content} fetched "
        f"again; {load.summary()}"
    )
    record_property(f"pulls failed, rolling restart with empty disks, {content}", len(load.failures))
    record_property(f"rolling restart with empty disks: bytes fetched again, of {content}", fetched / total)
    assert all(replicas.uid(ordinal) != uid for ordinal, uid in before.items())
    assert not load.failures, load.failures[:3]
    assert len(load.bodies) > 80
    assert fetched <= 0.1 * total
