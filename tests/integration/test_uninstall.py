# SPDX-License-Identifier: GPL-3.0-or-later
"""The last of the scenario: everything absent leaves nothing of the cache, and a second time changes nothing."""

from __future__ import annotations

import json

from sandbox.client import NAMESPACE, Cluster, Google

from .conftest import Site
from .test_site import IAM, PROVIDER, changed

ABSENT = ("state", "wif_state", "pull_secret_state")


def test_absent(site: Site, cluster: Cluster, google: Google) -> None:
    extra = ("--extra-vars", json.dumps({f"registry_cache_{name}": "absent" for name in ABSENT}))
    before = google.policy()
    assert before["bindings"]
    check = site("--check", *extra)
    assert check.returncode == 0 and changed(check.stdout) > 0, check.stdout
    assert google.policy() == before
    result = site(*extra)
    assert result.returncode == 0, result.stdout
    assert NAMESPACE not in {item["metadata"]["name"] for item in cluster.get("namespaces")["items"]}
    assert cluster.get("secrets", "--namespace", "demo")["items"] == []
    assert google.call("GET", IAM, PROVIDER)["state"] == "DELETED"
    assert not google.policy().get("bindings")
    again = site(*extra)
    assert again.returncode == 0 and changed(again.stdout) == 0, again.stdout
