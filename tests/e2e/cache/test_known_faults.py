# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults that reviews in the field found in the cache's first design: each is a test of what is right, in the order of the reviews."""

from __future__ import annotations

import base64
import contextlib
import email
import email.policy
import http.client
import json
import pathlib
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.content import MANIFEST
from bench.endpoint import Endpoint
from bench.usage import peak
from sandbox.steps import wait
from tests.e2e.registry import INDEX, Answer, ask, authorization

from .blobs import read
from .conftest import Start
from .program import HOST, PASSWORD, USER, Program, fleet, hashed
from .upstream import NAME, Upstream, digest, noise
from .upstream import USER as UPSTREAM_USER

_MIB = 1 << 20
_LIMIT = 64 * _MIB
_SECRET = "the-upstream's"


def path(what: str, name: str = NAME) -> str:
    """Of `manifests/REFERENCE`, `blobs/DIGEST` or `tags/list`."""
    return f"/v2/{name}/{what}"


def pull_tag(endpoint: Endpoint, **headers: str) -> Answer:
    return ask(endpoint, path("manifests/1.0"), **headers)


def client_hello() -> bytes:
    """What a client that tries HTTPS first sends."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def received(connection: socket.socket) -> bytes:
    """All that comes until the end. Raises ConnectionResetError."""
    pieces = []
    while piece := connection.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


@pytest.mark.parametrize("split", [0, 1, 5, 100])
def test_a_tls_hello_gets_http_400_at_once(program: Program, split: int) -> None:
    """A TLS hello on the plain port met silence, and containerd, which tries HTTPS first for localhost, gave up."""
    hello = client_hello()
    with socket.create_connection(("127.0.0.1", program.port), timeout=5) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.monotonic()
        if split:
            connection.sendall(hello[:split])
            time.sleep(0.1)
        connection.sendall(hello[split:])
        answer = received(connection)
        assert time.monotonic() - began < 1.5
    assert answer.startswith(b"HTTP/1.") and b" 400 " in answer.partition(b"\r\n")[0]


def test_the_answer_to_a_tls_hello_outlives_what_the_client_sends_on(program: Program) -> None:
    """A connection that is closed with bytes unread is reset, and the reset overtakes the answer."""
    with socket.create_connection(("127.0.0.1", program.port), timeout=5) as connection:
        connection.sendall(client_hello())
        for _ in range(4):
            connection.sendall(b"\x17" * 2000)
            time.sleep(0.02)
        time.sleep(0.2)  # a reset would be here by now
        assert received(connection).startswith(b"HTTP/1.")


@pytest.mark.parametrize("credential", ["wrong", "none"])
def test_a_wrong_credential_among_many_header_fields(start: Start, upstream: Upstream, credential: str) -> None:
    """With about 50 further header fields a wrong password reached the registry, because a flag had no room any more."""
    program = start()
    upstream.image("1.0")
    program.htpasswd.write_text(hashed(cost=13))  # a check takes long enough to be seen
    program.stop()
    program.start()
    began = time.monotonic()
    assert pull_tag(program.endpoint).status == 200
    checked, asked = time.monotonic() - began, upstream.count()

    endpoint = Endpoint(program.port, USER, "another") if credential == "wrong" else program.stranger
    for count in (0, *range(20, 130), 200, 500, 1000, 2000, 5000):
        headers = {f"X-{number}": "1" for number in range(count)}
        try:
            status = pull_tag(endpoint, **headers).status
        except (BrokenPipeError, ConnectionResetError):  # it is refused while the client still sends
            assert count >= 2000
            continue
        assert status == 401 or (status == 431 and count > 100), (count, status)
    assert upstream.count() == asked

    # Nothing of it is in the way of users: no check is due again, and no tag is pinned.
    moved, _ = upstream.image("1.0", layer=b"moved")
    time.sleep(1.1)  # a tag is asked of the upstream at most once a second
    for count in (0, 50, 100):
        began = time.monotonic()
        answer = pull_tag(program.endpoint, **{f"X-{number}": "1" for number in range(count)})
        assert time.monotonic() - began < checked / 4
        assert (answer.status, answer.headers["docker-content-digest"]) == (200, moved)


@contextlib.contextmanager
def crowd(port: int, count: int, request: bytes) -> Iterator[list[socket.socket]]:
    """Connections that have each sent the beginning of a request."""
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(count):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            with contextlib.suppress(OSError):
                one.sendall(request)
            connections.append(one)
        yield connections


SLOW = {
    "body": b"POST /v2/p/r/image/blobs/uploads/ HTTP/1.1\r\nHost: cache\r\nContent-Length: 1000000000\r\n\r\nx",
    "chunked body": b"PUT /v2/p/r/image/manifests/1 HTTP/1.1\r\nHost: cache\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nx",
    "body of a GET": b"GET /v2/p/r/image/manifests/1 HTTP/1.1\r\nHost: cache\r\nContent-Length: 1000000000\r\n\r\nx",
    "header": b"GET /v2/p/r/image/manifests/1 HTTP/1.1\r\nHost: ca",
}


@pytest.mark.parametrize("what", SLOW)
def test_a_thousand_slow_requests_without_a_credential(program: Program, upstream: Upstream, what: str) -> None:
    """1,000 slow bodies took a thread each and 120 MiB, and the probes timed out."""
    upstream.image("1.0")
    assert pull_tag(program.endpoint).status == 200
    before, slowest = program.resident(), 0.0
    # The kubelet's probes have no credential either.
    others = ((program.stranger, "/alive"), (program.stranger, "/ready"), (program.endpoint, path("manifests/1.0")))
    with crowd(program.port, 1000, SLOW[what]) as connections:
        until = time.monotonic() + 2
        while time.monotonic() < until:
            for endpoint, asked in others:
                began = time.monotonic()
                assert ask(endpoint, asked).status == 200
                slowest = max(slowest, time.monotonic() - began)
            for one in connections[::50]:
                with contextlib.suppress(OSError):  # it was refused
                    one.sendall(b"x")
            time.sleep(0.1)
        grown, threads = program.resident() - before, program.threads()
        if what != "header":
            assert connections[-1].recv(100).partition(b"\r\n")[0].split()[1] in (b"405", b"400")
    assert slowest < 1
    assert grown < 40 * _MIB
    assert threads < 50
    assert upstream.count("manifests/1$") == 0


def test_slow_readers_of_more_than_the_store_holds(start: Start, upstream: Upstream) -> None:
    """With 64 MiB for 8 fills of 14 MiB and 16 slow readers, 8 to 12 pulls were cut."""
    program = start(store={"limit": "64Mi"})
    blobs = [upstream.blob(noise(14 * _MIB, number)) for number in range(8)]
    with peak(program.used, every=0.05) as used, ThreadPoolExecutor(16) as executor:
        pulls = [executor.submit(read, program.endpoint, blobs[number % 8], 2 * _MIB) for number in range(16)]
        got = [pull.result() for pull in pulls]
    assert got == [(200, blobs[number % 8], 14 * _MIB) for number in range(16)]
    assert used[0] <= _LIMIT
    assert max(upstream.count(f"GET .*{blob}") for blob in blobs) == 1


def test_a_slow_tag_leaves_the_others_fresh(start: Start, upstream: Upstream) -> None:
    """One slow tag made every other tag of the upstream stale."""
    program = start(tags={"ttl": "100ms"}, outage={"challenge_timeout": "500ms"})
    old, _ = upstream.image("slow", "other", layer=b"old")
    for tag in ("slow", "other"):
        assert program.ask(path(f"manifests/{tag}")).headers["docker-content-digest"] == old
    time.sleep(0.2)
    new, _ = upstream.image("slow", "other", layer=b"new")
    upstream.rule("/manifests/slow$", delay=10)
    slow = program.ask(path("manifests/slow"))
    assert slow.headers["docker-content-digest"] == old and "110" in slow.headers["warning"]
    for _ in range(5):
        began = time.monotonic()
        other = program.ask(path("manifests/other"))
        assert other.headers["docker-content-digest"] == new and "warning" not in other.headers
        assert time.monotonic() - began < 0.4
        time.sleep(0.15)


@pytest.mark.parametrize("how", ["refuses", "is silent"])
def test_an_owner_that_cannot_reach_the_upstream(folder: pathlib.Path, upstream: Upstream, how: str) -> None:
    """A replica that alone could not reach the upstream failed the uncached pulls of what it owned, for clients of all replicas."""
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as closed, fleet(folder, upstream.url, 3) as three:
        closed.bind(("127.0.0.1", 0))  # without listen
        lost = three[0]
        lost.stop()
        lost.upstream = f"http://127.0.0.1:{(silent if how == 'is silent' else closed).getsockname()[1]}"
        lost.start()
        for program in three:
            wait(lambda program=program: program.samples()['registry_cache_peers{state="in"}'] == 3, 10, "its peers", every=0.1)
        wanted = []
        for number in range(12):
            manifest, layer = upstream.image(f"v{number}", layer=noise(100_000, number))
            wanted += [(f"manifests/v{number}", manifest), (f"manifests/{manifest}", manifest), (f"blobs/{layer}", layer)]

        def pull(number: int) -> tuple[int, str]:
            answer = three[number // 3 % 3].ask(path(wanted[number][0]))
            return answer.status, digest(answer.body)

        with ThreadPoolExecutor(12) as executor:
            got = list(executor.map(pull, range(len(wanted))))
        assert got == [(200, known) for _, known in wanted]
        assert lost.sample("registry_cache_hops_received_total") > 0  # it was asked as an owner


@pytest.mark.parametrize("size", [60, 65])
def test_clients_of_a_blob_as_large_as_the_store_share_a_fetch(start: Start, upstream: Upstream, size: int) -> None:
    """48 clients of a blob above 9/10 of the limit got 503 and bodies that were cut."""
    program = start(store={"limit": "64Mi"})
    blob = upstream.blob(noise(size * _MIB))
    fetch = upstream.rule("GET .*/blobs/", hold=0)
    with peak(program.used, every=0.05) as used, peak(program.resident, every=0.05) as memory, ThreadPoolExecutor(48) as executor:
        pulls = [executor.submit(read, program.endpoint, blob) for _ in range(48)]
        assert fetch.began.wait(10)
        time.sleep(1)  # until all have asked
        fetch.release()
        got = [pull.result() for pull in pulls]
    assert got == [(200, blob, size * _MIB)] * 48
    assert upstream.count("GET .*/blobs/") == 1
    assert used[0] <= _LIMIT
    assert memory[0] < 128 * _MIB


@pytest.mark.parametrize("size", [60, 65])
def test_ranges_of_a_blob_as_large_as_the_store_share_a_fetch(start: Start, upstream: Upstream, size: int) -> None:
    """30 ranges of a blob above 9/10 of the limit made 30 whole fetches."""
    program = start(store={"limit": "64Mi"})
    content = noise(size * _MIB)
    blob = upstream.blob(content)
    fetch = upstream.rule("GET .*/blobs/", hold=0)
    with ThreadPoolExecutor(30) as executor:
        spans = [(number * 2 * _MIB, number * 2 * _MIB + 99_999) for number in range(30)]
        pulls = [executor.submit(program.ask, path(f"blobs/{blob}"), Range=f"bytes={first}-{last}") for first, last in spans]
        assert fetch.began.wait(10)
        time.sleep(1)  # until all have asked
        fetch.release()
        for (first, last), pull in zip(spans, pulls, strict=True):
            answer = pull.result()
            assert (answer.status, answer.headers["content-range"]) == (206, f"bytes {first}-{last}/{len(content)}")
            assert answer.body == content[first : last + 1]
    assert upstream.count("GET .*/blobs/") == 1


def test_users_who_come_for_the_first_time_together(start: Start, upstream: Upstream) -> None:
    """Of 12 users whom a new replica had not seen, 10 got 429."""
    program = start()
    upstream.image("1.0")
    users = program.newcomers(12)
    with ThreadPoolExecutor(len(users)) as executor:
        answers = list(executor.map(pull_tag, users))
    assert [answer.status for answer in answers] == [200] * 12


def test_many_values_of_accept_evict_no_credential(start: Start, upstream: Upstream) -> None:
    """2,000 distinct Accept values evicted every remembered credential, and each made a copy of the tag upstream."""
    program = start(tags={"ttl": "10m"})
    upstream.image("1.0")
    # A check takes long enough to be seen.
    program.htpasswd.write_text(hashed(cost=13) + hashed("other", cost=13))
    program.stop()
    program.start()
    other = Endpoint(program.port, "other", PASSWORD)
    began = time.monotonic()
    assert pull_tag(program.endpoint).status == 200
    checked = time.monotonic() - began
    assert pull_tag(other).status == 200
    before = upstream.count()
    connection = http.client.HTTPConnection("127.0.0.1", program.port, timeout=10)
    for number in range(2000):
        types = (f"{MANIFEST}, {INDEX}, text/x-{number}", f"text/x-{number}, */*;q=0.{number}", f"{INDEX};x={number}")
        headers = {**authorization(program.endpoint), "Accept": types[number % 3]}
        connection.request("GET", f"/v2/{NAME}/manifests/1.0", headers=headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status in (200, 404)
    connection.close()
    assert upstream.count() - before <= 4
    for endpoint in (other, program.endpoint):
        began = time.monotonic()
        assert pull_tag(endpoint).status == 200
        assert time.monotonic() - began < checked / 4


def parts(answer: http.client.HTTPResponse, body: bytes) -> list[tuple[str, bytes]]:
    """The parts of a multipart/byteranges answer: range and bytes."""
    head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    assert message.get_content_type() == "multipart/byteranges"
    return [(str(part["Content-Range"]), part.get_payload(decode=True)) for part in message.iter_parts()]  # type: ignore[union-attr, misc]


@pytest.mark.parametrize("ranges", ["0-9,20-29", "0-9, 1999990-1999999", "100-199,-10", " 0-9 , , 20-29"])
def test_several_ranges(program: Program, large: bytes, ranges: str) -> None:
    """Several ranges in one request, as podman and stargz ask for, got 416."""
    connection = http.client.HTTPConnection("127.0.0.1", program.port, timeout=10)
    connection.request("GET", path(f"blobs/{digest(large)}"), headers={**authorization(program.endpoint), "Range": f"bytes={ranges}"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status in (200, 206)
    if answer.status == 200:
        assert body == large
        return
    wanted = []
    for one in (span.strip() for span in ranges.split(",") if span.strip()):
        first, _, last = one.partition("-")
        begin, end = (int(first), int(last) + 1) if first else (len(large) - int(last), len(large))
        wanted.append((f"bytes {begin}-{end - 1}/{len(large)}", large[begin:end]))
    assert parts(answer, body) == wanted


@pytest.mark.parametrize("header", ["bytes=abc", "bytes=9-0", "bytes=-", "lines=0-9", "bytes", "bytes=0-9,x", "bytes=1-2-3"])
def test_a_malformed_range_is_ignored(program: Program, large: bytes, header: str) -> None:
    """A malformed Range got 416, which ends a pull; HTTP has it ignored."""
    answer = program.ask(path(f"blobs/{digest(large)}"), Range=header)
    assert (answer.status, answer.body == large) == (200, True)


@pytest.mark.parametrize("accept", ["*/*", "", "application/json", "application/vnd.oci.image.*", f"{INDEX};q=1, */*;q=0.1"])
@pytest.mark.parametrize("by", ["tag", "digest"])
def test_an_accept_that_does_not_name_the_type(program: Program, upstream: Upstream, accept: str, by: str) -> None:
    """An OCI manifest was 404 for an Accept that does not name its type, where the upstream answers 200."""
    known, _ = upstream.image("1.0")
    for method in ("GET", "HEAD", "GET"):  # the last one from the cache
        answer = program.ask(path(f"manifests/{'1.0' if by == 'tag' else known}"), method, Accept=accept)
        assert (answer.status, answer.headers["content-type"]) == (200, MANIFEST)
        assert answer.headers["docker-content-digest"] == known
    assert digest(answer.body) == known


def schema1() -> tuple[bytes, str]:
    """A signed manifest of schema 1, and its digest, which is over what was signed."""
    signed = json.dumps({"schemaVersion": 1, "name": NAME, "tag": "1", "architecture": "amd64", "fsLayers": [], "history": []}, indent=3)
    head, tail = signed[:-2], signed[-2:]

    def encoded(text: str) -> str:
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    protected = encoded(json.dumps({"formatLength": len(head), "formatTail": encoded(tail), "time": "2015-01-01T00:00:00Z"}))
    signature = {"header": {"alg": "ES256"}, "signature": "c2lnbmF0dXJl", "protected": protected}
    return f'{head},\n   "signatures": [{json.dumps(signature)}]\n}}'.encode(), digest(signed.encode())


_SUBJECT = {"mediaType": MANIFEST, "digest": "sha256:" + "a" * 64, "size": 7}


ODD = {
    "schema 1": ("application/vnd.docker.distribution.manifest.v1+prettyjws", *schema1()),
    "artifact manifest": (
        "application/vnd.oci.artifact.manifest.v1+json",
        json.dumps(
            {"mediaType": "application/vnd.oci.artifact.manifest.v1+json", "artifactType": "x/y", "blobs": [], "subject": _SUBJECT}
        ).encode(),
        "",
    ),
    "odd media type": ("application/vnd.example.thing.v7+json", b'{"thing": 7}', ""),
    "no JSON at all": ("text/plain", b"not { json", ""),
    "unknown field types": (MANIFEST, json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "layers": "none", "config": 3}).encode(), ""),
}


@pytest.mark.parametrize("accept", ["named", "*/*"])
@pytest.mark.parametrize("by", ["tag", "digest"])
@pytest.mark.parametrize("kind", ODD)
def test_a_manifest_that_distribution_cannot_parse(program: Program, upstream: Upstream, kind: str, by: str, accept: str) -> None:
    """What distribution cannot parse was 500."""
    media_type, body, known_as = ODD[kind]
    known = upstream.manifest(body, "odd", media_type=media_type, known_as=known_as)
    reference = "odd" if by == "tag" else known
    for method in ("GET", "HEAD", "GET"):
        answer = program.ask(path(f"manifests/{reference}"), method, Accept=media_type if accept == "named" else accept)
        assert (answer.status, answer.headers["content-type"]) == (200, media_type), answer
        assert (answer.headers["docker-content-digest"], answer.headers["content-length"]) == (known, str(len(body)))
    assert answer.body == body


def test_a_blob_that_takes_long_to_begin_arrives(program: Program, upstream: Upstream) -> None:
    """An upstream that needs 9 s to begin a blob made 504 for ever, because each fetch ended with its client."""
    blob = upstream.blob(noise(100_000))
    upstream.rule("GET .*/blobs/", delay=9)
    began = time.monotonic()
    assert read(program.endpoint, blob)[:2] == (200, blob)
    assert time.monotonic() - began < 12
    assert upstream.count("GET .*/blobs/") == 1


def test_a_manifest_that_takes_longer_than_clients_wait(start: Start, upstream: Upstream) -> None:
    """An upstream that needs 6 s for a manifest, where clients wait 5 s, made 504 for ever: each attempt ended with its client."""
    program = start(outage={"manifest_timeout": "1s"})
    by_tag, _ = upstream.image("1.0", layer=b"one")
    by_digest, _ = upstream.image(layer=b"two")
    upstream.rule("/manifests/", delay=1.5)
    with ThreadPoolExecutor(2) as executor:
        first = list(executor.map(lambda reference: program.ask(path(f"manifests/{reference}")), ("1.0", by_digest)))
    for answer in first:
        assert (answer.status, answer.error) == (504, "UNAVAILABLE") and int(answer.headers["retry-after"]) > 0
    for reference, known in (("1.0", by_tag), (by_digest, by_digest)):
        wait(lambda reference=reference: program.ask(path(f"manifests/{reference}")).status == 200, 12, "the manifest", every=0.2)
        assert digest(program.ask(path(f"manifests/{reference}")).body) == known
        assert upstream.count(f"GET .*/manifests/({reference}|{known})$") == 1


@pytest.fixture
def helper(folder: pathlib.Path, upstream: Upstream) -> pathlib.Path:
    """A helper that does what the file beside it says: `sleep 60`, `exit 1`; and that notes its runs."""
    made = folder / "docker-credential-test"
    answer = json.dumps({"ServerURL": upstream.url, "Username": UPSTREAM_USER, "Secret": _SECRET})
    (folder / "answer").write_text(answer)
    (folder / "runs").write_text("")
    (folder / "runs").chmod(0o666)
    (folder / "does").write_text("")
    made.write_text(f"#!/bin/sh\necho run >> {folder}/runs\ncat > /dev/null\n. {folder}/does\ncat {folder}/answer\n")
    made.chmod(0o755)
    upstream.secret = _SECRET
    return made


def processes(program: Program) -> int:
    """How many there are of the program, its own one included."""
    assert program.process
    found = 0
    for file in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # processes come and go
            found += file.read_text().rpartition(")")[2].split()[3] == str(program.process.pid)  # its session
    return found


def with_helper(start: Start, upstream: Upstream, helper: pathlib.Path) -> Program:
    credential = {"helper": str(helper), "lifetime": "1s", "timeout": "1s"}
    return start(upstreams=[{"host": HOST, "url": upstream.url, "credential": credential}], tags={"ttl": "100ms"})


@pytest.mark.parametrize("what", ["exec sleep 60", "sleep 60; exit 1", "exit 1", "while :; do echo aaaaaaaaaaaaaaaaaaaaaaaa; done"])
def test_a_helper_that_gives_nothing(start: Start, upstream: Upstream, helper: pathlib.Path, what: str) -> None:
    """Requests piled up behind the mutex of a helper that hung, those for cached content too."""
    program = with_helper(start, upstream, helper)
    known, layer = upstream.image("1.0", layer=noise(100_000, "known"))
    assert program.ask(f"/v2/{NAME}/manifests/1.0").status == 200
    assert program.ask(path(f"blobs/{layer}")).status == 200
    (helper.parent / "does").write_text(f"{what}\n")
    time.sleep(1.1)  # until the last answer is too old
    absent = [upstream.blob(noise(1000, number)) for number in range(100)]
    before, runs = program.resident(), (helper.parent / "runs").stat().st_size

    def failed(number: int) -> float:
        began = time.monotonic()
        answer = program.ask(path(f"blobs/{absent[number]}", f"p/r/absent-{number}"))  # for which there is no token yet
        assert answer.status in (500, 502, 503, 504) and answer.error == "UNAVAILABLE", answer
        assert int(answer.headers["retry-after"]) > 0
        return time.monotonic() - began

    with ThreadPoolExecutor(100) as executor:
        failures = [executor.submit(failed, number) for number in range(100)]
        slowest, running = 0.0, 0
        while not all(failure.done() for failure in failures):
            began = time.monotonic()
            assert digest(program.ask(path(f"blobs/{layer}")).body) == layer
            assert program.ask(f"/v2/{NAME}/manifests/{known}").status == 200
            slowest, running = max(slowest, time.monotonic() - began), max(running, processes(program))
            time.sleep(0.05)
        assert max(failure.result() for failure in failures) < 4
    assert slowest < 0.7
    assert 1 <= running <= 5
    assert program.resident() - before < 20 * _MIB
    assert (helper.parent / "runs").stat().st_size - runs <= 3 * len("run\n")
    assert program.sample("registry_cache_credential_failures_total") > 0
    assert _SECRET not in program.output()
    (helper.parent / "does").write_text("")
    wait(lambda: program.ask(path(f"blobs/{absent[0]}", "p/r/absent-0")).status == 200, 10, "a credential", every=0.2)


def written(program: Program) -> int:
    """Bytes that the program has made the disk write, what was deleted before that included."""
    assert program.process
    with open(f"/proc/{program.process.pid}/io", encoding="ascii") as file:
        return int(dict(line.split(": ") for line in file)["write_bytes"])


def test_content_is_written_once(program: Program, upstream: Upstream) -> None:
    """Content was stored twice, in two programs of a replica."""
    blobs = [upstream.blob(noise(4 * _MIB, number)) for number in range(8)]
    before, fetched = written(program), 8 * 4 * _MIB
    with peak(program.used, every=0.05) as used:
        for blob in blobs:
            assert read(program.endpoint, blob)[1] == blob
        wait(lambda: program.sample("registry_cache_disk_used_bytes") >= fetched, 5, "stored blobs", every=0.1)
        time.sleep(0.2)
    if not (bytes_written := written(program) - before):
        pytest.skip("this file system counts no written bytes")
    assert bytes_written <= 1.05 * fetched
    assert used[0] <= 1.05 * fetched


def test_the_whole_limit_is_usable(start: Start, upstream: Upstream) -> None:
    """Half of the limit was for the one copy, half for the other."""
    program = start(store={"limit": "64Mi"})
    blobs = [upstream.blob(noise(4 * _MIB, number)) for number in range(15)]
    for blob in blobs:
        assert read(program.endpoint, blob)[1] == blob
    upstream.rule("", status=500)
    for blob in blobs:
        assert read(program.endpoint, blob)[1] == blob
    assert program.used() <= _LIMIT


def test_a_list_of_tags_passes_on_what_the_client_asks(program: Program, upstream: Upstream) -> None:
    """tags/list?last= without n ignored last."""
    upstream.lists[f"/v2/{NAME}/tags/list"] = {"name": NAME, "tags": ["b"]}
    for query in ("last=a", "n=2&last=a", "n=0", ""):
        answer = program.ask(f"/v2/{NAME}/tags/list?{query}")
        assert json.loads(answer.body)["tags"] == ["b"]
        asked = upstream.seen("GET .*/tags/list")[-1].path.partition("?")[2]
        # Some upstreams, distribution among them, read last only beside n.
        assert set(query.split("&")) <= {*asked.split("&"), ""} and ("n=" in asked or not query)


@pytest.mark.parametrize(
    "wrong",
    [
        f"/v2//{NAME}/manifests/1.0",
        "/v2/p//r/manifests/1.0",
        f"/v2/{NAME}//manifests/1.0",
        f"/v2/{NAME}/manifests//1.0",
        f"//v2/{NAME}/manifests/1.0",
    ],
)
def test_an_empty_segment_of_a_path_is_the_clients_error(program: Program, upstream: Upstream, wrong: str) -> None:
    """// in a path was 502."""
    upstream.image("1.0")
    answer = program.ask(wrong)
    assert answer.status in (400, 404) and answer.error
    assert upstream.count() == 0


