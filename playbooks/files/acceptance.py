# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks Google what assumptions.yml assumes of it. `ask` or `clean`; settings as JSON on stdin, answers as JSON on stdout.

Needs what the modules need: google-auth, requests, kubernetes, PyYAML. No token leaves the process.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import re
import sys
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import google.auth
import google.auth.crypt
import google.auth.exceptions
import google.auth.jwt
import google.oauth2.credentials
import google.oauth2.service_account
import kubernetes
import requests
import urllib3
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from google.auth import impersonated_credentials
from google.auth.transport.requests import AuthorizedSession

ASSUMPTIONS: dict[str, dict[str, Any]] = yaml.safe_load(
    pathlib.Path(__file__).with_name("assumptions.yml").read_text(encoding="utf-8")
)
SAME, DIFFERENT, NOT_ASKED = "same", "different", "not asked"

_IAM = "https://iam.googleapis.com/v1"
_STS = "https://sts.googleapis.com/v1/token"
_AR = "https://artifactregistry.googleapis.com/v1"
_IAM_CREDENTIALS = "https://iamcredentials.googleapis.com/v1"
_USAGE = "https://serviceusage.googleapis.com/v1"
_CRM = "https://cloudresourcemanager.googleapis.com/v1"
_CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
_DEVSTORAGE = "https://www.googleapis.com/auth/devstorage.read_write"
# Nobody answers there (RFC 6761).
_OWN_ISSUER = "https://acceptance.invalid"
_OWN_AUDIENCE = "https://acceptance.invalid/own"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_BLOB = b"acceptance".ljust(64, b".")
_TIMEOUT = (10, 60)
_OPERATION_SECONDS, _LAG_SECONDS, _PAUSE = 120, 300, 0.5
_SECRETS = re.compile(r"ya29\.[\w.-]+|eyJ[\w.-]{20,}|[\w-]{60,}", re.ASCII)


class Unanswered(Exception):
    """A question that could not be asked; the text is a sentence for the user."""


class NotAllowed(Unanswered):
    """What the operator may not do."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the playbook says. issuer, jwks: the cluster's; made: what there is to remove. An empty text is as good as none."""

    project: str
    location: str
    name: str
    kubeconfig: str
    context: str
    auth_kind: str
    service_account_file: str
    access_token: str
    impersonate_service_account: str = ""
    quota_project: str = ""
    issuer: str = ""
    jwks: dict[str, Any] = dataclasses.field(default_factory=dict)
    made: tuple[str, ...] = ("account", "repository", "pool")


def holds(expected: Any, answered: Any) -> bool:
    """Whether an answer is as expected; assumptions.yml says how."""
    if isinstance(expected, dict):
        if expected.keys() == {"min", "max"}:
            return isinstance(answered, (int, float)) and expected["min"] <= answered <= expected["max"]
        return isinstance(answered, dict) and all(
            key in answered and holds(value, answered[key]) for key, value in expected.items()
        )
    if isinstance(expected, str) and expected.endswith("…"):
        return isinstance(answered, str) and answered.startswith(expected.removesuffix("…"))
    return type(expected) is type(answered) and expected == answered


