# SPDX-License-Identifier: GPL-3.0-or-later
"""Three replicas as processes: one fetch for all of them, and no failed pull when one of them ends."""

from __future__ import annotations

import hashlib
import hmac
import pathlib
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.endpoint import Endpoint
from sandbox.steps import wait
from tests.e2e.registry import ask

from .blobs import path, read
from .program import HOST, SECRET, Program, fleet
from .upstream import NAME, Upstream, digest, noise

_MIB = 1 << 20


@pytest.fixture
def three(folder: pathlib.Path, upstream: Upstream) -> Iterator[list[Program]]:
    with fleet(folder, upstream.url, 3) as made:
        yield made
        upstream.heal()  # ends hanging requests


def _relayed(program: Program) -> float:
    return program.sample("registry_cache_relayed_bytes_total")


def test_one_fetch_serves_the_clients_of_all_replicas(three: list[Program], upstream: Upstream) -> None:
    """An uncached blob and tag, with clients of all replicas at the same time."""
    _, layer = upstream.image("v1", layer=noise(8 * _MIB))
    upstream.rule(f"GET .*/blobs/{layer}", rate=4 * _MIB)
    with ThreadPoolExecutor(40) as executor:
        pulls = [executor.submit(read, three[i % 3].endpoint, layer) for i in range(30)]
        tags = [executor.submit(three[i % 3].ask, f"/v2/{NAME}/manifests/v1") for i in range(9)]
        assert {pull.result()[1] for pull in pulls} == {layer}
        assert {tag.result().status for tag in tags} == {200}
    assert upstream.count(f"GET .*/blobs/{layer}") == 1
    assert upstream.count("GET .*/manifests/") == 1
    assert sum(_relayed(program) for program in three) == 2 * 8 * _MIB


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM], ids=["killed", "stopped", "ends"])
def test_clients_of_other_replicas_do_not_notice_that_an_owner_ends(three: list[Program], upstream: Upstream, how: signal.Signals) -> None:
    layer = upstream.blob(noise(4 * _MIB, how))
    upstream.rule(f"GET .*/blobs/{layer}", rate=_MIB)
    with ThreadPoolExecutor(6) as executor:
        pulls = {executor.submit(read, program.endpoint, layer): program for program in three for _ in range(2)}
        wait(lambda: sum(_relayed(program) > _MIB / 2 for program in three) == 2, 20, "two relays")
        owner = next(program for program in three if not _relayed(program))
        assert owner.process
        owner.process.send_signal(how)
        gone = time.monotonic()
        for pull, program in pulls.items():
            if program is not owner or how == signal.SIGTERM:
                assert pull.result()[1] == layer
        assert time.monotonic() - gone < 20
        owner.process.send_signal(signal.SIGKILL)
    assert upstream.count(f"GET .*/blobs/{layer}") <= (1 if how == signal.SIGTERM else 2)


def test_an_owner_that_has_lost_its_disk_asks_the_others(three: list[Program], upstream: Upstream) -> None:
    layers = [upstream.blob(noise(_MIB, number)) for number in range(6)]
    for layer in layers:
        for program in three:
            assert read(program.endpoint, layer)[1] == layer
    upstream.rule("GET .*/blobs/", status=503)
    for program in three:
        assert program.stop() == 0
        shutil.rmtree(program.store)
        program.start()
        for layer in layers:
            assert program.ask(path(layer)).status == 200
    assert upstream.count("GET .*/blobs/") == len(layers)


def test_content_that_nobody_requests_survives_a_rolling_restart_with_empty_disks(three: list[Program], upstream: Upstream) -> None:
    images = [upstream.image(f"v{number}", layer=noise(_MIB, number)) for number in range(9)]
    wanted = []
    for number, (manifest, layer) in enumerate(images):
        known = [(f"manifests/v{number}", manifest), (f"manifests/{manifest}", manifest), (f"blobs/{layer}", layer)]
        assert [digest(three[number % 3].ask(f"/v2/{NAME}/{reference}").body) for reference, _ in known] == [of for _, of in known]
        wanted += known
    wait(lambda: sum(program.sample("registry_cache_fills") for program in three) == 0, 10, "stored blobs")
    upstream.rule("GET .*/(blobs|manifests)/", status=503)
    upstream.rule("HEAD .*/(blobs|manifests)/", status=503)
    asked = upstream.count(".*/(blobs|manifests)/")
    for program in three:
        assert program.stop() == 0
        shutil.rmtree(program.store)
        program.start()
    assert upstream.count(".*/(blobs|manifests)/") == asked
    assert sum(program.sample("registry_cache_handed_over_bytes_total") for program in three) > _MIB
    got = [digest(three[number % 3].ask(f"/v2/{NAME}/{reference}").body) for number, (reference, _) in enumerate(wanted)]
    assert got == [of for _, of in wanted]
    assert upstream.count(".*/blobs/") == len(images)


