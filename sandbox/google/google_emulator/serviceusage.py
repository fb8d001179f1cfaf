# SPDX-License-Identifier: GPL-3.0-or-later
"""serviceusage.googleapis.com: which APIs a project has enabled (discovery document v1)."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from . import messages
from .access import Access
from .apis import TITLES, Apis
from .errors import GoogleError, not_found
from .operations import Operations
from .store import Resource

_TYPE = "type.googleapis.com/google.api.serviceusage.v1."
_MAX_GET, _MAX_ENABLE = 30, 20


class ServiceUsage:
    """APIs by the name of their host."""

    def __init__(self, operations: Operations, access: Access, apis: Apis) -> None:
        self._operations, self._access, self._apis = operations, access, apis
        services = "/v1/projects/{project}/services"
        self.routes = [
            Route(services, self._list, methods=["GET"]),
            Route(f"{services}:batchGet", self._batch_get, methods=["GET"]),
            Route(f"{services}:batchEnable", self._batch_enable, methods=["POST"]),
            Route(f"{services}/{{api}}:enable", self._enable, methods=["POST"]),
            Route(f"{services}/{{api}}:disable", self._disable, methods=["POST"]),
            Route(f"{services}/{{api}}", self._get, methods=["GET"]),
            Route("/v1/operations/{operation}", self._operation, methods=["GET"]),
        ]

    def _project(self, request: Request, verb: str) -> str:
        return self._access.require(request, "serviceusage", f"serviceusage.services.{verb}")

    def _state(self, project: str, api: str) -> Resource:
        number = self._access.numbers[project]
        return {
            "name": f"projects/{number}/services/{api}",
            "parent": f"projects/{number}",
            "config": {"name": api, "title": TITLES[api]},
            "state": "ENABLED" if self._apis.enabled(project, api) else "DISABLED",
        }

    async def _get(self, request: Request) -> JSONResponse:
        project = self._project(request, "get")
        _require_known([request.path_params["api"]])
        return JSONResponse(self._state(project, request.path_params["api"]))

    async def _list(self, request: Request) -> JSONResponse:
        project = self._project(request, "list")
        wanted = request.query_params.get("filter", "")
        if wanted not in ("", "state:ENABLED", "state:DISABLED"):
            raise GoogleError("INVALID_ARGUMENT", f"Invalid filter: {wanted}.")
        found = [self._state(project, api) for api in sorted(TITLES)]
        found = [state for state in found if not wanted or state["state"] == wanted.partition(":")[2]]
        items, rest = messages.page(request, found, 50, 200)
        return JSONResponse(messages.pruned({"services": items, **rest}, {}))

    async def _batch_get(self, request: Request) -> JSONResponse:
        project = self._project(request, "get")
        names = request.query_params.getlist("names")
        parents = {f"projects/{project}", f"projects/{self._access.numbers[project]}"}
        if not 0 < len(names) <= _MAX_GET or not all(name.rpartition("/services/")[0] in parents for name in names):
            raise GoogleError(
                "INVALID_ARGUMENT", f"names must be 1 to {_MAX_GET} names of services in the parent, projects/P/services/S."
            )
        apis = [name.rpartition("/")[2] for name in names]
        _require_known(apis)
        return JSONResponse({"services": [self._state(project, api) for api in apis]})

    async def _enable(self, request: Request) -> JSONResponse:
        project, api = self._project(request, "enable"), request.path_params["api"]
        await messages.read(request, {})

        def response() -> Resource:
            return {"@type": f"{_TYPE}EnableServiceResponse", "service": self._state(project, api)}

        return self._change(project, [api], True, response)

    async def _disable(self, request: Request) -> JSONResponse:
        project, api = self._project(request, "disable"), request.path_params["api"]
        await messages.read(request, {"disableDependentServices": bool, "checkIfServiceHasUsage": str})

        def response() -> Resource:
            return {"@type": f"{_TYPE}DisableServiceResponse", "service": self._state(project, api)}

        return self._change(project, [api], False, response)

    async def _batch_enable(self, request: Request) -> JSONResponse:
        project = self._project(request, "enable")
        apis = (await messages.read(request, {"serviceIds": [str]})).get("serviceIds", [])
        if not 0 < len(apis) <= _MAX_ENABLE:
            raise GoogleError("INVALID_ARGUMENT", f"serviceIds must name 1 to {_MAX_ENABLE} services.")

        def response() -> Resource:
            states = [self._state(project, api) for api in apis]
            return {"@type": f"{_TYPE}BatchEnableServicesResponse", "services": states}

        return self._change(project, apis, True, response)

    def _change(self, project: str, apis: list[str], enabled: bool, response: Callable[[], Resource]) -> JSONResponse:
        """Change all APIs or none. If all are in that state already, the operation is done at once and cannot be polled."""
        _require_known(apis)
        if all(self._apis.enabled(project, api) == enabled for api in apis):
            return JSONResponse({"name": "operations/noop.DONE_OPERATION", "done": True, "response": response()})

        def apply() -> Resource:
            for api in apis:
                self._apis.change(project, api, enabled)
            return response()

        identifier = f"acf.p2-{self._access.numbers[project]}-{uuid.uuid4()}"
        return JSONResponse(self._operations.start("operations", project, apply, identifier))

    async def _operation(self, request: Request) -> JSONResponse:
        identifier = request.path_params["operation"]
        kind, _, rest = identifier.partition("-")
        if kind != "acf.p2":
            raise GoogleError("INVALID_ARGUMENT", f"Invalid operation name: operations/{identifier}.")  # †
        number = rest.partition("-")[0]
        self._access.require(request, "serviceusage", "serviceusage.services.get", project=number)
        found = self._operations.get(f"operations/{identifier}")
        if found is None:
            raise not_found()
        return JSONResponse(found)


def _require_known(apis: list[str]) -> None:
    if unknown := [api for api in apis if api not in TITLES]:
        raise GoogleError("PERMISSION_DENIED", f"Not found or permission denied for service(s): {', '.join(unknown)}.")
