# SPDX-License-Identifier: GPL-3.0-or-later
"""What a client may expect from a registry, tested on two replicas on loopback.

The upstream is a distribution registry, behind a gate that can answer with errors, hang or close connections.
"""

from __future__ import annotations

import hashlib
import http.server
import itertools
import json
import os
import pathlib
import re
import subprocess
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from bench import candidates
from bench.content import MANIFEST
from bench.endpoint import Endpoint
from sandbox.from_source import tools
from sandbox.processes import free_ports
from sandbox.settings import CACHE, ROOT, key
from tests.e2e.registry import INDEX, Answer, ask

from .program import fleet

SOURCE = ROOT / "tests" / "conformance"
NAME = "some/image"
TAGS = ["1.0", "1.1", "2.0", "latest"]
ABSENT = "sha256:" + "a" * 64


def _tool(name: str) -> str:
    """Returns the path of a command of tests/conformance, and builds it unless it exists for its pins."""
    target = tools.install("conformance suite and signature tool", SOURCE, CACHE / "conformance" / key(SOURCE))
    return str(target / name)


class Gate(http.server.ThreadingHTTPServer):
    """Forwards requests to a registry, unless a fault is set: a status, "hang" or "break".

    `referrers`: the gate serves this endpoint from the index that clients keep under a tag, and hides that tag.
    """

    daemon_threads = True

    def __init__(self, registry: int) -> None:
        self.registry, self.fault, self.referrers = registry, "", False
        super().__init__(("127.0.0.1", 0), _Passage)
        # The interface of a bench upstream.
        self.port, self.secret = self.server_port, "none"
        self.url = f"http://127.0.0.1:{self.port}"


class _Passage(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gate

    def log_message(self, format: str, *args: Any) -> None:
        """Do nothing."""

    def do_GET(self) -> None:
        while self.server.fault == "hang":
            time.sleep(0.05)
        if self.server.fault == "break":
            self.close_connection = True
        elif self.server.fault:
            self._send(int(self.server.fault), {"content-type": "application/json"}, b'{"errors":[{"code":"X","message":"x"}]}')
        else:
            headers = {name: ", ".join(self.headers.get_all(name, [])) for name in set(self.headers) - {"Host"}}
            answer = ask(Endpoint(self.server.registry), self._path(), self.command, **headers)
            self._send(answer.status, answer.headers, answer.body)

    do_HEAD = do_GET

    def _path(self) -> str:
        """The path of the registry's answer."""
        if not self.server.referrers:
            return self.path
        if match := re.fullmatch(r"(/v2/.+)/referrers/sha256:([0-9a-f]+)(\?.*)?", self.path):
            return f"{match[1]}/manifests/sha256-{match[2]}"
        return re.sub(r"/manifests/sha256-[0-9a-f]+$", "/manifests/absent", self.path)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@dataclass
class Cache:
    """The endpoints of the replicas, the gate in front of their upstream, and the upstream."""

    endpoints: list[Endpoint]
    gate: Gate
    upstream: Endpoint
    manifest: str
    config: str

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        return ask(self.endpoints[0], path, method, **headers)


def _digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def push(registry: Endpoint, *tags: str, seed: str = "") -> tuple[str, str]:
    """Push an image. Returns the digests of its manifest and its config."""
    config = json.dumps({"architecture": "amd64", "os": "linux", "author": seed}).encode()
    layer = b"layer of " + seed.encode()
    for blob in (config, layer):
        begun = ask(registry, f"/v2/{NAME}/blobs/uploads/", "POST", b"")
        location = begun.headers["location"]
        path = location[location.index("/v2/") :] + ("&" if "?" in location else "?") + "digest=" + _digest(blob)
        assert ask(registry, path, "PUT", blob).status == 201
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": _digest(config), "size": len(config)},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": _digest(layer), "size": len(layer)}],
    }
    body = json.dumps(manifest).encode()
    for reference in (_digest(body), *tags):
        assert ask(registry, f"/v2/{NAME}/manifests/{reference}", "PUT", body, Content_Type=MANIFEST).status == 201
    return _digest(body), _digest(config)


