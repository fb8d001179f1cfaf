# SPDX-License-Identifier: GPL-3.0-or-later
"""Module cache_peers against an API server in this process."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.owner import Owner

from tests.module_runner import run
from tests.unit.plugins.kubernetes_api import ApiServer

pytestmark = pytest.mark.usefixtures("cache_namespace")
KEY = ("secrets", "registry-cache", "registry-cache-peers")


def ensure(server: ApiServer, **options: Any) -> dict[str, Any]:
    result = run("cache_peers", host=server.url, api_key="cluster-token", **options)
    if KEY in server.objects:
        assert secret(server) not in json.dumps(result) or not secret(server)
    return result


def secret(server: ApiServer) -> str:
    return base64.b64decode(server.objects[KEY].get("data", {}).get("peer", "")).decode()


def test_the_secret_is_created_once(server: ApiServer) -> None:
    assert ensure(server, check=True)["changed"] and KEY not in server.objects
    assert ensure(server)["changed"]
    made = secret(server)
    assert len(made) == 43 and made.isalnum()
    assert server.objects[KEY]["metadata"]["labels"] == Owner("registry-cache", "registry-cache").labels
    for check in (False, True):
        assert not ensure(server, check=check)["changed"]
    assert secret(server) == made


def test_an_empty_secret_is_filled(server: ApiServer) -> None:
    server.add(*KEY, metadata={"labels": Owner("registry-cache", "registry-cache").labels}, data={"other": "eA=="})
    assert ensure(server)["changed"] and len(secret(server)) == 43
    assert server.objects[KEY]["data"]["other"] == "eA=="


def test_a_concurrent_run_that_is_faster(server: ApiServer) -> None:
    """The module uses the secret of that run."""
    made = []

    def other(method: str, _path: str) -> None:
        if method == "POST" and not made:
            labels = Owner("registry-cache", "registry-cache").labels
            made.append(base64.b64encode(b"of-the-other-run").decode())
            server.add(*KEY, metadata={"labels": labels}, data={"peer": made[0]})

    server.hook = other
    assert not ensure(server)["changed"]
    assert made and secret(server) == "of-the-other-run"


def test_a_secret_of_others(server: ApiServer) -> None:
    server.add(*KEY, metadata={"labels": {"app.kubernetes.io/managed-by": "Helm"}}, data={})
    before = copy.deepcopy(server.objects)
    message = ensure(server)["msg"]
    assert "Secret registry-cache-peers in namespace registry-cache" in message and "managed by Helm" in message
    assert server.objects == before


def test_no_namespace(server: ApiServer) -> None:
    assert 'HTTP 404: namespaces "none" not found' in ensure(server, namespace="none")["msg"]