@pytest.mark.parametrize("how", ["refuses", "is silent"])
def test_an_owner_that_cannot_reach_the_upstream(folder: pathlib.Path, upstream: Upstream, how: str) -> None:
    """If a single replica could not reach the upstream, uncached pulls of what it owns once failed at all replicas."""
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as closed, fleet(folder, upstream.url, 3) as three:
        closed.bind(("127.0.0.1", 0))  # not listening
        lost = three[0]
        lost.stop()
        lost.upstream = f"http://127.0.0.1:{(silent if how == 'is silent' else closed).getsockname()[1]}"
        lost.start()
        for program in three:
            wait(lambda program=program: program.sample("registry_cache_peers", state="in") == 3, 10, "its peers", every=0.1)
        wanted = []
        for number in range(12):
            manifest, layer = upstream.image(f"v{number}", layer=noise(100_000, number))
            wanted += [(f"manifests/v{number}", manifest), (f"manifests/{manifest}", manifest), (f"blobs/{layer}", layer)]

        def pull(number: int) -> tuple[int, str]:
            answer = three[number // 3 % 3].ask(f"/v2/{NAME}/{wanted[number][0]}")
            return answer.status, digest(answer.body)

        with ThreadPoolExecutor(12) as executor:
            got = list(executor.map(pull, range(len(wanted))))
        assert got == [(200, known) for _, known in wanted]
        assert lost.sample("registry_cache_hops_received_total") > 0  # other replicas asked it as the owner


@pytest.mark.parametrize("kind", ["tag", "digest", "blob"])
def test_an_error_keeps_its_age_at_other_replicas(folder: pathlib.Path, upstream: Upstream, kind: str) -> None:
    """Replicas once remembered an error of the owner for two seconds more, so clients got it for four seconds."""
    with fleet(folder, upstream.url, 3) as three:
        images = [upstream.image(f"v{number}", layer=noise(1000, number)) for number in range(6)]
        whats = {
            "tag": [f"manifests/v{number}" for number in range(6)],
            "digest": [f"manifests/{manifest}" for manifest, _ in images],
            "blob": [f"blobs/{layer}" for _, layer in images],
        }[kind]
        upstream.rule("/v2/p/", status=404)
        began = time.monotonic()
        assert [three[0].ask(f"/v2/{NAME}/{what}").status for what in whats] == [404] * 6
        known = time.monotonic()
        upstream.heal()
        time.sleep(began + 1.2 - time.monotonic())
        asked = upstream.count()
        assert {program.ask(f"/v2/{NAME}/{what}").status for program in three[1:] for what in whats} == {404}
        assert time.monotonic() - began < 2 and upstream.count() == asked, "they were to come from what is remembered"
        time.sleep(known + 2.1 - time.monotonic())
        assert {program.ask(f"/v2/{NAME}/{what}").status for program in three for what in whats} == {200}


def hop(path: str, sender: str, receiver: str, secret: str = SECRET, late: int = 0) -> str:
    """Returns the header of a replica's request to another one, sent `late` seconds ago."""
    sent, nonce = str(int((time.time() - late) * 1000)), secrets.token_hex(16)
    # After the nonce: no limit for storing, no Accept, no Range.
    parts = ("registry-cache-hop", "1", "GET", path, sender, receiver, sent, nonce, "", "0", "0")
    mac = hmac.new(secret.encode(), "".join(f"{len(part)}:{part}" for part in parts).encode(), hashlib.sha256).hexdigest()
    return f"v=1, from={sender}, to={receiver}, time={sent}, nonce={nonce}, mac={mac}"


def test_a_request_of_another_replica_needs_its_mac(three: list[Program], upstream: Upstream) -> None:
    """A MAC is valid for one replica, once, for a minute. The port for clients accepts none."""
    asked = f"{path(upstream.blob(noise(1000)))}?ns={HOST}"
    host, _, port = three[0].config["peers"]["listen"].partition(":")
    peers, once = Endpoint(int(port), host=host), hop(asked, "cache-1", "cache-0")
    answers = {
        "its MAC": (peers, once),
        "once more": (peers, once),
        "for another one": (peers, hop(asked, "cache-0", "cache-1")),
        "for another path": (peers, hop(path("sha256:" + "a" * 64), "cache-1", "cache-0")),
        "of another secret": (peers, hop(asked, "cache-1", "cache-0", secret="x" * len(SECRET))),
        "too old": (peers, hop(asked, "cache-1", "cache-0", late=90)),
        "the secret itself": (peers, SECRET),
        "none": (peers, ""),
        "at the port for clients": (three[0].anonymous, hop(asked, "cache-1", "cache-0")),
    }
    got = {what: ask(endpoint, asked, Accept="", Registry_Cache_Hop=header).status for what, (endpoint, header) in answers.items()}
    assert list(got.values()) == [200] + [401] * 8, got
    assert three[0].sample("registry_cache_hops_refused_total") == 7
