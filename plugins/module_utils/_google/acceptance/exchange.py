# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions about the token exchange: which tokens Google accepts, and how it refuses others.

Private to this collection.
"""

from __future__ import annotations

import re

from ..workload_identity import API as IAM
from .answers import content, outcome, status_is, until
from .issuer import Signer
from .run import STS, Run

OWN_AUDIENCE = "https://acceptance.invalid/own"


def ask_exchange(run: Run) -> None:
    """Ask about valid tokens, invalid tokens and targets, and new keys of an issuer."""
    token = run.cluster_token()
    # A new provider is not available at once.
    answer, _seconds = until(lambda: run.exchange(token, "cluster"), status_is(200), 120)
    run.answer("token_ends_with_subject", content(answer).get("expires_in"))
    answer, _seconds = until(lambda: run.exchange(run.own_token()), status_is(200), 120)
    run.answer("unreachable_issuer", outcome(answer))
    two_hours = run.exchange(run.own_token(end=7200))
    run.answer("token_at_most_an_hour", content(two_hours).get("expires_in"))
    camel = {
        re.sub("_(.)", lambda match: match[1].upper(), name): value
        for name, value in run.form(run.own_token(), "own-keys").items()
    }
    run.answer("json_body", outcome(run.post(STS, json=camel)))
    bare = run.exchange(run.own_token(aud=run.own_audience.removeprefix("https:")))
    https = run.exchange(run.own_token())
    run.answer("default_audiences", {"https": https.status_code, "bare": bare.status_code})

    malformed = run.exchange(token, audience="//iam.googleapis.com/nothing")
    run.answer("malformed_audience", outcome(malformed))
    run.answer("sts_errors_two_keys", sorted(content(malformed)))
    run.answer("unknown_target", outcome(run.exchange(token, "none")))
    other = run.cluster_token(audience="https://acceptance.invalid/other")
    run.answer("wrong_audience", outcome(run.exchange(other, "cluster")))
    other = run.cluster_token(account=f"{run.name}-other")
    run.answer("condition_false", outcome(run.exchange(other, "cluster")))

    for name, token in {
        "wrong_issuer": run.own_token(iss="https://other.acceptance.invalid"),
        "expired_token": run.own_token(start=-900, end=-300),
        "future_token": run.own_token(start=600, end=1200),
        "old_token": run.own_token(start=-25 * 3600),
        "clock_skew": run.own_token(start=30),
        "bad_signature": run.own_token(Signer("forged"), run.signer.key_id),
        "unknown_kid": run.own_token(key_id="unknown"),
        "long_subject": run.own_token(sub="x" * 130),
        "subject_no_text": run.own_token(sub=42),
    }.items():
        run.answer(name, outcome(run.exchange(token)))

    run.signer = Signer("second")
    provider = f"{run.pool}/providers/own-keys"
    run.change("PATCH", provider, {"oidc": {"jwksJson": run.signer.jwks()}}, updateMask="oidc.jwksJson")
    _answer, seconds = until(lambda: run.exchange(run.own_token()), status_is(200))
    run.answer("new_keys_seconds", seconds)
    body = {"oidc": {"allowedAudiences": [OWN_AUDIENCE]}}
    answer = run.call("PATCH", provider, body, updateMask="oidc.allowed_audiences")
    run.answer("mask_in_snake_case", outcome(answer))
    if answer.status_code != 200:
        answer = run.call("PATCH", provider, body, updateMask="oidc.allowedAudiences")
    run.finish(IAM, content(answer))
    answer, _seconds = until(lambda: run.exchange(run.own_token()), status_is(400), 60)
    run.answer("audience_of_its_own", outcome(answer))
    run.own_audience = OWN_AUDIENCE
