# SPDX-License-Identifier: GPL-3.0-or-later
"""The cache impersonates a Google service account that the role creates, and has no other grant.

These tests are the last ones with this cache, since test_uninstall begins with its removal.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import pytest

from sandbox import seed
from sandbox.client import Cache, Google, operator_client
from sandbox.settings import PROJECT, Sandbox
from tests.e2e.conftest import Play, Site

from .test_site import IMPATIENT, PROOF, changed, words

ACCOUNT = f"registry-cache@{PROJECT}.iam.gserviceaccount.com"
NAMED = {"registry_cache_wif_service_account": ACCOUNT}
ACCOUNT_POLICY = f"/v1/projects/{PROJECT}/serviceAccounts/{ACCOUNT}"


@pytest.fixture(scope="module", autouse=True)
def _impersonated(site: Site, google: Google) -> Iterator[None]:
    direct = google.policy()
    google.revoke()
    made = site("--extra-vars", json.dumps({**NAMED, "registry_cache_wif_create_service_account": True}))
    assert made.returncode == 0, made.stdout
    yield
    # The role does not remove grants of a service account.
    google.set_policy({**direct, "etag": google.policy()["etag"]})


def test_a_second_run_changes_nothing(site: Site) -> None:
    again = site("--extra-vars", json.dumps({**NAMED, "registry_cache_wif_create_service_account": True}))
    assert again.returncode == 0, again.stdout
    assert changed(again.stdout) == 0


def test_only_the_service_account_can_read(google: Google) -> None:
    members = {binding["role"]: binding["members"] for binding in google.policy()["bindings"]}
    assert members == {"roles/artifactregistry.reader": [f"serviceAccount:{ACCOUNT}"]}


def test_a_cold_pull(sandbox: Sandbox, cache: Cache) -> None:
    with operator_client(sandbox) as client:
        image = seed.push(client, f"impersonated-{secrets.token_hex(4)}", "1.0", [4 << 10])
    blobs, size, _first = cache.pull(image.name, image.tag)
    assert (blobs, size) == (len(image.blobs), sum(blob.size for blob in image.blobs))


def test_a_missing_impersonation_grant_is_reported(play: Play, google: Google) -> None:
    policy = google.call("POST", "iam.googleapis.com", f"{ACCOUNT_POLICY}:getIamPolicy")
    google.call("POST", "iam.googleapis.com", f"{ACCOUNT_POLICY}:setIamPolicy", {"policy": {"etag": policy["etag"]}})
    result = play(PROOF, *IMPATIENT, "--extra-vars", json.dumps(NAMED))
    assert result.returncode != 0
    assert "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist)." in words(result.stdout)
