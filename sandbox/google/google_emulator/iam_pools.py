# SPDX-License-Identifier: GPL-3.0-or-later
"""iam.googleapis.com: workload identity pools and their OIDC providers (discovery document v1)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from . import messages, provider_rules
from .access import Access
from .errors import GoogleError, not_found
from .operations import Operations
from .store import Resource, Store

_DELETED_SECONDS = 30 * 24 * 3600
_OUTPUT_ONLY: messages.Fields = {"name": str, "state": str, "expireTime": str}
_COMMON: messages.Fields = {"displayName": str, "description": str, "disabled": bool}
_CERTIFICATES: messages.Fields = {"trustAnchors": [{"pemCertificate": str}], "intermediateCas": [{"pemCertificate": str}]}
# A provider has exactly one of these.
_KINDS_OF_PROVIDER: messages.Fields = {
    "oidc": {"issuerUri": str, "allowedAudiences": [str], "jwksJson": str, "discoveryUri": str},
    "aws": {"accountId": str},
    "saml": {"idpMetadataXml": str},
    "x509": {"trustStore": _CERTIFICATES},
}


@dataclass(frozen=True)
class _Kind:
    """The differences between pools and providers."""

    collection: str
    id_parameter: str
    path_parameter: str
    permission: str
    type_url: str
    fields: messages.Fields
    immutable: messages.Fields
    check: Callable[[Resource], None]
    max_page: int


_POOL = _Kind(
    "workloadIdentityPools",
    "workloadIdentityPoolId",
    "pool",
    "iam.workloadIdentityPools",
    "type.googleapis.com/google.iam.v1.WorkloadIdentityPool",
    _COMMON,
    {**_OUTPUT_ONLY, "mode": str},
    provider_rules.check_pool,
    1000,
)
_PROVIDER = _Kind(
    "providers",
    "workloadIdentityPoolProviderId",
    "provider",
    "iam.workloadIdentityPoolProviders",
    "type.googleapis.com/google.iam.v1.WorkloadIdentityPoolProvider",
    {**_COMMON, "attributeMapping": {"*": str}, "attributeCondition": str, **_KINDS_OF_PROVIDER},
    _OUTPUT_ONLY,
    provider_rules.check_provider,
    100,
)


class Pools:
    """Pools and providers. All changes are long-running operations."""

    def __init__(
        self, store: Store, operations: Operations, access: Access, clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._operations, self._access, self._clock = store, operations, access, clock
        pools = "/v1/projects/{project}/locations/global/workloadIdentityPools"
        self.routes: list[Route] = [
            *self._collection(_POOL, pools, store.pools),
            *self._collection(_PROVIDER, f"{pools}/{{pool}}/providers", store.providers),
        ]

    def _collection(self, kind: _Kind, path: str, resources: dict[str, Resource]) -> list[Route]:
        """Returns the routes of a collection."""

        def permitted(request: Request, verb: str) -> str:
            """Returns the full name of the request's object or collection, with the project's number."""
            relative = "locations/global"
            for collection, parameter in (("workloadIdentityPools", "pool"), ("providers", "provider")):
                if parameter in request.path_params:
                    relative += f"/{collection}/{request.path_params[parameter]}"
            project = self._access.require(request, "iam", f"{kind.permission}.{verb}", relative)
            return f"projects/{self._access.numbers[project]}/{relative}"

        def existing(name: str, state: str | None = None) -> Resource:
            resource = resources.get(name)
            if resource is None:
                raise not_found()
            if state is not None and resource["state"] != state:
                raise GoogleError("FAILED_PRECONDITION", f"The resource {name} is in state {resource['state']}.")
            return resource

        def live_parent(name: str) -> None:
            """Raise GoogleError for a provider of a deleted pool, which cannot change †."""
            if kind is _PROVIDER:
                pool = self._store.pools.get(name.partition("/providers")[0])
                if pool is None:
                    raise not_found()
                if pool["state"] == "DELETED":
                    raise GoogleError("FAILED_PRECONDITION", f"The resource {pool['name']} is in state DELETED.")

        def change(name: str, make: Callable[[], Resource]) -> JSONResponse:
            def apply() -> Resource:
                resources[name] = make()
                self._store.save()
                return {"@type": kind.type_url, **resources[name]}

            return JSONResponse(self._operations.start(f"{name}/operations", name, apply))

        async def create(request: Request) -> JSONResponse:
            parent = permitted(request, "create")
            live_parent(parent)
            body = await messages.read(request, {**kind.fields, **kind.immutable})
            short = request.query_params.get(kind.id_parameter, "")
            provider_rules.check_id(kind.id_parameter, short)
            name = f"{parent}/{kind.collection}/{short}"
            wanted = {key: value for key, value in body.items() if key not in _OUTPUT_ONLY}
            kind.check(wanted)
            if name in resources or self._operations.pending(name):
                raise GoogleError("ALREADY_EXISTS", "Requested entity already exists")
            return change(name, lambda: {"name": name, "state": "ACTIVE", **wanted})

        async def get(request: Request) -> JSONResponse:
            return JSONResponse(existing(permitted(request, "get")))

        async def list_(request: Request) -> JSONResponse:
            prefix = f"{permitted(request, 'list')}/{kind.collection}/"
            deleted_too = request.query_params.get("showDeleted") == "true"
            found = [
                resource
                for name, resource in sorted(resources.items())
                if name.startswith(prefix) and (deleted_too or resource["state"] == "ACTIVE")
            ]
            key = _POOL.collection if kind is _POOL else "workloadIdentityPoolProviders"
            items, rest = messages.page(request, found, 50, kind.max_page)
            return JSONResponse(messages.pruned({key: items, **rest}, {}))

        async def patch(request: Request) -> JSONResponse:
            name = permitted(request, "update")
            live_parent(name)
            current = existing(name, "ACTIVE")
            paths = messages.mask(request.query_params.get("updateMask", ""), kind.fields)
            body = await messages.read(request, {**kind.fields, **kind.immutable})
            kind.check(messages.updated(current, body, paths, kind.fields))
            return change(name, lambda: messages.updated(resources[name], body, paths, kind.fields))

        async def delete(request: Request) -> JSONResponse:
            name = permitted(request, "delete")
            existing(name, "ACTIVE")
            expires = messages.rfc3339(self._clock() + _DELETED_SECONDS)
            return change(name, lambda: {**resources[name], "state": "DELETED", "expireTime": expires})

        async def undelete(request: Request) -> JSONResponse:
            name = permitted(request, "undelete")
            live_parent(name)
            existing(name, "DELETED")

            def make() -> Resource:
                kept = {key: value for key, value in resources[name].items() if key != "expireTime"}
                return {**kept, "state": "ACTIVE"}

            return change(name, make)

        async def operation(request: Request) -> JSONResponse:
            name = f"{permitted(request, 'get')}/operations/{request.path_params['operation']}"
            found = self._operations.get(name)
            if found is None:
                raise not_found()
            return JSONResponse(found)

        one = f"{path}/{{{kind.path_parameter}}}"
        return [
            Route(path, create, methods=["POST"]),
            Route(path, list_, methods=["GET"]),
            Route(f"{one}:undelete", undelete, methods=["POST"]),
            Route(f"{one}/operations/{{operation}}", operation, methods=["GET"]),
            Route(one, get, methods=["GET"]),
            Route(one, patch, methods=["PATCH"]),
            Route(one, delete, methods=["DELETE"]),
        ]
