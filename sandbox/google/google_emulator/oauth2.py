# SPDX-License-Identifier: GPL-3.0-or-later
"""oauth2.googleapis.com/token: exchanges a service account's assertion for an access token (RFC 7523)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import jwt
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from . import principals
from .errors import OAuthError
from .principals import Tokens
from .store import Store

_AUDIENCE = "https://oauth2.googleapis.com/token"
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_SECONDS = 3600
_SKEW = 300


class TokenEndpoint:
    """Errors are HTTP 400 with an OAuth body (developers.google.com/identity/protocols/oauth2/service-account)."""

    def __init__(self, store: Store, tokens: Tokens, clock: Callable[[], float] = time.time) -> None:
        self._store, self._tokens, self._clock = store, tokens, clock
        self.routes = [Route("/token", self._token, methods=["POST"])]

    async def _token(self, request: Request) -> JSONResponse:
        fields = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        if fields.get("grant_type") != _GRANT:
            raise OAuthError("unsupported_grant_type", f"Invalid grant_type: {fields.get('grant_type', '')}")
        claims, name = self._verified(fields.get("assertion", ""))
        scopes = claims.get("scope")
        if not isinstance(scopes, str) or not scopes.split():
            raise OAuthError("invalid_scope", "Invalid OAuth scope or ID token audience provided.")
        principal = principals.service_account(name, claims["iss"], scopes.split())
        token = self._tokens.issue(principal, self._clock() + _SECONDS)
        return JSONResponse({"access_token": token, "expires_in": _SECONDS - 1, "token_type": "Bearer"})

    def _verified(self, assertion: str) -> tuple[dict[str, Any], str]:
        """Returns the claims of an assertion and the account's full name."""
        try:
            key_id = jwt.get_unverified_header(assertion).get("kid")
            claims = jwt.decode(assertion, options={"verify_signature": False})
        except jwt.PyJWTError:
            raise _refused("Bad Request") from None
        email = claims.get("iss")
        name = self._store.account(email) if isinstance(email, str) else None
        if name is None or self._store.accounts[name]["email"] != email:
            raise _refused("Invalid grant: account not found")
        # Without a key id, as from AWX, any of the account's keys is accepted.
        own = {identifier: key for identifier, key in self._store.keys.items() if key["account"] == name}
        tried = own.values() if key_id is None else [own[key_id]] if key_id in own else []
        if not any(_signed(assertion, key["publicKey"]) for key in tried):
            raise _refused("Invalid JWT Signature.")
        if claims.get("aud") != _AUDIENCE:
            raise _refused("Invalid JWT: Failed audience check. The right audience is https://oauth2.googleapis.com/token")
        if not _in_time(claims.get("iat"), claims.get("exp"), self._clock()):
            raise _refused(
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
                "Check your iat and exp values in the JWT claim."
            )
        if not self._store.live_account(name):
            raise _refused("Account disabled")  # the message is †
        return claims, name


def _signed(assertion: str, public_key: str) -> bool:
    try:
        jwt.PyJWS().decode(assertion, public_key, algorithms=["RS256"])
    except jwt.PyJWTError:
        return False
    return True


def _in_time(issued: object, expires: object, now: float) -> bool:
    if not isinstance(issued, (int, float)) or not isinstance(expires, (int, float)):
        return False
    return issued <= now + _SKEW and now < expires + _SKEW and 0 < expires - issued <= _SECONDS


def _refused(description: str) -> OAuthError:
    return OAuthError("invalid_grant", description)
