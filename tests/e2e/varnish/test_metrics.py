# SPDX-License-Identifier: GPL-3.0-or-later
"""What the front's log becomes: the role's own scripts and VCL, the exporter of the image, on both versions of Varnish."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import pathlib
import re
import signal
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from sandbox import front, tools, varnish
from sandbox.settings import CACHE, ROOT, key
from sandbox.steps import wait

SOURCE = ROOT / "docker" / "exporter"
CREDENTIAL = "Basic c2VjcmV0LXVzZXI6c2VjcmV0LXBhc3N3b3Jk"
WRONG = "Basic d3JvbmctdXNlcjp3cm9uZy1wYXNzd29yZA=="
BODY = b"x" * 5000


def exporter() -> str:
    """The exporter of the cache's image, built unless it is there for its pins."""
    target = tools.install("exporter", SOURCE, CACHE / "exporter" / key(SOURCE))
    return str(target / "statsd_exporter")


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class _Registry(http.server.BaseHTTPRequestHandler):
    """Registry and htpasswd in one: whoever is not WRONG is known, and a blob takes its time."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def address_string(self) -> str:
        return "front"

    def do_GET(self) -> None:
        if "/blobs/" in self.path:
            time.sleep(2)
        self.send_response_only(401 if self.headers.get("Authorization") == WRONG else 200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)


CHALLENGES = 'registry_cache_front_requests_total{kind="other",result="challenge"}'


@dataclass
class Front:
    """A front with its exporter: ports on 127.0.0.1."""

    version: str
    folder: pathlib.Path
    port: int
    metrics: int

    def ask(self, path: str, authorization: str = "", port: int = 0) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=20)
        try:
            connection.request("GET", path, headers={"Authorization": authorization} if authorization else {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def samples(self) -> dict[str, float]:
        """By name with labels, as the exposition format has them."""
        status, text = self.ask("/metrics/front", port=self.metrics)
        assert status == 200, text
        return {name: float(value) for name, value in re.findall(r"(?m)^(registry_cache\S+) (\S+)$", text)}


def _ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def _process(*argv: str, log: pathlib.Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        environment = {"HOSTNAME": "front-0", "PATH": varnish.PATH}
        process = subprocess.Popen(argv, stdout=output, stderr=output, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


@pytest.fixture(params=varnish.VERSIONS)
def running(request: pytest.FixtureRequest) -> Iterator[Front]:
    with contextlib.ExitStack() as stack:
        # Not pytest's folder: a socket's path has at most 108 bytes.
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="metrics-")))
        run, etc, store = (folder / name for name in ("run", "etc", "store"))
        for path in (run, etc, store):
            path.mkdir()
        port, hop, metrics, web, statsd, nobody = _ports(6)
        front.render(
            etc,
            _registry_cache_run=str(run),
            _registry_cache_front_store=f"{store}/front",
            registry_cache_size="64Mi",
            registry_cache_max_replicas=1,
            _registry_cache_peers=["127.0.0.1"],
            _registry_cache_front_bind="127.0.0.1",
            _registry_cache_front_port=port,
            _registry_cache_hop_port=hop,
            _registry_cache_metrics_port=metrics,
            _registry_cache_metrics_ports={"registry": nobody, "credentials": nobody, "front": web},
            _registry_cache_statsd_port=statsd,
            _registry_cache_metrics_seconds=1,
        )
        (etc / "peer").write_text("the-secret-of-the-peers")
        mapping = yaml.safe_load((ROOT / "roles/cache/vars/main.yml").read_text())["_registry_cache_statsd"]
        (etc / "statsd.yml").write_text(yaml.safe_dump(mapping))
        for name in ("registry", "credentials"):
            server = stack.enter_context(_Server(f"{run}/{name}.sock", _Registry))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            os.chmod(f"{run}/{name}.sock", 0o777)
            stack.callback(server.shutdown)

        def inside(*argv: str) -> list[str]:
            # As in the pod, not as root.
            user = ("setpriv", "--reuid=65532", "--regid=65532", "--clear-groups") if not os.geteuid() else ()
            return varnish.command(request.param, *user, *argv, share=[folder])

        for path in (folder, *folder.rglob("*")):
            os.chown(path, *((65532, 65532) if not os.geteuid() else (-1, -1)))

        stack.enter_context(_process(*inside("sh", f"{etc}/front.sh"), log=folder / "front.log"))
        stack.enter_context(_process(*inside("bash", f"{etc}/log.sh"), log=folder / "log.log"))
        made = Front(request.param, folder, port, metrics)
        # It may come last, or again: log.sh tries until there is one.
        listen = (f"--statsd.listen-tcp=127.0.0.1:{statsd}", "--statsd.listen-udp=", f"--web.listen-address=127.0.0.1:{web}")
        argv = (exporter(), *listen, f"--statsd.mapping-config={etc}/statsd.yml")
        stack.enter_context(_process(*argv, log=folder / "exporter.log"))
        wait(lambda: _answers(made), 30, "a front that knows its store", every=0.2)
        yield made


def _answers(made: Front) -> bool:
    try:
        # Of the log, log.sh's reader sees what comes after it has begun: until it has, challenges are asked for.
        counted = made.ask("/v2/")[0] == 401 and CHALLENGES in made.samples()
        return counted and "registry_cache_front_store_used_bytes" in made.samples() and made.ask("/alive")[0] == 200
    except (OSError, AssertionError):
        return False


def test_requests_become_metrics_and_no_credential_does(running: Front) -> None:
    blob = "/v2/p/r/i/blobs/sha256:" + "a" * 64
    time.sleep(1)  # until the last challenge of the fixture is counted
    challenges = running.samples()[CHALLENGES]
    assert running.ask("/v2/")[0] == 401
    assert running.ask("/v2/p/r/i/manifests/1.0", CREDENTIAL)[0] == 200
    with ThreadPoolExecutor(4) as executor:
        assert {status for status, _ in executor.map(lambda _: running.ask(blob, CREDENTIAL), range(4))} == {200}
    for _ in range(2):
        assert running.ask(blob, CREDENTIAL)[0] == 200
    time.sleep(1.1)  # until there are tickets for unknown credentials again
    assert running.ask("/v2/p/r/i/manifests/1.0", WRONG)[0] == 401

    def requests() -> dict[str, float]:
        found = {name: n for name, n in running.samples().items() if "front_requests_total" in name and name != CHALLENGES}
        return {name.partition("requests_total")[2]: n for name, n in found.items()}

    wait(lambda: sum(requests().values()) >= 8, 10, "eight requests", every=0.1)
    assert requests() == {
        '{kind="blob",result="miss"}': 1,
        '{kind="blob",result="shared"}': 3,
        '{kind="blob",result="hit"}': 2,
        '{kind="tag",result="miss"}': 1,
        '{kind="tag",result="denied"}': 1,
    }
    samples = running.samples()
    assert samples[CHALLENGES] == challenges + 1
    assert 2 * len(BODY) < samples['registry_cache_front_sent_bytes_total{kind="blob",result="hit"}'] < 2 * len(BODY) + 2000
    assert samples['registry_cache_front_first_byte_seconds_bucket{kind="blob",result="miss",le="0.5"}'] == 0
    assert samples['registry_cache_front_first_byte_seconds_bucket{kind="blob",result="hit",le="0.5"}'] == 2
    wait(lambda: running.samples()["registry_cache_front_store_used_bytes"] >= len(BODY), 10, "the store's new size", every=0.1)
    assert running.samples()["registry_cache_front_evictions_total"] == 0

    _, text = running.ask("/metrics/front", port=running.metrics)
    said = text + "".join(file.read_text() for file in running.folder.glob("*.log"))
    for secret in (CREDENTIAL, WRONG, CREDENTIAL.split()[1], WRONG.split()[1], "secret-", "wrong-"):
        assert secret not in said
    # Nothing that the exporter could not read.
    assert not [line for line in text.splitlines() if line.startswith("statsd_exporter_sample_errors_total")]


def test_the_log_of_the_front_holds_no_credential(running: Front) -> None:
    """What any reader of the log in memory gets, and not only the lines that become metrics."""
    running.ask("/v2/p/r/i/manifests/1.0", CREDENTIAL)
    running.ask("/v2/p/r/i/manifests/1.0", WRONG)
    argv = varnish.command(running.version, "varnishlog", "-n", f"{running.folder}/run/front", "-d", "-g", "raw", share=[running.folder])
    log = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20).stdout
    assert "tags:kind:tag,result:denied" in log
    assert CREDENTIAL.split()[1] not in log and WRONG.split()[1] not in log