@pytest.fixture(scope="module")
def cache() -> Iterator[Cache]:
    # Not pytest's folder, which only root can read.
    with tempfile.TemporaryDirectory(prefix="protocol-") as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        with candidates.running("upstream", folder / "upstream") as source:
            port = free_ports(1)[0]
            config = source.folder / "registry.json"
            config.write_text(candidates.registry_config(source.folder / "store", {"addr": f"127.0.0.1:{port}"}))
            argv = [candidates.distribution(), "serve", str(config)]
            source.ready(port, source.start("registry", argv, {"OTEL_TRACES_EXPORTER": "none"}))
            upstream = Endpoint(port)
            manifest, config_blob = push(upstream, *TAGS, seed="one")
            passage = Gate(port)
            threading.Thread(target=passage.serve_forever, daemon=True).start()
            # The default of 30 s is too long for a test.
            with fleet(folder, passage.url, 2, outage={"blob_timeout": "8s"}) as replicas:
                yield Cache([replica.endpoint for replica in replicas], passage, upstream, manifest, config_blob)
            passage.shutdown()
            passage.server_close()


@pytest.fixture
def gate(cache: Cache) -> Iterator[Gate]:
    """The gate. Its fault is removed after the test."""
    yield cache.gate
    cache.gate.fault, cache.gate.referrers = "", False


def _conformance(folder: pathlib.Path, cache: Cache, endpoint: Endpoint) -> tuple[int, int, str]:
    """Run the pull tests of the OCI suite. Returns how many passed, how many ran, and the report."""
    others = ("BLOBS_DELETE", "MANIFESTS_DELETE", "TAGS_DELETE", "TAGS_LIST", "REFERRER", "PUSH")
    env = {
        "OCI_REGISTRY": f"{endpoint.host}:{endpoint.port}",
        "OCI_TLS": "disabled",
        "OCI_REPO1": NAME,
        "OCI_USERNAME": endpoint.user,
        "OCI_PASSWORD": endpoint.password,
        "OCI_API_PULL": "true",
        **{f"OCI_API_{name}": "false" for name in others},
        "OCI_RO_DATA_TAGS": TAGS[0],
        "OCI_RO_DATA_MANIFESTS": cache.manifest,
        "OCI_RO_DATA_BLOBS": cache.config,
        "OCI_RESULTS_DIR": str(folder),
    }
    argv = [_tool("conformance")]
    result = subprocess.run(argv, env={**os.environ, **env}, cwd=folder, capture_output=True, text=True, check=False)
    counts = {name: int(number) for name, number in re.findall(r"(?m)^  (\w+)\.*: +(\d+)$", result.stdout)}
    report = result.stdout.replace(endpoint.password or "\0", "") + result.stderr
    assert counts, report
    return counts.get("Pass", 0), sum(counts.get(name, 0) for name in ("Pass", "FAIL", "Error")), report


def test_oci_conformance(cache: Cache, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    passed, number, report = _conformance(tmp_path, cache, cache.endpoints[0])
    with (
        tempfile.TemporaryDirectory(prefix="plain-") as name,
        candidates.plain(pathlib.Path(name) / "plain", cache.gate, cost=4) as plain,  # type: ignore[arg-type]
    ):
        plain_passed, plain_number, _ = _conformance(tmp_path, cache, plain.endpoint)
    with capsys.disabled():
        print(f"\nOCI conformance, pull: {passed} of {number}; plain distribution 3: {plain_passed} of {plain_number}")
    assert (passed, plain_number) == (number, number), report
    assert number >= 10, report


def _failed(cache: Cache, path: str, status: int, code: str) -> None:
    """Check that all replicas answer HEAD and GET with the same error of the specification."""
    for endpoint in cache.endpoints:
        answer, head = ask(endpoint, path), ask(endpoint, path, "HEAD")
        assert (answer.status, answer.error, head.status) == (status, code, status), (path, answer)
        assert head.body == b""
        for one in (answer, head):
            assert one.headers["content-type"] == "application/json"
            assert ("retry-after" in one.headers) == (status == 429 or status > 500), (path, one)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"{NAME}/manifests/{ABSENT}", 404, "MANIFEST_UNKNOWN"),
        (f"{NAME}/manifests/absent", 404, "MANIFEST_UNKNOWN"),
        (f"{NAME}/blobs/{ABSENT}", 404, "BLOB_UNKNOWN"),
        (f"{NAME}/manifests/sha256:totallywrong", 400, "DIGEST_INVALID"),
        (f"{NAME}/manifests/{ABSENT}a", 400, "DIGEST_INVALID"),
        (f"{NAME}/blobs/{ABSENT[:-1]}", 400, "DIGEST_INVALID"),
        ("other/image/tags/list", 404, "NAME_UNKNOWN"),
        ("_catalog", 404, "UNSUPPORTED"),
    ],
)
def test_unknown(cache: Cache, path: str, status: int, code: str) -> None:
    _failed(cache, f"/v2/{path}", status, code)


