# SPDX-License-Identifier: GPL-3.0-or-later
"""artifactregistry.googleapis.com: docker repositories and their IAM policies (discovery document v1)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from . import messages
from .access import Access
from .errors import GoogleError, not_found
from .operations import Operations
from .policies import POLICY, Policies
from .store import Resource, Store

_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
# Repositories that serve a host of Container Registry, and the one location of each
# (cloud.google.com/artifact-registry/docs/transition/gcr-repositories).
GCR_LOCATIONS = {"gcr.io": "us", "us.gcr.io": "us", "eu.gcr.io": "europe", "asia.gcr.io": "asia"}
# Letters of any script, except capitals.
_LABEL_KEY = re.compile(r"[^\W\d_][\w-]{0,62}")
_LABEL_VALUE = re.compile(r"[\w-]{0,63}")
_UPSTREAM: messages.Fields = {"id": str, "repository": str, "priority": int}
_CREDENTIALS: messages.Fields = {"usernamePasswordCredentials": {"username": str, "passwordSecretVersion": str}}
_REMOTE: messages.Fields = {
    "description": str,
    "disableUpstreamValidation": bool,
    "upstreamCredentials": _CREDENTIALS,
}
_MUTABLE: messages.Fields = {
    "description": str,
    "labels": {"*": str},
    "dockerConfig": {"immutableTags": bool},
    "virtualRepositoryConfig": {"upstreamPolicies": [_UPSTREAM]},
    "remoteRepositoryConfig": _REMOTE,
}
_REPOSITORY: messages.Fields = {
    **_MUTABLE,
    "remoteRepositoryConfig": {
        **_REMOTE,
        "dockerRepository": {"publicRepository": str, "customRepository": {"uri": str}},
        "commonRepository": {"uri": str},
    },
    "name": str,
    "format": str,
    "mode": str,
    "kmsKeyName": str,
    "createTime": str,
    "updateTime": str,
    "registryUri": str,
}
_OUTPUT_ONLY = ("createTime", "updateTime", "registryUri")
_MODES = {
    "STANDARD_REPOSITORY": None,
    "REMOTE_REPOSITORY": "remoteRepositoryConfig",
    "VIRTUAL_REPOSITORY": "virtualRepositoryConfig",
}
_KINDS = ("artifactregistry.repositories",)


class Repositories:
    """Repositories by full name with the project's id. The images of a deleted one stay in the registry."""

    def __init__(
        self,
        store: Store,
        operations: Operations,
        access: Access,
        policies: Policies,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._operations, self._access = store, operations, access
        self._policies, self._clock = policies, clock
        location = "/v1/projects/{project}/locations/{location}"
        one = f"{location}/repositories/{{repository}}"
        self.routes = [
            Route(f"{location}/repositories", self._create, methods=["POST"]),
            Route(f"{location}/repositories", self._list, methods=["GET"]),
            Route(f"{location}/operations/{{operation}}", self._operation, methods=["GET"]),
            # Artifact Registry uses GET, other services POST.
            Route(f"{one}:getIamPolicy", self._get_policy, methods=["GET"]),
            Route(f"{one}:setIamPolicy", self._set_policy, methods=["POST"]),
            Route(one, self._get, methods=["GET"]),
            Route(one, self._patch, methods=["PATCH"]),
            Route(one, self._delete, methods=["DELETE"]),
        ]

    def _location(self, request: Request, permission: str) -> str:
        location = f"locations/{request.path_params['location']}"
        return f"projects/{self._access.require(request, 'artifactregistry', permission, location)}/{location}"

    def _existing(self, request: Request, verb: str) -> str:
        """Returns the full name of the request's repository if the caller has the permission."""
        relative = f"locations/{request.path_params['location']}/repositories/{request.path_params['repository']}"
        permission = f"artifactregistry.repositories.{verb}"
        name = f"projects/{self._access.require(request, 'artifactregistry', permission, relative)}/{relative}"
        if name not in self._store.repositories:
            raise not_found()
        return name

    async def _create(self, request: Request) -> JSONResponse:
        parent = self._location(request, "artifactregistry.repositories.create")
        body = await messages.read(request, _REPOSITORY)
        short = request.query_params.get("repositoryId", "")
        if not _ID.fullmatch(short) and GCR_LOCATIONS.get(short) != parent.rpartition("/")[2]:
            raise GoogleError("INVALID_ARGUMENT", f"Invalid repository id '{short}'.")
        wanted = {key: value for key, value in body.items() if key not in _OUTPUT_ONLY}
        wanted = {"mode": "STANDARD_REPOSITORY", **wanted}
        self._check(parent, wanted)
        name = f"{parent}/repositories/{short}"
        if name in self._store.repositories or self._operations.pending(name):
            raise GoogleError("ALREADY_EXISTS", "the repository already exists")
        _, project, _, location = parent.split("/")
        time_ = messages.rfc3339(self._clock())

        def apply() -> Resource:
            self._store.repositories[name] = {
                **wanted,
                "name": name,
                "createTime": time_,
                "updateTime": time_,
                "registryUri": f"{location}-docker.pkg.dev/{project.replace(':', '/')}/{short}",
            }
            self._store.save()
            type_url = "type.googleapis.com/google.devtools.artifactregistry.v1.Repository"
            return {"@type": type_url, **self._store.repositories[name]}

        return JSONResponse(self._operations.start(f"{parent}/operations", name, apply))

    async def _get(self, request: Request) -> JSONResponse:
        return JSONResponse(self._store.repositories[self._existing(request, "get")])

    async def _list(self, request: Request) -> JSONResponse:
        prefix = f"{self._location(request, 'artifactregistry.repositories.list')}/repositories/"
        found = [item for name, item in sorted(self._store.repositories.items()) if name.startswith(prefix)]
        items, rest = messages.page(request, found, 100, 1000)
        return JSONResponse(messages.pruned({"repositories": items, **rest}, {}))

    async def _patch(self, request: Request) -> JSONResponse:
        name = self._existing(request, "update")
        current = self._store.repositories[name]
        paths = messages.mask(request.query_params.get("updateMask", ""), _REPOSITORY)
        body = await messages.read(request, _REPOSITORY)
        new = messages.updated(current, body, paths, _REPOSITORY)
        for path in paths:
            if _fixed(messages.updated(current, body, [path], _REPOSITORY)) != _fixed(current):
                raise _refused(f"The field {path} is immutable.")
        self._check(name.partition("/repositories/")[0], new)
        new["updateTime"] = messages.rfc3339(self._clock())
        self._store.repositories[name] = new
        self._store.save()
        return JSONResponse(new)

    async def _delete(self, request: Request) -> JSONResponse:
        name = self._existing(request, "delete")
        parent = name.partition("/repositories/")[0]

        def apply() -> Resource:
            self._store.repositories.pop(name, None)
            self._store.policies.pop(name, None)
            self._store.save()
            return {"@type": "type.googleapis.com/google.protobuf.Empty"}

        return JSONResponse(self._operations.start(f"{parent}/operations", name, apply))

    async def _operation(self, request: Request) -> JSONResponse:
        parent = self._location(request, "artifactregistry.repositories.get")
        found = self._operations.get(f"{parent}/operations/{request.path_params['operation']}")
        if found is None:
            raise not_found()
        return JSONResponse(found)

    async def _get_policy(self, request: Request) -> JSONResponse:
        name = self._existing(request, "getIamPolicy")
        return JSONResponse(self._policies.read(name, request.query_params.get("options.requestedPolicyVersion", "0")))

    async def _set_policy(self, request: Request) -> JSONResponse:
        name = self._existing(request, "setIamPolicy")
        body = await messages.read(request, {"policy": POLICY})
        return JSONResponse(self._policies.write(name, _KINDS, body.get("policy", {})))

    def _check(self, parent: str, repository: Resource) -> None:
        """Raise GoogleError for a repository that Artifact Registry refuses; messages are †. parent: its location's full name."""
        mode = repository["mode"]
        if repository.get("format") != "DOCKER":
            raise GoogleError("UNIMPLEMENTED", "This emulator has repositories of format DOCKER only.")
        if mode not in _MODES:
            raise _refused(f"Invalid value at 'repository.mode': {mode}.")
        for other, config in _MODES.items():
            if config in repository and mode != other:
                raise _refused(f"The field {config} is for repositories of mode {other} only.")
        remote = repository.get("remoteRepositoryConfig", {})
        if mode == "REMOTE_REPOSITORY" and not remote.keys() & {"dockerRepository", "commonRepository"}:
            raise _refused("A remote repository needs an upstream: dockerRepository or commonRepository.")
        if remote.get("dockerRepository", {}).get("publicRepository", "DOCKER_HUB") != "DOCKER_HUB":
            raise _refused("Invalid value at 'repository.remoteRepositoryConfig.dockerRepository.publicRepository'.")
        self._check_upstreams(parent, repository.get("virtualRepositoryConfig", {}).get("upstreamPolicies", []))
        labels = repository.get("labels", {})
        if len(labels) > 64 or not all(map(_is_label, labels.items())):
            raise _refused("Invalid labels: at most 64, of lower-case letters, digits, '_' and '-'.")

    def _check_upstreams(self, parent: str, upstreams: list[Resource]) -> None:
        if len({upstream.get("id") for upstream in upstreams}) < len(upstreams):
            raise _refused("The ids of upstream policies must be unique.")
        for upstream in upstreams:
            name = upstream.get("repository", "")
            if not upstream.get("id") or name not in self._store.repositories:
                raise _refused(f"Upstream policy '{upstream.get('id', '')}': the repository '{name}' does not exist.")
            if name.split("/")[3] != parent.split("/")[3]:
                raise _refused(f"Upstream policy '{upstream['id']}': the repository is in another location.")


def _is_label(label: tuple[str, str]) -> bool:
    key, value = label
    return all((_LABEL_KEY.fullmatch(key), _LABEL_VALUE.fullmatch(value), key == key.lower(), value == value.lower()))


def _fixed(repository: Resource) -> Resource:
    """Returns the immutable fields of a repository, including a remote repository's upstream."""
    remote = repository.get("remoteRepositoryConfig", {})
    rest = {key: value for key, value in repository.items() if key not in _MUTABLE}
    return {**rest, "upstream": {key: value for key, value in remote.items() if key not in _REMOTE}}


def _refused(message: str) -> GoogleError:
    return GoogleError("INVALID_ARGUMENT", message)
