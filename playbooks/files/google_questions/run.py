# SPDX-License-Identifier: GPL-3.0-or-later
"""What the questions share: names of a run, its answers, tokens of the cluster and of an own issuer, requests of a registry."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import kubernetes
import requests

from .answers import TIMEOUT, NotAllowed, Unanswered, required, status_is, until
from .issuer import Signer
from .operator import CLOUD_PLATFORM, IAM, Operator, retrying
from .settings import Settings
from .verdicts import ASSUMPTIONS, Words

AR = "https://artifactregistry.googleapis.com/v1"
STS = "https://sts.googleapis.com/v1/token"
# Nobody answers there (RFC 6761).
OWN_ISSUER = "https://acceptance.invalid"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Run:
    """What all questions share: the settings, the operator, what was made and answered, and the tokens of a run."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.operator, self.words = settings, Operator(settings), Words()
        self.anonymous = retrying(requests.Session())
        self.answers: dict[str, Any] = {}
        self.reasons: dict[str, str] = {}
        self.made: list[str] = []
        project, name = settings.project, settings.name
        self.pools = f"{IAM}/projects/{project}/locations/global/workloadIdentityPools"
        self.pool = f"{self.pools}/{name}"
        self.repositories = f"{AR}/projects/{project}/locations/{settings.location}/repositories"
        self.repository = f"{self.repositories}/{name}"
        self.accounts = f"{IAM}/projects/{project}/serviceAccounts"
        self.email = f"{name}@{project}.iam.gserviceaccount.com"
        self.host = f"{settings.location}-docker.pkg.dev"
        self.image = f"{project}/{name}/image"
        self.subject = f"system:serviceaccount:{name}:{name}"
        self.signer = Signer("first")
        self.own_audience = self.pool_name = ""
        for placeholder in ("issuer", "name", "project", "location"):
            self.words.name(getattr(settings, placeholder), placeholder.upper())

    def answer(self, name: str, answered: Any) -> None:
        assert name in ASSUMPTIONS, name
        self.answers[name] = answered

    def if_allowed(self, names: list[str], ask: Callable[[Run], None]) -> None:
        """Questions that may be left out where the operator lacks the permission."""
        try:
            ask(self)
        except NotAllowed as error:
            self.reasons.update(dict.fromkeys(names, str(error)))

    def make(self, kind: str, url: str, body: dict[str, Any], **params: str) -> dict[str, Any]:
        """Create what `clean` must remove, also if no answer comes."""
        self.made.append(kind)
        answer = self.operator.call("POST", url, body, **params)
        if answer.status_code != 200:
            self.made.remove(kind)
        return required(answer)

    def cluster_token(self, account: str = "", audience: str = "") -> str:
        """A token of the cluster (TokenRequest) for ten minutes; of its one service account and provider unless told."""
        settings, name = self.settings, self.settings.name
        client = kubernetes.config.new_client_from_config(
            os.path.expanduser(settings.kubeconfig) or None, settings.context or None
        )
        audience = audience or f"https://iam.googleapis.com/{self.pool_name}/providers/cluster"
        spec = kubernetes.client.V1TokenRequestSpec(audiences=[audience], expiration_seconds=600)
        request = kubernetes.client.AuthenticationV1TokenRequest(spec=spec)
        core = kubernetes.client.CoreV1Api(client)
        try:
            answer = core.create_namespaced_service_account_token(account or name, name, request, _request_timeout=TIMEOUT)
        except kubernetes.client.ApiException as error:
            raise Unanswered(f"The cluster gives no token of {account or name}: HTTP {error.status}: {error.reason}") from None
        return answer.status.token

    def own_token(self, signer: Signer | None = None, key_id: str = "", start: int = 0, end: int = 600, **claims: Any) -> str:
        """A token of the own issuer. start, end: seconds from now."""
        now = int(time.time())
        given = {"iss": OWN_ISSUER, "sub": self.subject, "aud": self.own_audience, "iat": now + start, "exp": now + end}
        token = {**given, **claims}
        self.words.name(str(token["iat"]), "IAT")
        return (signer or self.signer).token(key_id, **token)

    def exchange(
        self, token: str, provider: str = "own-keys", audience: str = "", scope: str = CLOUD_PLATFORM
    ) -> requests.Response:
        form = self.form(token, provider, scope)
        return self.anonymous.post(STS, data={**form, **({"audience": audience} if audience else {})}, timeout=TIMEOUT)

    def form(self, token: str, provider: str, scope: str = CLOUD_PLATFORM) -> dict[str, str]:
        return {
            "audience": f"//iam.googleapis.com/{self.pool_name}/providers/{provider}",
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "subject_token": token,
            "scope": scope,
        }

    def access_token(self, provider: str = "own-keys", scope: str = CLOUD_PLATFORM, end: int = 600) -> str:
        token = self.cluster_token() if provider == "cluster" else self.own_token(end=end)
        answer, _seconds = until(lambda: self.exchange(token, provider, scope=scope), status_is(200), end if end < 60 else 120)
        return required(answer)["access_token"]

    def url(self, path: str, image: str = "") -> str:
        return f"https://{self.host}/v2/{image or self.image}/{path}"

    def get(self, url: str, token: str | None = None, method: str = "GET", **headers: str) -> requests.Response:
        """A request of the docker endpoint with a Bearer token or none; a redirect is not followed."""
        sent = {**headers, **({"Authorization": f"Bearer {token}"} if token else {})}
        return self.anonymous.request(method, url, headers=sent, timeout=TIMEOUT, allow_redirects=False)

    def manifest(self, token: str | None, reference: str = "1.0") -> requests.Response:
        return self.get(self.url(f"manifests/{reference}"), token, Accept=MANIFEST)

    def docker_token(self, token: str | None, scope: str = "") -> requests.Response:
        """The answer of /v2/token to an access token or none."""
        return self.anonymous.get(
            f"https://{self.host}/v2/token",
            params={"service": self.host, "scope": scope or f"repository:{self.image}:pull"},
            auth=("oauth2accesstoken", token) if token else None,
            timeout=TIMEOUT,
        )

    def member(self) -> str:
        return f"principal://iam.googleapis.com/{self.pool_name}/subject/{self.subject}"

    def policy(self) -> dict[str, Any]:
        return self.operator.take("GET", f"{self.repository}:getIamPolicy", **{"options.requestedPolicyVersion": 3})

    def grant(self, *members: str, etag: str | None = None) -> requests.Response:
        """Make these the only readers of the repository. etag: of the present policy unless given; without one if empty."""
        etag = self.policy().get("etag") if etag is None else etag
        bindings = [{"role": "roles/artifactregistry.reader", "members": list(members)}] if members else []
        policy = {"bindings": bindings, **({"etag": etag} if etag else {})}
        return self.operator.call("POST", f"{self.repository}:setIamPolicy", {"policy": policy})
