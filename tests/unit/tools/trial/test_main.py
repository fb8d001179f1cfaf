# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of `make try` are one line with a fix."""

from __future__ import annotations

import pathlib
import signal
import sys
from collections.abc import Iterator

import pytest

from tools.trial import __main__ as trial
from tools.trial import ending


@pytest.fixture(autouse=True)
def machine(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """A machine without Go. Temporary files are in the returned folder."""
    before = {one: signal.getsignal(one) for one in ending.SIGNALS}
    monkeypatch.setattr(trial.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(trial.shutil, "which", lambda _name: None)
    yield tmp_path
    for one, handler in before.items():
        signal.signal(one, handler)


def said(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """Returns the message with which it exits."""
    monkeypatch.setattr(sys, "argv", ["trial", "--once", *arguments])
    with pytest.raises(SystemExit) as ended:
        trial.main()
    return str(ended.value)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "Go is not on the PATH"),
        (("--upstream", "ghcr.io/owner/image:1.0"), "Go is not on the PATH"),
        (("--upstream", "ghcr.io"), "UPSTREAM=ghcr.io must name a registry and a repository"),
        (("--upstream", "ghcr.io/owner/image:1.0", "--port", "no"), "PORT=no"),
    ],
)
def test_bad_input(machine: pathlib.Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], named: str) -> None:
    sentence = said(monkeypatch, *arguments)
    assert sentence.startswith("make try: ") and named in sentence and "\n" not in sentence
    assert list(machine.iterdir()) == []


def test_a_build_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> pathlib.Path:
        sys.exit(1)  # as a step does

    monkeypatch.setattr(trial.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(trial.environment, "trial", fail)
    assert "HTTPS_PROXY" in said(monkeypatch)


@pytest.mark.parametrize(
    ("error", "host", "fix"),
    [
        ("GET http://localhost/v2/: UNAUTHORIZED: authentication required", "ghcr.io", "docker login ghcr.io"),
        ("DENIED: the upstream refuses", "us-central1-docker.pkg.dev", "gcloud auth login"),
        ("UNAVAILABLE: the upstream refuses the credential of this cache", "ghcr.io", "docker login ghcr.io"),
        ("MANIFEST_UNKNOWN: the upstream does not have it", "ghcr.io", "the tag"),
        ("UNAVAILABLE: the upstream cannot be reached", "ghcr.io", "HTTPS_PROXY"),
    ],
)
def test_the_fix_for_an_error_of_the_upstream(error: str, host: str, fix: str) -> None:
    assert fix in trial._fix(error, host)
