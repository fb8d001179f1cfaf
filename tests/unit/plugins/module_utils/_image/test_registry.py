# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests to a registry, their credential, and where it is found."""

from __future__ import annotations

import base64
import json
import pathlib
from typing import Any

import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import registry as _registry

from tests.unit.plugins.image_stand_ins import DIGEST, Registry

ADA = _registry.Credential("ada", "s3cret")


def repository(server: Registry, credential: _registry.Credential | None = None, actions: str = "pull") -> _registry.Repository:
    return _registry.Repository(server.host, "acme/cache", credential, actions, insecure=True)


def test_an_existing_and_a_missing_tag(registry: Registry) -> None:
    assert repository(registry).digest("there") == DIGEST
    assert repository(registry).digest("elsewhere") is None


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_a_credential_is_sent_if_it_is_required(registry: Registry, auth: str) -> None:
    registry.auth = auth
    assert repository(registry, ADA, "pull,push").digest("there") == DIGEST
    assert registry.scopes == (["repository:acme/cache:pull,push"] if auth == "bearer" else [])
    for wrong in (_registry.Credential("ada", "wrong"), None):
        with pytest.raises(_registry.DeniedError):
            repository(registry, wrong).digest("there")


def test_an_anonymous_token_is_enough_if_the_registry_issues_one(registry: Registry) -> None:
    registry.auth, registry.anonymous = "bearer", True
    assert repository(registry).digest(DIGEST) == DIGEST


def test_an_identity_token_is_exchanged(registry: Registry) -> None:
    registry.auth = "bearer"
    assert repository(registry, _registry.Credential("", "", registry.identity)).digest("there") == DIGEST
    with pytest.raises(_registry.DeniedError, match="wrong password"):
        repository(registry, _registry.Credential("", "", "stale")).digest("there")


def test_unusable_answers(registry: Registry) -> None:
    registry.status = 503
    with pytest.raises(_registry.RegistryError, match="HTTP 503"):
        repository(registry).digest("there")
    with pytest.raises(_registry.RegistryError, match="no answer"):
        _registry.Repository("127.0.0.1:1", "x", insecure=True).digest("there")


def test_http_is_used_only_if_it_is_allowed(registry: Registry) -> None:
    with pytest.raises(_registry.RegistryError):
        _registry.Repository(registry.host, "acme/cache").digest("there")


def encoded(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("registry", "content", "expected"),
    [
        ("r.example", {"auths": {"r.example": {"auth": encoded("a", "b:c")}}}, ("a", "b:c", "")),
        ("r.example", {"auths": {"https://r.example/v2/": {"auth": encoded("a", "b")}}}, ("a", "b", "")),
        ("docker.io", {"auths": {"https://index.docker.io/v1/": {"auth": encoded("a", "b")}}}, ("a", "b", "")),
        ("docker.io", {"auths": {"docker.io": {"auth": encoded("a", "b")}}}, ("a", "b", "")),
        # The longest match, as in podman.
        (
            "r.example",
            {"auths": {"r.example": {"auth": encoded("x", "y")}, "r.example/acme": {"auth": encoded("a", "b")}}},
            ("a", "b", ""),
        ),
        ("r.example", {"auths": {"r.example": {"auth": encoded("0", ""), "identitytoken": "t"}}}, ("0", "", "t")),
        ("r.example", {"auths": {"other.example": {"auth": encoded("a", "b")}, "r.example": {}}}, None),
    ],
)
def test_a_credential_of_an_auth_file(
    tmp_path: pathlib.Path, registry: str, content: dict[str, Any], expected: tuple[str, str, str] | None
) -> None:
    file = tmp_path / "auth.json"
    file.write_text(json.dumps(content))
    found = _registry.find_credential(registry, "acme/cache", [str(tmp_path / "none"), str(file)])
    assert found == (_registry.Credential(*expected) if expected else None)


def helper(folder: pathlib.Path, script: str) -> None:
    program = folder / "bin" / "docker-credential-vault"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize("key", [{"credHelpers": {"r.example": "vault"}}, {"credsStore": "vault"}])
def test_a_credential_helper(programs: pathlib.Path, key: dict[str, Any]) -> None:
    file = programs / "config.json"
    file.write_text(json.dumps(key))
    ask = lambda: _registry.find_credential("r.example", "acme/cache", [str(file)])  # noqa: E731
    helper(programs, 'read server; echo "{\\"Username\\": \\"$1\\", \\"Secret\\": \\"of $server\\"}"')
    assert ask() == _registry.Credential("get", "of r.example")
    helper(programs, 'echo "{\\"Username\\": \\"<token>\\", \\"Secret\\": \\"t\\"}"')
    assert ask() == _registry.Credential("", "", "t")
    helper(programs, "echo credentials not found in native keychain; exit 1")
    assert ask() is None
    helper(programs, "echo the vault is sealed; exit 1")
    with pytest.raises(_registry.RegistryError, match="docker-credential-vault.*the vault is sealed"):
        ask()
    (programs / "bin" / "docker-credential-vault").unlink()
    with pytest.raises(_registry.RegistryError, match="docker-credential-vault cannot be run"):
        ask()


def test_a_malformed_auth_file_is_named(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "auth.json"
    for text in ("{", "[]", '{"auths": {"r.example": {"auth": "%"}}}'):
        file.write_text(text)
        with pytest.raises(_registry.RegistryError, match="auth.json cannot be read"):
            _registry.find_credential("r.example", "acme", [str(file)])


def test_a_written_auth_file_can_be_read(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "auth.json"
    for credential in (ADA, _registry.Credential("", "", "t")):
        for registry in ("r.example", "docker.io"):
            file.write_text(json.dumps(_registry.auth_file(registry, credential)))
            assert _registry.find_credential(registry, "acme", [str(file)]) == credential
