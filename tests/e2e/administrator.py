# SPDX-License-Identifier: GPL-3.0-or-later
"""A service account of the Google emulator that may do what the playbook needs, with a key."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator

from sandbox.client import Google
from sandbox.settings import PROJECT

IAM, CRM = "iam.googleapis.com", "cloudresourcemanager.googleapis.com"
ACCOUNTS = f"/v1/projects/{PROJECT}/serviceAccounts"
# The roles that docs/usage/google.md requires for running the playbook.
ROLES = ("serviceusage.serviceUsageAdmin", "iam.workloadIdentityPoolAdmin", "artifactregistry.admin", "iam.serviceAccountAdmin")


@contextlib.contextmanager
def administrator(google: Google, account_id: str) -> Iterator[dict[str, str]]:
    """Create the account for a block. Yields the JSON key that Google created."""
    email = f"{account_id}@{PROJECT}.iam.gserviceaccount.com"
    google.call("POST", IAM, ACCOUNTS, {"accountId": account_id})
    before = google.call("POST", CRM, f"/v1/projects/{PROJECT}:getIamPolicy", {}).get("bindings", [])
    bindings = [{"role": f"roles/{role}", "members": [f"serviceAccount:{email}"]} for role in ROLES]
    try:
        google.call("POST", CRM, f"/v1/projects/{PROJECT}:setIamPolicy", {"policy": {"bindings": [*before, *bindings]}})
        made = google.call("POST", IAM, f"{ACCOUNTS}/{email}/keys", {})
        yield json.loads(base64.b64decode(made["privateKeyData"]))
    finally:
        google.call("POST", CRM, f"/v1/projects/{PROJECT}:setIamPolicy", {"policy": {"bindings": before}})
        google.call("DELETE", IAM, f"{ACCOUNTS}/{email}")
