# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client for Google's REST APIs with google.cloud's credentials: one session, timeouts, one retry policy, and clear errors.

Private to this collection.
"""

from __future__ import annotations

import email.utils
import functools
import json
import os
import pathlib
import random
import re
import sys
import time
import traceback
import typing as t
from types import SimpleNamespace
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule, env_fallback, missing_required_lib

IMPORT_ERROR: str | None = None
# Traceback if google.cloud has no usable session class.
SESSION_ERROR: str | None = None
try:
    import google.auth.exceptions
    import requests
    from google.auth import impersonated_credentials
    from google.auth.transport.requests import AuthorizedSession, Request
    from requests.adapters import HTTPAdapter
    from urllib3.exceptions import ProtocolError
    from urllib3.util.retry import Retry
except ImportError:
    IMPORT_ERROR = traceback.format_exc()
try:
    from ansible_collections.google.cloud.plugins.module_utils.gcp_utils import GcpSession
except ImportError:
    # google.cloud is moving its utilities here. Versions 1.14 and 1.15 have the session in both places.
    try:
        from ansible_collections.google.cloud.plugins.module_utils.gcp_v2 import Session as GcpSession
    except ImportError:
        SESSION_ERROR = traceback.format_exc()

# Supported versions, in the format of ansible-galaxy.
GOOGLE_CLOUD = "google.cloud:>=1.4.1,<2.0.0"
# Timeouts in seconds: to connect, and to wait for an answer.
TIMEOUT = (10, 60)
_CONNECT_RETRIES = 4
# HTTP statuses that are worth a retry, and those of them after which a change may have been made.
_TRANSIENT, _AMBIGUOUS = (429, 500, 502, 503, 504), (500, 502, 503, 504)
_PRODUCT = "registry_cache"
CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
# Domain of Google's hosts. Another universe has the same hosts below its own domain.
_UNIVERSE = "googleapis.com"
_USAGE = "https://serviceusage.googleapis.com/v1"
# Options of each kind of credential. Other options may come from the environment and are ignored.
_OPTIONS_OF_KIND = {
    "application": (),
    "machineaccount": ("service_account_email",),
    "serviceaccount": ("service_account_file", "service_account_contents"),
    "accesstoken": ("access_token",),
}
# By kind of credential: an example of its options.
_EXAMPLES_OF_KIND = {
    "serviceaccount": "service_account_file: /etc/keys/my-key.json",
    "accesstoken": "access_token_from: vault_access_token",
}
_FIXES = {
    401: "Check auth_kind, and renew its credential, which is expired, malformed or of another kind",
    403: "Check the project, and grant the permission to the identity that runs this module",
    404: "Check project, location and name",
    409: "The object is being changed by someone else: run again",
    429: "The quota is used up for now: run again in a minute",
}
_NETWORK_FIX = (
    "Check the network and HTTPS_PROXY, and REQUESTS_CA_BUNDLE if a proxy has its own CA. Example: HTTPS_PROXY=http://proxy.example:3128"
)
_CERTIFICATE_FIX = (
    "Set REQUESTS_CA_BUNDLE to a file with the CA certificates of the proxy. Example: REQUESTS_CA_BUNDLE=/etc/ssl/company-ca.pem"
)
_PROJECT = re.compile(r"[a-z0-9][a-z0-9.:-]*")  # with ':' in a domain-scoped project
_DOMAIN = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")
_ACCOUNTS = re.compile(r"[^@\s,]+@[^@\s,]+(,[^@\s,]+@[^@\s,]+)*")
# Name of an operation that is already done and cannot be polled.
_NO_OPERATION = "operations/noop.DONE_OPERATION"
# First and longest pause between polls, in seconds.
_PAUSE, _MAX_PAUSE = 0.2, 5
# Longest random pause in seconds, after the first refusal and after the sixth and later ones.
_BACK_OFF, _MAX_BACK_OFF = 1, 32


class GcpError(Exception):
    """A request that Google refused or that did not reach Google. The text is a message for the user.

    :param status: HTTP status, if Google answered.
    :param words: Google's own message.
    :param info: google.rpc.ErrorInfo of the answer, with reason and metadata, if there is one.
    :param transient: whether the same request may succeed later.
    :param ambiguous: whether the change may have been made despite the error.
    :param retry_after: seconds to wait before the next request, as Google demands.
    """

    def __init__(
        self,
        text: str,
        status: int | None = None,
        words: str = "",
        *,
        info: dict[str, t.Any] | None = None,
        transient: bool = False,
        ambiguous: bool = False,
        retry_after: float = 0,
    ) -> None:
        super().__init__(text)
        self.status, self.words, self.info = status, words, info or {}
        self.transient, self.ambiguous, self.retry_after = transient, ambiguous, retry_after


class RetryBudget:
    """The time that one run of a module may spend waiting for Google. All pauses count."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.renew()

    def renew(self) -> None:
        """Start again with the full time."""
        self._end = time.monotonic() + self.seconds

    def _sleep(self, seconds: float) -> bool:
        left = self._end - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(seconds, left))
        return True

    def polls(self) -> t.Iterator[bool]:
        """Sleep before each item, about half as long as the time so far, until the time is used up."""
        pause: float = _PAUSE
        while self._sleep(pause):
            yield True
            pause = min(pause * 1.5, _MAX_PAUSE)

    def back_off(self, tried: int, at_least: float = 0) -> bool:
        """Sleep after a refusal, longer after each one; return whether there is time for another try.

        :param tried: number of refusals before this one.
        :param at_least: seconds that Google demands.
        """
        if at_least > self._end - time.monotonic():
            return False
        # Random, so that concurrent clients do not retry at the same time.
        return self._sleep(at_least + random.uniform(0, min(_BACK_OFF * 2 ** min(tried, 16), _MAX_BACK_OFF)))

    def retry(self, act: t.Callable[[], t.Any], is_transient: t.Callable[[GcpError], bool]) -> t.Any:
        """Return the result of `act`. Repeat it while its error is transient. Raise GcpError."""
        polls = self.polls()
        while True:
            try:
                return act()
            except GcpError as error:
                if not is_transient(error) or not next(polls, False):
                    raise