@pytest.mark.parametrize("kind", ["manifests", "blobs"])
def test_an_escaped_digest_is_the_same_one(program: Program, upstream: Upstream, kind: str) -> None:
    """sha256%3A… was fetched again."""
    manifest, layer = upstream.image()
    known = manifest if kind == "manifests" else layer
    for spelling in (known, known.replace(":", "%3A"), known.replace(":", "%3a"), known.replace("s", "%73", 1)):
        answer = program.ask(f"/v2/{NAME}/{kind}/{spelling}")
        assert answer.status == 200 and digest(answer.body) == known
    assert upstream.count(f"GET .*/{kind}/") == 1


@pytest.mark.parametrize(
    "query", ["ns=other.example", "ns=", f"ns={HOST}&ns=other.example", f"ns={HOST}:443", "%6es=other.example", "ns=%zz"]
)
def test_another_registry_gets_nothing_of_this_ones(program: Program, upstream: Upstream, query: str) -> None:
    """A request for another registry got this upstream's content."""
    manifest, layer = upstream.image("1.0")
    for what in ("manifests/1.0", f"manifests/{manifest}", f"blobs/{layer}", "tags/list"):
        answer = program.ask(f"/v2/{NAME}/{what}?{query}")
        assert answer.status in (400, 404) and answer.error
    assert upstream.count() == 0
    for right in (HOST, HOST.upper()):
        assert program.ask(path("manifests/1.0") + f"?ns={right}").headers["docker-content-digest"] == manifest


