# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors for the answers of an API server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.errors import (
    ApiError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    UnreachableError,
    of_response,
    some,
)


@pytest.mark.parametrize(
    ("status", "kind"), [(401, ApiError), (403, ForbiddenError), (404, NotFoundError), (409, ConflictError), (500, ApiError)]
)
def test_the_api_servers_message_and_a_fix(status: int, kind: type[ApiError]) -> None:
    body = json.dumps({"message": "pods is forbidden", "details": {"kind": "pods"}, "metadata": {"audit": "x"}})
    error = of_response("https://k:6443", status, "Reason", body)
    assert type(error) is kind and error.status == status and error.details == {"kind": "pods"}
    assert error.words == f"HTTP {status}: pods is forbidden"
    assert str(error).startswith(f"https://k:6443 refuses: {error.words}. ") and not str(error).endswith(".")


@pytest.mark.parametrize("body", [None, "", b"not found", "[]", "{}", "null"])
def test_an_answer_that_is_not_a_status(body: Any) -> None:
    error = of_response("https://k:6443", 404, "Not Found", body)
    assert error.words == "HTTP 404: Not Found" and error.details == {}


def test_no_cluster() -> None:
    error = UnreachableError("Cannot connect to the cluster: refused")
    assert error.words == "Cannot connect to the cluster: refused" and "KUBECONFIG" in str(error)


def test_some_names() -> None:
    assert some(["b", "a"]) == "a, b"
    assert some("abcdefg") == "a, b, c, d, e and 2 more"
