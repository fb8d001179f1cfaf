# SPDX-License-Identifier: GPL-3.0-or-later
"""Tokens that must not be exchanged. Those that the kubelet would not issue are signed with the cluster's key."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from sandbox.client import NAMESPACE, Cluster, Google
from sandbox.settings import PROJECT_NUMBER

PROVIDER = f"projects/{PROJECT_NUMBER}/locations/global/workloadIdentityPools/registry-cache/providers/k8s-sandbox"
AUDIENCE = f"https://iam.googleapis.com/{PROVIDER}"


@pytest.fixture(scope="module")
def cluster_key(cluster: Cluster) -> str:
    return cluster.on_node("cat", "/etc/kubernetes/pki/sa.key")


@pytest.fixture(scope="module")
def good(cluster: Cluster) -> str:
    """Returns a token, like one that the kubelet projects."""
    return cluster.kubectl("create", "token", "registry-cache", "--namespace", NAMESPACE, "--audience", AUDIENCE).strip()


def resign(token: str, key: Any, **claims: Any) -> str:
    header = jwt.get_unverified_header(token)
    payload = jwt.decode(token, options={"verify_signature": False}) | claims
    return jwt.encode(payload, key, algorithm="RS256", headers={"kid": header["kid"]})


def test_the_cache_s_token_is_exchanged(google: Google, good: str) -> None:
    answer = google.exchange(f"//iam.googleapis.com/{PROVIDER}", good)
    assert answer.status_code == 200, answer.text
    assert answer.json()["access_token"]


def test_the_cluster_s_key_signs_what_google_accepts(google: Google, good: str, cluster_key: str) -> None:
    """Shows that the refusals below are not caused by a wrong key."""
    answer = google.exchange(f"//iam.googleapis.com/{PROVIDER}", resign(good, cluster_key))
    assert answer.status_code == 200, answer.text


def refused(google: Google, token: str) -> str:
    answer = google.exchange(f"//iam.googleapis.com/{PROVIDER}", token)
    assert answer.status_code == 400
    assert "access_token" not in answer.text
    return json.loads(answer.text)["error_description"]


def test_another_service_account(google: Google, cluster: Cluster) -> None:
    other = cluster.kubectl("create", "token", "default", "--namespace", NAMESPACE, "--audience", AUDIENCE).strip()
    assert refused(google, other) == "The given credential is rejected by the attribute condition."


def test_another_audience(google: Google, cluster: Cluster) -> None:
    other = "https://example.com/other"
    token = cluster.kubectl("create", "token", "registry-cache", "--namespace", NAMESPACE, "--audience", other).strip()
    assert "does not match the expected audience" in refused(google, token)


def test_expired(google: Google, good: str, cluster_key: str) -> None:
    now = int(time.time())
    token = resign(good, cluster_key, iat=now - 4000, nbf=now - 4000, exp=now - 400)
    assert "is stale to sign-in" in refused(google, token)


def test_forged(google: Google, good: str) -> None:
    forged = resign(good, rsa.generate_private_key(public_exponent=65537, key_size=2048))
    assert refused(google, forged) == "Unable to verify the ID Token signature."
