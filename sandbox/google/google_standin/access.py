# SPDX-License-Identifier: GPL-3.0-or-later
"""What a principal may do: IAM's decision at the moment of asking."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone

from starlette.requests import Request

from . import cel
from .errors import GoogleError, permission_denied
from .principals import Principal, Tokens
from .store import Store

DOWNLOAD = "artifactregistry.repositories.downloadArtifacts"
UPLOAD = "artifactregistry.repositories.uploadArtifacts"
DELETE = "artifactregistry.repositories.deleteArtifacts"

_READER = {DOWNLOAD, "artifactregistry.repositories.get"}
_WRITER = _READER | {UPLOAD}
_REPO_ADMIN = _WRITER | {DELETE}
# cloud.google.com/artifact-registry/docs/access-control, as far as the stand-in asks for permissions.
ROLES = {
    "roles/artifactregistry.reader": _READER,
    "roles/artifactregistry.writer": _WRITER,
    "roles/artifactregistry.repoAdmin": _REPO_ADMIN,
    "roles/artifactregistry.admin": _REPO_ADMIN
    | {f"artifactregistry.repositories.{verb}" for verb in ("delete", "getIamPolicy", "setIamPolicy")},
}


class Access:
    """projects: number by id."""

    def __init__(
        self, store: Store, tokens: Tokens, projects: dict[str, str], clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._tokens, self._clock = store, tokens, clock
        self._ids = {number: project for project, number in projects.items()} | {name: name for name in projects}
        self.numbers = projects

    def allows(self, principal: Principal, permission: str, resource: str) -> bool:
        """resource: a full name; only repositories carry a policy."""
        if principal.operator:
            return True
        if principal.pool is not None and not self._store.live_pool(principal.pool):
            return False
        return any(
            permission in ROLES[binding["role"]]
            and not principal.members.isdisjoint(binding["members"])
            and self._condition_holds(binding, resource)
            for binding in self._store.policies.get(resource, {}).get("bindings", [])
        )

    def require(self, request: Request, service: str, permission: str, resource: str) -> str:
        """The project's id, if the caller of a googleapis host has the permission.

        resource: relative to the project of the request's path. Raises GoogleError (401, 403).
        """
        principal = self._authenticate(request)
        named = request.path_params["project"]
        project = self._ids.get(named)
        if project is None or not self.allows(principal, permission, f"projects/{project}/{resource}"):
            raise permission_denied(permission, f"//{service}.googleapis.com/projects/{named}/{resource}")
        return project

    def _authenticate(self, request: Request) -> Principal:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if not value:
            problem = "Request is missing required authentication credential."
        elif scheme.lower() == "bearer" and (principal := self._tokens.find(value)):
            return principal
        else:
            problem = "Request had invalid authentication credentials."
        raise GoogleError(
            "UNAUTHENTICATED",
            f"{problem} Expected OAuth 2 access token, login cookie or other valid authentication credential. "
            "See https://developers.google.com/identity/sign-in/web/devconsole-project.",
        )

    def _condition_holds(self, binding: dict, resource: str) -> bool:
        if "condition" not in binding:
            return True
        values = {
            "request": {"time": datetime.fromtimestamp(self._clock(), timezone.utc)},
            "resource": {
                "name": resource,
                "service": "artifactregistry.googleapis.com",
                "type": "artifactregistry.googleapis.com/Repository",
            },
        }
        try:
            return cel.evaluate(binding["condition"]["expression"], values) is True
        except cel.CelError:
            return False
