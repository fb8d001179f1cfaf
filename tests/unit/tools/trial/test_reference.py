# SPDX-License-Identifier: GPL-3.0-or-later
"""UPSTREAM: valid references, and messages for invalid ones."""

from __future__ import annotations

import pytest

from tools.trial.errors import Refused
from tools.trial.reference import parse


@pytest.mark.parametrize(
    ("text", "url", "path"),
    [
        ("ghcr.io/owner/image:1.0", "https://ghcr.io", "owner/image:1.0"),
        ("us-central1-docker.pkg.dev/p/r/i", "https://us-central1-docker.pkg.dev", "p/r/i:latest"),
        ("docker.io/alpine:3", "https://registry-1.docker.io", "library/alpine:3"),
        ("registry.example:5443/a/b:c", "https://registry.example:5443", "a/b:c"),
        ("localhost:5000/a:1", "http://localhost:5000", "a:1"),
        ("127.0.0.1:5000/a:1", "http://127.0.0.1:5000", "a:1"),
        ("[::1]:5000/a:1", "http://[::1]:5000", "a:1"),
        ("quay.io/a@sha256:" + "0" * 64, "https://quay.io", "a@sha256:" + "0" * 64),
    ],
)
def test_a_reference(text: str, url: str, path: str) -> None:
    found = parse(text)
    assert (found.url, found.path, str(found)) == (url, path, f"{found.host}/{path}")


@pytest.mark.parametrize(
    "text", ["ghcr.io", "ghcr.io/", "alpine:3", "owner/image:1.0", "https://ghcr.io/owner/image", "ghcr.io/Owner/image", "ghcr.io/a:"]
)
def test_a_reference_without_registry_or_repository(text: str) -> None:
    with pytest.raises(Refused, match="for example UPSTREAM=") as refused:
        parse(text)
    assert f"UPSTREAM={text}" in str(refused.value)


def test_the_old_name_of_docker_hub() -> None:
    with pytest.raises(Refused, match=r"for example UPSTREAM=docker\.io/library/ubuntu:1$"):
        parse("index.docker.io/ubuntu:1")
