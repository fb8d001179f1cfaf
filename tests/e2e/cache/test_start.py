# SPDX-License-Identifier: GPL-3.0-or-later
"""Problems at the start stop the program with a clear message. Later problems do not stop it."""

from __future__ import annotations

import hashlib
import http.client
import os
import pathlib
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from bench.endpoint import Endpoint
from sandbox import unprivileged
from sandbox.steps import wait
from tests.e2e.registry import ask

from .blobs import read
from .conftest import Start
from .program import HOST, PASSWORD, Program, hashed
from .upstream import NAME, Upstream, noise

_MIB = 1 << 20


def tree(folder: pathlib.Path) -> dict[str, str]:
    """Returns the kind, mode and content of everything in a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(folder))] = f"{path.lstat().st_mode:o} {content}"
    return found


def is_idle(folder: pathlib.Path) -> bool:
    """Returns whether nothing in a folder changes for 0.4 s."""
    before = tree(folder)
    time.sleep(0.4)
    return tree(folder) == before


def certificate(folder: pathlib.Path, name: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Makes a certificate for localhost. Returns the files of certificate and key."""
    paths = folder / f"{name}.crt", folder / f"{name}.key"
    subject = ("-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost")
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
    subprocess.run([*argv, *subject, "-out", paths[0], "-keyout", paths[1]], check=True, capture_output=True)
    return paths


def exits_at_once(program: Program, seconds: float = 2) -> str:
    """Start a program that must exit at once with code 1 and change nothing. Returns its last line."""
    program.file.write_text("")
    unprivileged.lend(program.folder)
    before = tree(program.folder)
    began = time.monotonic()
    try:
        status = program.launch().wait(seconds)
    finally:
        program.kill()
    assert status == 1, program.output()
    assert time.monotonic() - began < seconds
    after = tree(program.folder)
    for known in ("log", "config"):
        before.pop(known, None), after.pop(known, None)
    assert after == before
    lines = [line for line in program.output().splitlines() if not line.startswith("time=")]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.fixture
def broken(folder: pathlib.Path, upstream: Upstream) -> Iterator[Program]:
    """A program that is not started."""
    program = Program(folder / "program", upstream.url)
    yield program
    program.kill()


@dataclass(frozen=True)
class Wrong:
    """A mistake in the configuration, and the key and value that the message must name."""

    changes: dict[str, Any]
    key: str
    got: str = ""
    fix: str = "for example"


WRONG = {
    "unknown key": Wrong({"stroe": {}}, "stroe", fix="write store"),
    "unknown key in a section": Wrong({"store": {"limitt": "1Gi"}}, "store.limitt", fix="write limit"),
    "unknown key in a list": Wrong({"upstreams": [{"host": HOST, "hots": "x"}]}, "upstreams[0].hots", fix="write host"),
    "one port twice": Wrong({"listen": "127.0.0.1:5000", "metrics": {"listen": ":5000"}}, "metrics.listen", ":5000"),
    "one upstream twice": Wrong({"upstreams": [{"host": HOST}, {"host": HOST}]}, "upstreams[1].host", HOST),
    "profiler for everybody": Wrong({"pprof": {"listen": ":6060"}}, "pprof.listen", ":6060"),
    "auth and none": Wrong({"auth": {"none": True}}, "auth.none", fix="htpasswd"),
    "no auth": Wrong({"auth": None}, "auth", fix="auth: none"),
    "no upstream": Wrong({"upstreams": []}, "upstreams"),
    "limit below 64Mi": Wrong({"store": {"limit": "63Mi"}}, "store.limit", "63Mi"),
    "limit without a unit that is known": Wrong({"store": {"limit": "20GB"}}, "store.limit", "20GB"),
    "relative path": Wrong({"store": {"path": "store"}}, "store.path", "store"),
    "duration without a unit": Wrong({"drain": 60}, "drain", "60"),
    "missing helper": Wrong(
        {"upstreams": [{"host": HOST, "credential": {"helper": "docker-credential-absent"}}]},
        "upstreams[0].credential.helper",
        "docker-credential-absent",
    ),
    "another machine's address": Wrong({"listen": "192.0.2.1:5000"}, "listen", "192.0.2.1:5000"),
}


def says(line: str, key: str, got: str, fix: str = "for example") -> None:
    """Check that a message names the key, the value and the fix."""
    subject, _, advice = line.rpartition("; ")
    assert subject.startswith((f"{key} ", f"{key}: ")), line
    assert not got or f'"{got}"' in subject, line
    assert fix in advice, line


