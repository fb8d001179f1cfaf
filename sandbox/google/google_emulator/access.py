# SPDX-License-Identifier: GPL-3.0-or-later
"""Decides what a principal may do, like IAM, for each request."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone

from starlette.requests import Request

from . import cel
from .apis import DISABLED, READY, TITLES, Apis
from .errors import GoogleError, permission_denied, scope_insufficient, service_disabled
from .policies import Policies
from .principals import CLOUD_PLATFORM, Principal, Tokens
from .roles import ROLES
from .store import Store

_IAM_SCOPES = {CLOUD_PLATFORM, "https://www.googleapis.com/auth/iam"}
_SCOPES = {"iam": _IAM_SCOPES, "iamcredentials": _IAM_SCOPES}
DOCKER_SCOPES = {
    f"https://www.googleapis.com/auth/{scope}"
    for scope in (
        "cloud-platform",
        "cloud-platform.read-only",
        "devstorage.full_control",
        "devstorage.read_write",
        "devstorage.read_only",
    )
}
_KINDS = {
    "repositories": ("artifactregistry.googleapis.com", "artifactregistry.googleapis.com/Repository"),
    "serviceAccounts": ("iam.googleapis.com", "iam.googleapis.com/ServiceAccount"),
}


class Access:
    """projects: number by id."""

    def __init__(
        self,
        store: Store,
        tokens: Tokens,
        policies: Policies,
        apis: Apis,
        projects: dict[str, str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._tokens, self._policies, self._apis, self._clock = store, tokens, policies, apis, clock
        self._ids = {number: project for project, number in projects.items()} | {name: name for name in projects}
        self.numbers = projects

    def allows(self, principal: Principal, permission: str, resource: str) -> bool:
        """resource: a full name. Grants of its project's policy count, too."""
        if principal.operator:
            return True
        if principal.pool is not None and not self._store.live_pool(principal.pool):
            return False
        if principal.account is not None and not self._store.live_account(principal.account):
            return False
        return any(
            permission in ROLES[binding["role"]]
            and not principal.members.isdisjoint(binding["members"])
            and self._condition_holds(binding, resource)
            for holder in {resource, "/".join(resource.split("/")[:2])}
            for binding in self._policies.in_effect(holder)
        )

    def require(
        self,
        request: Request,
        service: str,
        permission: str,
        resource: str = "",
        *,
        project: str | None = None,
        named: bool = True,
    ) -> str:
        """Returns the project's id if the caller of a googleapis host has the permission.

        resource: relative to the project; empty for the project itself. project: an id or number; default: the one in the
        request's path. named: whether an error names the resource. Raises GoogleError (401, 403).
        """
        principal = self.authenticate(request, service)
        project = request.path_params["project"] if project is None else project
        known = self._ids.get(project)
        relative = f"/{resource}" if resource else ""
        shown = f"//{service}.googleapis.com/projects/{project}{relative}" if named else None
        if known is not None and self.require_api(service, known) != READY:
            raise permission_denied(permission, shown)
        if known is None or not self.allows(principal, permission, f"projects/{known}{relative}"):
            raise permission_denied(permission, shown)
        return known

    def authenticate(self, request: Request, service: str) -> Principal:
        """Returns the caller. Raises GoogleError: 401 without a valid token, 403 if its scope is too narrow."""
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        principal = self._tokens.find(value) if scheme.lower() == "bearer" else None
        if principal is None:
            problem = "had invalid authentication credentials" if value else "is missing required authentication credential"
            raise GoogleError(
                "UNAUTHENTICATED",
                f"Request {problem}. Expected OAuth 2 access token, login cookie or other valid authentication credential. "
                "See https://developers.google.com/identity/sign-in/web/devconsole-project.",
            )
        if principal.scopes.isdisjoint(_SCOPES.get(service, {CLOUD_PLATFORM})):
            raise scope_insufficient(f"{service}.googleapis.com")
        return principal

    def require_api(self, service: str, project: str) -> str:
        """Returns the state of a project's API. Raises GoogleError if it is disabled. project: an id or number, maybe unknown."""
        api, known = f"{service}.googleapis.com", self._ids.get(project)
        # Service Usage is always enabled, since it enables all others.
        if known is None or service == "serviceusage":
            return READY
        answer = self._apis.answers(known, api)
        if answer == DISABLED:
            raise service_disabled(TITLES[api], api, self.numbers[known])
        return answer

    def _condition_holds(self, binding: dict, resource: str) -> bool:
        if "condition" not in binding:
            return True
        service, kind = _KINDS.get(resource.split("/")[-2], ("", ""))
        values = {
            "request": {"time": datetime.fromtimestamp(self._clock(), timezone.utc)},
            "resource": {"name": resource, "service": service, "type": kind},
        }
        try:
            return cel.evaluate(binding["condition"]["expression"], values) is True
        except cel.CelError:
            return False
