# SPDX-License-Identifier: GPL-3.0-or-later
"""The cache uses the credential that docker, podman or gcloud would use."""

from __future__ import annotations

import base64
import json
import os
import pathlib
import subprocess

import pytest

from sandbox.settings import ROOT
from tools.trial import credential
from tools.trial.reference import parse

_HOST = "us-central1-docker.pkg.dev"


@pytest.fixture(autouse=True)
def home(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The home of a user who is not logged in anywhere."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(credential.shutil, "which", lambda name: (tmp_path / "bin" / name).exists())  # not this machine's gcloud
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "DOCKER_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    (tmp_path / "bin").mkdir()
    return tmp_path


def helper(home: pathlib.Path, name: str, script: str) -> None:
    path = home / "bin" / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def answer(path: pathlib.Path) -> dict[str, str]:
    """Returns what a written helper prints for the cache."""
    result = subprocess.run([path, "get"], input="ghcr.io", capture_output=True, text=True, check=True, env=os.environ)
    return json.loads(result.stdout)


def test_nobody_is_logged_in(home: pathlib.Path) -> None:
    assert credential.write_helper(home / "helper", parse("ghcr.io/a/b:1")) == (None, "anonymous")
    assert not (home / "helper").exists()


def test_docker_is_logged_in(home: pathlib.Path) -> None:
    auth = base64.b64encode(b"alice:secret:with colon").decode()
    (home / "config.json").write_text(json.dumps({"auths": {"ghcr.io": {"auth": auth}}}))
    path, who = credential.write_helper(home / "helper", parse("ghcr.io/a/b:1"))
    assert path and who == "as alice" and "secret" not in path.read_text() and str(ROOT) in path.read_text()
    assert answer(path) == {"ServerURL": "ghcr.io", "Username": "alice", "Secret": "secret:with colon"}


def test_an_identity_token(home: pathlib.Path) -> None:
    (home / "config.json").write_text(json.dumps({"auths": {"ghcr.io": {"identitytoken": "a-token"}}}))
    path, who = credential.write_helper(home / "helper", parse("ghcr.io/a/b:1"))
    assert path and who == "with an identity token"
    assert answer(path) == {"ServerURL": "ghcr.io", "Username": "<token>", "Secret": "a-token"}


def test_gcloud_is_asked_only_for_googles_registries(home: pathlib.Path) -> None:
    helper(home, "gcloud", "echo '{\"Username\": \"u\", \"Secret\": \"s\"}'")
    assert credential.find("ghcr.io", "a/b") is None
    assert credential.find("eu.gcr.io", "a/b") == ("u", "s", "")


def test_a_helper_that_fails_is_named(home: pathlib.Path) -> None:
    helper(home, "gcloud", "echo no active account >&2; exit 1")
    path, who = credential.write_helper(home / "helper", parse(f"{_HOST}/p/r/i:1"))
    assert path is None and who.startswith("anonymous: ") and "docker-credential-gcloud" in who and "no active account" in who
