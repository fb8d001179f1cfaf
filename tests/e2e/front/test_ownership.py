# SPDX-License-Identifier: GPL-3.0-or-later
"""Every blob has one owner among the replicas; who may ask, and what replicas ask of each other."""

from __future__ import annotations

import base64
import http.client
import secrets
import time
from concurrent.futures import ThreadPoolExecutor

from sandbox.client import NAMESPACE, USER, Cluster, Google
from sandbox.settings import PROJECT, REPOSITORY
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
    own = [image.config, *image.layers]  # busybox's layer is that of every image here
    ways = [replicas.at(node) for node in cluster.nodes] + [replicas.entry(ordinal) for ordinal in range(REPLICAS)]

    def pull(client: Client) -> int:
        with client:
            return len(client.pull(image)) - 1

    with ThreadPoolExecutor(len(ways)) as executor:
        pulled = sum(executor.map(pull, ways))
    counted = [google.blob_counters(blob.digest) for blob in own]
    assert [count["blob_get"] for count in counted] == [1] * len(own)
    assert [count["blob_bytes"] for count in counted] == [blob.size for blob in own]

    holders = replicas.holders(range(REPLICAS))
    owners = {blob.digest: [ordinal for ordinal, held in holders.items() if blob.digest in held] for blob in own}
    assert all(len(held) == 1 for held in owners.values()), owners
    spread = [sum(held == [ordinal] for held in owners.values()) for ordinal in range(REPLICAS)]
    assert min(spread) > 0, spread
    say(
        f"ownership: {pulled} blobs asked through {len(cluster.nodes)} nodes and {REPLICAS} replicas at once, "
        f"{len(own)} distinct ones: 1.00 upstream GETs each; owned by replicas 0 to {REPLICAS - 1}: {spread}"
    )

    for ordinal in range(REPLICAS):
        with replicas.entry(ordinal) as client:
            client.pull(other)
    again = sum(google.blob_counters(blob.digest)["blob_get"] for blob in own) - len(own)
    assert again == 0
    say(f"a second repository with the same {len(own)} blobs, through every replica: {again} upstream blob GETs")


def status(endpoint: tuple[str, int], path: str, **headers: str) -> int:
    connection = http.client.HTTPConnection(*endpoint, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_who_may_ask(replicas: Replicas, cluster: Cluster, push: Push, authorization: str) -> None:
    image = push("guarded", [8 << 10])
    path = f"/v2/{PROJECT}/{REPOSITORY}/{image.name}/blobs/{image.layers[0].digest}"
    peer = base64.b64decode(cluster.get("secret", "registry-cache-peers", "--namespace", NAMESPACE)["data"]["peer"]).decode()
    for ordinal in range(REPLICAS):
        front, hop = replicas.front(ordinal), replicas.hop(ordinal)
        allowed = status(front, path, Authorization=authorization)
        assert allowed == 200
        for refused in (basic(USER, "wrong"), basic("nobody", "wrong"), "Bearer x", "Basic !"):
            for _throttled in range(4):  # a few credentials that nobody has seen before are checked each second
                if (answer := status(front, path, Authorization=refused)) != 429:
                    break
                time.sleep(0.7)
            assert answer == 401, refused
        assert status(front, path) == 401
        # The peers' secret opens the hop alone, and nothing else opens the hop. Asserted so that none is printed.
        answers = {
            "front, peers' secret": status(front, path, Peer=peer),
            "hop, peers' secret": status(hop, path, Peer=peer),
            "hop, another secret": status(hop, path, Peer="x" * len(peer)),
            "hop, no secret": status(hop, path),
            "hop, a user's credential": status(hop, path, Authorization=authorization),
        }
        assert list(answers.values()) == [401, 200, 403, 403, 403], answers
