# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""State and requests that all questions share: names, answers, tokens of the cluster and of a test issuer, and registry requests.

Private to this collection. An answer is a requests.Response.
"""

from __future__ import annotations

import time
import typing as t

from ..._kubernetes.client import Client
from ..artifact_registry import API as AR
from ..client import CLOUD_PLATFORM, GcpClient, GcpError
from ..service_account import email
from ..workload_identity import API as IAM
from ..workload_identity import pools_of
from .answers import required, status_is, until
from .issuer import Signer
from .verdicts import Words, table, with_verdicts

STS = "https://sts.googleapis.com/v1/token"
# A host that never exists (RFC 6761).
OWN_ISSUER = "https://acceptance.invalid"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
# After an overload, reads are repeated for a few seconds.
_READS, _OVERLOADS, _OVERLOAD_SECONDS = ("GET", "HEAD"), (429, 502, 503, 504), 8


class Run:
    """One run: its clients, objects, answers and tokens.

    :param params: options of module gcp_acceptance.
    """

    def __init__(self, params: dict[str, t.Any], client: GcpClient, cluster: Client) -> None:
        self.client, self._cluster, self.words = client, cluster, Words()
        self.project, self.location, self.name = params["project"], params["location"], params["name"]
        self.issuer, self.jwks = params["issuer_uri"], params["jwks"]
        self.assumptions: dict[str, dict[str, t.Any]] = params["assumptions"]
        self.answers: dict[str, t.Any] = {}
        self.reasons: dict[str, str] = {}
        self.made: list[str] = []
        self.pools = f"{IAM}/{pools_of(self.project)}"
        self.pool = f"{self.pools}/{self.name}"
        self.repositories = f"{AR}/projects/{self.project}/locations/{self.location}/repositories"
        self.repository = f"{self.repositories}/{self.name}"
        self.accounts = f"{IAM}/projects/{self.project}/serviceAccounts"
        self.email = email(self.name, self.project)
        self.host = f"{self.location}-docker.pkg.dev"
        self.image = f"{self.project}/{self.name}/image"
        self.subject = f"system:serviceaccount:{self.name}:{self.name}"
        self.signer = Signer("first")
        self.own_audience = self.pool_name = ""
        for placeholder in ("issuer", "name", "project", "location"):
            self.words.name(getattr(self, placeholder), placeholder.upper())

    def answer(self, name: str, answered: t.Any) -> None:
        """Record the answer to a question. name: the ID of the assumption."""
        self.answers[name] = answered

    def if_allowed(self, names: list[str], ask: t.Callable[[Run], None]) -> None:
        """Ask questions, or skip them if the caller lacks a permission. Raise GcpError for any other error."""
        try:
            ask(self)
        except GcpError as error:
            if error.status != 403:
                raise
            self.reasons.update(dict.fromkeys(names, str(error)))

    def report(self) -> dict[str, t.Any]:
        """Return the result of the module, without names of this run and without secrets."""
        answers = with_verdicts(self.assumptions, self.words.plain(self.answers), self.words.plain(self.reasons))
        return {"changed": True, "made": self.made, "answers": answers, "table": table(answers)}

    def call(self, method: str, url: str, body: t.Any = None, **query: t.Any) -> t.Any:
        """Send a request; return the answer, whatever its status."""
        return self._respond(method, url, json=body, params=query)

    def take(self, method: str, url: str, body: t.Any = None, **query: t.Any) -> dict[str, t.Any]:
        """Send a request; return the JSON object of the answer. Raise GcpError for an error answer."""
        self.client.budget.renew()
        return self.client.request(method, url, f"{method} {url}", body, query)

    def finish(self, api: str, operation: dict[str, t.Any]) -> None:
        """Wait until an operation ends. Raise GcpError if it fails or takes too long."""
        self.client.budget.renew()
        self.client.wait(operation, api, self.name)

    def change(self, method: str, url: str, body: t.Any = None, **query: t.Any) -> None:
        """Change a pool or provider, and wait until the change is done. Raise GcpError."""
        self.finish(IAM, self.take(method, url, body, **query))

    def make(self, kind: str, url: str, body: dict[str, t.Any], **query: str) -> dict[str, t.Any]:
        """Create an object; return the answer. It is recorded for removal, even if no answer arrives. Raise GcpError."""
        self.made.append(kind)
        answer = self.call("POST", url, body, **query)
        if answer.status_code != 200:
            self.made.remove(kind)
        return required(answer)

    def upload(self, url: str, body: bytes, kind: str, **query: str) -> t.Any:
        """Send a PUT request for a blob or manifest; return the answer."""
        return self._respond("PUT", url, data=body, params=query, headers={"Content-Type": kind})

    def post(self, url: str, token: str | None = None, **options: t.Any) -> t.Any:
        """Send a POST request with this bearer token, or with no credential; return the answer."""
        return self._respond("POST", url, anonymous=True, headers=_bearer(token), **options)

    def get(self, url: str, token: str | None = None, method: str = "GET", **headers: str) -> t.Any:
        """Send a request to the registry with this bearer token, or with no credential; return the answer. Do not follow redirects."""
        return self._respond(method, url, anonymous=True, headers={**headers, **_bearer(token)}, allow_redirects=False)

    def _respond(self, method: str, url: str, **options: t.Any) -> t.Any:
        def respond() -> t.Any:
            return self.client.respond(method, url, f"{method} {url}", **options)

        if method not in _READS:
            return respond()
        return until(respond, lambda answer: answer.status_code not in _OVERLOADS, _OVERLOAD_SECONDS)[0]

    def cluster_token(self, account: str = "", audience: str = "") -> str:
        """Return a token of the cluster that is valid for ten minutes, by default for the main service account and provider.

        Raise ClusterError.
        """
        audience = audience or f"https://iam.googleapis.com/{self.pool_name}/providers/cluster"
        path = f"/api/v1/namespaces/{self.name}/serviceaccounts/{account or self.name}/token"
        spec = {"audiences": [audience], "expirationSeconds": 600}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        return self._cluster.request("post", path, body)["status"]["token"]

    def own_token(self, signer: Signer | None = None, key_id: str = "", start: int = 0, end: int = 600, **claims: t.Any) -> str:
        """Return a token of the test issuer. start, end: seconds from now."""
        now = int(time.time())
        given = {"iss": OWN_ISSUER, "sub": self.subject, "aud": self.own_audience, "iat": now + start, "exp": now + end}
        token = {**given, **claims}
        self.words.name(str(token["iat"]), "IAT")
        return (signer or self.signer).token(key_id, **token)

    def exchange(self, token: str, provider: str = "own-keys", audience: str = "", scope: str = CLOUD_PLATFORM) -> t.Any:
        """Send a token to Google's token service; return the answer."""
        form = self.form(token, provider, scope)
        return self.post(STS, data={**form, **({"audience": audience} if audience else {})})

    def form(self, token: str, provider: str, scope: str = CLOUD_PLATFORM) -> dict[str, str]:
        """Return the fields of a token exchange."""
        return {
            "audience": f"//iam.googleapis.com/{self.pool_name}/providers/{provider}",
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "subject_token": token,
            "scope": scope,
        }

    def access_token(self, provider: str = "own-keys", scope: str = CLOUD_PLATFORM, end: int = 600) -> str:
        """Return an access token for the principal of a provider. Raise GcpError."""
        token = self.cluster_token() if provider == "cluster" else self.own_token(end=end)
        answer, _seconds = until(lambda: self.exchange(token, provider, scope=scope), status_is(200), end if end < 60 else 120)
        return required(answer)["access_token"]

    def url(self, path: str) -> str:
        """Return the URL of a manifest or blob of the run's image."""
        return f"https://{self.host}/v2/{self.image}/{path}"

    def manifest(self, token: str | None, reference: str = "1.0") -> t.Any:
        """Request a manifest; return the answer."""
        return self.get(self.url(f"manifests/{reference}"), token, Accept=MANIFEST)

    def docker_token(self, token: str | None, scope: str = "") -> t.Any:
        """Request /v2/token with this access token, or with no credential; return the answer."""
        return self._respond(
            "GET",
            f"https://{self.host}/v2/token",
            anonymous=True,
            params={"service": self.host, "scope": scope or f"repository:{self.image}:pull"},
            auth=("oauth2accesstoken", token) if token else None,
        )

    def member(self) -> str:
        """Return the main service account of the cluster in the format of IAM."""
        return f"principal://iam.googleapis.com/{self.pool_name}/subject/{self.subject}"

    def policy(self) -> dict[str, t.Any]:
        """Return the policy of the repository. Raise GcpError."""
        return self.take("GET", f"{self.repository}:getIamPolicy", **{"options.requestedPolicyVersion": 3})

    def grant(self, *members: str, etag: str | None = None) -> t.Any:
        """Set the readers of the repository; return the answer. etag: by default that of the current policy; none if empty."""
        etag = self.policy().get("etag") if etag is None else etag
        bindings = [{"role": "roles/artifactregistry.reader", "members": list(members)}] if members else []
        policy = {"bindings": bindings, **({"etag": etag} if etag else {})}
        return self.call("POST", f"{self.repository}:setIamPolicy", {"policy": policy})


def _bearer(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}
