# SPDX-License-Identifier: GPL-3.0-or-later
"""`make try`: a cache without a cluster, which leaves nothing behind."""

from __future__ import annotations

import base64
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from bench.candidates import listens
from bench.endpoint import Endpoint
from sandbox.settings import ROOT
from tests.e2e.registry import ask

from .program import USER
from .upstream import NAME, Upstream, noise
from .upstream import USER as UPSTREAM_USER

_SECONDS = 300  # with builds; without, 10
_NUMBERS = re.compile(
    r"first pull +(?P<served>[\d.]+) MB served in .*, (?P<fetched>[\d.]+) MB fetched from (?P<host>\S+)\n"
    r"second pull +(?P<again>[\d.]+) MB served in .*, nothing fetched(?P<meanwhile>.*)\n"
    r"together .*: (?P<saved>\d+) % saved\n"
)


def environment(folder: pathlib.Path) -> dict[str, str]:
    """Returns the environment of a user who is not logged in anywhere. The trial's files are in a folder."""
    places = {"DOCKER_CONFIG": str(folder / "docker"), **dict.fromkeys(("TMPDIR", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"), str(folder))}
    return {name: value for name, value in os.environ.items() if name != "REGISTRY_AUTH_FILE"} | places


def left(folder: pathlib.Path) -> list[str]:
    """Returns the trial's files, and the processes that have them as arguments."""
    found = [path.name for path in folder.glob("registry-cache-try-*")]
    for process in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        found += [line] if f"{folder}/registry-cache-try-" in line else []
    return found


def numbers(output: str) -> re.Match[str]:
    """Returns the figures of the pulls, of which the second came from the store."""
    match = _NUMBERS.search(output)
    assert match, output
    assert match["served"] == match["fetched"] == match["again"] and match["saved"] == "50"
    return match


@pytest.fixture
def trial(tmp_path: pathlib.Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running trial and its output."""
    argv = [sys.executable, "-m", "tools.trial"]
    with subprocess.Popen(argv, cwd=ROOT, env=environment(tmp_path), stdout=subprocess.PIPE, text=True) as process:
        limit = threading.Timer(_SECONDS, process.kill)
        limit.start()
        try:
            assert process.stdout
            lines = itertools.takewhile(lambda line: not line.startswith("Ctrl-C"), process.stdout)
            yield process, "".join(lines)
        finally:
            limit.cancel()
            process.terminate()


def test_the_second_pull_comes_from_the_store_and_nothing_is_left(
    trial: tuple[subprocess.Popen[str], str], tmp_path: pathlib.Path
) -> None:
    process, output = trial
    match = numbers(output)
    assert match["host"] == "us-central1-docker.pkg.dev" and match["meanwhile"].startswith(", while Google did not answer")
    assert float(match["fetched"]) > 8
    port, file = re.findall(r"localhost:(\d+)\. User: \w+; password: in (\S+)", output)[0]
    password = pathlib.Path(file).read_text()
    listing = "/v2/demo-project/private/hello/tags/list"
    assert json.loads(ask(Endpoint(int(port), USER, password), listing).body)["tags"] == ["1.0", "2.0"]
    assert ask(Endpoint(int(port), USER, "wrong"), listing).status == 401
    assert pathlib.Path(file).stat().st_mode & 0o077 == 0 and left(tmp_path)
    process.terminate()
    assert process.wait(20) == 0
    assert left(tmp_path) == [] and not listens(int(port))


@pytest.mark.parametrize("logged_in", [False, True], ids=["anonymous", "logged in"])
def test_a_registry_of_the_user(upstream: Upstream, tmp_path: pathlib.Path, logged_in: bool) -> None:
    upstream.image("1.0", layer=noise(3_000_000))
    host = upstream.url.removeprefix("http://")
    (tmp_path / "docker").mkdir()
    argv = [sys.executable, "-m", "tools.trial", "--once", "--upstream", f"{host}/{NAME}:1.0"]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=_SECONDS, check=False)

    if logged_in:
        upstream.secret = "a-secret"
        refused = run()
        assert refused.returncode == 1 and f"docker login {host}" in refused.stderr.splitlines()[-1]
        auth = base64.b64encode(f"{UPSTREAM_USER}:{upstream.secret}".encode()).decode()
        (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    result = run()
    assert result.returncode == 0, result.stderr
    assert numbers(result.stdout)["host"] == host
    assert upstream.secret not in result.stdout + result.stderr or not logged_in
    assert left(tmp_path) == []
    assert "registry-cache-try-" not in result.stdout  # no command for a cache that has stopped
