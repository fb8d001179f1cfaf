# SPDX-License-Identifier: GPL-3.0-or-later
"""Three processes that serve together: one fetch for all of them, and no pull fails when one of them goes."""

from __future__ import annotations

import pathlib
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.candidates import free_ports
from sandbox.steps import wait

from .program import Program
from .test_blobs import path, read
from .upstream import NAME, Upstream, noise

_MIB = 1 << 20
_SECRET = "0123456789abcdef0123456789abcdef\n"


@pytest.fixture
def fleet(folder: pathlib.Path, upstream: Upstream) -> Iterator[list[Program]]:
    """Three replicas that are ready."""
    ports = free_ports(3)
    members = [{"name": f"cache-{i}", "address": f"127.0.0.1:{port}"} for i, port in enumerate(ports)]
    made = []
    try:
        for member in members:
            secret = folder / member["name"] / "secret"
            peers = {"name": member["name"], "listen": member["address"], "secret": str(secret), "members": members}
            made.append(Program(secret.parent, upstream.url, {"peers": peers}))
            secret.write_text(_SECRET)
            made[-1].start()
        yield made
    finally:
        upstream.heal()
        for program in made:
            program.kill()
            print(program.output()[-4000:])


def _relayed(program: Program) -> float:
    return program.sample("registry_cache_relayed_bytes_total")


def test_one_fetch_serves_the_clients_of_all_replicas(fleet: list[Program], upstream: Upstream) -> None:
    """Blob and tag, cold, with clients of all replicas at the same time."""
    _, layer = upstream.image("v1", layer=noise(8 * _MIB))
    upstream.rule(f"GET .*/blobs/{layer}", rate=4 * _MIB)
    with ThreadPoolExecutor(40) as executor:
        pulls = [executor.submit(read, fleet[i % 3].endpoint, layer) for i in range(30)]
        tags = [executor.submit(fleet[i % 3].ask, f"/v2/{NAME}/manifests/v1") for i in range(9)]
        assert {pull.result()[1] for pull in pulls} == {layer}
        assert {tag.result().status for tag in tags} == {200}
    assert upstream.count(f"GET .*/blobs/{layer}") == 1
    assert upstream.count("GET .*/manifests/") == 1
    assert sum(_relayed(program) for program in fleet) == 2 * 8 * _MIB


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM], ids=["killed", "stopped", "ends"])
def test_clients_of_others_do_not_notice_that_an_owner_goes(fleet: list[Program], upstream: Upstream, how: signal.Signals) -> None:
    layer = upstream.blob(noise(4 * _MIB, how))
    upstream.rule(f"GET .*/blobs/{layer}", rate=_MIB)
    with ThreadPoolExecutor(6) as executor:
        pulls = {executor.submit(read, program.endpoint, layer): program for program in fleet for _ in range(2)}
        wait(lambda: sum(_relayed(program) > _MIB / 2 for program in fleet) == 2, 20, "two relays")
        owner = next(program for program in fleet if not _relayed(program))
        assert owner.process
        owner.process.send_signal(how)
        gone = time.monotonic()
        for pull, program in pulls.items():
            if program is not owner or how == signal.SIGTERM:
                assert pull.result()[1] == layer
        assert time.monotonic() - gone < 20
        owner.process.send_signal(signal.SIGKILL)
    assert upstream.count(f"GET .*/blobs/{layer}") <= (1 if how == signal.SIGTERM else 2)


def test_an_owner_that_has_lost_its_disk_asks_the_others(fleet: list[Program], upstream: Upstream) -> None:
    layers = [upstream.blob(noise(_MIB, number)) for number in range(6)]
    for layer in layers:
        for program in fleet:
            assert read(program.endpoint, layer)[1] == layer
    upstream.rule("GET .*/blobs/", status=503)
    for program in fleet:
        assert program.stop() == 0
        shutil.rmtree(program.store)
        program.start()
        for layer in layers:
            assert program.ask(path(layer)).status == 200
    assert upstream.count("GET .*/blobs/") == len(layers)
