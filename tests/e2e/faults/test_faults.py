# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers while the upstream, the disk or a replica fails: correct digests, clear errors, few upstream requests."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest

from sandbox.client import ACCEPT, NAMESPACE, Cluster, Google
from sandbox.seed import Image
from sandbox.settings import PROJECT, REPOSITORY, UPSTREAM_HOST, Sandbox
from tests.e2e.conftest import Push, Record, Say, Site
from tests.e2e.load import Body, Load
from tests.e2e.replicas import Replicas, wait

_MIB = 1 << 20
LIMIT = 768 * _MIB  # registry_cache_size of converge.yml
_SLACK = 0.25  # seconds of tolerance for a busy machine; `make bench` measures exactly
_STS = "sts.googleapis.com"
_VOLUME = "/mnt/registry-cache"


@dataclass
class Answer:
    """A single request, without retries."""

    status: int
    seconds: float
    digest: str
    headers: httpx.Headers
    body: bytes

    @property
    def stale(self) -> bool:
        return "110" in self.headers.get("warning", "")

    def is_honest(self) -> bool:
        """Returns whether it is an error of the distribution specification with Retry-After."""
        return bool(json.loads(self.body)["errors"][0]["code"]) and int(self.headers["retry-after"]) > 0


class Entry:
    """Single requests to the first replica."""

    def __init__(self, replicas: Replicas, authorization: str | None) -> None:
        host, port = replicas.endpoint(0)
        headers = {"Accept": ACCEPT} | ({"Authorization": authorization} if authorization else {})
        self._client = httpx.Client(base_url=f"http://{host}:{port}", headers=headers, trust_env=False, timeout=30)

    def get(self, image: Image, what: str) -> Answer:
        """what: manifests/TAG, manifests/DIGEST or blobs/DIGEST. Raises httpx.TransportError."""
        started = time.monotonic()
        answer = self._client.get(f"/v2/{PROJECT}/{REPOSITORY}/{image.name}/{what}")
        digest = f"sha256:{hashlib.sha256(answer.content).hexdigest()}"
        return Answer(answer.status_code, time.monotonic() - started, digest, answer.headers, answer.content)

    def tag(self, image: Image) -> Answer:
        return self.get(image, f"manifests/{image.tag}")

    def layer(self, image: Image) -> Answer:
        return self.get(image, f"blobs/{image.layers[0].digest}")

    def serves(self, image: Image) -> bool:
        """Returns whether tag and layer are served completely."""
        try:
            return self.tag(image).digest == image.digest and self.layer(image).digest == image.layers[0].digest
        except httpx.TransportError:
            return False


@pytest.fixture
def entry(alone: Replicas, authorization: str, push: Push) -> Entry:
    made, image = Entry(alone, authorization), push("any", [1000])
    wait(lambda: made.serves(image), 10, "no memory of an outage")
    return made


class Upstream:
    """Faults of Google."""

    def __init__(self, sandbox: Sandbox, cluster: Cluster, google: Google) -> None:
        self._gateway, self._cluster, self._google = sandbox.gateway, cluster, google

    @contextlib.contextmanager
    def out(self, how: str | int) -> Iterator[None]:
        """Make the upstream hang, refuse connections, or answer everything with a status."""
        if how == "refuses":
            with self._refused():
                yield
            return
        effect: dict[str, int] = {"hang": 60} if how == "hangs" else {"status": int(how)}
        self._google.host_fault(UPSTREAM_HOST, count=100_000, **effect)
        try:
            yield
        finally:
            self._google.reset_faults()

    @contextlib.contextmanager
    def _refused(self) -> Iterator[None]:
        rule = ("FORWARD", "-p", "tcp", "-d", self._gateway, "--dport", "443", "-j", "REJECT", "--reject-with", "tcp-reset")
        for node in self._cluster.nodes:
            self._cluster.on_node("iptables", "--wait", "-I", *rule, node=node)
        try:
            yield
        finally:
            for node in self._cluster.nodes:
                self._cluster.on_node("iptables", "--wait", "-D", *rule, node=node)


@pytest.fixture
def upstream(sandbox: Sandbox, cluster: Cluster, google: Google) -> Upstream:
    return Upstream(sandbox, cluster, google)


