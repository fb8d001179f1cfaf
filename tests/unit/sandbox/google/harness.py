# SPDX-License-Identifier: GPL-3.0-or-later
"""The Google emulator in memory, with a client for all its hosts, signing keys, and clocks that tests control."""

from __future__ import annotations

import asyncio
import hashlib
import json
import pathlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

import httpx
import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from google_emulator.app import create_app
from google_emulator.config import Config
from google_emulator.store import Store
from tests.unit.sandbox.google import contract

IAM = "https://iam.googleapis.com/v1"
STS = "https://sts.googleapis.com/v1/token"
AR = "https://artifactregistry.googleapis.com/v1"
IAM_CREDENTIALS = "https://iamcredentials.googleapis.com/v1"
OAUTH2 = "https://oauth2.googleapis.com/token"
USAGE = "https://serviceusage.googleapis.com/v1"
CRM = "https://cloudresourcemanager.googleapis.com"
FAULTS = "https://127.0.0.1/emulator/faults"
DOCKER = "https://us-central1-docker.pkg.dev"
POOLS = f"{IAM}/projects/demo/locations/global/workloadIdentityPools"
POOL = "projects/42/locations/global/workloadIdentityPools/cache"
PROVIDERS = f"{IAM}/{POOL}/providers"
PROVIDER = f"{POOL}/providers/kubernetes"
REPOSITORY = "projects/demo/locations/us-central1/repositories/private"
ISSUER = "https://kubernetes.default.svc.cluster.local"
SUBJECT = "system:serviceaccount:registry-cache:registry-cache"
MEMBER = f"principal://iam.googleapis.com/{POOL}/subject/{SUBJECT}"
ACCOUNTS = f"{IAM}/projects/demo/serviceAccounts"
EMAIL = "registry-cache@demo.iam.gserviceaccount.com"
CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
READER = "roles/artifactregistry.reader"
LAYER = b"layer " * 1000
LAYER_DIGEST = f"sha256:{hashlib.sha256(LAYER).hexdigest()}"
TYPE = "urn:ietf:params:oauth:token-type:"


def refused(answer: httpx.Response, code: int, status: str, text: str) -> None:
    """Check that an API of Google refused a request."""
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["status"]) == (code, code, status)
    assert text in error["message"]


def fake_registry() -> Starlette:
    """Returns a registry with one image of one layer. It answers uploads with an absolute Location, like distribution by default."""

    async def manifest(request: Request) -> Response:
        if "authorization" in request.headers:
            return Response("a credential leaked", 500)
        accepted = ", ".join(request.headers.getlist("accept"))
        if request.path_params["tag"] != "1.0" or "application/vnd.oci.image.manifest.v1+json" not in accepted:
            return Response('{"errors":[{"code":"MANIFEST_UNKNOWN"}]}', 404)
        return Response("{}", headers={"Docker-Content-Digest": "sha256:abc", "Content-Type": "application/json"})

    async def blob(request: Request) -> Response:
        if request.path_params["digest"] != LAYER_DIGEST:
            return Response('{"errors":[{"code":"BLOB_UNKNOWN"}]}', 404)
        if request.headers.get("range") == "bytes=6-11":
            return Response(LAYER[6:12], 206, {"Content-Range": f"bytes 6-11/{len(LAYER)}"})
        return Response(LAYER)

    async def upload(request: Request) -> Response:
        if request.method == "PUT":
            assert await request.body() == LAYER
            return Response(status_code=201)
        query = f"?{request.url.query}" if request.url.query else ""
        location = f"http://registry:5000/v2/{request.path_params['name']}/blobs/uploads/id{query}"
        return Response(status_code=202, headers={"Location": location})

    name = "/v2/{name:path}"
    return Starlette(
        routes=[
            Route(f"{name}/manifests/{{tag}}", manifest),
            Route(f"{name}/blobs/uploads/", upload, methods=["POST"]),
            Route(f"{name}/blobs/uploads/id", upload, methods=["PUT"]),
            Route(f"{name}/blobs/{{digest}}", blob),
        ]
    )


class RegistryTransport(httpx.ASGITransport):
    """Records each path, and counts answers whose connection is not released."""

    unclosed = 0
    down = False

    def __init__(self, app: Starlette) -> None:
        super().__init__(app)
        self.paths: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("refused")
        self.paths.append(request.url.path)
        response = await super().handle_async_request(request)
        self.unclosed += 1
        return httpx.Response(response.status_code, headers=response.headers, stream=_Stream(self, response.stream))


