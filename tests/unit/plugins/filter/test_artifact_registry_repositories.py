# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter artifact_registry_repositories."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.pullthrough.registry_cache.plugins.filter import artifact_registry_repositories as plugin

repositories = plugin.FilterModule().filters()["artifact_registry_repositories"]


@pytest.mark.parametrize(
    ("host", "path", "project", "location", "identifier"),
    [
        ("us-central1-docker.pkg.dev", "my-project/my-repository", "my-project", "us-central1", "my-repository"),
        ("us-docker.pkg.dev", "my-project/gcr.io", "my-project", "us", "gcr.io"),
        ("europe-docker.pkg.dev", "example.com:my-project/r", "example.com:my-project", "europe", "r"),
        ("europe-docker.pkg.dev", "example.com/my-project/r", "example.com:my-project", "europe", "r"),
        ("europe-docker.pkg.dev", "a.b-c.example.com:my-project/r", "a.b-c.example.com:my-project", "europe", "r"),
        ("gcr.io", "my-project", "my-project", "us", "gcr.io"),
        ("us.gcr.io", "my-project", "my-project", "us", "us.gcr.io"),
        ("eu.gcr.io", "my-project", "my-project", "europe", "eu.gcr.io"),
        ("asia.gcr.io", "example.com:my-project", "example.com:my-project", "asia", "asia.gcr.io"),
        ("asia.gcr.io", "example.com/my-project", "example.com:my-project", "asia", "asia.gcr.io"),
    ],
)
def test_a_repository(host: str, path: str, project: str, location: str, identifier: str) -> None:
    (found,) = repositories([{"host": host, "repositories": [path]}])
    name = f"projects/{project}/locations/{location}/repositories/{identifier}"
    assert found == {"project": project, "location": location, "id": identifier, "name": name}


def test_several_upstreams() -> None:
    upstreams = [{"host": "gcr.io", "repositories": ["one", "two"]}, {"host": "eu-docker.pkg.dev", "repositories": ["three/r"]}]
    names = [(found["project"], found["id"]) for found in repositories(upstreams)]
    assert names == [("one", "gcr.io"), ("two", "gcr.io"), ("three", "r")]


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ("docker.io", "library/alpine"),
        ("mirror.gcr.io", "my-project"),
        ("us-central1-docker.pkg.dev.example.com", "p/r"),
        ("us-central1-docker.pkg.dev", "my-project"),
        ("us-central1-docker.pkg.dev", "my-project/repository/image"),
        ("us-central1-docker.pkg.dev", "My-Project/repository"),
        ("us-central1-docker.pkg.dev", "my-project/repo.sitory"),
        ("us-central1-docker.pkg.dev", "example:my-project/repository"),
        ("us-central1-docker.pkg.dev", 7),
        ("gcr.io", "my-project/image"),
        ("gcr.io", ""),
    ],
)
def test_malformed_hosts_and_repositories(host: str, path: object) -> None:
    with pytest.raises(AnsibleFilterError, match=r"(host|repository) '.*Example: ") as refusal:
        repositories([{"host": host, "repositories": [path]}])
    assert host in str(refusal.value) or str(path) in str(refusal.value)
