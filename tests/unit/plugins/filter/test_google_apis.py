# SPDX-License-Identifier: GPL-3.0-or-later
"""The APIs that role wif enables."""

from __future__ import annotations

from ansible_collections.pullthrough.registry_cache.plugins.filter.google_apis import google_apis

POOL = ["iam.googleapis.com", "sts.googleapis.com"]
REPOSITORIES = [{"project": "other"}, {"project": "own"}, {"project": "other"}]


def test_each_project_has_the_apis_that_it_needs() -> None:
    reads = "artifactregistry.googleapis.com"
    assert google_apis(REPOSITORIES, "own") == [
        {"project": "own", "services": [*POOL, reads]},
        {"project": "other", "services": [reads]},
    ]
    assert google_apis([], "pool") == [{"project": "pool", "services": POOL}]


def test_impersonation_needs_one_more() -> None:
    (pool, _other) = google_apis(REPOSITORIES[:1], "pool", True)
    assert pool == {"project": "pool", "services": [*POOL, "iamcredentials.googleapis.com"]}
