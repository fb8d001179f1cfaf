# SPDX-License-Identifier: GPL-3.0-or-later
"""sts.googleapis.com/v1/token: exchanges a cluster's token for a Google access token (RFC 8693)."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import jwt
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from . import cel
from .access import Access
from .counters import Counters
from .errors import OAuthError, Refusal
from .faults import Conditions
from .principals import Principal, Tokens, federated
from .store import Resource, Store

_AUDIENCE = re.compile(
    r"//iam\.googleapis\.com/(projects/\d+/locations/global/workloadIdentityPools/[^/]+/providers/[^/]+)"
)
_TYPE = "urn:ietf:params:oauth:token-type:"
_SKEW = 60
_MAX_AGE = 24 * 3600
_MAX_LIFE = 3600
_UNREACHABLE = "Error connecting to the given credential's issuer."


class Exchange:
    """The token endpoint. Every error is HTTP 400 with an OAuth body, except for a disabled API †."""

    def __init__(
        self,
        store: Store,
        tokens: Tokens,
        access: Access,
        counters: Counters,
        conditions: Conditions,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._tokens, self._access, self._counters = store, tokens, access, counters
        self._conditions, self._clock = conditions, clock
        self.routes = [Route("/v1/token", self._token, methods=["POST"])]

    async def _token(self, request: Request) -> JSONResponse:
        try:
            answer = self._exchange(await _fields(request))
        except Refusal:
            self._counters.add("sts_refused")
            raise
        self._counters.add("sts_exchange")
        return JSONResponse(answer)

    def _exchange(self, fields: dict[str, str]) -> dict[str, object]:
        for name, values in {
            "grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"},
            "requested_token_type": {f"{_TYPE}access_token"},
            "subject_token_type": {f"{_TYPE}jwt", f"{_TYPE}id_token"},
        }.items():
            if fields.get(name) not in values:
                raise OAuthError("invalid_request", f'Invalid value for "{name}".')
        for name in ("subject_token", "scope"):
            if not fields.get(name):
                raise OAuthError("invalid_request", f'Invalid value for "{name}".')
        match = _AUDIENCE.fullmatch(fields.get("audience", ""))
        if match is None:
            raise OAuthError(
                "invalid_request",
                'Invalid value for "audience". This value should be the full resource name of the Identity Provider. '
                "See https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token for the list of possible "
                "formats.",
            )
        self._access.require_api("sts", match[1].split("/")[1])
        provider = self._store.live_provider(match[1])
        if provider is None:
            raise OAuthError(
                "invalid_target",
                'The target service indicated by the "audience" parameters is invalid. This might either be because '
                "the pool or provider is disabled or deleted or because it doesn't exist.",
            )
        claims = self._verified(provider, fields["subject_token"])
        principal = _principal(provider, claims, fields["scope"].split())
        now = self._clock()
        # Measured at Google: with 2 s left there is no expires_in, with 1 s an internal error.
        seconds = int(min(claims["exp"] - now, _MAX_LIFE)) - 2
        if seconds < 0:
            raise OAuthError("internal_failure", "Internal error encountered.", status=500)
        return {
            "access_token": self._tokens.issue(principal, now if self._conditions.expired else now + seconds),
            "issued_token_type": f"{_TYPE}access_token",
            "token_type": "Bearer",
            **({"expires_in": seconds} if seconds else {}),
        }

    def _verified(self, provider: Resource, token: str) -> dict[str, Any]:
        """Returns the claims of a token that a provider accepts."""
        try:
            key_id = jwt.get_unverified_header(token)["kid"]
            claims = jwt.decode(token, options={"verify_signature": False})
            for name, kind in {"iss": str, "exp": (int, float), "iat": (int, float), "aud": (str, list)}.items():
                if not isinstance(claims[name], kind):
                    raise ValueError(name)
            claims["sub"]
        except (jwt.PyJWTError, KeyError, ValueError):
            # The messages are †; the required header and claims are documented.
            raise OAuthError(
                "invalid_request", "Unable to parse the ID Token: kid, iss, sub, aud, iat and exp are required."
            ) from None
        oidc = provider.get("oidc", {"issuerUri": ""})  # a provider of another kind accepts no token of a cluster
        if claims["iss"] != oidc["issuerUri"]:
            raise OAuthError(
                "invalid_grant",
                f"The issuer in ID Token {claims['iss']} does not match the expected one: {oidc['issuerUri']}.",
            )
        _verify_signature(oidc, key_id, token)
        audiences = [claims["aud"]] if isinstance(claims["aud"], str) else [str(item) for item in claims["aud"]]
        default = [f"//iam.googleapis.com/{provider['name']}", f"https://iam.googleapis.com/{provider['name']}"]
        if not set(audiences) & set(oidc.get("allowedAudiences", default)):
            raise OAuthError(
                "invalid_grant",
                f"The audience in ID Token [{', '.join(audiences)}] does not match the expected audience.",
            )
        now, issued = self._clock(), claims["iat"]
        if claims["exp"] + _SKEW <= now or issued - _SKEW > now or issued + _MAX_AGE < now:
            raise OAuthError("invalid_grant", f"ID Token issued at {int(issued)} is stale to sign-in.")
        return claims


async def _fields(request: Request) -> dict[str, str]:
    """Returns the parameters of a form, or of JSON with camelCase names, under their OAuth names."""
    body = await request.body()
    if request.headers.get("content-type", "").startswith("application/json"):
        try:
            given = json.loads(body)
        except ValueError:
            given = None
        if not isinstance(given, dict):
            raise OAuthError("invalid_request", "Invalid JSON payload received.")
    else:
        given = dict(parse_qsl(body.decode("utf-8", "replace")))
    return {re.sub("[A-Z]", lambda match: f"_{match[0].lower()}", name): str(value) for name, value in given.items()}


def _verify_signature(oidc: Resource, key_id: str, token: str) -> None:
    """Verify a token with uploaded keys only, since the emulator does not fetch an issuer's keys."""
    keys = [key for key in json.loads(oidc.get("jwksJson", '{"keys": []}'))["keys"] if key.get("kid") == key_id]
    if not keys:
        raise OAuthError("invalid_grant", _UNREACHABLE)
    algorithm = "RS256" if keys[0]["kty"] == "RSA" else "ES256"
    try:
        jwt.PyJWS().decode(token, jwt.PyJWK(keys[0], algorithm=algorithm), algorithms=[algorithm])
    except jwt.PyJWTError:
        raise OAuthError("invalid_grant", "Unable to verify the ID Token signature.") from None


