# SPDX-License-Identifier: GPL-3.0-or-later
"""The application: one listener that routes requests by the Host header."""

from __future__ import annotations

import asyncio
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
from .apis import Apis
from .artifactregistry import GCR_LOCATIONS, Repositories
from .config import Config
from .counters import Counters
from .docker import Docker
from .faults import Cut, Faults
from .iam_pools import Pools
from .iamcredentials import Impersonation
from .oauth2 import TokenEndpoint
from .operations import Operations
from .policies import Policies
from .proxying import Registry
from .resourcemanager import Projects
from .service_accounts import Accounts
from .serviceusage import ServiceUsage
from .store import Store
from .sts import Exchange

# The location for requests to this machine's address.
_LOCAL_LOCATION = "us-central1"


class Entrance:
    """Middleware for all requests: updates the state, applies faults, and logs a line without credentials."""

    def __init__(
        self,
        app: ASGIApp,
        operations: Operations,
        store: Store,
        faults: Faults,
        counters: Counters,
        clock: Callable[[], float],
    ) -> None:
        self._app, self._operations, self._store, self._clock = app, operations, store, clock
        self._faults, self._counters = faults, counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        host = dict(scope["headers"]).get(b"host", b"-").decode("latin-1")
        start, status = time.monotonic(), 0
        if host.endswith(".googleapis.com"):
            self._counters.asked(scope["method"], host)

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answer(host.partition(":")[0], scope, receive, observe)
        finally:
            # The last part of a download address is a credential, and queries may contain one.
            path, mark, _token = scope["path"].partition("/downloads/")
            milliseconds = (time.monotonic() - start) * 1000
            print(scope["method"], host, ascii(path + mark)[1:-1], status, f"{milliseconds:.0f}ms", file=sys.stderr)

    async def _answer(self, host: str, scope: Scope, receive: Receive, send: Send) -> None:
        fault = self._faults.of_host(host, scope["path"])
        if fault is not None:
            await asyncio.sleep(fault.hang or fault.seconds)
            if fault.hang or fault.status:
                await errors.outage(host, fault.status or 504)(scope, receive, send)
                return
        self._operations.settle()
        self._store.expire(messages.rfc3339(self._clock()))
        if fault is None or not fault.truncate:
            await self._app(scope, receive, send)
            return

        async def halve(message: Message) -> None:
            body = message.get("body", b"")
            if body:
                await send({**message, "body": body[: len(body) // 2], "more_body": True})
                raise Cut
            await send(message)

        # The server closes the connection of an incomplete answer.
        with contextlib.suppress(Cut):
            await self._app(scope, receive, halve)


def create_app(
    config: Config,
    store: Store,
    *,
    registry: httpx.AsyncClient | None = None,
    clock: Callable[[], float] = time.time,
    steady_clock: Callable[[], float] = time.monotonic,
) -> ASGIApp:
    """Returns the application. registry: another client in tests. clock: seconds since the epoch. steady_clock: for operations and lags."""
    client = registry or httpx.AsyncClient(
        base_url=config.registry_url,
        # Without proxy and limits, since the real registry is on loopback.
        trust_env=False,
        timeout=httpx.Timeout(60),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
    )
    faults = Faults()
    conditions = faults.conditions

    def now() -> float:
        return clock() + conditions.clock_shift

    counters, operations, tokens = Counters(), Operations(steady_clock), principals.Tokens(now)
    tokens.add(config.operator_token(), principals.operator(config.operator))
    policies = Policies(store, conditions, steady_clock)
    apis = Apis(store, config.disabled_services, conditions, steady_clock)
    access = Access(store, tokens, policies, apis, config.projects, now)

    def serve_docker(location: str, repository: str = "") -> Docker:
        registry = Registry(client)
        return Docker(store, tokens, access, counters, faults, registry, now, location=location, repository=repository)

    docker = serve_docker(_LOCAL_LOCATION)
    local = Router([*Admin(tokens, counters, faults).routes, *docker.routes], redirect_slashes=False)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with client:
            yield

    hosts = {
        "iam.googleapis.com": [
            *Pools(store, operations, access, now).routes,
            *Accounts(store, access, policies, now).routes,
        ],
        "sts.googleapis.com": Exchange(store, tokens, access, counters, conditions, now).routes,
        "iamcredentials.googleapis.com": Impersonation(store, tokens, access, now).routes,
        "oauth2.googleapis.com": TokenEndpoint(store, tokens, now).routes,
        "serviceusage.googleapis.com": ServiceUsage(operations, access, apis).routes,
        "cloudresourcemanager.googleapis.com": Projects(access, policies).routes,
        "artifactregistry.googleapis.com": Repositories(store, operations, access, policies, now).routes,
        "{location}-docker.pkg.dev": docker.routes,
        **{host: serve_docker(location, host).routes for host, location in GCR_LOCATIONS.items()},
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
        faults,
        counters,
        now,
    )