class _Stream(httpx.AsyncByteStream):
    def __init__(self, transport: RegistryTransport, stream: Any) -> None:
        self._transport, self._stream = transport, stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk

    async def aclose(self) -> None:
        self._transport.unclosed -= 1


class Keys:
    """A cluster's signing keys: an RSA and an EC key, and one that the cluster does not publish."""

    def __init__(self) -> None:
        self.rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.foreign = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def jwks(self) -> dict[str, Any]:
        return {
            "keys": [
                _published(jwt.algorithms.RSAAlgorithm.to_jwk(self.rsa.public_key(), as_dict=True), "rsa"),
                _published(jwt.algorithms.ECAlgorithm.to_jwk(self.ec.public_key(), as_dict=True), "ec"),
            ]
        }


def _published(key: dict[str, Any], kid: str) -> dict[str, Any]:
    """Returns a key as a cluster publishes it: without key_ops, which PyJWT adds and Google rejects."""
    return {**{name: value for name, value in key.items() if name != "key_ops"}, "kid": kid}


def _check_contract(answer: httpx.Response) -> None:
    """Check a request and its answer against Google's discovery documents."""
    request, parts = answer.request, answer.request.url
    url = f"https://{parts.host}{parts.path}"
    if not parts.host.endswith(".googleapis.com") or url == OAUTH2:
        return
    if contract.find(request.method, url) is None:
        assert answer.status_code in (404, 405), f"{request.method} {url}: the emulator alone knows this method"
        return
    if answer.status_code == 502:  # a page of Google's front end
        return
    if answer.status_code < 400:
        query, body = parts.params.multi_items(), _request_body(request)
        contract.check(request.method, url, query, body, answer.status_code, answer.json())
    else:
        contract.check_answer(request.method, url, answer.status_code, answer.json())


def _request_body(request: httpx.Request) -> Any:
    """Returns the body as JSON. Forms of the token exchange have snake_case names."""
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        fields = dict(parse_qsl(request.content.decode()))
        return {re.sub("_(.)", lambda match: match[1].upper(), name): value for name, value in fields.items()}
    return json.loads(request.content) if request.content else None