@pytest.mark.parametrize("kind", ["tag", "digest", "blob"])
def test_the_age_of_an_error_is_counted_over_a_hop(folder: pathlib.Path, upstream: Upstream, kind: str) -> None:
    """An error that the owner remembered was remembered anew by each replica that asked it, which made two seconds four."""
    with fleet(folder, upstream.url, 3) as three:
        images = [upstream.image(f"v{number}", layer=noise(1000, number)) for number in range(6)]
        whats = {
            "tag": [f"manifests/v{number}" for number in range(6)],
            "digest": [f"manifests/{manifest}" for manifest, _ in images],
            "blob": [f"blobs/{layer}" for _, layer in images],
        }[kind]
        upstream.rule("/v2/p/", status=404)
        began = time.monotonic()
        assert [three[0].ask(path(what)).status for what in whats] == [404] * 6
        known = time.monotonic()
        upstream.heal()
        time.sleep(began + 1.2 - time.monotonic())
        asked = upstream.count()
        assert {program.ask(path(what)).status for program in three[1:] for what in whats} == {404}
        assert time.monotonic() - began < 2 and upstream.count() == asked, "they were to come from what is remembered"
        time.sleep(known + 2.1 - time.monotonic())
        assert {program.ask(path(what)).status for program in three for what in whats} == {200}
