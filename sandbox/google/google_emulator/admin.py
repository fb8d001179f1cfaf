# SPDX-License-Identifier: GPL-3.0-or-later
"""The emulator's own API, under /emulator/ on this machine's address: health, counters and faults."""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .counters import Counters
from .errors import GoogleError
from .faults import Faults
from .principals import Tokens


class Admin:
    """Everything but the health check is for the operator."""

    def __init__(self, tokens: Tokens, counters: Counters, faults: Faults) -> None:
        self._tokens, self._counters, self._faults = tokens, counters, faults
        self.routes = [
            Route("/emulator/health", self._health, methods=["GET"]),
            Route("/emulator/counters", self._read, methods=["GET"]),
            Route("/emulator/counters/reset", self._reset, methods=["POST"]),
            Route("/emulator/faults", self._read_faults, methods=["GET"]),
            Route("/emulator/faults", self._add_fault, methods=["POST"]),
            Route("/emulator/faults/reset", self._reset_faults, methods=["POST"]),
        ]

    async def _health(self, _request: Request) -> Response:
        return Response(status_code=200)

    async def _read(self, request: Request) -> Response:
        self._require_operator(request)
        return JSONResponse(self._counters.read())

    async def _reset(self, request: Request) -> Response:
        self._require_operator(request)
        self._counters.reset()
        return Response(status_code=204)

    async def _read_faults(self, request: Request) -> Response:
        self._require_operator(request)
        return JSONResponse(self._faults.read())

    async def _add_fault(self, request: Request) -> Response:
        self._require_operator(request)
        try:
            self._faults.add(json.loads(await request.body()))
        except ValueError as error:
            raise GoogleError("INVALID_ARGUMENT", f"Invalid fault: {error}") from None
        return Response(status_code=204)

    async def _reset_faults(self, request: Request) -> Response:
        self._require_operator(request)
        self._faults.reset()
        return Response(status_code=204)

    def _require_operator(self, request: Request) -> None:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        principal = self._tokens.find(value) if scheme.lower() == "bearer" else None
        if principal is None or not principal.operator:
            raise GoogleError("UNAUTHENTICATED", "The operator's token is required as Bearer.")
