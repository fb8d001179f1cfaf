# SPDX-License-Identifier: GPL-3.0-or-later
"""Google's APIs with the playbook's credential."""

from __future__ import annotations

import json
import os
from typing import Any

import google.auth
import google.oauth2.credentials
import google.oauth2.service_account
import requests
import urllib3
from google.auth import impersonated_credentials
from google.auth.transport.requests import AuthorizedSession

from .answers import TIMEOUT, Unanswered, required, until
from .settings import Settings

IAM = "https://iam.googleapis.com/v1"
CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
_OPERATION_SECONDS = 120


def retrying(session: requests.Session) -> requests.Session:
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
            credentials = impersonated_credentials.Credentials(credentials, target, [CLOUD_PLATFORM], delegates=delegates)
        if settings.quota_project:
            credentials = credentials.with_quota_project(settings.quota_project)
        # A given token cannot be refreshed: its 401 shall be seen as it is.
        codes = () if isinstance(credentials, google.oauth2.credentials.Credentials) and not credentials.refresh_token else (401,)
        self._session = retrying(AuthorizedSession(credentials, refresh_status_codes=codes))

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
                return factory.from_service_account_file(os.path.expanduser(path), scopes=[CLOUD_PLATFORM])
            if contents := os.environ.get("GCP_SERVICE_ACCOUNT_CONTENTS"):
                return factory.from_service_account_info(json.loads(contents), scopes=[CLOUD_PLATFORM])
            raise Unanswered(
                "auth_kind serviceaccount needs a key. Set registry_cache_gcp_service_account_file or GCP_SERVICE_ACCOUNT_FILE."
            )
        return google.auth.default(scopes=[CLOUD_PLATFORM])[0]

    def call(self, method: str, url: str, body: Any = None, **params: Any) -> requests.Response:
        """One request, whatever its answer."""
        return self._session.request(method, url, json=body, params=params, timeout=TIMEOUT)

    def take(self, method: str, url: str, body: Any = None, **params: Any) -> dict[str, Any]:
        """The object of an answer that must be good. Raises Unanswered."""
        return required(self.call(method, url, body, **params))

    def upload(self, url: str, body: bytes, kind: str, **params: str) -> requests.Response:
        """PUT of a blob or manifest."""
        return self._session.put(url, data=body, params=params, headers={"Content-Type": kind}, timeout=TIMEOUT)

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
        self.finish(IAM, self.take(method, url, body, **params))
