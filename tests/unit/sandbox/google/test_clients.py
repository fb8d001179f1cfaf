# SPDX-License-Identifier: GPL-3.0-or-later
"""Unmodified google-auth with the emulator: all kinds of credentials of a service account."""

from __future__ import annotations

import base64
import json
import time
from types import SimpleNamespace
from typing import Any

import google.auth.exceptions
import pytest
from google.auth import identity_pool
from google.oauth2 import service_account

from tests.unit.sandbox.google.harness import ACCOUNTS, CLOUD_PLATFORM, DOCKER, EMAIL, IAM_CREDENTIALS, MEMBER, PROVIDER, STS, TYPE, Google

MANIFEST = f"{DOCKER}/v2/demo/private/hello/manifests/1.0"


@pytest.fixture
def account(google: Google) -> Google:
    """An account that can read the repository, and that the cache can impersonate."""
    google.federate()
    google.create_repository()
    assert google.create_account().status_code == 200
    google.grant(member=f"serviceAccount:{EMAIL}")
    google.set_account_policy({"role": "roles/iam.workloadIdentityUser", "members": [MEMBER]})
    return google


def refreshed(google: Google, credentials: Any) -> str:
    """Refresh credentials at the emulator. Returns the token."""

    def request(url: str, method: str = "GET", body: Any = None, headers: Any = None, **_options: Any) -> Any:
        answer = google.call(method, url, token=None, headers=dict(headers or {}), content=body)
        return SimpleNamespace(status=answer.status_code, headers=answer.headers, data=answer.content)

    credentials.refresh(request)
    return credentials.token


def external(google: Google, path: Any) -> identity_pool.Credentials:
    path.write_text(google.jwt())
    return identity_pool.Credentials.from_info(
        {
            "type": "external_account",
            "audience": f"//iam.googleapis.com/{PROVIDER}",
            "subject_token_type": f"{TYPE}jwt",
            "token_url": STS,
            "credential_source": {"file": str(path)},
            "service_account_impersonation_url": f"{IAM_CREDENTIALS}/projects/-/serviceAccounts/{EMAIL}:generateAccessToken",
        },
        scopes=[CLOUD_PLATFORM],
    )


def test_a_federated_identity_that_impersonates_the_account(account: Google, tmp_path: Any) -> None:
    token = refreshed(account, external(account, tmp_path / "token"))
    assert account.call("GET", MANIFEST, token=token).status_code == 200


def test_a_federated_identity_without_the_permission(account: Google, tmp_path: Any) -> None:
    account.set_account_policy()
    with pytest.raises(google.auth.exceptions.RefreshError, match="iam.serviceAccounts.getAccessToken"):
        refreshed(account, external(account, tmp_path / "token"))


@pytest.fixture
def key(account: Google) -> service_account.Credentials:
    answer = account.call("POST", f"{ACCOUNTS}/{EMAIL}/keys", json={}).json()
    info = json.loads(base64.b64decode(answer["privateKeyData"]))
    return service_account.Credentials.from_service_account_info(info, scopes=[CLOUD_PLATFORM])


def test_a_key(account: Google, key: service_account.Credentials) -> None:
    account.fault(clock_shift=_shift(account))
    assert account.call("GET", MANIFEST, token=refreshed(account, key)).status_code == 200


def test_a_key_that_is_deleted(account: Google, key: service_account.Credentials) -> None:
    account.fault(clock_shift=_shift(account))
    (identifier,) = json.loads((account.config.state_dir / "resources.json").read_text())["keys"]
    assert account.call("DELETE", f"{ACCOUNTS}/{EMAIL}/keys/{identifier}").status_code == 200
    with pytest.raises(google.auth.exceptions.RefreshError, match="Invalid JWT Signature"):
        refreshed(account, key)


def _shift(google: Google) -> float:
    """The difference between the emulator's clock and this machine's, which google-auth uses."""
    return time.time() - google.now