def argument_spec() -> dict[str, t.Any]:
    """Return the options of doc fragment C(gcp), with the names and environment variables of google.cloud."""

    def option(variables: list[str], **rest: t.Any) -> dict[str, t.Any]:
        return {"type": "str", "fallback": (env_fallback, variables), **rest}

    return {
        "project": option(["GCP_PROJECT", "GCE_PROJECT"]),
        "auth_kind": option(["GCP_AUTH_KIND"], choices=sorted(_OPTIONS_OF_KIND), default="application"),
        "service_account_email": option(["GCP_SERVICE_ACCOUNT_EMAIL", "GCE_EMAIL"]),
        "service_account_file": option(
            ["GCP_SERVICE_ACCOUNT_FILE", "GCE_CREDENTIALS_FILE_PATH"], type="path"
        ),
        "service_account_contents": option(["GCP_SERVICE_ACCOUNT_CONTENTS"], type="jsonarg", no_log=True),
        "access_token": option(["GCP_ACCESS_TOKEN"], no_log=True),
        "access_token_from": {"type": "str", "no_log": False},  # the name of a variable
        "scopes": option(["GCP_SCOPES"], type="list", elements="str"),
        "env_type": option(["GCP_ENV_TYPE"]),
        "impersonate_service_account": option(
            [
                "GCP_IMPERSONATE_SERVICE_ACCOUNT",
                "CLOUDSDK_AUTH_IMPERSONATE_SERVICE_ACCOUNT",
                "GOOGLE_IMPERSONATE_SERVICE_ACCOUNT",
            ]
        ),
        "quota_project": option(["GCP_QUOTA_PROJECT", "GOOGLE_CLOUD_QUOTA_PROJECT"]),
        "universe_domain": option(
            ["GCP_UNIVERSE_DOMAIN", "GOOGLE_CLOUD_UNIVERSE_DOMAIN", "CLOUDSDK_CORE_UNIVERSE_DOMAIN"], default=_UNIVERSE
        ),
        "apis_just_enabled": {"type": "bool", "default": False},
        "wait_timeout": {"type": "int", "default": 300},
    }


