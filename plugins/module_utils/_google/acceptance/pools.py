# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions about pools and providers: their operations, what Google refuses, and what happens after their deletion.

Private to this collection.
"""

from __future__ import annotations

import datetime
import json
import time
import typing as t

from ..workload_identity import API as IAM
from .answers import content, outcome, required, status_is, until
from .issuer import unsupported_jwks
from .run import OWN_ISSUER, Run


def ask_pool(run: Run) -> None:
    """Ask about a pool, from before its creation until it is active."""
    name = run.name
    run.answer("missing_pool", outcome(run.call("GET", run.pool)))
    operation = run.make("pool", run.pools, {"displayName": name, "disabled": False}, workloadIdentityPoolId=name)
    run.answer("create_is_operation", {"name": operation.get("name")})
    run.answer("operation_not_done_at_once", bool(operation.get("done")))
    run.finish(IAM, operation)
    pool = run.take("GET", run.pool)
    run.pool_name = pool["name"]
    run.words.name(run.pool_name.split("/")[1], "NUMBER")
    run.answer("name_has_number", run.pool_name)
    fields = ("disabled", "description", "expireTime")
    run.answer("empty_fields_omitted", {field: pool.get(field, "omitted") for field in fields})
    again = run.call("POST", run.pools, {}, workloadIdentityPoolId=name)
    run.answer("create_existing", outcome(again))
    run.answer("undelete_live", outcome(run.call("POST", f"{run.pool}:undelete", {})))
    run.answer("update_mask_required", outcome(run.call("PATCH", run.pool, {"displayName": "other"})))


def _provider(run: Run, provider: str, issuer: str, jwks: str | None = None, **fields: t.Any) -> t.Any:
    oidc = {"issuerUri": issuer, **({"jwksJson": jwks} if jwks else {})}
    body = {"attributeMapping": {"google.subject": "assertion.sub"}, "oidc": oidc, **fields}
    return run.call("POST", f"{run.pool}/providers", body, workloadIdentityPoolProviderId=provider)


def ask_providers(run: Run) -> None:
    """Create two providers, and ask about providers that Google refuses."""
    condition = f"assertion.sub == '{run.subject}'"
    keys = json.dumps(run.jwks)
    for answer in (
        _provider(run, "cluster", run.issuer, keys, attributeCondition=condition),
        _provider(run, "own-keys", OWN_ISSUER, run.signer.jwks()),
    ):
        run.finish(IAM, required(answer))
    run.own_audience = f"https://iam.googleapis.com/{run.pool_name}/providers/own-keys"
    jwks, upper = run.signer.jwks(), {"google.subject": "assertion.sub", "attribute.Upper": "assertion.sub"}
    run.answer("reserved_id", outcome(_provider(run, "gcp-reserved", OWN_ISSUER, jwks)))
    run.answer("http_issuer", outcome(_provider(run, "http", "http://acceptance.invalid", jwks)))
    run.answer("mapping_key", outcome(_provider(run, "mapping", OWN_ISSUER, jwks, attributeMapping=upper)))
    github = _provider(run, "github", "https://token.actions.githubusercontent.com")
    run.answer("public_issuer_needs_condition", outcome(github))
    run.answer("bad_key_at_upload", outcome(_provider(run, "bad-key", OWN_ISSUER, unsupported_jwks())))


def ask_ends(run: Run) -> None:
    """Ask what happens when a provider is disabled, a pool is disabled, and a grant is removed."""
    provider, subject = f"{run.pool}/providers/cluster", run.cluster_token()
    token = run.access_token("cluster")
    run.change("PATCH", provider, {"disabled": True}, updateMask="disabled")
    refused, _seconds = until(lambda: run.exchange(subject, "cluster"), status_is(400))
    run.answer("disabled_provider", outcome(refused))
    run.answer("provider_disable_spares_tokens", outcome(run.manifest(token)))

    run.change("PATCH", run.pool, {"disabled": True}, updateMask="disabled")
    refused, seconds = until(lambda: run.manifest(token), status_is(401, 403))
    run.answer("pool_disable_stops_tokens", outcome(refused))
    run.answer("pool_disable_lag_seconds", seconds)
    run.change("PATCH", run.pool, {}, updateMask="disabled")
    token = run.access_token()
    granted, _seconds = until(lambda: run.manifest(token), status_is(200))
    required(granted)

    required(run.grant())
    refused, seconds = until(lambda: run.manifest(token), status_is(401, 403))
    run.answer("revoke_lag_seconds", seconds)
    run.answer("denied_manifest", outcome(refused))


def ask_deleted(run: Run) -> None:
    """Ask about a deleted pool, and undelete it."""
    provider = f"{run.pool}/providers/own-keys"
    run.change("DELETE", run.pool)
    deleted = run.call("GET", run.pool)
    pool = {"state": content(deleted).get("state"), "days": _days_until(content(deleted).get("expireTime"))}
    run.answer("deleted_answers_get", {**outcome(deleted), **pool})
    run.answer("reuse_is_409", outcome(run.call("POST", run.pools, {}, workloadIdentityPoolId=run.name)))
    patched = run.call("PATCH", run.pool, {"displayName": "other"}, updateMask="displayName")
    run.answer("patch_deleted", outcome(patched))
    patched = run.call("PATCH", provider, {"displayName": "other"}, updateMask="displayName")
    run.answer("patch_in_deleted_pool", outcome(patched))
    found = {key: _listed(run, shown) for key, shown in (("without", "false"), ("with", "true"))}
    run.answer("deleted_in_list", found)
    refused, _seconds = until(lambda: run.exchange(run.own_token()), status_is(400))
    run.answer("deleted_target", outcome(refused))
    run.change("POST", f"{run.pool}:undelete", {})
    states = {"pool": run.take("GET", run.pool).get("state"), "provider": run.take("GET", provider).get("state")}
    run.answer("undelete_revives", states)


def _listed(run: Run, show_deleted: str) -> bool:
    """Return whether the list of pools contains the pool, on any page."""
    page: dict[str, t.Any] = {"nextPageToken": ""}
    while "nextPageToken" in page:
        page = run.take("GET", run.pools, showDeleted=show_deleted, pageSize=1000, pageToken=page["nextPageToken"])
        if any(pool["name"] == run.pool_name for pool in page.get("workloadIdentityPools", [])):
            return True
    return False


def _days_until(time_: str | None) -> int | None:
    """Return the days from now until an RFC 3339 time, rounded, or None without a time."""
    if time_ is None:
        return None
    return round((datetime.datetime.fromisoformat(time_[:19] + "+00:00").timestamp() - time.time()) / 86400)
