# SPDX-License-Identifier: GPL-3.0-or-later
"""Many clients, including containerd, request a layer while a slow upstream sends it."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sandbox.client import Cache, Cluster, Google
from sandbox.settings import NODE_PORT, PROJECT, REPOSITORY
from tests.e2e.conftest import Push, Record, Say
from tests.e2e.load import Body
from tests.e2e.replicas import Replicas

from .conftest import REPLICAS

BYTES = 12 << 20


@pytest.mark.parametrize(
    ("silent", "streamed", "clients"),  # seconds to the upstream's first byte, seconds of its body, number of clients
    [pytest.param(1, 11, 20, id="12 s"), pytest.param(5, 55, 100, id="60 s")],
)
def test_one_upstream_get_in_a_slow_fill(
    silent: int,
    streamed: int,
    clients: int,
    replicas: Replicas,
    cluster: Cluster,
    cache: Cache,
    google: Google,
    push: Push,
    say: Say,
    record_property: Record,
) -> None:
    image = push("slow", [BYTES])
    layer = image.layers[0]
    nodes = {cluster.runtime(node): node for node in cluster.nodes}
    assert len(nodes) == 3, nodes  # three versions of containerd
    google.fault(layer.digest, count=1, seconds=silent, bytes_per_second=layer.size // streamed)
    reference = f"localhost:{NODE_PORT}/{PROJECT}/{REPOSITORY}/{image.name}:{image.tag}"

    def blob(entry: int) -> Body:
        with replicas.entry(entry) as client:
            return client.blob(image.name, layer)

    try:
        with ThreadPoolExecutor(len(nodes) + REPLICAS + clients) as executor:
            started = time.monotonic()
            pulls = {
                runtime: executor.submit(cluster.pull, reference, cache.password, node=node)
                for runtime, node in nodes.items()
            }
            early = [executor.submit(blob, entry) for entry in range(REPLICAS)]
            begun = time.monotonic()
            while not google.blob_counters(layer.digest)["blob_bytes"]:
                assert time.monotonic() - begun < 30, "the fill did not start"
                time.sleep(0.05)
            time.sleep(0.5)
            late = []
            for number in range(clients):
                late.append(executor.submit(blob, number % REPLICAS))
                time.sleep((streamed - 3) / clients)
            assert not early[0].done(), f"the fill ended before the last client came: {early[0].exception()}"
            seconds = {runtime: pull.result() for runtime, pull in pulls.items()}
            waited = [future.result() for future in early]
            came = [future.result() for future in late]
    finally:
        for node in nodes.values():
            if reference in cluster.images(node):
                cluster.forget_image(reference, node)

    counted = google.blob_counters(layer.digest)
    slowest = max(body.first for body in came)
    first = max(body.first for body in waited)
    ends = sorted(body.asked + body.seconds - started for body in (*waited, *came))
    end = ends[math.ceil(0.99 * len(ends)) - 1]
    troubles = [body.troubles for body in (*waited, *came) if body.troubles]
    say(
        f"slow fill: {max(body.seconds for body in waited):.0f} s, first byte of it after {first:.1f} s; {clients} clients all "
        f"through it over {REPLICAS} replicas: first byte after at most {slowest:.2f} s, 99 % end within {end:.1f} s of its start; "
        f"upstream GETs: {counted['blob_get']}; "
        f"tried again: {troubles or 'nothing'}"
    )
    say("slow fill by " + ", ".join(f"{runtime.removeprefix('containerd://')}: {took:.0f} s" for runtime, took in seconds.items()))
    what = f"{clients} clients through a fill of {silent + streamed} s"
    record_property(f"{what}: upstream GETs", counted["blob_get"])
    record_property(f"{what}: first byte, slowest [s]", slowest)
    record_property(f"{what}: p99 of the ends, from its start [s]", end)
    assert counted["blob_get"] == 1 and counted["blob_bytes"] == layer.size
    assert min(seconds.values()) > streamed * 0.9, "containerd had the image already"
    assert silent < first < silent + 3
    assert slowest <= 0.5
    assert end <= silent + streamed + 3
    assert not troubles
