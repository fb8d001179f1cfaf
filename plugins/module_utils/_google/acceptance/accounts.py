# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions about a service account: its policy, and tokens by impersonation.

Private to this collection.
"""

from __future__ import annotations

import typing as t

from ..client import CLOUD_PLATFORM
from .answers import content, outcome, status_is, until
from .run import Run

IAM_CREDENTIALS = "https://iamcredentials.googleapis.com/v1"


def ask_account(run: Run) -> None:
    """Ask about an account, from its creation until its email address is used again."""
    token = run.access_token("cluster")
    body = {"accountId": run.name, "serviceAccount": {}}
    account = run.make("account", run.accounts, body)
    run.answer("account_create_is_direct", {"email": account.get("email")})
    url = f"{run.accounts}/{run.email}"
    policy, _seconds = until(lambda: run.call("POST", f"{url}:getIamPolicy", {}), status_is(200), 120)
    run.answer("account_policy_is_post", outcome(policy))
    run.answer("impersonation_denied", outcome(_impersonate(run, token)))
    binding = {"role": "roles/iam.workloadIdentityUser", "members": [run.member()]}
    etag = {"etag": content(policy)["etag"]} if "etag" in content(policy) else {}
    run.take("POST", f"{url}:setIamPolicy", {"policy": {"bindings": [binding], **etag}})
    _answer, seconds = until(lambda: _impersonate(run, token), status_is(200))
    run.answer("impersonation_lag_seconds", seconds)
    run.answer("impersonation_over_an_hour", outcome(_impersonate(run, token, "3700s")))
    run.take("DELETE", url)
    again, _seconds = until(lambda: run.call("POST", run.accounts, body), status_is(200), 60)
    another = bool(account.get("uniqueId")) and content(again).get("uniqueId") != account.get("uniqueId")
    run.answer("account_address_again", {**outcome(again), "another": another})


def _impersonate(run: Run, token: str, lifetime: str = "600s") -> t.Any:
    url = f"{IAM_CREDENTIALS}/projects/-/serviceAccounts/{run.email}:generateAccessToken"
    return run.post(url, token, json={"scope": [CLOUD_PLATFORM], "lifetime": lifetime})
