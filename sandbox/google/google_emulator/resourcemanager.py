# SPDX-License-Identifier: GPL-3.0-or-later
"""cloudresourcemanager.googleapis.com: projects and their IAM policies (discovery documents v1 and v3)."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from . import messages, roles
from .access import Access
from .policies import GET_POLICY, POLICY, Policies

_CREATED = "2026-01-01T00:00:00Z"


class Projects:
    """The projects of the configuration. Both versions accept a number or an id (v3 by id †)."""

    def __init__(self, access: Access, policies: Policies) -> None:
        self._access, self._policies = access, policies
        self.routes = [
            Route("/v1/projects/{project}:getIamPolicy", self._get_policy, methods=["POST"]),
            Route("/v1/projects/{project}:setIamPolicy", self._set_policy, methods=["POST"]),
            Route("/v1/projects/{project}", self._get, methods=["GET"]),
            Route("/v3/projects/{project}", self._get, methods=["GET"]),
        ]

    def _project(self, request: Request, verb: str) -> str:
        return self._access.require(request, "cloudresourcemanager", f"resourcemanager.projects.{verb}")

    async def _get(self, request: Request) -> JSONResponse:
        project = self._project(request, "get")
        number = self._access.numbers[project]
        by_version = {
            "v1": {"projectNumber": number, "lifecycleState": "ACTIVE", "name": project},
            "v3": {"name": f"projects/{number}", "state": "ACTIVE", "displayName": project},
        }
        version = request.url.path.split("/")[1]
        return JSONResponse({"projectId": project, "createTime": _CREATED, **by_version[version]})

    async def _get_policy(self, request: Request) -> JSONResponse:
        project = self._project(request, "getIamPolicy")
        options = (await messages.read(request, GET_POLICY)).get("options", {})
        return JSONResponse(self._policies.read(f"projects/{project}", options.get("requestedPolicyVersion", 0)))

    async def _set_policy(self, request: Request) -> JSONResponse:
        project = self._project(request, "setIamPolicy")
        body = await messages.read(request, {"policy": POLICY, "updateMask": str})
        return JSONResponse(self._policies.write(f"projects/{project}", roles.all_kinds(), body.get("policy", {})))
