# SPDX-License-Identifier: GPL-3.0-or-later
"""LOCATION-docker.pkg.dev: the docker endpoint with its Bearer challenge, in front of a real registry."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from .access import DOCKER_SCOPES, Access
from .apis import READY
from .counters import Counters
from .errors import DockerError, GoogleError
from .faults import Faults
from .principals import ANONYMOUS, Principal, Tokens
from .proxying import Registry
from .roles import DELETE, DOWNLOAD, UPLOAD
from .store import Store

# Name and reference of the distribution spec, so that no other parser can read another path.
_NAME = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(
    rf"(?P<name>{_NAME}(?:/{_NAME})*)/"
    r"(?P<rest>(?P<kind>manifests|blobs|tags|referrers)/(?P<reference>uploads/[\w=-]*|\w[\w.:+-]*))",
    re.ASCII,
)
_TOKEN_USER = re.compile(r"oauth2accesstoken|_dcgcr_.*_token")
_ACTIONS = {"pull": {DOWNLOAD}, "push": {UPLOAD}, "delete": {DELETE}, "*": {DOWNLOAD, UPLOAD, DELETE}}
# The lifetime that the endpoint claims, which may be longer than the real one.
_CLAIMED_SECONDS = 43200
# Google's value is not known †.
_DOWNLOAD_SECONDS = 300
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


@dataclass(frozen=True)
class _Download:
    path: str
    image: str
    expires: float
    counted: bool


class Docker:
    """The endpoint of a location. It checks the permission for every request."""

    def __init__(
        self,
        store: Store,
        tokens: Tokens,
        access: Access,
        counters: Counters,
        faults: Faults,
        registry: Registry,
        clock: Callable[[], float] = time.time,
        *,
        location: str = "",
        repository: str = "",
    ) -> None:
        """location: for hosts whose name has none. repository: its id, for hosts whose paths have none, such as gcr.io."""
        self._store, self._tokens, self._access, self._counters = store, tokens, access, counters
        self._faults, self._registry, self._clock, self._location = faults, registry, clock, location
        self._fixed_repository = repository
        self._downloads: dict[str, _Download] = {}
        self.routes = [
            Route("/v2/", self._ping, methods=["GET"]),
            Route("/v2/token", self._token, methods=_METHODS),
            Route("/v2/{path:path}", self._repository_path, methods=_METHODS),
            Route(
                "/artifacts-downloads/namespaces/{project}/repositories/{repository}/downloads/{token}",
                self._download,
                methods=["GET"],
            ),
        ]

    async def _ping(self, request: Request) -> Response:
        try:
            principal = self._principal(request)
        except DockerError:
            self._count("ping", None)
            self._count("denied", None)
            raise
        self._count("ping", principal)
        if principal is None:
            # Without a service, as at Google: the challenge has only the realm.
            raise _challenge(request, "No credential was supplied.")
        return JSONResponse({})

    async def _token(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            raise DockerError(405, "UNSUPPORTED", "Method Not Allowed", {"Allow": "GET"})
        credential = _credential(request)
        principal = ANONYMOUS if credential is None else self._tokens.find(credential)
        self._count("token", principal)
        if principal is None:
            self._count("denied", None)
            raise DockerError(401, "UNAUTHORIZED", "authentication failed")
        for scope in " ".join(request.query_params.getlist("scope")).split():
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            if kind == "repository":
                permissions = set().union(*(_ACTIONS.get(action, set()) for action in actions.split(",")))
                self._authorize(request, principal, name, permissions)
        return JSONResponse({"token": self._token_for(credential), "expires_in": _CLAIMED_SECONDS})

    def _token_for(self, credential: str | None) -> str:
        """Issue a docker token, which expires with its access token."""
        if credential is None:
            return self._tokens.issue(ANONYMOUS, self._clock() + _CLAIMED_SECONDS)
        return self._tokens.derive(credential)

    async def _repository_path(self, request: Request) -> Response:
        match = _PATH.fullmatch(request.path_params["path"])
        if match is None:
            raise DockerError(404, "NOT_FOUND", "Not Found")
        name, kind, reference = match["name"], match["kind"], match["reference"]
        uploading = kind == "blobs" and reference.startswith("uploads/")
        if uploading or request.method in ("POST", "PUT", "PATCH"):
            permission, actions = UPLOAD, "pull,push"
        elif request.method == "DELETE":
            permission, actions = DELETE, "delete"
        else:
            permission, actions = DOWNLOAD, "pull"
        try:
            principal = self._principal(request)
        except DockerError:
            self._count("denied", None, name)
            raise
        if principal is None:
            raise _challenge(
                request,
                "No valid credential was supplied.",
                f',service="{request.headers["host"]}",scope="repository:{name}:{actions}"',
            )
        self._authorize(request, principal, name, {permission})
        path = f"/v2/{name}/{match['rest']}"
        if permission == DOWNLOAD:
            path = await self._source(request, name, path)
        elif (mode := self._store.repositories[self._repository(request, name)]["mode"]) != "STANDARD_REPOSITORY":
            raise DockerError(400, "UNSUPPORTED", f"A repository of mode {mode} takes no images.")  # † in Google's words
        if permission == UPLOAD:
            self._count("upload", principal, name)
            return await self._registry.forward(request, path, self._upload_query(request, principal))
        if kind == "blobs" and request.method == "GET":
            return await self._redirect(principal, name, path)
        if kind in ("manifests", "blobs") and permission == DOWNLOAD:
            digest = reference if kind == "blobs" else None
            self._count(f"{kind.removesuffix('s')}_{request.method.lower()}", principal, name, digest)
        missing = None
        if kind == "manifests":
            missing = DockerError(404, "MANIFEST_UNKNOWN", f'Failed to fetch "{reference}"')
        return await self._registry.forward(request, path, request.query_params.multi_items(), missing=missing)

    async def _source(self, request: Request, name: str, path: str) -> str:
        """Returns the first upstream of a virtual repository, by priority, that has the content."""
        config = self._store.repositories[self._repository(request, name)].get("virtualRepositoryConfig", {})
        own = "/".join(name.split("/")[:2])
        for policy in sorted(config.get("upstreamPolicies", []), key=lambda policy: -policy.get("priority", 0)):
            _, project, _, _, _, repository = policy["repository"].split("/")
            candidate = path.replace(f"/v2/{own}/", f"/v2/{project}/{repository}/", 1)
            if await self._registry.head(candidate) == 200:
                return candidate
        return path

    def _upload_query(self, request: Request, principal: Principal) -> list[tuple[str, str]]:
        """Returns the query, without a cross-repository mount from a repository that the principal may not read."""
        query = request.query_params.multi_items()
        source = request.query_params.get("from")
        if source is None:
            return query
        if self._access.allows(principal, DOWNLOAD, self._repository(request, source)):
            return query
        return [(key, value) for key, value in query if key not in ("from", "mount")]

    async def _redirect(self, principal: Principal, name: str, path: str) -> Response:
        status = await self._registry.head(path)
        if status != 200:
            raise DockerError(status, "BLOB_UNKNOWN", f'Failed to fetch "{path.rpartition("/")[2]}"')
        now = self._clock()
        for token in [token for token, download in self._downloads.items() if download.expires <= now]:
            del self._downloads[token]
        project, repository = name.split("/")[:2]
        folder = f"/artifacts-downloads/namespaces/{project}/repositories/{repository}/downloads"
        location = f"{folder}/{secrets.token_urlsafe(192)}"
        self._count("blob_get", principal, name, path.rpartition("/")[2])
        self._downloads[location] = _Download(path, name, now + _DOWNLOAD_SECONDS, not principal.operator)
        return RedirectResponse(location, 302)

    async def _download(self, request: Request) -> Response:
        """Serve a blob to any client that has its download address."""
        download = self._downloads.get(request.url.path)
        if download is None or download.expires <= self._clock():
            raise DockerError(403, "DENIED", "The download address is not valid.")
        if not download.counted:
            return await self._registry.forward(request, download.path)
        digest = download.path.rpartition("/")[2]
        self._counters.add("blob_download", download.image, digest)
        fault = self._faults.of_blob(download.path)
        if fault is not None:
            await asyncio.sleep(fault.seconds)
            if fault.status:
                raise DockerError(fault.status, "UNAVAILABLE", "A fault of the emulator.")
        answer = await self._registry.forward(request, download.path)
        body: AsyncIterator[bytes] = answer.body_iterator  # type: ignore[assignment]
        if fault is not None:
            body = fault.shape(body, int(answer.headers.get("content-length", 0)))
        answer.body_iterator = self._counted(body, download.image, digest)
        return answer

    async def _counted(self, body: AsyncIterator[bytes], image: str, digest: str) -> AsyncIterator[bytes]:
        async for chunk in body:
            self._counters.add("blob_bytes", image, digest, len(chunk))
            yield chunk

    def _repository(self, request: Request, name: str) -> str:
        """Returns the full name of an image's repository. Raises DockerError for an invalid name.

        The domain of a domain-scoped project is a separate path component.
        """
        parts = name.split("/")
        project, rest = (":".join(parts[:2]), parts[2:]) if "." in parts[0] else (parts[0], parts[1:])
        if len(rest) < (1 if self._fixed_repository else 2):
            raise DockerError(400, "NAME_INVALID", f"invalid number of path components: {len(parts)}")
        location = request.path_params.get("location", self._location)
        return f"projects/{project}/locations/{location}/repositories/{self._fixed_repository or rest[0]}"

    def _authorize(self, request: Request, principal: Principal, name: str, permissions: set[str]) -> None:
        repository = self._repository(request, name)
        try:
            ready = self._access.require_api("artifactregistry", repository.split("/")[1]) == READY
        except GoogleError as error:
            self._count("denied", principal, name)
            raise DockerError(403, "DENIED", error.message) from None
        if principal.scopes.isdisjoint(DOCKER_SCOPES):
            self._count("denied", principal, name)
            raise DockerError(403, "DENIED", "Request had insufficient authentication scopes.")  # † in Google's words
        for permission in sorted(permissions):
            if not ready or not self._access.allows(principal, permission, repository):
                self._count("denied", principal, name)
                if principal.anonymous:
                    message = (
                        "Unauthenticated request. Unauthenticated requests do not have permission "
                        f'"{permission}" on resource "{repository}" (or it may not exist)'
                    )
                else:
                    message = f'Permission "{permission}" denied on resource "{repository}" (or it may not exist)'
                raise DockerError(403, "DENIED", message)
        if repository not in self._store.repositories:
            short = repository.rpartition("/")[2]
            raise DockerError(404, "NAME_UNKNOWN", f'Repository "{short}" not found')

    def _principal(self, request: Request) -> Principal | None:
        """Who asks; None without a credential. A bad one is refused without a challenge."""
        credential = _credential(request)
        if credential is None:
            return None
        principal = self._tokens.find(credential)
        if principal is None:
            raise DockerError(401, "UNAUTHORIZED", "not authenticated: No valid credential was supplied.")
        return principal

    def _count(
        self, kind: str, principal: Principal | None, image: str | None = None, digest: str | None = None
    ) -> None:
        if principal is None or not principal.operator:
            self._counters.add(kind, image, digest)


def _challenge(request: Request, message: str, more: str = "") -> DockerError:
    realm = f'Bearer realm="https://{request.headers["host"]}/v2/token"{more}'
    return DockerError(401, "UNAUTHORIZED", f"not authenticated: {message}", {"WWW-Authenticate": realm})


def _credential(request: Request) -> str | None:
    """Returns the token of the Authorization header; None without a header, empty if its kind is unknown."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return ""
        return password if _TOKEN_USER.fullmatch(user) else ""
    return ""
