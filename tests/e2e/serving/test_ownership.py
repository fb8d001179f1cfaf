# SPDX-License-Identifier: GPL-3.0-or-later
"""Every blob has one owner among the replicas. Only users and replicas may request it."""

from __future__ import annotations

import base64
import http.client
import secrets
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from sandbox.client import NAMESPACE, USER, Cluster, Google
from sandbox.metrics import total
from sandbox.settings import PROJECT, REPOSITORY, UPSTREAM_HOST
from tests.e2e.conftest import Push, Say
from tests.e2e.load import Client, basic
from tests.e2e.replicas import Replicas

from .conftest import REPLICAS


def test_one_upstream_get_for_each_blob(
    replicas: Replicas, cluster: Cluster, google: Google, push: Push, say: Say
) -> None:
    content = secrets.token_hex(8)
    image, other = (push(name, [8 << 10] * 24, content=content) for name in ("owned", "shared"))
    assert other.name != image.name and other.blobs == image.blobs
    own = [image.config, *image.layers]  # all images share the layer of busybox
    ways = [replicas.at(node) for node in cluster.nodes] + [replicas.entry(ordinal) for ordinal in range(REPLICAS)]

    def pull(client: Client) -> int:
        with client:
            return len(client.pull(image)) - 1

    with ThreadPoolExecutor(len(ways)) as executor:
        pulled = sum(executor.map(pull, ways))
    counted = [google.blob_counters(blob.digest) for blob in own]
    assert [count["blob_get"] for count in counted] == [1] * len(own)
    assert [count["blob_bytes"] for count in counted] == [blob.size for blob in own]

    for ordinal in range(REPLICAS):
        with replicas.entry(ordinal) as client:
            client.pull(other)
    again = sum(google.blob_counters(blob.digest)["blob_get"] for blob in own) - len(own)
    assert again == 0
    say(
        f"{pulled} blobs asked through {len(cluster.nodes)} nodes and {REPLICAS} replicas at once, {len(own)} distinct ones: 1.00 "
        f"upstream GETs each; a second repository with the same, through every replica: {again} more"
    )


def test_each_blob_has_one_owner(replicas: Replicas, google: Google, push: Push, say: Say) -> None:
    """Only its owner and the replica that was asked store a blob."""
    image = push("spread", [1 << 10] * 24)
    owners = Counter(replicas.owners(image.name, image.layers, 0).values())
    spread = [owners[ordinal] for ordinal in range(REPLICAS)]
    say(f"{len(image.layers)} blobs owned by replicas 0 to {REPLICAS - 1}: {spread}")
    assert min(spread) > 0, spread
    assert [google.blob_counters(layer.digest)["blob_get"] for layer in image.layers] == [1] * len(image.layers)


def status(endpoint: tuple[str, int], path: str, **headers: str) -> int:
    connection = http.client.HTTPConnection(*endpoint, timeout=30)
    try:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        return connection.getresponse().status
    finally:
        connection.close()


def test_each_port_admits_only_its_clients(replicas: Replicas, cluster: Cluster, push: Push, authorization: str) -> None:
    """The port for clients accepts users. The port for replicas accepts only a MAC of their secret, not the secret itself."""
    image = push("guarded", [8 << 10])
    path = f"/v2/{PROJECT}/{REPOSITORY}/{image.name}/blobs/{image.layers[0].digest}?ns={UPSTREAM_HOST}"
    secret = base64.b64decode(cluster.get("secret", "registry-cache-peers", "--namespace", NAMESPACE)["data"]["peer"]).decode().strip()

    def hops(name: str, **labels: str) -> list[float]:
        return [total(replicas.metrics(ordinal), f"registry_cache_hops_{name}", **labels) for ordinal in range(REPLICAS)]

    received, refused = hops("received_total"), hops("refused_total")
    for ordinal in range(REPLICAS):
        clients, peers = replicas.endpoint(ordinal), replicas.endpoint(ordinal, "peers")
        assert status(clients, path, Authorization=authorization) == 200
        for wrong in (basic(USER, "wrong"), basic("nobody", "wrong"), "Bearer x", "Basic !"):
            for _throttled in range(4):  # new credentials are checked one after the other
                if (answer := status(clients, path, Authorization=wrong)) != 429:
                    break
                time.sleep(0.7)
            assert answer == 401, wrong
        # Only statuses are asserted, so that no secret is printed.
        answers = {
            "clients, nothing": status(clients, path),
            "clients, the secret": status(clients, path, Authorization=f"Bearer {secret}", Registry_Cache_Hop=secret),
            "peers, nothing": status(peers, path),
            "peers, a user's credential": status(peers, path, Authorization=authorization),
            "peers, the secret": status(peers, path, Authorization=f"Bearer {secret}", Registry_Cache_Hop=secret),
        }
        assert set(answers.values()) == {401}, answers
    # Each port served the blob to clients it accepts.
    assert sum(hops("received_total")) > sum(received)
    assert [now - before for now, before in zip(hops("refused_total"), refused, strict=True)] == [3] * REPLICAS