def require_libraries(module: AnsibleModule) -> None:
    """Fail the module if a required library or collection is missing. The message states what to install."""
    if IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("requests and google-auth"), exception=IMPORT_ERROR)
    if SESSION_ERROR:
        module.fail_json(
            msg=f"Collection google.cloud ({_google_cloud_found()}) has no session class that this module can use: neither GcpSession"
            f" in gcp_utils nor Session in gcp_v2. Install a supported version."
            f" Example: ansible-galaxy collection install --force '{GOOGLE_CLOUD}'",
            exception=SESSION_ERROR,
        )


def _google_cloud_found() -> str:
    """Return the version and path of the installed google.cloud, or that it was not found."""
    # Ansible sends a module's imports to the host, but not the collection's MANIFEST.json.
    configured = os.environ.get("ANSIBLE_COLLECTIONS_PATH", "").split(os.pathsep)
    for folder in filter(None, (*configured, "~/.ansible/collections", "/usr/share/ansible/collections", *sys.path)):
        manifest = pathlib.Path(folder).expanduser() / "ansible_collections" / "google" / "cloud" / "MANIFEST.json"
        try:
            return f"version {json.loads(manifest.read_text())['collection_info']['version']}, {manifest.parent}"
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return "not found"


def check_project(project: str | None) -> None:
    """Raise GcpError unless it can be the ID or number of a project."""
    if not project or not _PROJECT.fullmatch(project):
        raise GcpError(f"project: must be a Google Cloud project ID or number (got '{project or ''}'). Example: project: my-project")


def check_lengths(params: dict[str, t.Any], limits: dict[str, int]) -> None:
    """Raise GcpError if the text of an option is too long.

    :param limits: maximum number of characters by option.
    """
    for option, limit in limits.items():
        if len(params[option] or "") > limit:
            raise GcpError(f"{option}: at most {limit} characters are allowed (got {len(params[option])}). Shorten the text.")


def check_bytes(params: dict[str, t.Any], limits: dict[str, int]) -> None:
    """Raise GcpError if the text of an option is too long.

    :param limits: maximum number of bytes in UTF-8 by option.
    """
    for option, limit in limits.items():
        if (size := len((params[option] or "").encode())) > limit:
            raise GcpError(f"{option}: at most {limit} bytes in UTF-8 are allowed (got {size}). Shorten the text.")


class _TokenRequest:
    """Sends google-auth's requests for tokens, with the same retry policy as all other requests."""

    def __init__(self, budget: RetryBudget) -> None:
        session = requests.Session()
        session.mount("https://", _adapter())
        self._send, self._budget = Request(session), budget

    def __call__(self, *arguments: t.Any, **options: t.Any) -> t.Any:
        tried = 0
        while True:
            answer = self._send(*arguments, **options)
            if answer.status not in _TRANSIENT or not self._budget.back_off(tried, _retry_after(answer.headers)):
                return answer
            tried += 1