def judged(answers: dict[str, Any], reasons: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Every assumption with its verdict and answer. reasons: why one was not asked."""
    result = {}
    for name, assumption in ASSUMPTIONS.items():
        if name in answers:
            verdict = SAME if holds(assumption["expected"], answers[name]) else DIFFERENT
            result[name] = {**assumption, "verdict": verdict, "answered": answers[name]}
        else:
            result[name] = {**assumption, "verdict": NOT_ASKED, "reason": reasons.get(name, "the run ended before")}
    return result


def table(result: dict[str, dict[str, Any]]) -> list[str]:
    """One line for each assumption, with the answer where it differs."""
    lines = []
    for name, one in result.items():
        more = {
            SAME: "",
            DIFFERENT: f": {one['asked']}: expected {_short(one['expected'])}, answered {_short(one.get('answered'))}",
            NOT_ASKED: f": {one.get('reason')}",
        }
        lines.append(f"{one['verdict']:9}  {name}{more[one['verdict']]}")
    return lines


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


class Words:
    """Makes answers comparable between runs, and free of secrets."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def name(self, value: str, placeholder: str) -> None:
        """What stands for a value of this run from now on."""
        if value:
            self._names[value] = placeholder

    def plain(self, value: Any) -> Any:
        """A copy with placeholders, and TOKEN for whatever looks like one."""
        if isinstance(value, dict):
            return {key: self.plain(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.plain(item) for item in value]
        if not isinstance(value, str):
            return value
        for name in sorted(self._names, key=len, reverse=True):
            value = re.sub(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])", self._names[name], value)
        return _SECRETS.sub("TOKEN", value)


def content(answer: requests.Response) -> dict[str, Any]:
    """The JSON object of an answer; empty if there is none."""
    try:
        value = answer.json()
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def told(answer: requests.Response) -> dict[str, Any]:
    """The status, and what a refusal says in one of the three forms: google.rpc.Status, OAuth, distribution."""
    body = content(answer)
    status: dict[str, Any] = {"status": answer.status_code}
    if isinstance(body.get("error"), dict):
        return {**status, "error": body["error"].get("status"), "message": body["error"].get("message")}
    if isinstance(body.get("error"), str):
        return {**status, "error": body["error"], "error_description": body.get("error_description")}
    if isinstance(body.get("errors"), list) and body["errors"]:
        return {**status, "code": body["errors"][0].get("code"), "message": body["errors"][0].get("message")}
    return {**status, "text": answer.text[:200]} if answer.status_code >= 400 else status


def required(answer: requests.Response, *statuses: int) -> dict[str, Any]:
    """The object of an answer that must have one of these statuses, 200 unless told. Raises Unanswered."""
    if answer.status_code in (statuses or (200,)):
        return content(answer)
    request, words = answer.request, told(answer)
    said = words.get("message") or words.get("error_description") or words.get("text")
    text = f"{request.method} {(request.url or '').partition('?')[0]}: HTTP {answer.status_code}: {said}"
    if answer.status_code == 401:
        raise Unanswered(f"{text} Check registry_cache_gcp_auth_kind and its credential.")
    if answer.status_code == 403:
        raise NotAllowed(f"{text} Check registry_cache_wif_project; docs/google.md lists the permissions.")
    raise Unanswered(text)


def until(act: Callable[[], Any], good: Callable[[Any], bool], seconds: float = _LAG_SECONDS) -> tuple[Any, float | str]:
    """The first good result of `act`, and after how many seconds it came; the last one, and words, if none did."""
    started = time.monotonic()
    while True:
        result, passed = act(), time.monotonic() - started
        if good(result):
            return result, round(passed, 1)
        if passed > seconds:
            return result, f"not within {seconds} s"
        time.sleep(_PAUSE)


def status_is(*statuses: int) -> Callable[[requests.Response], bool]:
    return lambda answer: answer.status_code in statuses


def _retrying(session: requests.Session) -> requests.Session:
    """Reads are sent again after an overload."""
    retry = urllib3.Retry(
        total=4,
        backoff_factor=0.5,
        status_forcelist=(429, 502, 503, 504),
        allowed_methods=("GET", "HEAD", "DELETE"),
        respect_retry_after_header=False,
        raise_on_status=False,
    )
    session.mount("https://", requests.adapters.HTTPAdapter(max_retries=retry))
    return session


class Operator:
    """Google's APIs with the playbook's credential, whose kinds and variables are those of the modules."""

    def __init__(self, settings: Settings) -> None:
        credentials = self._credentials(settings)
        if settings.impersonate_service_account:
            *delegates, target = settings.impersonate_service_account.split(",")
            credentials = impersonated_credentials.Credentials(credentials, target, [_CLOUD_PLATFORM], delegates=delegates)
        if settings.quota_project:
            credentials = credentials.with_quota_project(settings.quota_project)
        # A given token cannot be refreshed: its 401 shall be seen as it is.
        codes = () if isinstance(credentials, google.oauth2.credentials.Credentials) and not credentials.refresh_token else (401,)
        self._session = _retrying(AuthorizedSession(credentials, refresh_status_codes=codes))

    @staticmethod
    def _credentials(settings: Settings) -> Any:
        kind = settings.auth_kind or os.environ.get("GCP_AUTH_KIND") or "application"
        if kind == "accesstoken":
            token = settings.access_token or os.environ.get("GCP_ACCESS_TOKEN")
            if not token:
                raise Unanswered("auth_kind accesstoken needs a token. Set registry_cache_gcp_access_token or GCP_ACCESS_TOKEN.")
            return google.oauth2.credentials.Credentials(token)
        if kind == "serviceaccount":
            factory = google.oauth2.service_account.Credentials
            if path := settings.service_account_file or os.environ.get("GCP_SERVICE_ACCOUNT_FILE"):
                return factory.from_service_account_file(os.path.expanduser(path), scopes=[_CLOUD_PLATFORM])
            if contents := os.environ.get("GCP_SERVICE_ACCOUNT_CONTENTS"):
                return factory.from_service_account_info(json.loads(contents), scopes=[_CLOUD_PLATFORM])
            raise Unanswered(
                "auth_kind serviceaccount needs a key. Set registry_cache_gcp_service_account_file or GCP_SERVICE_ACCOUNT_FILE."
            )
        return google.auth.default(scopes=[_CLOUD_PLATFORM])[0]

    def call(self, method: str, url: str, body: Any = None, **params: Any) -> requests.Response:
        """One request, whatever its answer."""
        return self._session.request(method, url, json=body, params=params, timeout=_TIMEOUT)

    def take(self, method: str, url: str, body: Any = None, **params: Any) -> dict[str, Any]:
        """The object of an answer that must be good. Raises Unanswered."""
        return required(self.call(method, url, body, **params))

    def upload(self, url: str, body: bytes, kind: str, **params: str) -> requests.Response:
        """PUT of a blob or manifest."""
        return self._session.put(url, data=body, params=params, headers={"Content-Type": kind}, timeout=_TIMEOUT)

    @property
    def token(self) -> str:
        """The access token of the last request."""
        return self._session.credentials.token

    def finish(self, api: str, operation: dict[str, Any]) -> None:
        """Wait for the end of an operation. Raises Unanswered for one that fails or lasts too long."""
        if not operation.get("done"):
            url = f"{api}/{operation['name']}"
            operation, _seconds = until(lambda: self.take("GET", url), lambda one: bool(one.get("done")), _OPERATION_SECONDS)
        if not operation.get("done") or "error" in operation:
            words = operation.get("error", {}).get("message", "it lasts too long")
            raise Unanswered(f"{operation['name']} did not succeed: {words}")

    def change(self, method: str, url: str, body: Any = None, **params: Any) -> None:
        """A change of a pool or provider to its end."""
        self.finish(_IAM, self.take(method, url, body, **params))


class Signer:
    """An issuer of its own: an RSA key that signs tokens."""

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._key = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._numbers = key.public_key().public_numbers()

    def jwks(self) -> str:
        key = {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": self.key_id}
        return json.dumps({"keys": [{**key, "n": _number(self._numbers.n), "e": _number(self._numbers.e)}]})

    def token(self, key_id: str = "", **claims: Any) -> str:
        signer = google.auth.crypt.RSASigner.from_string(self._key, key_id or self.key_id)
        return google.auth.jwt.encode(signer, claims).decode()


def _number(value: int) -> str:
    """Base64urlUInt (RFC 7518 section 2)."""
    return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()


def _unsupported_jwks() -> str:
    numbers = ec.generate_private_key(ec.SECP384R1()).public_key().public_numbers()
    key = {"kty": "EC", "crv": "P-384", "alg": "ES384", "use": "sig", "kid": "p384"}
    x, y = (base64.urlsafe_b64encode(value.to_bytes(48, "big")).rstrip(b"=").decode() for value in (numbers.x, numbers.y))
    return json.dumps({"keys": [{**key, "x": x, "y": y}]})


def _digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


class Acceptance:
    """The questions, in an order in which each finds what it needs."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._operator, self.words = settings, Operator(settings), Words()
        self._plain = _retrying(requests.Session())
        self.answers: dict[str, Any] = {}
        self.reasons: dict[str, str] = {}
        self.made: list[str] = []
        project, name = settings.project, settings.name
        self._pools = f"{_IAM}/projects/{project}/locations/global/workloadIdentityPools"
        self._pool = f"{self._pools}/{name}"
        self._repositories = f"{_AR}/projects/{project}/locations/{settings.location}/repositories"
        self._repository = f"{self._repositories}/{name}"
        self._accounts = f"{_IAM}/projects/{project}/serviceAccounts"
        self._email = f"{name}@{project}.iam.gserviceaccount.com"
        self._host = f"{settings.location}-docker.pkg.dev"
        self._image = f"{project}/{name}/image"
        self._subject = f"system:serviceaccount:{name}:{name}"
        self._signer = Signer("first")
        self._own_audience = self._pool_name = ""
        for placeholder in ("issuer", "name", "project", "location"):
            self.words.name(getattr(settings, placeholder), placeholder.upper())

    def ask(self) -> None:
        """Every question. Raises Unanswered, or what a connection raises; answers until then are kept."""
        self._ask_pool()
        self._ask_providers()
        self._ask_repository()
        self._ask_exchange()
        self._ask_challenges()
        self._ask_images()
        accounts = [name for name in ASSUMPTIONS if name.startswith(("account_", "impersonation_"))]
        self._if_allowed(accounts, self._ask_account)
        self._ask_ends()
        self._ask_deleted()
        self._if_allowed(["noop_operation", "noop_poll"], self._ask_services)
        self._if_allowed(["project_policy_is_post"], self._ask_project)

    def _answer(self, name: str, answered: Any) -> None:
        assert name in ASSUMPTIONS, name
        self.answers[name] = answered

    def _if_allowed(self, names: list[str], ask: Callable[[], None]) -> None:
        """Questions that may be left out where the operator lacks the permission."""
        try:
            ask()
        except NotAllowed as error:
            self.reasons.update(dict.fromkeys(names, str(error)))

    def _make(self, kind: str, url: str, body: dict[str, Any], **params: str) -> dict[str, Any]:
        """Create what `clean` must remove, also if no answer comes."""
        self.made.append(kind)
        answer = self._operator.call("POST", url, body, **params)
        if answer.status_code != 200:
            self.made.remove(kind)
        return required(answer)

    def _ask_pool(self) -> None:
        operator, name = self._operator, self._settings.name
        self._answer("missing_pool", told(operator.call("GET", self._pool)))
        operation = self._make("pool", self._pools, {"displayName": name, "disabled": False}, workloadIdentityPoolId=name)
        self._answer("create_is_operation", {"name": operation.get("name")})
        self._answer("operation_not_done_at_once", bool(operation.get("done")))
        operator.finish(_IAM, operation)
        pool = operator.take("GET", self._pool)
        self._pool_name = pool["name"]
        self.words.name(self._pool_name.split("/")[1], "NUMBER")
        self._answer("name_has_number", self._pool_name)
        fields = ("disabled", "description", "expireTime")
        self._answer("empty_fields_omitted", {field: pool.get(field, "omitted") for field in fields})
        again = operator.call("POST", self._pools, {}, workloadIdentityPoolId=name)
        self._answer("create_existing", told(again))
        self._answer("undelete_live", told(operator.call("POST", f"{self._pool}:undelete", {})))
        self._answer("update_mask_required", told(operator.call("PATCH", self._pool, {"displayName": "other"})))

    def _provider(self, provider: str, issuer: str, jwks: str | None = None, **fields: Any) -> requests.Response:
        oidc = {"issuerUri": issuer, **({"jwksJson": jwks} if jwks else {})}
        body = {"attributeMapping": {"google.subject": "assertion.sub"}, "oidc": oidc, **fields}
        return self._operator.call("POST", f"{self._pool}/providers", body, workloadIdentityPoolProviderId=provider)

    def _ask_providers(self) -> None:
        condition = f"assertion.sub == '{self._subject}'"
        keys = json.dumps(self._settings.jwks)
        for answer in (
            self._provider("cluster", self._settings.issuer, keys, attributeCondition=condition),
            self._provider("own-keys", _OWN_ISSUER, self._signer.jwks()),
        ):
            self._operator.finish(_IAM, required(answer))
        self._own_audience = f"https://iam.googleapis.com/{self._pool_name}/providers/own-keys"
        jwks, upper = self._signer.jwks(), {"google.subject": "assertion.sub", "attribute.Upper": "assertion.sub"}
        self._answer("reserved_id", told(self._provider("gcp-reserved", _OWN_ISSUER, jwks)))
        self._answer("http_issuer", told(self._provider("http", "http://acceptance.invalid", jwks)))
        self._answer("mapping_key", told(self._provider("mapping", _OWN_ISSUER, jwks, attributeMapping=upper)))
        github = self._provider("github", "https://token.actions.githubusercontent.com")
        self._answer("public_issuer_needs_condition", told(github))
        self._answer("bad_key_at_upload", told(self._provider("bad-key", _OWN_ISSUER, _unsupported_jwks())))

    def _ask_repository(self) -> None:
        name = self._settings.name
        operation = self._make("repository", self._repositories, {"format": "DOCKER"}, repositoryId=name)
        self._answer("repository_create_is_operation", {"name": operation.get("name")})
        self._operator.finish(_AR, operation)
        policy = self._operator.call("GET", f"{self._repository}:getIamPolicy")
        self._answer("getiampolicy_is_get", told(policy))
        self._answer("empty_policy", sorted(content(policy)))
        pool = self._pool_name.replace(f"/{name}", f"/{name}-none")
        self._answer("unknown_pool_in_policy", told(self._grant(f"principal://iam.googleapis.com/{pool}/subject/x")))
        nobody = f"serviceAccount:{name}-none@{self._settings.project}.iam.gserviceaccount.com"
        self._answer("unknown_account_in_policy", told(self._grant(nobody)))
        self._push()

    def _policy(self) -> dict[str, Any]:
        return self._operator.take("GET", f"{self._repository}:getIamPolicy", **{"options.requestedPolicyVersion": 3})

    def _grant(self, *members: str, etag: str | None = None) -> requests.Response:
        """Make these the only readers of the repository. etag: of the present policy unless given; without one if empty."""
        etag = self._policy().get("etag") if etag is None else etag
        bindings = [{"role": "roles/artifactregistry.reader", "members": list(members)}] if members else []
        policy = {"bindings": bindings, **({"etag": etag} if etag else {})}
        return self._operator.call("POST", f"{self._repository}:setIamPolicy", {"policy": policy})

    def _push(self) -> None:
        """An image of two tiny blobs, with the operator's credential."""
        config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
        kind = "application/vnd.oci.image"
        for blob in (config, _BLOB):
            started = self._operator.call("POST", self._url("blobs/uploads/"))
            required(started, 202)
            target = urllib.parse.urljoin(self._url(""), started.headers.get("location", ""))
            required(self._operator.upload(target, blob, "application/octet-stream", digest=_digest(blob)), 201)
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": f"{kind}.config.v1+json", "digest": _digest(config), "size": len(config)},
            "layers": [{"mediaType": f"{kind}.layer.v1.tar", "digest": _digest(_BLOB), "size": len(_BLOB)}],
        }
        required(self._operator.upload(self._url("manifests/1.0"), json.dumps(manifest).encode(), _MANIFEST), 201)

    def _cluster_token(self, account: str = "", audience: str = "") -> str:
        """A token of the cluster (TokenRequest) for ten minutes; of its one service account and provider unless told."""
        settings, name = self._settings, self._settings.name
        client = kubernetes.config.new_client_from_config(
            os.path.expanduser(settings.kubeconfig) or None, settings.context or None
        )
        audience = audience or f"https://iam.googleapis.com/{self._pool_name}/providers/cluster"
        spec = kubernetes.client.V1TokenRequestSpec(audiences=[audience], expiration_seconds=600)
        request = kubernetes.client.AuthenticationV1TokenRequest(spec=spec)
        core = kubernetes.client.CoreV1Api(client)
        try:
            answer = core.create_namespaced_service_account_token(account or name, name, request, _request_timeout=_TIMEOUT)
        except kubernetes.client.ApiException as error:
            raise Unanswered(f"The cluster gives no token of {account or name}: HTTP {error.status}: {error.reason}") from None
        return answer.status.token

    def _own_token(self, signer: Signer | None = None, key_id: str = "", start: int = 0, end: int = 600, **claims: Any) -> str:
        """A token of the own issuer. start, end: seconds from now."""
        now = int(time.time())
        given = {"iss": _OWN_ISSUER, "sub": self._subject, "aud": self._own_audience, "iat": now + start, "exp": now + end}
        token = {**given, **claims}
        self.words.name(str(token["iat"]), "IAT")
        return (signer or self._signer).token(key_id, **token)

    def _exchange(
        self, token: str, provider: str = "own-keys", audience: str = "", scope: str = _CLOUD_PLATFORM
    ) -> requests.Response:
        form = self._form(token, provider, scope)
        return self._plain.post(_STS, data={**form, **({"audience": audience} if audience else {})}, timeout=_TIMEOUT)

    def _form(self, token: str, provider: str, scope: str = _CLOUD_PLATFORM) -> dict[str, str]:
        return {
            "audience": f"//iam.googleapis.com/{self._pool_name}/providers/{provider}",
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "subject_token": token,
            "scope": scope,
        }

    def _access_token(self, provider: str = "own-keys", scope: str = _CLOUD_PLATFORM, end: int = 600) -> str:
        token = self._cluster_token() if provider == "cluster" else self._own_token(end=end)
        answer, _seconds = until(lambda: self._exchange(token, provider, scope=scope), status_is(200), end if end < 60 else 120)
        return required(answer)["access_token"]

    def _ask_exchange(self) -> None:
        token = self._cluster_token()
        # A new provider is not known at once.
        answer, _seconds = until(lambda: self._exchange(token, "cluster"), status_is(200), 120)
        self._answer("token_ends_with_subject", content(answer).get("expires_in"))
        answer, _seconds = until(lambda: self._exchange(self._own_token()), status_is(200), 120)
        self._answer("unreachable_issuer", told(answer))
        two_hours = self._exchange(self._own_token(end=7200))
        self._answer("token_at_most_an_hour", content(two_hours).get("expires_in"))
        camel = {
            re.sub("_(.)", lambda match: match[1].upper(), name): value
            for name, value in self._form(self._own_token(), "own-keys").items()
        }
        self._answer("json_body", told(self._plain.post(_STS, json=camel, timeout=_TIMEOUT)))
        bare = self._exchange(self._own_token(aud=self._own_audience.removeprefix("https:")))
        https = self._exchange(self._own_token())
        self._answer("default_audiences", {"https": https.status_code, "bare": bare.status_code})

        malformed = self._exchange(token, audience="//iam.googleapis.com/nothing")
        self._answer("malformed_audience", told(malformed))
        self._answer("sts_errors_two_keys", sorted(content(malformed)))
        self._answer("unknown_target", told(self._exchange(token, "none")))
        other = self._cluster_token(audience="https://acceptance.invalid/other")
        self._answer("wrong_audience", told(self._exchange(other, "cluster")))
        other = self._cluster_token(account=f"{self._settings.name}-other")
        self._answer("condition_false", told(self._exchange(other, "cluster")))

        for name, token in {
            "wrong_issuer": self._own_token(iss="https://other.acceptance.invalid"),
            "expired_token": self._own_token(start=-900, end=-300),
            "future_token": self._own_token(start=600, end=1200),
            "old_token": self._own_token(start=-25 * 3600),
            "clock_skew": self._own_token(start=30),
            "bad_signature": self._own_token(Signer("forged"), self._signer.key_id),
            "unknown_kid": self._own_token(key_id="unknown"),
            "long_subject": self._own_token(sub="x" * 130),
            "subject_no_text": self._own_token(sub=42),
        }.items():
            self._answer(name, told(self._exchange(token)))

        self._signer = Signer("second")
        provider = f"{self._pool}/providers/own-keys"
        self._operator.change("PATCH", provider, {"oidc": {"jwksJson": self._signer.jwks()}}, updateMask="oidc.jwksJson")
        _answer, seconds = until(lambda: self._exchange(self._own_token()), status_is(200))
        self._answer("new_keys_seconds", seconds)
        body = {"oidc": {"allowedAudiences": [_OWN_AUDIENCE]}}
        answer = self._operator.call("PATCH", provider, body, updateMask="oidc.allowed_audiences")
        self._answer("mask_in_snake_case", told(answer))
        if answer.status_code != 200:
            answer = self._operator.call("PATCH", provider, body, updateMask="oidc.allowedAudiences")
        self._operator.finish(_IAM, content(answer))
        answer, _seconds = until(lambda: self._exchange(self._own_token()), status_is(400), 60)
        self._answer("audience_of_its_own", told(answer))
        self._own_audience = _OWN_AUDIENCE

    def _url(self, path: str, image: str = "") -> str:
        return f"https://{self._host}/v2/{image or self._image}/{path}"

    def _get(self, url: str, token: str | None = None, method: str = "GET", **headers: str) -> requests.Response:
        """A request of the docker endpoint with a Bearer token or none; a redirect is not followed."""
        sent = {**headers, **({"Authorization": f"Bearer {token}"} if token else {})}
        return self._plain.request(method, url, headers=sent, timeout=_TIMEOUT, allow_redirects=False)

    def _manifest(self, token: str | None, reference: str = "1.0") -> requests.Response:
        return self._get(self._url(f"manifests/{reference}"), token, Accept=_MANIFEST)

    def _docker_token(self, token: str | None, scope: str = "") -> requests.Response:
        """The answer of /v2/token to an access token or none."""
        return self._plain.get(
            f"https://{self._host}/v2/token",
            params={"service": self._host, "scope": scope or f"repository:{self._image}:pull"},
            auth=("oauth2accesstoken", token) if token else None,
            timeout=_TIMEOUT,
        )

    @staticmethod
    def _challenged(answer: requests.Response) -> dict[str, Any]:
        return {**told(answer), "challenge": answer.headers.get("www-authenticate")}

    def _ask_challenges(self) -> None:
        """Before the grant."""
        root, bad = f"https://{self._host}/v2/", "not-good"
        self._answer("v2_challenge_without_service", self._challenged(self._get(root)))
        self._answer("repository_challenge", self._challenged(self._manifest(None)))
        self._answer("bad_credential_no_challenge", self._challenged(self._get(root, bad)))
        self._answer("bad_credential_at_v2_token", self._challenged(self._docker_token(bad)))
        self._answer("v2_token_is_get", told(self._get(f"{root}token", method="POST")))
        self._answer("anonymous_at_v2_token", told(self._docker_token(None)))
        token = self._access_token("cluster")
        missing = f"repository:{self._settings.project}/{self._settings.name}-none/image:pull"
        self._answer("denied_at_v2_token", told(self._docker_token(token)))
        self._answer("missing_repository_unprivileged", told(self._docker_token(token, missing)))
        self._answer("missing_repository_privileged", told(self._docker_token(self._operator.token, missing)))
        self._answer("short_name", told(self._docker_token(token, "repository:short:pull")))

    def _member(self) -> str:
        return f"principal://iam.googleapis.com/{self._pool_name}/subject/{self._subject}"

    def _ask_images(self) -> None:
        token, member, before = self._access_token("cluster"), self._member(), self._policy()["etag"]
        required(self._grant(member))
        _answer, seconds = until(lambda: self._docker_token(token), status_is(200))
        self._answer("grant_lag_seconds", seconds)
        self._answer("stale_etag_409", told(self._grant(member, etag=before)))
        self._answer("no_etag_overwrites", told(self._grant(member, etag="")))
        self._answer("v2_token_claims_12_hours", content(self._docker_token(token)).get("expires_in"))
        self._answer("raw_token_as_bearer", told(until(lambda: self._manifest(token), status_is(200))[0]))
        narrow = self._access_token("cluster", scope=_DEVSTORAGE)
        self._answer("devstorage_scope", told(until(lambda: self._manifest(narrow), status_is(200), 60)[0]))
        plain = self._get(self._url("manifests/1.0"), token)
        digest = plain.headers.get("docker-content-digest") == _digest(plain.content)
        self._answer("manifest_without_accept", {"status": plain.status_code, "digest": digest})
        self._answer("missing_tag", told(self._manifest(token, "none")))
        self._answer("missing_blob", told(self._get(self._url(f"blobs/{_digest(b'none')}"), token)))
        self._ask_blob(token)

        started, short = time.monotonic(), self._access_token(end=20)
        docker, ends = required(self._docker_token(short))["token"], started + 20
        required(self._manifest(docker))  # a refusal later is that of its end
        time.sleep(max(0, ends - time.monotonic()))
        _answer, _seconds = until(lambda: self._manifest(docker), status_is(401), 120)
        self._answer("v2_token_ends_with_access_token", round(time.monotonic() - ends, 1))
        expired, _seconds = until(lambda: self._docker_token(short), status_is(401), 120)
        self._answer("expired_token_at_v2_token", self._challenged(expired))

    def _ask_blob(self, token: str) -> None:
        url = self._url(f"blobs/{_digest(_BLOB)}")
        redirect = self._get(url, token)
        location = redirect.headers.get("location", "")
        self._answer("blob_is_relative_302", {"status": redirect.status_code, "location": self._shown(location)})
        head = self._get(url, token, method="HEAD", **{"Accept-Encoding": "identity"})
        self._answer("blob_head", {"status": head.status_code, "content_length": head.headers.get("content-length")})
        if not location:
            names = ("blob_url_needs_no_credential", "blob_url_again", "blob_range_206")
            self.reasons.update(dict.fromkeys(names, "a blob comes without a redirect"))
            return
        target = urllib.parse.urljoin(url, location)
        for name in ("blob_url_needs_no_credential", "blob_url_again"):
            blob = self._get(target)
            self._answer(name, {"status": blob.status_code, "digest": blob.content == _BLOB})
        part = self._get(target, Range="bytes=1-3")
        content_range = part.headers.get("content-range")
        self._answer("blob_range_206", {"status": part.status_code, "content_range": content_range, "bytes": len(part.content)})

    @staticmethod
    def _shown(location: str) -> str:
        """An address without what makes it a credential: its query, and what follows /downloads/."""
        path = re.sub(r"(/downloads/).+", r"\1TOKEN", location.partition("?")[0])
        return f"{path}?…" if "?" in location else path

    def _ask_account(self) -> None:
        operator, token = self._operator, self._access_token("cluster")
        body = {"accountId": self._settings.name, "serviceAccount": {}}
        account = self._make("account", self._accounts, body)
        self._answer("account_create_is_direct", {"email": account.get("email")})
        url = f"{self._accounts}/{self._email}"
        policy, _seconds = until(lambda: operator.call("POST", f"{url}:getIamPolicy", {}), status_is(200), 120)
        self._answer("account_policy_is_post", told(policy))
        self._answer("impersonation_denied", told(self._impersonate(token)))
        binding = {"role": "roles/iam.workloadIdentityUser", "members": [self._member()]}
        etag = {"etag": content(policy)["etag"]} if "etag" in content(policy) else {}
        operator.take("POST", f"{url}:setIamPolicy", {"policy": {"bindings": [binding], **etag}})
        _answer, seconds = until(lambda: self._impersonate(token), status_is(200))
        self._answer("impersonation_lag_seconds", seconds)
        self._answer("impersonation_over_an_hour", told(self._impersonate(token, "3700s")))
        operator.take("DELETE", url)
        again, _seconds = until(lambda: operator.call("POST", self._accounts, body), status_is(200), 60)
        another = bool(account.get("uniqueId")) and content(again).get("uniqueId") != account.get("uniqueId")
        self._answer("account_address_again", {**told(again), "another": another})

    def _impersonate(self, token: str, lifetime: str = "600s") -> requests.Response:
        return self._plain.post(
            f"{_IAM_CREDENTIALS}/projects/-/serviceAccounts/{self._email}:generateAccessToken",
            json={"scope": [_CLOUD_PLATFORM], "lifetime": lifetime},
            headers={"Authorization": f"Bearer {token}"},
            timeout=_TIMEOUT,
        )

    def _ask_ends(self) -> None:
        """Provider disabled, pool disabled, grant withdrawn."""
        operator, provider, subject = self._operator, f"{self._pool}/providers/cluster", self._cluster_token()
        token = self._access_token("cluster")
        operator.change("PATCH", provider, {"disabled": True}, updateMask="disabled")
        refused, _seconds = until(lambda: self._exchange(subject, "cluster"), status_is(400))
        self._answer("disabled_provider", told(refused))
        self._answer("provider_disable_spares_tokens", told(self._manifest(token)))

        operator.change("PATCH", self._pool, {"disabled": True}, updateMask="disabled")
        refused, seconds = until(lambda: self._manifest(token), status_is(401, 403))
        self._answer("pool_disable_stops_tokens", told(refused))
        self._answer("pool_disable_lag_seconds", seconds)
        operator.change("PATCH", self._pool, {}, updateMask="disabled")
        token = self._access_token()
        granted, _seconds = until(lambda: self._manifest(token), status_is(200))
        required(granted)

        required(self._grant())
        refused, seconds = until(lambda: self._manifest(token), status_is(401, 403))
        self._answer("revoke_lag_seconds", seconds)
        self._answer("denied_manifest", told(refused))

    def _ask_deleted(self) -> None:
        operator, name, provider = self._operator, self._settings.name, f"{self._pool}/providers/own-keys"
        operator.change("DELETE", self._pool)
        deleted = operator.call("GET", self._pool)
        pool = {"state": content(deleted).get("state"), "days": _days_until(content(deleted).get("expireTime"))}
        self._answer("deleted_answers_get", {**told(deleted), **pool})
        self._answer("reuse_is_409", told(operator.call("POST", self._pools, {}, workloadIdentityPoolId=name)))
        patched = operator.call("PATCH", self._pool, {"displayName": "other"}, updateMask="displayName")
        self._answer("patch_deleted", told(patched))
        patched = operator.call("PATCH", provider, {"displayName": "other"}, updateMask="displayName")
        self._answer("patch_in_deleted_pool", told(patched))
        found = {key: self._listed(shown) for key, shown in (("without", "false"), ("with", "true"))}
        self._answer("deleted_in_list", found)
        refused, _seconds = until(lambda: self._exchange(self._own_token()), status_is(400))
        self._answer("deleted_target", told(refused))
        operator.change("POST", f"{self._pool}:undelete", {})
        states = {"pool": operator.take("GET", self._pool).get("state"), "provider": operator.take("GET", provider).get("state")}
        self._answer("undelete_revives", states)

    def _listed(self, show_deleted: str) -> bool:
        """Whether any page of the list has the pool."""
        page: dict[str, Any] = {"nextPageToken": ""}
        while "nextPageToken" in page:
            page = self._operator.take(
                "GET", self._pools, showDeleted=show_deleted, pageSize=1000, pageToken=page["nextPageToken"]
            )
            if any(pool["name"] == self._pool_name for pool in page.get("workloadIdentityPools", [])):
                return True
        return False

    def _ask_services(self) -> None:
        service = f"{_USAGE}/projects/{self._settings.project}/services/artifactregistry.googleapis.com"
        answer = self._operator.take("POST", f"{service}:enable", {})
        self._answer("noop_operation", {"name": answer.get("name"), "done": answer.get("done")})
        if answer.get("name", "").startswith("operations/noop"):
            self._answer("noop_poll", told(self._operator.call("GET", f"{_USAGE}/{answer['name']}")))

    def _ask_project(self) -> None:
        url = f"{_CRM}/projects/{self._settings.project}:getIamPolicy"
        self._operator.take("POST", url, {})
        self._answer("project_policy_is_post", {"status": 200})

    def clean(self) -> list[str]:
        """Remove what there is; sentences about what could not be removed. A deleted pool's name stays Google's for 30 days."""
        failures = []
        for kind, api, url in (
            ("account", None, f"{self._accounts}/{self._email}"),
            ("repository", _AR, self._repository),
            ("pool", _IAM, self._pool),
        ):
            if kind not in self._settings.made:
                continue
            try:
                found = self._operator.call("GET", url)
                if found.status_code == 404 or content(found).get("state") == "DELETED":
                    continue
                operation = self._operator.take("DELETE", url)
                if api:
                    self._operator.finish(api, operation)
            except (Unanswered, requests.RequestException, google.auth.exceptions.GoogleAuthError) as error:
                failures.append(f"The {kind} {self._settings.name} may still be there: {error}")
        return failures


def _days_until(time_: str | None) -> int | None:
    """From now to an RFC 3339 time, rounded."""
    if time_ is None:
        return None
    left = datetime.datetime.fromisoformat(time_[:19] + "+00:00") - datetime.datetime.now(datetime.timezone.utc)
    return round(left.total_seconds() / 86400)


def main() -> None:
    settings, asking = Settings(**json.load(sys.stdin)), sys.argv[1] == "ask"
    acceptance, failures = None, []
    try:
        acceptance = Acceptance(settings)
        if asking:
            acceptance.ask()
        else:
            failures = acceptance.clean()
    except Unanswered as error:
        failures = [str(error)]
    except Exception as error:  # whatever it is: what was answered is shown, and what was made must be removed
        failures = [f"{type(error).__name__}: {error}"]
    report: dict[str, Any] = {"failures": [_SECRETS.sub("TOKEN", failure) for failure in failures]}
    if asking and acceptance:
        plain = acceptance.words.plain
        answers = judged(plain(acceptance.answers), plain(acceptance.reasons))
        report |= {"made": acceptance.made, "answers": answers, "table": table(answers)}
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
