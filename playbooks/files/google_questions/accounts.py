# SPDX-License-Identifier: GPL-3.0-or-later
"""A service account: its policy, and tokens by impersonation."""

from __future__ import annotations

import requests

from .answers import TIMEOUT, content, status_is, told, until
from .operator import CLOUD_PLATFORM
from .run import Run

IAM_CREDENTIALS = "https://iamcredentials.googleapis.com/v1"


def ask_account(run: Run) -> None:
    """An account from its creation to its address used again."""
    operator, token = run.operator, run.access_token("cluster")
    body = {"accountId": run.settings.name, "serviceAccount": {}}
    account = run.make("account", run.accounts, body)
    run.answer("account_create_is_direct", {"email": account.get("email")})
    url = f"{run.accounts}/{run.email}"
    policy, _seconds = until(lambda: operator.call("POST", f"{url}:getIamPolicy", {}), status_is(200), 120)
    run.answer("account_policy_is_post", told(policy))
    run.answer("impersonation_denied", told(_impersonate(run, token)))
    binding = {"role": "roles/iam.workloadIdentityUser", "members": [run.member()]}
    etag = {"etag": content(policy)["etag"]} if "etag" in content(policy) else {}
    operator.take("POST", f"{url}:setIamPolicy", {"policy": {"bindings": [binding], **etag}})
    _answer, seconds = until(lambda: _impersonate(run, token), status_is(200))
    run.answer("impersonation_lag_seconds", seconds)
    run.answer("impersonation_over_an_hour", told(_impersonate(run, token, "3700s")))
    operator.take("DELETE", url)
    again, _seconds = until(lambda: operator.call("POST", run.accounts, body), status_is(200), 60)
    another = bool(account.get("uniqueId")) and content(again).get("uniqueId") != account.get("uniqueId")
    run.answer("account_address_again", {**told(again), "another": another})


def _impersonate(run: Run, token: str, lifetime: str = "600s") -> requests.Response:
    return run.anonymous.post(
        f"{IAM_CREDENTIALS}/projects/-/serviceAccounts/{run.email}:generateAccessToken",
        json={"scope": [CLOUD_PLATFORM], "lifetime": lifetime},
        headers={"Authorization": f"Bearer {token}"},
        timeout=TIMEOUT,
    )