class GcpClient:
    """A client with one credential and one connection pool for the whole run of a module.

    Transient errors are retried until C(wait_timeout) has passed. This may repeat any request, which is safe: the ID of a new object
    is ours, so a second create fails with HTTP 409, and a policy is written with its etag.
    """

    def __init__(self, module: AnsibleModule) -> None:
        params = module.params
        self.budget = RetryBudget(params["wait_timeout"])
        # In check mode, no earlier task has enabled anything.
        self._just_enabled = params["apis_just_enabled"] and not module.check_mode
        self._universe = params["universe_domain"]
        # By service: whether Service Usage reports it as enabled.
        self._enabled: dict[str, bool] = {}
        kind = params["auth_kind"]
        try:
            credentials = _credentials(module)
        except (google.auth.exceptions.GoogleAuthError, ValueError, OSError) as error:
            raise GcpError(
                f"auth_kind: no credential for {kind}: {error}. Create one, or choose another kind. Example: gcloud auth"
                " application-default login"
            ) from error
        # A plain token cannot be refreshed. Without this, HTTP 401 becomes a RefreshError that hides Google's message.
        bare = kind == "accesstoken" and not params["impersonate_service_account"]
        session = AuthorizedSession(
            credentials, auth_request=_TokenRequest(self.budget), **({"refresh_status_codes": ()} if bare else {})
        )
        session.headers["User-Agent"] = "-".join(filter(None, ("Google-Ansible-MM", _PRODUCT, params["env_type"])))
        self._session = _prepared(session)

    def request(
        self, method: str, url: str, what: str, body: t.Any = None, params: dict[str, t.Any] | None = None
    ) -> dict[str, t.Any]:
        """Send a request, and retry it while its error is transient.

        :param url: URL with Google's own host, for any universe.
        :param what: name of the object for an error message.
        :return: the decoded JSON answer.
        :raises GcpError: with the object, the HTTP status, Google's message and the fix.
        """
        tried, ambiguous = 0, False
        while True:
            try:
                return self._send(method, url, what, body, params)
            except GcpError as error:
                ambiguous = error.ambiguous = ambiguous or error.ambiguous
                if not error.transient and not self._refused_by_a_new_api(error, url):
                    raise
                if not self.budget.back_off(tried, error.retry_after):
                    asked = f", but Google asks to wait {error.retry_after:g} s" if error.retry_after else ""
                    error.args = (
                        f"{error}{'' if str(error).endswith(('.', ')')) else '.'} Tried {tried + 1} times; wait_timeout is"
                        f" {self.budget.seconds:g} s{asked}. Raise it to retry for longer."
                        f" Example: wait_timeout: {2 * self.budget.seconds:g}",
                    )
                    raise
                tried += 1

    def _refused_by_a_new_api(self, error: GcpError, url: str) -> bool:
        """Return whether an error comes from an API that was enabled so recently that not all of Google knows.

        Such an API reports that it is disabled, or that a permission is missing.
        """
        reason = error.info.get("reason")
        if error.status != 403 or reason == "ACCESS_TOKEN_SCOPE_INSUFFICIENT":
            return False
        if self._just_enabled:
            return True
        if reason != "SERVICE_DISABLED":
            # After an API has reported that it is disabled, it may next report a missing permission.
            return self._enabled.get(urlsplit(url).hostname or "", False)
        metadata = error.info["metadata"]
        service = metadata.get("service", "")
        if service not in self._enabled:
            self._enabled[service] = self._is_enabled(metadata.get("consumer", ""), service)
        return self._enabled[service]

    def _is_enabled(self, consumer: str, service: str) -> bool:
        """Return whether Service Usage reports an API as enabled; False if this cannot be read, so that nobody waits in vain."""
        if service == _USAGE.split("/")[2] or not consumer.startswith("projects/"):
            return False
        try:
            return self.request("GET", f"{_USAGE}/{consumer}/services/{service}", service).get("state") == "ENABLED"
        except GcpError:
            return False

    def _send(
        self, method: str, url: str, what: str, body: t.Any = None, params: dict[str, t.Any] | None = None
    ) -> dict[str, t.Any]:
        answer = self.respond(method, url, what, json=body, params=params)
        if answer.status_code >= 400:
            raise error_of(answer, what)
        content = _content(answer)
        if not isinstance(content, dict):
            url = answer.url.partition("?")[0]
            raise GcpError(f"{what}: {url} returns HTTP {answer.status_code} without a JSON object. {_NETWORK_FIX}")
        return content

    def respond(self, method: str, url: str, what: str, *, anonymous: bool = False, **options: t.Any) -> t.Any:
        """Send one request; return the answer, a requests.Response, even if it is an error.

        :param url: URL with Google's own host, for any universe.
        :param anonymous: whether to send no credential.
        :param options: options of requests: a body, a query, headers.
        :raises GcpError: if no answer arrives. The request is not retried.
        """
        url = url.replace(f".{_UNIVERSE}/", f".{self._universe}/", 1)
        session = self._anonymous if anonymous else self._session
        try:
            return session.request(method, url, timeout=TIMEOUT, **options)
        except google.auth.exceptions.TransportError as error:
            raise GcpError(f"{what}: no access token, because the token server does not answer: {_cause(error)}") from error
        except google.auth.exceptions.GoogleAuthError as error:
            transient = getattr(error, "retryable", False)
            raise GcpError(f"{what}: Google does not accept the credential {_refusal(error)}", transient=transient) from error
        except requests.exceptions.RequestException as error:
            lost = _was_lost(error)
            raise GcpError(f"{what}: no answer from {url}: {_cause(error)}", transient=lost, ambiguous=lost) from error

    @functools.cached_property
    def _anonymous(self) -> t.Any:
        return _prepared(requests.Session())

    @property
    def token(self) -> str:
        """The access token of the last request."""
        return self._session.credentials.token

    def get(
        self, url: str, what: str, params: dict[str, t.Any] | None = None, *, method: str = "GET", body: t.Any = None
    ) -> dict[str, t.Any] | None:
        """Return the object, or None if it does not exist (HTTP 404). Some APIs read with POST. Raise GcpError."""
        try:
            return self.request(method, url, what, body=body, params=params)
        except GcpError as error:
            if error.status == 404:
                return None
            raise

    def list_all(self, url: str, field: str, what: str, params: dict[str, t.Any] | None = None) -> list[dict[str, t.Any]]:
        """Return all objects of a collection (https://google.aip.dev/158), from all pages; none if the parent does not exist.

        :param field: field of the answer that contains the objects.
        """
        found: list[dict[str, t.Any]] = []
        page = self.get(url, what, params)
        while page:
            found += page.get(field, [])
            token = page.get("nextPageToken")
            page = self.get(url, what, {**(params or {}), "pageToken": token}) if token else None
        return found

    def find(
        self, api: str, parent: str, kind: str, identifier: str | None, page: int, deleted: bool = False
    ) -> list[dict[str, t.Any]]:
        """Return the object with an ID, or without an ID all objects of a parent. Raise GcpError.

        :param kind: field of a list that contains the objects.
        :param page: number of objects in a page.
        :param deleted: whether a list includes deleted objects.
        """
        if identifier is None:
            query = {"pageSize": page, **({"showDeleted": "true"} if deleted else {})}
            return self.list_all(f"{api}/{parent}", kind, parent, query)
        found = self.get(f"{api}/{parent}/{identifier}", f"{parent}/{identifier}")
        return [found] if found else []

    def wait(self, operation: dict[str, t.Any], api: str, what: str) -> None:
        """Poll a long-running operation (https://google.aip.dev/151) until it ends. Raise GcpError if it fails or takes too long.

        :param api: root URL of the service, such as C(https://iam.googleapis.com/v1).
        """
        polls = self.budget.polls()
        while not operation.get("done") and operation.get("name") != _NO_OPERATION:
            if not next(polls, False):
                raise GcpError(
                    f"{what}: the operation {operation.get('name')} did not end within {self.budget.seconds:g} s. Run again to continue, or"
                    f" wait longer. Example: wait_timeout: {2 * self.budget.seconds:g}"
                )
            operation = self.request("GET", f"{api}/{operation['name']}", what)
        if "error" in operation:
            # A google.rpc.Status, whose code is not an HTTP status.
            raise GcpError(f"{what}: the operation failed: {operation['error'].get('message')}")


