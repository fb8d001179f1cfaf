# SPDX-License-Identifier: GPL-3.0-or-later
"""Varnish in its roots: both versions run from here, see what is shared and leave nothing behind."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import time

import pytest

from sandbox import varnish

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a Debian root is entered by root alone")

VTC = """\
vtest "a cached answer, by a director"
server s1 {
  rxreq
  txresp -hdr "Cache-Control: max-age=60" -body "hello"
} -start
varnish v1 -vcl+backend {
  import std;
  import directors;
  sub vcl_init { new all = directors.round_robin(); all.add_backend(s1); }
  sub vcl_recv { set req.backend_hint = all.backend(); std.collect(req.http.a); }
} -start
client c1 -repeat 2 {
  txreq
  rxresp
  expect resp.body == "hello"
} -run
"""


@pytest.fixture(params=sorted(varnish.VERSIONS))
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(version: str, *argv: str, share: tuple[pathlib.Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = varnish.command(version, *argv, share=share)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_root_has_the_version_that_it_is_named_for(version: str) -> None:
    assert f"-{version}." in run(version, "varnishd", "-V").stderr
    assert varnish.found(version).startswith(f"{version}.")


def test_a_varnishtest_passes(version: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.vtc").write_text(VTC)
    result = run(version, "varnishtest", str(tmp_path / "a.vtc"), share=(tmp_path,))
    assert result.returncode == 0, result.stdout


def test_only_what_is_shared_stays(version: str, tmp_path: pathlib.Path) -> None:
    assert run(version, "sh", "-c", f"echo 1 > {tmp_path}/kept; echo 1 > /etc/lost", share=(tmp_path,)).returncode == 0
    assert (tmp_path / "kept").read_text() == "1\n"
    assert run(version, "test", "-e", "/etc/lost").returncode == 1
    assert not (varnish.root(version) / "etc/lost").exists()


def test_a_directory_that_is_not_there_cannot_be_shared(version: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        varnish.command(version, "true", share=[tmp_path / "missing"])


def test_the_process_is_varnishd_itself(version: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.vcl").write_text("vcl 4.1; backend default none;")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    work = str(tmp_path / "work")
    options = ("-F", "-j", "none", "-n", work, "-f", str(tmp_path / "a.vcl"), "-a", f"127.0.0.1:{port}")
    daemon = subprocess.Popen(
        varnish.command(version, "varnishd", *options, share=[tmp_path]), stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 30
        while "running" not in run(version, "varnishadm", "-n", work, "status", share=(tmp_path,)).stdout:
            assert time.monotonic() < deadline and daemon.poll() is None
        assert pathlib.Path(f"/proc/{daemon.pid}/cmdline").read_bytes().startswith(b"varnishd\0")
        statistics = run(version, "varnishstat", "-n", work, "-1", "-f", "MAIN.uptime", share=(tmp_path,))
        assert statistics.stdout.startswith("MAIN.uptime"), statistics.stderr
    finally:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(20)
        finally:
            daemon.kill()
    assert daemon.returncode == 0
