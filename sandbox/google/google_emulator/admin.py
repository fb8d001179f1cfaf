# SPDX-License-Identifier: GPL-3.0-or-later
"""The emulator's own API, under /emulator/ on this machine's address: health, counters and faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .counters import Counters
from .errors import GoogleError
from .faults import Faults
from .principals import Tokens


class Admin:
    """Everything except the health check requires the operator's token."""

    def __init__(self, tokens: Tokens, counters: Counters, faults: Faults) -> None:
        self._tokens, self._faults = tokens, faults
        self.routes = [
            Route("/emulator/health", self._health, methods=["GET"]),
            self._route("GET", "counters", lambda _body: counters.read()),
            self._route("POST", "counters/reset", lambda _body: counters.reset()),
            self._route("GET", "faults", lambda _body: faults.read()),
            self._route("POST", "faults", self._add_fault),
            self._route("POST", "faults/reset", lambda _body: faults.reset()),
        ]

    def _route(self, method: str, path: str, action: Callable[[bytes], Any]) -> Route:
        """A route for the operator. `action` gets the body; what it returns is the answer, 204 for None."""

        async def answer(request: Request) -> Response:
            self._require_operator(request)
            result = action(await request.body())
            return Response(status_code=204) if result is None else JSONResponse(result)

        return Route(f"/emulator/{path}", answer, methods=[method])

    async def _health(self, _request: Request) -> Response:
        return Response(status_code=200)

    def _add_fault(self, body: bytes) -> None:
        try:
            self._faults.add(json.loads(body))
        except ValueError as error:
            raise GoogleError("INVALID_ARGUMENT", f"Invalid fault: {error}") from None

    def _require_operator(self, request: Request) -> None:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        principal = self._tokens.find(value) if scheme.lower() == "bearer" else None
        if principal is None or not principal.operator:
            raise GoogleError("UNAUTHENTICATED", "The operator's token is required as Bearer.")