def test_referrers_of_an_unknown_digest(cache: Cache) -> None:
    """The list is empty: the specification has no error for an unknown digest."""
    for endpoint in cache.endpoints:
        answer, head = (ask(endpoint, f"/v2/{NAME}/referrers/{ABSENT}", method) for method in ("GET", "HEAD"))
        assert (answer.status, head.status, head.body) == (200, 200, b"")
        assert answer.headers["content-type"] == INDEX and json.loads(answer.body)["manifests"] == []


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("403", 403, "DENIED"),
        ("429", 429, "TOOMANYREQUESTS"),
        ("503", 503, "UNAVAILABLE"),
        ("break", 502, "UNAVAILABLE"),
    ],
)
def test_upstream_fails(cache: Cache, fault: str, status: int, code: str, gate: Gate) -> None:
    known, _ = push(cache.upstream, f"known-{fault}", seed=f"known {fault}")
    held, blob = push(cache.upstream, f"held-{fault}", seed=f"held {fault}")
    assert cache.ask(f"/v2/{NAME}/manifests/known-{fault}").headers["docker-content-digest"] == known
    time.sleep(1.1)  # tags are checked at the upstream at most once a second
    gate.fault = fault
    for what in (f"manifests/held-{fault}", f"manifests/{held}", f"blobs/{blob}", "tags/list"):
        _failed(cache, f"/v2/{NAME}/{what}", status, code)
    # Cached content is still served, also to clients of the other replica.
    for reference, endpoint in itertools.product((f"known-{fault}", known), cache.endpoints):
        assert ask(endpoint, f"/v2/{NAME}/manifests/{reference}").headers["docker-content-digest"] == known
    gate.fault = ""
    # An error is remembered for two seconds. An unreachable upstream is not asked for three seconds before that.
    time.sleep(5.1 if fault == "break" else 2.1)
    for what in (f"manifests/held-{fault}", f"manifests/{held}", f"blobs/{blob}", "tags/list"):
        assert cache.ask(f"/v2/{NAME}/{what}").status == 200


def test_upstream_hangs(cache: Cache, gate: Gate) -> None:
    held, blob = push(cache.upstream, "held-hang", seed="held hang")
    paths = [f"/v2/{NAME}/{what}" for what in ("manifests/held-hang", f"manifests/{held}", f"blobs/{blob}", "tags/list")]
    gate.fault = "hang"
    begun = time.monotonic()
    with ThreadPoolExecutor(8) as executor:
        answers = list(executor.map(lambda one: ask(*one), itertools.product(cache.endpoints, paths)))
    assert time.monotonic() - begun < 15
    for answer in answers:
        assert (answer.status, answer.error, "retry-after" in answer.headers) == (504, "UNAVAILABLE", True), answer
    gate.fault = ""
    time.sleep(5)  # an error is remembered for 2 s, a silent upstream for 3 s before that
    assert [cache.ask(path).status for path in paths] == [200, 200, 200, 200]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "blobs/uploads/"),
        ("PATCH", "blobs/uploads/1"),
        ("PUT", f"blobs/uploads/1?digest={ABSENT}"),
        ("PUT", "manifests/1.0"),
        ("DELETE", "manifests/1.0"),
        ("DELETE", f"blobs/{ABSENT}"),
    ],
)
def test_push_is_refused(cache: Cache, method: str, path: str) -> None:
    answer = cache.ask(f"/v2/{NAME}/{path}", method)
    assert (answer.status, answer.error, answer.headers["allow"]) == (405, "UNSUPPORTED", "GET, HEAD")


def _pages(endpoint: Endpoint, path: str) -> list[list[str]]:
    """Returns the pages that a client gets by following the links."""
    pages: list[list[str]] = []
    while path:
        answer = ask(endpoint, path)
        assert ask(endpoint, path, "HEAD").status == (200 if endpoint.user else 405)
        pages.append(json.loads(answer.body)["tags"] or [])
        link = re.match(r'<([^>]*)>; rel="next"', answer.headers.get("link", ""))
        path = urllib.parse.urlsplit(link[1])._replace(scheme="", netloc="").geturl() if link else ""
    return pages