@pytest.mark.parametrize("what", WRONG)
def test_an_invalid_configuration_stops_the_start(broken: Program, what: str) -> None:
    wrong = WRONG[what]
    broken.changes = wrong.changes
    says(exits_at_once(broken), wrong.key, wrong.got, wrong.fix)


def test_every_mistake_is_named_in_one_run(broken: Program) -> None:
    broken.changes = {"store": {"limit": "1Mi"}, "stroe": {}, "drain": "-1s"}
    broken.file.write_text("")
    assert broken.launch().wait(2) == 1
    keys = {line.split()[0] for line in broken.output().splitlines()}
    assert keys == {"store.limit", "stroe", "drain"}
    assert not broken.store.exists()


def test_a_path_below_a_file(broken: Program) -> None:
    (broken.folder / "file").write_text("not a directory")
    path = str(broken.folder / "file" / "store")
    broken.changes = {"store": {"path": path}}
    says(exits_at_once(broken), "store.path", path)


def test_a_directory_of_another_user(broken: Program) -> None:
    if os.geteuid():
        pytest.skip("only root can have a directory that the program may not write")
    # Outside of the folder that belongs to the program's user.
    path = broken.folder.parent / "others"
    path.mkdir(mode=0o755)
    broken.changes = {"store": {"path": str(path)}}
    says(exits_at_once(broken), "store.path", str(path))
    assert not list(path.iterdir())


@pytest.mark.parametrize("what", ["unreadable", "absent", "directory", "empty", "malformed"])
def test_an_htpasswd_that_cannot_be_used(broken: Program, what: str) -> None:
    path = broken.htpasswd
    if what == "unreadable":
        path.chmod(0)
    elif what in ("absent", "directory"):
        path.unlink()
        if what == "directory":
            path.mkdir()
    else:
        path.write_text("" if what == "empty" else "nodes:plain text\n")
    line = exits_at_once(broken)
    says(line, "auth.htpasswd", str(path), "htpasswd")
    assert "plain text" not in line


@pytest.mark.parametrize("what", ["another key", "no certificate", "absent"])
def test_a_certificate_that_cannot_be_used(broken: Program, what: str) -> None:
    (good, _), (_, key) = (certificate(broken.folder, name) for name in ("one", "two"))
    if what == "no certificate":
        good.write_text("no PEM")
    elif what == "absent":
        good.unlink()
    broken.changes = {"tls": {"certificate": str(good), "key": str(key)}}
    says(exits_at_once(broken), "tls", f"{good} and {key}")


def test_a_store_that_another_process_uses(program: Program, folder: pathlib.Path, upstream: Upstream) -> None:
    _, layer = upstream.image("1.0")
    assert program.ask(f"/v2/{NAME}/blobs/{layer}").status == 200
    wait(lambda: is_idle(program.store), 10, "a store in which nothing is written", every=0)
    before = tree(program.store)
    second = Program(folder / "second", upstream.url, {"store": {"path": str(program.store)}})
    says(exits_at_once(second), "store.path", str(program.store))
    assert tree(program.store) == before
    assert program.ask(f"/v2/{NAME}/blobs/{layer}").status == 200


def test_a_port_that_another_process_uses(program: Program, folder: pathlib.Path, upstream: Upstream) -> None:
    address = f"127.0.0.1:{program.port}"
    second = Program(folder / "second", upstream.url, {"listen": address})
    says(exits_at_once(second), "listen", address)


@pytest.mark.parametrize("content", [None, "listen: [", "a: 1\n---\nb: 2\n", "- list\n", "listen: x\nlisten: y\n", "\0\1\2"])
def test_a_file_that_is_not_a_configuration(broken: Program, content: str | None) -> None:
    path = broken.folder / "other"
    if content is not None:
        path.write_text(content)
    unprivileged.lend(broken.folder)
    result = subprocess.run([broken.binary, "cache", path], capture_output=True, text=True, timeout=2, check=False)
    assert result.returncode == 1 and not result.stdout
    (first, *_) = result.stderr.splitlines()
    assert "; " in first and (content is not None or str(path) in first), first
    assert "panic" not in result.stderr
    assert not broken.store.exists()


def test_no_configuration_at_all(broken: Program) -> None:
    result = subprocess.run([broken.binary, "cache"], capture_output=True, text=True, timeout=2, check=False)
    assert result.returncode == 2 and result.stderr.startswith("usage: ")