@dataclass(frozen=True)
class Outage:
    """An outage of the upstream, the status of an uncached image, and the maximum time of the first request for a cached tag."""

    how: str | int
    uncached: tuple[int, ...]
    first: float = 0


OUTAGES = (
    Outage("hangs", (504,), first=2.5),
    Outage("refuses", (502,)),
    Outage(500, (502,)),
    Outage(503, (503,)),
    Outage(429, (429,)),
)


@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: str(outage.how))
def test_upstream_out(
    entry: Entry, google: Google, push: Push, upstream: Upstream, say: Say, record_property: Record, outage: Outage
) -> None:
    known, cold = push("known", [64 << 10]), push("cold", [64 << 10])
    assert entry.serves(known) and not entry.tag(known).stale
    time.sleep(1.1)  # the tag must be checked at the upstream again
    google.reset_counters()
    with upstream.out(outage.how):
        digests = [entry.get(known, f"manifests/{known.digest}"), entry.layer(known)]
        first, following = entry.tag(known), entry.tag(known)
        refused = [(entry.tag(cold), entry.tag(cold)), (entry.layer(cold), entry.layer(cold))]
        again = entry.tag(known)
    ended = time.monotonic()
    fresh = wait(lambda: not entry.tag(known).stale, 10, "a fresh tag")
    came = wait(lambda: entry.serves(cold), 10, "uncached content")
    errors = ", ".join(f"{one.status} after {one.seconds:.2f} s and {two.seconds:.3f} s" for one, two in refused)
    say(
        f"upstream {outage.how}: cached digests {max(answer.seconds for answer in digests):.3f} s; cached tag "
        f"{first.seconds:.2f} s, then {following.seconds:.3f} s; uncached tag and blob {errors}; fresh {fresh:.1f} s after it"
    )
    if outage.how == "hangs":
        record_property("cached tag, upstream hanging: first [s]", round(first.seconds, 3))
        record_property("cached tag, upstream hanging: next [s]", round(following.seconds, 3))
        record_property("uncached tag or blob, upstream hanging: first [s]", round(max(one.seconds for one, _ in refused), 3))
        record_property("uncached tag or blob, upstream hanging: next [s]", round(max(two.seconds for _, two in refused), 3))
        record_property("cached tag, upstream back: time to fresh [s]", round(fresh, 2))
    assert [answer.digest for answer in digests] == [known.digest, known.layers[0].digest]
    assert max(answer.seconds for answer in digests) <= _SLACK
    for answer in (first, following, again):
        assert answer.digest == known.digest and answer.stale
    assert first.seconds <= outage.first + _SLACK and following.seconds <= _SLACK
    for one, two in refused:
        assert one.status in outage.uncached and two.status in outage.uncached
        assert one.is_honest() and two.is_honest()
        assert one.seconds <= 10 and two.seconds <= _SLACK
    assert fresh <= 5 and came + time.monotonic() - ended <= 10
    assert google.blob_counters(known.layers[0].digest)["blob_get"] == 0
    assert google.blob_counters(cold.layers[0].digest)["blob_get"] == 1


def test_no_token(alone: Replicas, entry: Entry, google: Google, push: Push) -> None:
    """STS fails when a replica starts. The replica has no credential for the upstream, but serves cached content."""
    known, cold = push("known", [64 << 10]), push("cold", [64 << 10])
    assert entry.serves(known)
    google.host_fault(_STS, count=100_000, status=503)
    renew(alone)
    wait(lambda: entry.serves(known), 30, "cached content")
    assert entry.tag(known).stale
    answers = [entry.tag(cold), entry.layer(cold)]
    assert [answer.status for answer in answers] == [503, 503] and all(answer.is_honest() for answer in answers)
    google.reset_faults()
    assert wait(lambda: entry.serves(cold), 10, "uncached content") <= 5
    assert not entry.tag(known).stale


def renew(replicas: Replicas) -> float:
    """Replace the first replica's pod. Returns the time at which the new one was found."""
    before = replicas.uid(0)
    replicas.delete(0, force=False)
    wait(lambda: replicas.uid(0) not in ("", before), 60, "a new pod")
    return time.monotonic()