@pytest.mark.parametrize("query", ["", "?n=2", "?n=1", "?n=2&last=1.0", "?n=1000", "?last=1.1&n=1"])
def test_tags_are_the_upstreams(cache: Cache, query: str) -> None:
    path = f"/v2/{NAME}/tags/list{query}"
    pages = _pages(cache.upstream, path)
    assert TAGS[-1] in itertools.chain(*pages) and (len(pages) > 1) == bool(re.search(r"n=[12]\b", query))
    for endpoint in cache.endpoints:
        assert _pages(endpoint, path) == pages


def _signature(verb: str, certificate: pathlib.Path, endpoint: Endpoint, digest: str) -> subprocess.CompletedProcess[str]:
    """Sign, or verify, with notation-go."""
    argv = [_tool("signature"), verb, str(certificate), f"{endpoint.host}:{endpoint.port}/{NAME}@{digest}"]
    env = {**os.environ, "SIGNATURE_USERNAME": endpoint.user, "SIGNATURE_PASSWORD": endpoint.password}
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=False)


def test_signature_is_found_by_tag(cache: Cache, tmp_path: pathlib.Path) -> None:
    signed, _ = push(cache.upstream, "signed", seed="signed")
    unsigned, _ = push(cache.upstream, "unsigned", seed="unsigned")
    certificate, other = tmp_path / "certificate", tmp_path / "other"
    for file, digest in ((certificate, signed), (other, cache.manifest)):
        result = _signature("sign", file, cache.upstream, digest)
        assert result.returncode == 0, result.stderr
    for endpoint in cache.endpoints:
        result = _signature("verify", certificate, endpoint, signed)
        assert result.returncode == 0, result.stderr
        result = _signature("verify", certificate, endpoint, unsigned)
        assert result.returncode and "no signature" in result.stderr, result.stderr
        result = _signature("verify", other, endpoint, signed)
        assert result.returncode and "any trusted certificate" in result.stderr, result.stderr
    referrers = cache.ask(f"/v2/{NAME}/referrers/{signed}")  # from the tag, since the upstream has no such endpoint
    assert referrers.status == 200 and len(json.loads(referrers.body)["manifests"]) == 1
    fallback = cache.ask(f"/v2/{NAME}/manifests/{signed.replace(':', '-')}")
    assert fallback.headers["content-type"] == INDEX and len(json.loads(fallback.body)["manifests"]) == 1


def test_signature_behind_the_referrers_endpoint(cache: Cache, gate: Gate, tmp_path: pathlib.Path) -> None:
    """Clients write no tag if the registry has the endpoint, so the cache must ask the upstream."""
    signed, _ = push(cache.upstream, seed="signed by referrers")
    result = _signature("sign", tmp_path / "certificate", cache.upstream, signed)
    assert result.returncode == 0, result.stderr
    gate.referrers = True
    for endpoint in cache.endpoints:
        result = _signature("verify", tmp_path / "certificate", endpoint, signed)
        answer = ask(endpoint, f"/v2/{NAME}/referrers/{signed}")
        assert ask(endpoint, f"/v2/{NAME}/manifests/{signed.replace(':', '-')}").status == 404
        assert result.returncode == 0, result.stderr
        assert (answer.status, answer.headers["content-type"]) == (200, INDEX)


def test_cosign_tag(cache: Cache) -> None:
    """cosign 2 keeps a signature under the tag `sha256-HEX.sig`; a second one replaces it."""
    subject, _ = push(cache.upstream, seed="subject")
    tag = f"{subject.replace(':', '-')}.sig"
    _failed(cache, f"/v2/{NAME}/manifests/{tag}", 404, "MANIFEST_UNKNOWN")
    for number in ("first", "second"):
        time.sleep(2.1)  # an error is remembered for two seconds, a tag for one
        signature, blob = push(cache.upstream, tag, seed=f"{number} signature")
        for endpoint in cache.endpoints:
            found = ask(endpoint, f"/v2/{NAME}/manifests/{tag}")
            assert (found.status, _digest(found.body)) == (200, signature)
            assert _digest(ask(endpoint, f"/v2/{NAME}/blobs/{blob}").body) == blob
