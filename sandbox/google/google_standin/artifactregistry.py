# SPDX-License-Identifier: GPL-3.0-or-later
"""artifactregistry.googleapis.com: docker repositories and their IAM policies (discovery document v1)."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from . import cel, messages
from .access import ROLES, Access
from .errors import GoogleError
from .operations import Operations
from .principals import member_pool
from .store import Resource, Store

_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_MEMBER = re.compile(r"(user|serviceAccount|group|domain):.+|allUsers|allAuthenticatedUsers")
_REPOSITORY: messages.Fields = {
    "name": str,
    "format": str,
    "mode": str,
    "description": str,
    "labels": {"*": str},
    "createTime": str,
    "updateTime": str,
    "registryUri": str,
}
_CONDITION: messages.Fields = {"title": str, "expression": str, "description": str}
_BINDING: messages.Fields = {"role": str, "members": [str], "condition": _CONDITION}
_SET_POLICY: messages.Fields = {"policy": {"version": int, "etag": str, "bindings": [_BINDING]}}


class Repositories:
    """Repositories by full name with the project's id. A deleted one leaves its images in the registry."""

    def __init__(
        self, store: Store, operations: Operations, access: Access, clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._operations, self._access, self._clock = store, operations, access, clock
        location = "/v1/projects/{project}/locations/{location}"
        one = f"{location}/repositories/{{repository}}"
        self.routes = [
            Route(f"{location}/repositories", self._create, methods=["POST"]),
            Route(f"{location}/repositories", self._list, methods=["GET"]),
            Route(f"{location}/operations/{{operation}}", self._operation, methods=["GET"]),
            # GET for Artifact Registry, where other services take POST.
            Route(f"{one}:getIamPolicy", self._get_policy, methods=["GET"]),
            Route(f"{one}:setIamPolicy", self._set_policy, methods=["POST"]),
            Route(one, self._get, methods=["GET"]),
            Route(one, self._delete, methods=["DELETE"]),
        ]

    def _location(self, request: Request, permission: str) -> str:
        location = f"locations/{request.path_params['location']}"
        return f"projects/{self._access.require(request, 'artifactregistry', permission, location)}/{location}"

    def _existing(self, request: Request, verb: str) -> str:
        """The full name of the request's repository, if the caller has the permission."""
        relative = f"locations/{request.path_params['location']}/repositories/{request.path_params['repository']}"
        permission = f"artifactregistry.repositories.{verb}"
        name = f"projects/{self._access.require(request, 'artifactregistry', permission, relative)}/{relative}"
        if name not in self._store.repositories:
            raise GoogleError("NOT_FOUND", "Requested entity was not found.")
        return name

    async def _create(self, request: Request) -> JSONResponse:
        parent = self._location(request, "artifactregistry.repositories.create")
        body = await messages.read(request, _REPOSITORY)
        short = request.query_params.get("repositoryId", "")
        if not _ID.fullmatch(short):
            raise GoogleError("INVALID_ARGUMENT", f"Invalid repository id '{short}'.")
        if body.get("format") != "DOCKER" or body.get("mode", "STANDARD_REPOSITORY") != "STANDARD_REPOSITORY":
            raise GoogleError("UNIMPLEMENTED", "This stand-in has standard repositories of format DOCKER only.")
        name = f"{parent}/repositories/{short}"
        if name in self._store.repositories or self._operations.pending(name):
            raise GoogleError("ALREADY_EXISTS", "the repository already exists")
        _, project, _, location = parent.split("/")
        time_ = messages.rfc3339(self._clock())

        def apply() -> Resource:
            self._store.repositories[name] = {
                **body,
                "name": name,
                "mode": "STANDARD_REPOSITORY",
                "createTime": time_,
                "updateTime": time_,
                "registryUri": f"{location}-docker.pkg.dev/{project}/{short}",
            }
            self._store.save()
            type_url = "type.googleapis.com/google.devtools.artifactregistry.v1.Repository"
            return {"@type": type_url, **self._store.repositories[name]}

        return JSONResponse(self._operations.start(parent, name, apply))

    async def _get(self, request: Request) -> JSONResponse:
        return JSONResponse(self._store.repositories[self._existing(request, "get")])

    async def _list(self, request: Request) -> JSONResponse:
        prefix = f"{self._location(request, 'artifactregistry.repositories.list')}/repositories/"
        found = [item for name, item in sorted(self._store.repositories.items()) if name.startswith(prefix)]
        items, rest = messages.page(request, found, 100, 1000)
        return JSONResponse(messages.pruned({"repositories": items, **rest}))

    async def _delete(self, request: Request) -> JSONResponse:
        name = self._existing(request, "delete")

        def apply() -> Resource:
            self._store.repositories.pop(name, None)
            self._store.policies.pop(name, None)
            self._store.save()
            return {"@type": "type.googleapis.com/google.protobuf.Empty"}

        return JSONResponse(self._operations.start(name.partition("/repositories/")[0], name, apply))

    async def _operation(self, request: Request) -> JSONResponse:
        parent = self._location(request, "artifactregistry.repositories.get")
        found = self._operations.get(f"{parent}/operations/{request.path_params['operation']}")
        if found is None:
            raise GoogleError("NOT_FOUND", "Requested entity was not found.")
        return JSONResponse(found)

    async def _get_policy(self, request: Request) -> JSONResponse:
        return JSONResponse(self._policy(self._existing(request, "getIamPolicy")))

    def _policy(self, name: str) -> Resource:
        # ACAB is the etag of a policy that nobody has set yet.
        return self._store.policies.get(name, {"etag": "ACAB"})

    async def _set_policy(self, request: Request) -> JSONResponse:
        name = self._existing(request, "setIamPolicy")
        policy = (await messages.read(request, _SET_POLICY)).get("policy", {})
        current = self._policy(name)["etag"]
        # Without an etag the policy is overwritten blindly, as at Google.
        if policy.get("etag", current) != current:
            raise GoogleError(
                "ABORTED",
                "There were concurrent policy changes. Please retry the whole read-modify-write with exponential "
                f"backoff. The request's ETag '{policy['etag']}' did not match the current policy's ETag '{current}'.",
            )
        bindings = self._bindings(policy)
        conditional = any("condition" in binding for binding in bindings)
        self._store.policies[name] = {
            **({"version": 3 if conditional else 1, "bindings": bindings} if bindings else {}),
            "etag": secrets.token_urlsafe(9),
        }
        self._store.save()
        return JSONResponse(self._store.policies[name])

    def _bindings(self, policy: Resource) -> list[Resource]:
        """The bindings, checked, one for each role and condition, as Google returns them."""
        merged: dict[tuple[str, str], Resource] = {}
        for binding in policy.get("bindings", []):
            role, members = binding.get("role"), binding.get("members", [])
            if role not in ROLES:
                raise GoogleError("INVALID_ARGUMENT", f"Role {role} is not supported for this resource.")
            for member in members:
                self._check_member(member)
            condition = binding.get("condition")
            if condition is not None:
                _check_condition(condition, policy.get("version"))
            if members:
                entry = merged.setdefault(
                    (role, repr(condition)),
                    {"role": role, "members": [], **({"condition": condition} if condition else {})},
                )
                entry["members"] = sorted({*entry["members"], *members})
        return [merged[key] for key in sorted(merged)]

    def _check_member(self, member: str) -> None:
        if member.startswith(("principal://", "principalSet://")):
            pool = member_pool(member)
            # A soft-deleted pool is still known: its members stay in policies and grant nothing.
            if pool not in self._store.pools:
                raise GoogleError(
                    "INVALID_ARGUMENT",
                    f"Identity Pool does not exist ({pool or member}). Please check that you specified a valid "
                    "resource name as returned in the `name` attribute in the configuration API.",
                )
        elif not _MEMBER.fullmatch(member):
            raise GoogleError(
                "INVALID_ARGUMENT",
                f"The member {member} is of an unknown type. Please set a valid type prefix for the member.",
            )


def _check_condition(condition: Resource, version: int | None) -> None:
    if version != 3:
        raise GoogleError("INVALID_ARGUMENT", "A policy with conditions must have version 3.")
    if not condition.get("title") or not condition.get("expression"):
        raise GoogleError("INVALID_ARGUMENT", "A condition needs a title and an expression.")
    try:
        cel.check(condition["expression"], {"request", "resource"})
    except cel.CelError as error:
        raise GoogleError("INVALID_ARGUMENT", f"Condition expression compilation failed: {error}") from None