@pytest.mark.parametrize("how", ["hangs", "refuses"])
def test_start_while_upstream_is_out(
    alone: Replicas, entry: Entry, google: Google, push: Push, upstream: Upstream, say: Say, record_property: Record, how: str
) -> None:
    images = [push("start", [256 << 10]) for _ in range(4)]
    assert all(entry.serves(image) for image in images)
    google.reset_counters()
    with upstream.out(how):
        made = renew(alone)
        wait(lambda: entry.serves(images[0]), 60, "cached content")
        seconds = time.monotonic() - made
        with ThreadPoolExecutor(len(images)) as executor:
            assert all(executor.map(entry.serves, images))
        assert all(entry.tag(image).stale for image in images)
    say(f"a replica that starts while the upstream {how}: serves cached content {seconds:.1f} s after its pod was created")
    record_property(f"start while the upstream {how}: seconds to serve cached content", round(seconds, 2))
    assert seconds <= 10
    assert [google.blob_counters(image.layers[0].digest)["blob_get"] for image in images] == [0] * len(images)


def assert_survives_a_restart(replicas: Replicas, entry: Entry, google: Google, upstream: Upstream, image: Image) -> None:
    """Check that the first replica serves its content after its container restarted, without the upstream."""
    assert entry.serves(image)
    before = replicas.pod(0)["status"]
    google.reset_counters()
    with upstream.out("hangs"):
        assert replicas.kill(0)
        wait(lambda: replicas.pod(0)["status"] != before and entry.serves(image), 60, "the content comes back")
    assert google.blob_counters(image.layers[0].digest)["blob_get"] == 0


def test_restart_of_the_container(alone: Replicas, entry: Entry, google: Google, push: Push, upstream: Upstream) -> None:
    assert_survives_a_restart(alone, entry, google, upstream, push("restart", [8 << 20]))


def test_cut_body(alone: Replicas, google: Google, push: Push) -> None:
    image = push("cut", [8 << 20])
    google.fault(image.layers[0].digest, count=1, cut=True)
    with alone.entry(0) as client:
        client.pull(image)
        client.pull(image)
    assert google.blob_counters(image.layers[0].digest)["blob_get"] == 2


def test_corrupt_body(alone: Replicas, entry: Entry, google: Google, push: Push) -> None:
    image = push("corrupt", [8 << 20])
    google.fault(image.layers[0].digest, count=1, corrupt=True)
    with pytest.raises(httpx.RemoteProtocolError):
        entry.layer(image)
    with alone.entry(0) as client:
        client.pull(image)
        client.pull(image)
    assert google.blob_counters(image.layers[0].digest)["blob_get"] == 2


def used(replicas: Replicas) -> int:
    """Returns the bytes in used blocks of the first replica's store."""
    return 1024 * int(replicas.inside(0, "du", "-sk", "/var/lib/registry").split()[0])


def test_full_disk(alone: Replicas, cluster: Cluster, google: Google, push: Push) -> None:
    before, after = [[push("full", [6 << 20, 1000]) for _ in range(6)] for _ in range(2)]
    node = alone.node(0)
    ballast = f"{_VOLUME}/ballast"
    free = int(cluster.on_node("df", "--output=avail", "-B1", _VOLUME, node=node).split()[1])
    cluster.on_node("fallocate", "-l", str(free - 2 * _MIB), ballast, node=node)
    try:
        left = int(cluster.on_node("df", "--output=avail", "-B1", _VOLUME, node=node).split()[1])
        assert left <= 3 * _MIB
        with alone.entry(0) as client:
            for image in before:
                client.pull(image)
    finally:
        cluster.on_node("rm", "-f", ballast, node=node)
    with alone.entry(0) as client:
        for image in (*before, *after):
            client.pull(image)
            client.pull(image)
    assert {google.blob_counters(image.layers[0].digest)["blob_get"] for image in after} == {1}
    layers = {image.layers[0].digest for image in after}
    wait(lambda: layers <= alone.stored(0), 5, "the last layers on the disk")  # blobs are written after clients got them


