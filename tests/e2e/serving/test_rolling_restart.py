# SPDX-License-Identifier: GPL-3.0-or-later
"""Replicas that restart in turn, each with an empty disk, while clients pull what they hold."""

from __future__ import annotations

import time

from sandbox.client import NAMESPACE, Cluster, Google
from tests.e2e.conftest import Push, Record, Say
from tests.e2e.load import Body, Load
from tests.e2e.replicas import Replicas

_REPLICAS = 3  # of the scenario
_IMAGES, _BYTES = 8, 16 << 20
_BYTES_PER_SECOND = 8_000_000  # of a client: a blob takes two seconds


def test_rolling_restart_with_empty_disks(
    replicas: Replicas, cluster: Cluster, google: Google, push: Push, say: Say, record_property: Record
) -> None:
    assert not cluster.get("persistentvolumeclaims", "--namespace", NAMESPACE)["items"], "the disks outlive the pods"
    images = [push("content", [_BYTES]) for _ in range(_IMAGES)]
    for ordinal in range(_REPLICAS):
        with replicas.entry(ordinal) as client:
            for image in images:
                client.pull(image)
    google.reset_counters()
    ways = [lambda node=node: replicas.at(node, bytes_per_second=_BYTES_PER_SECOND) for node in cluster.nodes]

    def pull(number: int) -> list[Body]:
        with ways[number % len(ways)]() as client:
            return client.pull(images[number % len(images)])

    before = {ordinal: replicas.uid(ordinal) for ordinal in range(_REPLICAS)}
    started = time.monotonic()
    with Load(6, pull) as load:
        time.sleep(3)
        replicas.restart()
        replicas.settle(_REPLICAS)
        took = time.monotonic() - started
        time.sleep(3)
    content = _IMAGES * _BYTES
    fetched = sum(google.blob_counters(image.layers[0].digest)["blob_bytes"] for image in images)
    say(
        f"rolling restart of {_REPLICAS} replicas with empty disks in {took:.0f} s: {fetched / content:.3f} of {content >> 20} MiB "
        f"fetched again; {load.summary()}"
    )
    record_property("pulls failed, rolling restart with empty disks", len(load.failures))
    record_property("rolling restart with empty disks: bytes fetched again, of the content", fetched / content)
    assert all(replicas.uid(ordinal) != uid for ordinal, uid in before.items())
    assert not load.failures, load.failures[:3]
    assert len(load.bodies) > 10 * _IMAGES
    assert fetched <= 0.1 * content