def _content(answer: t.Any) -> t.Any:
    """Return the decoded JSON of an answer, or None if it is not JSON."""
    try:
        return answer.json()
    except ValueError:
        return None


def error_of(answer: t.Any, what: str) -> GcpError:
    """Return the error for an error answer, with Google's message and the fix.

    :param what: name of the object for the message.
    """
    content = _content(answer)
    refusal = content.get("error") if isinstance(content, dict) else None
    message = refusal.get("message") if isinstance(refusal, dict) else answer.text[:300]
    info = _error_info(refusal)
    fix = _fix_of_reason(info) or _FIXES.get(answer.status_code)
    return GcpError(
        f"{what}: HTTP {answer.status_code}: {message}" + (f" ({fix}.)" if fix else ""),
        answer.status_code,
        str(message),
        info=info,
        transient=answer.status_code in _TRANSIENT,
        ambiguous=answer.status_code in _AMBIGUOUS,
        retry_after=_retry_after(answer.headers),
    )


def _prepared(session: t.Any) -> t.Any:
    """Return the session with the connection settings of this client."""
    # Otherwise an entry in .netrc would replace the credential.
    session.auth = lambda request: request
    session.mount("https://", _adapter())
    return session


def _adapter() -> HTTPAdapter:
    """Return an HTTP adapter that retries only requests that did not reach a server."""
    return HTTPAdapter(
        max_retries=Retry(
            total=_CONNECT_RETRIES,
            read=False,
            other=0,  # retries do not fix a certificate
            backoff_factor=0.5,
            respect_retry_after_header=False,
        )
    )


