# SPDX-License-Identifier: GPL-3.0-or-later
"""iamcredentials.googleapis.com: access tokens of service accounts for callers that may impersonate them (discovery document v1)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from . import messages, principals
from .access import Access
from .errors import GoogleError, permission_denied
from .principals import Tokens
from .roles import GET_ACCESS_TOKEN
from .store import Store

_LIFETIME = re.compile(r"(\d{1,9})(\.\d{1,9})?s")
_MAX_SECONDS = 3600
_REQUEST: messages.Fields = {"delegates": [str], "scope": [str], "lifetime": str}


class Impersonation:
    """The method generateAccessToken. Its token can outlive the caller's."""

    def __init__(
        self, store: Store, tokens: Tokens, access: Access, clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._tokens, self._access, self._clock = store, tokens, access, clock
        path = "/v1/projects/{project}/serviceAccounts/{account}:generateAccessToken"
        self.routes = [Route(path, self._generate, methods=["POST"])]

    async def _generate(self, request: Request) -> JSONResponse:
        self._access.authenticate(request, "iamcredentials")
        if request.path_params["project"] != "-":
            raise _refused("The project of a service account's name must be the wildcard '-'.")
        name = self._store.account(request.path_params["account"])
        if name is None:
            raise permission_denied(GET_ACCESS_TOKEN)
        _, project, relative = name.split("/", 2)
        self._access.require(request, "iamcredentials", GET_ACCESS_TOKEN, relative, project=project, named=False)
        body = await messages.read(request, _REQUEST)
        if not body.get("scope"):
            raise _refused("Request contains an invalid argument: scope is required.")
        if body.get("delegates"):
            raise GoogleError("UNIMPLEMENTED", "This emulator does not support delegates.")
        match = _LIFETIME.fullmatch(body.get("lifetime", f"{_MAX_SECONDS}s"))
        if match is None or not 0 < float(f"{match[1]}{match[2] or ''}") <= _MAX_SECONDS:
            raise _refused(f"The lifetime must be more than 0s and at most {_MAX_SECONDS}s, such as 3600s.")
        if not self._store.live_account(name):
            raise GoogleError("FAILED_PRECONDITION", "The service account is disabled.")
        expires = self._clock() + int(match[1])
        principal = principals.service_account(name, self._store.accounts[name]["email"], body["scope"])
        token = self._tokens.issue(principal, expires)
        return JSONResponse({"accessToken": token, "expireTime": messages.rfc3339(expires)})


def _refused(message: str) -> GoogleError:
    """Returns an error whose message is †."""
    return GoogleError("INVALID_ARGUMENT", message)