def pulls(program: Program, password: str = PASSWORD) -> int:
    return ask(Endpoint(program.port, "nodes", password), f"/v2/{NAME}/manifests/1.0").status


@pytest.mark.parametrize("what", ["malformed", "empty", "absent"])
def test_users_stay_when_the_htpasswd_file_becomes_invalid(program: Program, upstream: Upstream, what: str) -> None:
    upstream.image("1.0")
    assert pulls(program) == 200 and program.sample("registry_cache_htpasswd_users") == 1
    if what == "absent":
        program.htpasswd.unlink()
    else:
        program.htpasswd.write_text("" if what == "empty" else "nodes\n")
    wait(lambda: program.sample("registry_cache_htpasswd_users") == 0, 5, "a metric of it", every=0.1)
    assert pulls(program) == 200 and pulls(program, "another") in (401, 429)
    assert "level=ERROR" in program.output() and "htpasswd" in program.output()
    program.htpasswd.write_text(hashed(password="a-new-one"))
    unprivileged.lend(program.folder)
    wait(lambda: pulls(program, "a-new-one") == 200, 5, "the new password", every=0.2)
    assert pulls(program) in (401, 429) and program.sample("registry_cache_htpasswd_users") == 1


def served(program: Program) -> str:
    """Returns the name in the certificate that clients get."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", program.port), timeout=5) as connection,
        context.wrap_socket(connection) as secure,
    ):
        pem = ssl.DER_cert_to_PEM_cert(secure.getpeercert(True) or b"")
    argv = ["openssl", "x509", "-noout", "-subject"]
    return subprocess.run(argv, input=pem, capture_output=True, text=True, check=True).stdout.split("=")[-1].strip()


def test_the_certificate_stays_when_its_file_becomes_invalid(folder: pathlib.Path, upstream: Upstream) -> None:
    program = Program(folder / "program", upstream.url)
    (one, one_key), (two, two_key) = (certificate(program.folder, name) for name in ("one", "two"))
    files = program.folder / "tls.crt", program.folder / "tls.key"
    files[0].write_bytes(one.read_bytes()), files[1].write_bytes(one_key.read_bytes())
    program.changes = {"tls": {"certificate": str(files[0]), "key": str(files[1])}}

    def failures() -> float:
        return program.sample("registry_cache_events_total", event="certificate_failed")

    def shows(name: str) -> Callable[[], bool]:
        return lambda: served(program) == name

    try:
        program.launch()
        wait(lambda: ready(program), 20, "a ready cache", every=0.05)
        assert served(program) == "one" and failures() == 0
        files[0].write_bytes(two.read_bytes())  # with the key of one
        time.sleep(1.1)  # the files are checked at most once a second
        assert served(program) == "one"
        wait(lambda: failures() > 0, 5, "a metric of it", every=0.1)
        assert "level=ERROR" in program.output() and "certificate" in program.output()
        files[1].write_bytes(two_key.read_bytes())
        wait(shows("two"), 5, "the new certificate", every=0.2)
    finally:
        program.kill()
        print(program.output())


def ready(program: Program) -> bool:
    """Ask the port of the metrics, which uses plain HTTP also with TLS for clients."""
    try:
        return ask(Endpoint(program.metrics), "/ready").status == 200
    except (OSError, http.client.HTTPException):
        return False


def test_a_full_disk_interrupts_no_pull(folder: pathlib.Path, start: Start, upstream: Upstream) -> None:
    if os.geteuid():
        pytest.skip("only root can mount")
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m,mode=0777", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        program = start(store={"path": str(disk / "store")})
        (disk / "others").write_bytes(noise(14 * _MIB))
        blobs = [upstream.blob(noise(5 * _MIB, number)) for number in range(8)]

        # More than fits, and content that is being read cannot be evicted.
        with ThreadPoolExecutor(8) as executor:
            assert list(executor.map(lambda blob: read(program.endpoint, blob, 2 * _MIB)[1], blobs)) == blobs
        assert program.ready() and program.sample("registry_cache_unkept_total") > 0
        # Content that is no longer read is evicted.
        for blob in blobs:
            assert read(program.endpoint, blob)[1] == blob
        assert program.sample("registry_cache_evictions_total") > 0
        assert " dropped=" in program.output() and "no space left" in program.output()
        (disk / "others").unlink()
        assert read(program.endpoint, blobs[0])[1] == blobs[0]
        time.sleep(0.5)
        upstream.rule("", status=500)
        assert read(program.endpoint, blobs[0])[1] == blobs[0]
        program.kill()
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