class Google:
    """The emulator. Calls are made as the operator by default."""

    def __init__(self, path: pathlib.Path, keys: Keys, projects: dict[str, str] | None = None) -> None:
        self.now, self.steady, self.keys = 1_800_000_000.0, 0.0, keys
        self.config = Config(
            address="127.0.0.1",
            state_dir=path,
            registry_url="http://registry:5000",
            operator="user:admin@example.com",
            operator_token_file=path / "operator-token",
            projects=projects or {"demo": "42", "example.com:demo": "43"},
        )
        self.operator = self.config.operator_token()
        self.registry = RegistryTransport(fake_registry())
        app = create_app(
            self.config,
            Store(path / "resources.json"),
            registry=httpx.AsyncClient(transport=self.registry, base_url="http://registry:5000"),
            clock=lambda: self.now,
            steady_clock=lambda: self.steady,
        )
        self._app = app
        self._http = httpx.AsyncClient(transport=httpx.ASGITransport(app))
        # One loop for all calls, since the emulator's client is bound to it.
        self._runner = asyncio.Runner()

    def close(self) -> None:
        self._runner.close()

    def call(self, method: str, url: str, *, token: str | None = "operator", **options: Any) -> httpx.Response:
        headers = options.pop("headers", {})
        if token is not None:
            headers["Authorization"] = f"Bearer {self.operator if token == 'operator' else token}"
        answer = self._runner.run(self._http.request(method, url, headers=headers, **options))
        _check_contract(answer)
        return answer

    def serve(self, use: Callable[[str], Awaitable[Any]]) -> Any:
        """Run the emulator as a real server on loopback, without TLS, and return the result of `use(url)`."""

        async def run() -> Any:
            config = uvicorn.Config(
                self._app, host="127.0.0.1", port=0, http="h11", lifespan="off", log_level="critical"
            )
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve())
            try:
                while not server.started:
                    await asyncio.sleep(0.01)
                return await use(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
            finally:
                server.should_exit = True
                await serving

        return self._runner.run(run())

    def done(self, answer: httpx.Response) -> dict[str, Any]:
        """Returns the response of an operation after it is done."""
        assert answer.status_code == 200, answer.text
        self.steady += 1
        host = answer.request.url.host
        operation = self.call("GET", f"https://{host}/v1/{answer.json()['name']}").json()
        assert operation["done"] is True
        return operation["response"]

    def create_pool(self, name: str = "cache", **fields: Any) -> httpx.Response:
        return self.call("POST", POOLS, params={"workloadIdentityPoolId": name}, json=fields)

    def create_provider(self, **fields: Any) -> httpx.Response:
        body = {
            "attributeMapping": {"google.subject": "assertion.sub"},
            "attributeCondition": f"assertion.sub == '{SUBJECT}'",
            "oidc": {"issuerUri": ISSUER, "jwksJson": json.dumps(self.keys.jwks())},
            **fields,
        }
        return self.call("POST", PROVIDERS, params={"workloadIdentityPoolProviderId": "kubernetes"}, json=body)

    def patch(self, name: str, mask: str, **fields: Any) -> httpx.Response:
        return self.call("PATCH", f"{IAM}/{name}", params={"updateMask": mask}, json=fields)

    def federate(self, **fields: Any) -> None:
        """Create a pool and a provider."""
        self.done(self.create_pool())
        self.done(self.create_provider(**fields))

    def create_repository(self) -> None:
        parent, _, name = REPOSITORY.partition("/repositories/")
        url = f"{AR}/{parent}/repositories"
        self.done(self.call("POST", url, params={"repositoryId": name}, json={"format": "DOCKER"}))

    def set_policy(self, *bindings: dict[str, Any], **policy: Any) -> httpx.Response:
        body = {"policy": {**policy, "bindings": list(bindings)}}
        return self.call("POST", f"{AR}/{REPOSITORY}:setIamPolicy", json=body)

    def grant(self, role: str = READER, member: str = MEMBER) -> None:
        answer = self.set_policy({"role": role, "members": [member]})
        assert answer.status_code == 200, answer.text

    def jwt(self, key: Any = None, kid: str | None = "rsa", algorithm: str = "RS256", **claims: Any) -> str:
        """Returns a projected service account token. Claims of None are omitted."""
        payload = {
            "iss": ISSUER,
            "sub": SUBJECT,
            "aud": [f"https://iam.googleapis.com/{PROVIDER}"],
            "iat": int(self.now),
            "exp": int(self.now) + 3600,
            **claims,
        }
        payload = {name: value for name, value in payload.items() if value is not None}
        return jwt.encode(payload, key or self.keys.rsa, algorithm, headers={"kid": kid} if kid else None)

    def create_account(self, name: str = "registry-cache", **fields: Any) -> httpx.Response:
        return self.call("POST", ACCOUNTS, json={"accountId": name, "serviceAccount": fields})

    def set_account_policy(self, *bindings: dict[str, Any], email: str = EMAIL, **policy: Any) -> httpx.Response:
        body = {"policy": {**policy, "bindings": list(bindings)}}
        return self.call("POST", f"{ACCOUNTS}/{email}:setIamPolicy", json=body)

    def set_project_policy(self, *bindings: dict[str, Any], **policy: Any) -> httpx.Response:
        body = {"policy": {**policy, "bindings": list(bindings)}}
        return self.call("POST", f"{CRM}/v1/projects/demo:setIamPolicy", json=body)

    def impersonate(self, token: str | None, email: str = EMAIL, **fields: Any) -> httpx.Response:
        url = f"{IAM_CREDENTIALS}/projects/-/serviceAccounts/{email}:generateAccessToken"
        return self.call("POST", url, token=token, json={"scope": [CLOUD_PLATFORM], **fields})

    def account_token(self, *roles: str, name: str = "caller") -> str:
        """Returns an access token of a service account with only these roles in the project."""
        assert self.create_account(name).status_code == 200
        email = f"{name}@demo.iam.gserviceaccount.com"
        bindings = [{"role": role, "members": [f"serviceAccount:{email}"]} for role in roles]
        assert self.set_project_policy(*bindings).status_code == 200
        return self.impersonate("operator", email).json()["accessToken"]

    def fault(self, **body: Any) -> None:
        answer = self.call("POST", FAULTS, json=body)
        assert answer.status_code == 204, answer.text

    def exchange(self, token: str | None = None, **fields: str) -> httpx.Response:
        form = {
            "audience": f"//iam.googleapis.com/{PROVIDER}",
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "requested_token_type": f"{TYPE}access_token",
            "subject_token_type": f"{TYPE}jwt",
            "subject_token": token or self.jwt(),
            "scope": CLOUD_PLATFORM,
            **fields,
        }
        return self.call("POST", STS, token=None, data=form)

    def access_token(self, **claims: Any) -> str:
        answer = self.exchange(self.jwt(**claims))
        assert answer.status_code == 200, answer.text
        return answer.json()["access_token"]

    def counters(self) -> dict[str, Any]:
        return self.call("GET", "https://127.0.0.1/emulator/counters").json()