def _credentials(module: AnsibleModule) -> t.Any:
    """Return the credential for the options. Raise GcpError, and the errors of google-auth."""
    given = module.params
    kind, universe, account = given["auth_kind"], given["universe_domain"], given["impersonate_service_account"]
    forms = {
        "universe_domain": (_DOMAIN, "a domain", _UNIVERSE),
        "impersonate_service_account": (
            _ACCOUNTS,
            "the email address of a service account",
            "name@my-project.iam.gserviceaccount.com",
        ),
        "quota_project": (_PROJECT, "a project ID", "my-project"),
    }
    for option, (form, form_name, example) in forms.items():
        if given[option] and not form.fullmatch(given[option]):
            raise GcpError(f"{option}: must be {form_name} (got '{given[option]}'). Example: {option}: {example}")
    params: dict[str, t.Any] = dict.fromkeys(option for options in _OPTIONS_OF_KIND.values() for option in options)
    params.update({option: given[option] for option in _OPTIONS_OF_KIND[kind]})
    if kind in ("serviceaccount", "accesstoken") and not any(params[o] for o in _OPTIONS_OF_KIND[kind]):
        raise GcpError(f"auth_kind: {kind} needs {' or '.join(_OPTIONS_OF_KIND[kind])}. Example: {_EXAMPLES_OF_KIND[kind]}")
    scopes = given["scopes"] or [CLOUD_PLATFORM]
    params.update(auth_kind=kind, scopes=scopes, env_type=given["env_type"])
    # Use only its session's credentials: its own requests get a new token and connection each time, and have no timeouts.
    credentials = GcpSession(SimpleNamespace(params=params, fail_json=module.fail_json), _PRODUCT).session().credentials
    credentials = _of_universe(credentials, kind, universe)
    if account:
        *delegates, target = account.split(",")
        credentials = impersonated_credentials.Credentials(credentials, target, scopes, delegates=delegates)
    if getattr(credentials, "universe_domain", _UNIVERSE) != universe:
        # An older google-auth would request a token from Google's own hosts.
        raise GcpError(f"universe_domain: {universe} needs a newer google-auth. Example: pip install 'google-auth>=2.38'")
    if given["quota_project"]:
        credentials = credentials.with_quota_project(given["quota_project"])
    return credentials


def _of_universe(credentials: t.Any, kind: str, universe: str) -> t.Any:
    """Return the credential. Raise GcpError if it is of another universe. A credential may not state its universe."""
    if kind == "accesstoken":  # it does not state its universe
        of_google = universe == _UNIVERSE or not hasattr(credentials, "with_universe_domain")
        return credentials if of_google else credentials.with_universe_domain(universe)
    if hasattr(credentials, "universe_domain") and credentials.universe_domain != universe:
        raise GcpError(
            f"universe_domain: must be the domain of the credential of auth_kind {kind} (got {universe})."
            f" Example: universe_domain: {credentials.universe_domain}"
        )
    return credentials


def _was_lost(error: requests.exceptions.RequestException) -> bool:
    """Return whether the request was sent but no complete answer arrived."""
    if isinstance(error, (requests.exceptions.ReadTimeout, requests.exceptions.ChunkedEncodingError)):
        return True
    return isinstance(error, requests.exceptions.ConnectionError) and any(isinstance(one, ProtocolError) for one in error.args)