def test_eviction(alone: Replicas, google: Google, push: Push, say: Say) -> None:
    hot = push("hot", [16 * _MIB])
    cold = [push("cold", [64 * _MIB]) for _ in range(LIMIT // (64 * _MIB) + 2)]
    most = 0
    with alone.entry(0) as client:
        for image in cold:
            client.pull(hot)
            client.pull(image)
            most = max(most, used(alone))
    size = sum(image.layers[0].size for image in cold)
    say(f"{size // _MIB} MiB of images through a store of {LIMIT // _MIB} MiB: at most {most / _MIB:.1f} MiB used")
    assert most <= LIMIT
    assert google.blob_counters(hot.layers[0].digest)["blob_get"] == 1
    assert size > LIMIT


def test_rolling_restart(
    replicas: Replicas, cluster: Cluster, google: Google, push: Push, say: Say, record_property: Record
) -> None:
    """Clients take about twelve seconds for blobs of 300 MB, through every node, while all pods are replaced."""
    image = push("large", [300_000_000])
    ways = [lambda node=node: replicas.at(node, bytes_per_second=25_000_000) for node in cluster.nodes]

    def pull(number: int) -> list[Body]:
        with ways[number % len(ways)]() as client:
            return client.pull(image)

    pull(0)
    before = {ordinal: replicas.uid(ordinal) for ordinal in range(3)}
    started = time.monotonic()
    with Load(6, pull) as load:
        time.sleep(3)
        replicas.restart()
        took = time.monotonic() - started
    large = [body for body in load.bodies if body.seconds > 5]
    cut = [body for body in load.bodies if body.troubles]
    say(f"rolling restart of three replicas in {took:.0f} s, {len(large)} blobs of 300 MB meanwhile: {load.summary()}")
    record_property("pulls cut by a rolling restart, 300 MB blobs", len(cut) + len(load.failures))
    assert all(replicas.uid(ordinal) != uid for ordinal, uid in before.items())
    assert len(large) >= 12
    assert not load.failures, load.failures[:3]
    assert not cut, [body.troubles for body in cut][:3]
    # Once by the owner, and once by the replica that owns the key while the owner restarts.
    assert google.blob_counters(image.layers[0].digest)["blob_get"] <= 2


def test_second_run_with_volumes(site: Site, replicas: Replicas) -> None:
    """With volumes, a second run changes nothing, and a change that Kubernetes does not allow is refused with a fix."""
    variables = {
        "registry_cache_replicas": 3,
        "registry_cache_size": "768Mi",
        "registry_cache_storage": "volumeClaim",
        "registry_cache_storage_class": "faults",
        "registry_cache_resources": {"limits": {"memory": "1536Mi"}},
    }
    result = site("--extra-vars", json.dumps(variables))
    assert result.returncode == 0 and re.search(r"changed=0 ", result.stdout), result.stdout
    uid = replicas.uid(0)
    result = site("--extra-vars", json.dumps({**variables, "registry_cache_size": "1Gi"}))
    assert result.returncode != 0 and "changed=0 " in result.stdout
    text = re.sub(r"\s+", " ", result.stdout)
    assert f"kubectl delete statefulset registry-cache --namespace {NAMESPACE}" in text, result.stdout
    assert replicas.uid(0) == uid


@pytest.fixture
def without_volumes(_replicas: Replicas, cluster: Cluster, site: Site, google: Google) -> Replicas:
    """One replica with an emptyDir, created by the steps in the error about a changed storage. It needs no credential."""
    cluster.kubectl("delete", "statefulset", "registry-cache", "--namespace", NAMESPACE)
    variables = {
        "registry_cache_replicas": 1,
        "registry_cache_size": "768Mi",
        "registry_cache_auth": "none",
        "registry_cache_auth_none_confirmed": True,
    }
    result = site("--extra-vars", json.dumps(variables))
    assert result.returncode == 0, result.stdout
    _replicas.settle(1)
    return _replicas


def test_restarts_without_volumes_or_users(
    without_volumes: Replicas, cluster: Cluster, google: Google, push: Push, upstream: Upstream
) -> None:
    """A restarted container keeps its content. A new pod starts empty and fetches each blob once. No credential is needed."""
    assert not cluster.kubectl("get", "secrets", "--namespace", NAMESPACE, "registry-cache-htpasswd", "--ignore-not-found")
    entry, image = Entry(without_volumes, None), push("restart", [8 << 20])
    assert_survives_a_restart(without_volumes, entry, google, upstream, image)
    renew(without_volumes)
    wait(lambda: entry.serves(image), 60, "a new pod")
    assert entry.serves(image)
    assert google.blob_counters(image.layers[0].digest)["blob_get"] == 1