def _principal(provider: Resource, claims: dict[str, Any], scopes: list[str]) -> Principal:
    """Apply the attribute mapping, then the attribute condition."""
    mapped: dict[str, Any] = {}
    for key, expression in provider["attributeMapping"].items():
        try:
            mapped[key] = cel.evaluate(expression, {"assertion": claims})
        except cel.CelError as error:
            # The message is †.
            raise OAuthError("invalid_request", f"The mapped attribute '{key}' cannot be evaluated: {error}") from None
        if key == "google.groups":
            mapped[key] = [mapped[key]] if isinstance(mapped[key], str) else mapped[key]
            if not isinstance(mapped[key], list) or not all(isinstance(group, str) for group in mapped[key]):
                raise OAuthError("unauthorized_client", f"The mapped attribute '{key}' must be of type LIST<STRING>.")
        elif not isinstance(mapped[key], str):
            raise OAuthError("unauthorized_client", f"The mapped attribute '{key}' must be of type STRING.")
    if len(mapped["google.subject"].encode()) > 127:
        raise OAuthError(
            "invalid_request",
            "The size of mapped attribute google.subject exceeds the 127 bytes limit. Either modify your attribute "
            "mapping or the incoming assertion to produce a mapped attribute that is less than 127 bytes.",
        )
    if len(json.dumps(mapped).encode()) > 8192:
        raise OAuthError("invalid_request", "The size of all mapped attributes exceeds the 8 KB limit.")
    groups = mapped.get("google.groups", [])
    attributes = {key.removeprefix("attribute."): mapped[key] for key in mapped if key.startswith("attribute.")}
    if condition := provider.get("attributeCondition"):
        values = {
            "assertion": claims,
            "google.subject": mapped["google.subject"],
            "google.groups": groups,
            "attribute": attributes,
        }
        try:
            admitted = cel.evaluate(condition, values) is True
        except cel.CelError:
            admitted = False
        if not admitted:
            raise OAuthError("unauthorized_client", "The given credential is rejected by the attribute condition.")
    pool = provider["name"].rpartition("/providers/")[0]
    return federated(pool, mapped["google.subject"], groups, attributes, scopes)