def _retry_after(headers: t.Mapping[str, str]) -> float:
    """Return the seconds in the header Retry-After (RFC 9110, section 10.2.3), or 0 without one."""
    value = (headers.get("Retry-After") or "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0


def _refusal(error: Exception) -> str:
    """Return why google-auth has no token, with the message in the answer's body, and the fix."""
    words = []
    for part in error.args or (error,):
        try:
            words.append(json.loads(part)["error"]["message"])
        except (TypeError, ValueError, KeyError):
            words.append(str(part))
    fix = _FIXES[401]
    if "impersonated" in words[0]:
        fix = (
            "Grant roles/iam.serviceAccountTokenCreator on the account of impersonate_service_account, for example by gcloud iam"
            " service-accounts add-iam-policy-binding"
        )
    return f"({': '.join(words)}). {fix}."


def _cause(error: Exception) -> str:
    """Return the innermost reason of a failed connection, and the fix."""
    cause: Exception | None = error
    proxy = ""
    while cause is not None:
        error = cause
        proxy = "through the proxy: " if "ProxyError" in type(error).__name__ else proxy
        inner = (getattr(error, "reason", None), *reversed(error.args))
        cause = next((one for one in inner if isinstance(one, Exception)), None)
    words = re.sub(r"<[^>]* at 0x[0-9a-f]+>: ", "", str(error))  # urllib3 shows an object's address
    fix = _CERTIFICATE_FIX if "CERTIFICATE_VERIFY_FAILED" in words else _NETWORK_FIX
    return f"{proxy}{words}. {fix}"


def _error_info(refusal: t.Any) -> dict[str, t.Any]:
    """Return the google.rpc.ErrorInfo of an error (https://google.aip.dev/193) with its metadata, or an empty object."""
    details = refusal.get("details") if isinstance(refusal, dict) else None
    for detail in details if isinstance(details, list) else []:
        if isinstance(detail, dict) and detail.get("reason"):
            return {"metadata": {}, **detail}
    return {}


def _fix_of_reason(info: dict[str, t.Any]) -> str | None:
    """Return the fix for the reason in an error, or None."""
    reason, metadata = info.get("reason"), info.get("metadata", {})
    service = metadata.get("service")
    if reason == "SERVICE_DISABLED" and service == "serviceusage.googleapis.com":
        return f"Enable this API once, so that the module can enable others: gcloud services enable {service}"
    if reason == "SERVICE_DISABLED":
        return (
            f"Enable {service} in {metadata.get('consumer', 'the project')} with module gcp_project_services;"
            " if that was just done, set apis_just_enabled: true, so that this module waits for it"
        )
    if reason == "ACCESS_TOKEN_SCOPE_INSUFFICIENT":
        return "Leave scopes unset, or use an access_token with scope https://www.googleapis.com/auth/cloud-platform"
    return None


def differing(
    current: dict[str, t.Any],
    wanted: dict[str, t.Any],
    same: t.Callable[[str, t.Any, t.Any], bool] = lambda _field, one, other: one == other,
) -> list[str]:
    """Return the top-level fields that differ from the wanted ones. Fields are compared as a whole, so a removed key is a difference.

    :param same: function that compares one field. The default is equality.
    """
    current, clean = stripped(current), stripped(wanted)
    return sorted(field for field in wanted if not same(field, current.get(field), clean.get(field)))


def stripped(resource: dict[str, t.Any]) -> dict[str, t.Any]:
    """Return an object without empty and false fields, which Google's APIs omit."""
    return {key: value for key, value in resource.items() if value not in (None, "", False, {}, [])}


def same_json(one: str | None, other: str | None) -> bool:
    """Return whether two JSON texts have the same content. The order of a JWKS's keys does not matter."""

    def parsed(text: str | None) -> t.Any:
        try:
            value = json.loads(text or "null")
        except ValueError:
            return text
        if isinstance(value, dict) and isinstance(value.get("keys"), list):
            value["keys"] = sorted(value["keys"], key=lambda key: json.dumps(key, sort_keys=True))
        return value

    return parsed(one) == parsed(other)
