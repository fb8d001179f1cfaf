# SPDX-License-Identifier: GPL-3.0-or-later
"""The application: one listener, routed by Host as Google's names are."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable

import httpx
from starlette.applications import Starlette
from starlette.routing import Host, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import errors, messages, principals
from .access import Access
from .admin import Admin
from .artifactregistry import Repositories
from .config import Config
from .counters import Counters
from .docker import Docker
from .faults import Faults
from .iam_pools import Pools
from .operations import Operations
from .proxying import Registry
from .store import Store
from .sts import Exchange

# What this machine's own address stands for.
_LOCAL_LOCATION = "us-central1"


class Entrance:
    """Around every request: brings the state up to date, and logs one line that holds no credential."""

    def __init__(self, app: ASGIApp, operations: Operations, store: Store, clock: Callable[[], float]) -> None:
        self._app, self._operations, self._store, self._clock = app, operations, store, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._operations.settle()
        self._store.expire(messages.rfc3339(self._clock()))
        start, status = time.monotonic(), 0

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observe)
        finally:
            host = dict(scope["headers"]).get(b"host", b"-").decode("latin-1")
            # The last part of a download address is a credential; queries may hold one.
            path, mark, _token = scope["path"].partition("/downloads/")
            milliseconds = (time.monotonic() - start) * 1000
            print(scope["method"], host, ascii(path + mark)[1:-1], status, f"{milliseconds:.0f}ms", file=sys.stderr)


def create_app(
    config: Config,
    store: Store,
    *,
    registry: httpx.AsyncClient | None = None,
    clock: Callable[[], float] = time.time,
    steady_clock: Callable[[], float] = time.monotonic,
) -> ASGIApp:
    """registry: another client in tests. clock: seconds since the epoch; steady_clock: for operations."""
    client = registry or httpx.AsyncClient(
        base_url=config.registry_url,
        # No proxy of the environment, no limit: the real registry is on loopback.
        trust_env=False,
        timeout=httpx.Timeout(60),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
    )
    counters, operations, tokens = Counters(), Operations(steady_clock), principals.Tokens(clock)
    tokens.add(config.operator_token(), principals.operator(config.operator))
    access = Access(store, tokens, config.projects, clock)
    faults = Faults()
    docker = Docker(store, tokens, access, counters, faults, Registry(client), clock, location=_LOCAL_LOCATION)
    local = Router([*Admin(tokens, counters, faults).routes, *docker.routes], redirect_slashes=False)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with client:
            yield

    hosts = {
        "iam.googleapis.com": Pools(store, operations, access, clock).routes,
        "sts.googleapis.com": Exchange(store, tokens, counters, clock).routes,
        "artifactregistry.googleapis.com": Repositories(store, operations, access, clock).routes,
        "{location}-docker.pkg.dev": docker.routes,
    }
    return Entrance(
        Starlette(
            routes=[
                *(Host(host, Router(routes, redirect_slashes=False)) for host, routes in hosts.items()),
                *(Host(host, local) for host in (config.address, "localhost")),
            ],
            exception_handlers={errors.Refusal: errors.answer},
            lifespan=lifespan,
        ),
        operations,
        store,
        clock,
    )
