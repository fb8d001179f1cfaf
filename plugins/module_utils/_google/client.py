# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Google's REST APIs with google.cloud's credentials: one session, time-outs, one retry policy, and clear errors.

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
# Why google.cloud has no session for us.
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
    # Where google.cloud is moving its utilities to; 1.14 and 1.15 have the session in both.
    try:
        from ansible_collections.google.cloud.plugins.module_utils.gcp_v2 import Session as GcpSession
    except ImportError:
        SESSION_ERROR = traceback.format_exc()

# The versions that are tested, as ansible-galaxy takes them.
GOOGLE_CLOUD = "google.cloud:>=1.4.1,<2.0.0"
# Seconds to connect and to wait for an answer.
TIMEOUT = (10, 60)
_CONNECT_RETRIES = 4
# HTTP statuses that pass by themselves, and those of them after which a change may have been made.
_TRANSIENT, _AMBIGUOUS = (429, 500, 502, 503, 504), (500, 502, 503, 504)
_PRODUCT = "registry_cache"
CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
# The domain of Google's hosts; another universe has the same hosts under its own domain.
_UNIVERSE = "googleapis.com"
_USAGE = "https://serviceusage.googleapis.com/v1"
# Which options each kind of credential reads; others may come from the environment and are left alone.
_OPTIONS_OF_KIND = {
    "application": (),
    "machineaccount": ("service_account_email",),
    "serviceaccount": ("service_account_file", "service_account_contents"),
    "accesstoken": ("access_token",),
}
_FIXES = {
    401: "Check auth_kind and its credential: it is expired, malformed or of another kind",
    403: "Check the project, and grant the permission to the identity that runs this module",
    404: "Check project, location and name",
    409: "Somebody else changes it at the same time: run again",
    429: "Google's quota is used up for the moment: run again in a minute",
}
_NETWORK_FIX = "Check the network, HTTPS_PROXY, and REQUESTS_CA_BUNDLE where a proxy has a CA of its own."
_CERTIFICATE_FIX = "Set REQUESTS_CA_BUNDLE to a file that holds the CA of the proxy, or of what else stands before Google."
_PROJECT = re.compile(r"[a-z0-9][a-z0-9.:-]*")  # with ':' where a domain holds it
_DOMAIN = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")
_ACCOUNTS = re.compile(r"[^@\s,]+@[^@\s,]+(,[^@\s,]+@[^@\s,]+)*")
# The name of an operation that is done, and that there is nothing to poll at.
_NO_OPERATION = "operations/noop.DONE_OPERATION"
# Seconds between polls: at first, and at most.
_PAUSE, _MAX_PAUSE = 0.2, 5
# Seconds of the longest pause after the first refusal, and after the sixth and later ones.
_BACK_OFF, _MAX_BACK_OFF = 1, 32


class GcpError(Exception):
    """A request that Google refused or that never reached it; the text is a sentence for the user.

    :param status: of HTTP, where Google answered.
    :param words: Google's own.
    :param info: the google.rpc.ErrorInfo, if the answer has one: reason and metadata.
    :param transient: whether the same request may succeed later.
    :param ambiguous: whether the change may have been made all the same.
    :param retry_after: seconds that Google wants to be left alone.
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
    """The time that one run of a module has for Google; every pause is taken out of it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.renew()

    def renew(self) -> None:
        """Begin anew: what follows has all of the time again."""
        self._end = time.monotonic() + self.seconds

    def _sleep(self, seconds: float) -> bool:
        left = self._end - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(seconds, left))
        return True

    def polls(self) -> t.Iterator[bool]:
        """Sleep before each item, about half as long as all has gone on so far, until the time is over."""
        pause: float = _PAUSE
        while self._sleep(pause):
            yield True
            pause = min(pause * 1.5, _MAX_PAUSE)

    def back_off(self, tried: int, at_least: float = 0) -> bool:
        """Sleep after a refusal, longer from one to the next; returns whether there is time for another try.

        :param tried: refusals before this one.
        :param at_least: seconds that Google asked for.
        """
        if at_least > self._end - time.monotonic():
            return False
        # Clients that met once should not meet again.
        return self._sleep(at_least + random.uniform(0, min(_BACK_OFF * 2 ** min(tried, 16), _MAX_BACK_OFF)))

    def retry(self, act: t.Callable[[], t.Any], is_transient: t.Callable[[GcpError], bool]) -> t.Any:
        """What `act` returns; polled while its error is transient."""
        polls = self.polls()
        while True:
            try:
                return act()
            except GcpError as error:
                if not is_transient(error) or not next(polls, False):
                    raise


def argument_spec() -> dict[str, t.Any]:
    """The options of doc fragment C(gcp), with google.cloud's names and environment fallbacks."""

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
    """Fail the module, with what to install, when what the client is built on is missing."""
    if IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("requests and google-auth"), exception=IMPORT_ERROR)
    if SESSION_ERROR:
        module.fail_json(
            msg=f"The collection google.cloud ({_google_cloud_found()}) has no session that this module can use: neither GcpSession"
            f" in gcp_utils nor Session in gcp_v2. Example: ansible-galaxy collection install --force '{GOOGLE_CLOUD}'",
            exception=SESSION_ERROR,
        )


def _google_cloud_found() -> str:
    """The version of google.cloud that is installed, and where."""
    # The controller packs a module's imports, and not the collection's MANIFEST.json.
    configured = os.environ.get("ANSIBLE_COLLECTIONS_PATH", "").split(os.pathsep)
    for folder in filter(None, (*configured, "~/.ansible/collections", "/usr/share/ansible/collections", *sys.path)):
        manifest = pathlib.Path(folder).expanduser() / "ansible_collections" / "google" / "cloud" / "MANIFEST.json"
        try:
            return f"version {json.loads(manifest.read_text())['collection_info']['version']}, {manifest.parent}"
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return "not found"


def check_project(project: str | None) -> None:
    """:raises GcpError: unless it is the id or number of a project."""
    if not project or not _PROJECT.fullmatch(project):
        raise GcpError(f"project '{project or ''}' is no project's id or number. Example: project: my-project")


def check_lengths(params: dict[str, t.Any], limits: dict[str, int]) -> None:
    """:raises GcpError: where an option's text is longer than Google takes.

    :param limits: characters by option.
    """
    for option, limit in limits.items():
        if len(params[option] or "") > limit:
            raise GcpError(f"{option} has {len(params[option])} characters, and Google takes {limit}. Shorten it")


def check_bytes(params: dict[str, t.Any], limits: dict[str, int]) -> None:
    """:raises GcpError: where an option's text is longer than Google takes.

    :param limits: bytes in UTF-8 by option.
    """
    for option, limit in limits.items():
        if (size := len((params[option] or "").encode())) > limit:
            raise GcpError(f"{option} has {size} bytes in UTF-8, and Google takes {limit}. Shorten it")


class _TokenRequest:
    """A request by which google-auth gets a token, under the same retry policy as all others."""

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
    """Requests with one token and one connection pool for the whole module run.

    What fails for a while is tried again until C(wait_timeout) is over. That may repeat any of our requests: a new object's
    id is ours, so that a second create is refused by 409, and a policy is written with its etag.
    """

    def __init__(self, module: AnsibleModule) -> None:
        params = module.params
        self.budget = RetryBudget(params["wait_timeout"])
        # Check mode has enabled nothing.
        self._just_enabled = params["apis_just_enabled"] and not module.check_mode
        self._universe = params["universe_domain"]
        # By service, whether Service Usage calls it enabled.
        self._enabled: dict[str, bool] = {}
        kind = params["auth_kind"]
        try:
            credentials = _credentials(module)
        except (google.auth.exceptions.GoogleAuthError, ValueError, OSError) as error:
            raise GcpError(f"No Google credential of auth_kind {kind}: {error}") from error
        # Nothing can refresh a bare token: without this a 401 becomes a RefreshError that hides Google's own words.
        bare = kind == "accesstoken" and not params["impersonate_service_account"]
        session = AuthorizedSession(
            credentials, auth_request=_TokenRequest(self.budget), **({"refresh_status_codes": ()} if bare else {})
        )
        session.headers["User-Agent"] = "-".join(filter(None, ("Google-Ansible-MM", _PRODUCT, params["env_type"])))
        self._session = _prepared(session)

    def request(
        self, method: str, url: str, what: str, body: t.Any = None, params: dict[str, t.Any] | None = None
    ) -> dict[str, t.Any]:
        """One request, repeated while its error is transient.

        :param url: on Google's own host, whatever the universe.
        :param what: the object, as an error names it.
        :return: the decoded JSON answer.
        :raises GcpError: with the object, the HTTP status, Google's own message and what to do.
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
                    asked = f", and Google asks for {error.retry_after:g} s" if error.retry_after else ""
                    error.args = (
                        f"{error} Tried {tried + 1} times; wait_timeout is {self.budget.seconds:g} s{asked}: raise it to try longer.",
                    )
                    raise
                tried += 1

    def _refused_by_a_new_api(self, error: GcpError, url: str) -> bool:
        """Whether an API refuses that was enabled so recently that not all of Google knows.

        It says that it is disabled, or that a permission is missing.
        """
        reason = error.info.get("reason")
        if error.status != 403 or reason == "ACCESS_TOKEN_SCOPE_INSUFFICIENT":
            return False
        if self._just_enabled:
            return True
        if reason != "SERVICE_DISABLED":
            # An API that called itself disabled may want for a permission next.
            return self._enabled.get(urlsplit(url).hostname or "", False)
        metadata = error.info["metadata"]
        service = metadata.get("service", "")
        if service not in self._enabled:
            self._enabled[service] = self._is_enabled(metadata.get("consumer", ""), service)
        return self._enabled[service]

    def _is_enabled(self, consumer: str, service: str) -> bool:
        """What Service Usage says; False where that cannot be read: nobody should wait for what will not come."""
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
            raise GcpError(f"{what}: {url} answers HTTP {answer.status_code} without a JSON object. {_NETWORK_FIX}")
        return content

    def respond(self, method: str, url: str, what: str, *, anonymous: bool = False, **options: t.Any) -> t.Any:
        """The answer to one request as it is, even if it is a refusal: a requests.Response.

        :param url: on Google's own host, whatever the universe.
        :param anonymous: whether to send it without the credential of the module's options.
        :param options: what requests takes: a body, a query, headers.
        :raises GcpError: where no answer comes. It is not tried again.
        """
        url = url.replace(f".{_UNIVERSE}/", f".{self._universe}/", 1)
        session = self._anonymous if anonymous else self._session
        try:
            return session.request(method, url, timeout=TIMEOUT, **options)
        except google.auth.exceptions.TransportError as error:
            raise GcpError(f"{what}: no token, since its server does not answer: {_cause(error)}") from error
        except google.auth.exceptions.GoogleAuthError as error:
            transient = getattr(error, "retryable", False)
            raise GcpError(f"{what}: Google does not take the credential {_refusal(error)}", transient=transient) from error
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
        """The object, or None where there is none (404). Some APIs read by POST."""
        try:
            return self.request(method, url, what, body=body, params=params)
        except GcpError as error:
            if error.status == 404:
                return None
            raise

    def list_all(self, url: str, field: str, what: str, params: dict[str, t.Any] | None = None) -> list[dict[str, t.Any]]:
        """Every object of a collection (https://google.aip.dev/158), page by page; none where there is no such parent.

        :param field: that holds the objects in an answer.
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
        """The object of an id, or all objects below a parent without one. Raises GcpError.

        :param kind: the name of such objects in a list.
        :param page: how many objects Google gives in one answer.
        :param deleted: whether a list has deleted ones, too.
        """
        if identifier is None:
            query = {"pageSize": page, **({"showDeleted": "true"} if deleted else {})}
            return self.list_all(f"{api}/{parent}", kind, parent, query)
        found = self.get(f"{api}/{parent}/{identifier}", f"{parent}/{identifier}")
        return [found] if found else []

    def wait(self, operation: dict[str, t.Any], api: str, what: str) -> None:
        """Poll a long-running operation (https://google.aip.dev/151) to its end.

        :param api: the service's root, such as C(https://iam.googleapis.com/v1).
        """
        polls = self.budget.polls()
        while not operation.get("done") and operation.get("name") != _NO_OPERATION:
            if not next(polls, False):
                raise GcpError(
                    f"{what}: the operation {operation.get('name')} did not end within {self.budget.seconds:g} s."
                    " Raise wait_timeout, or run again to go on."
                )
            operation = self.request("GET", f"{api}/{operation['name']}", what)
        if "error" in operation:
            # A google.rpc.Status, whose code is not an HTTP status.
            raise GcpError(f"{what}: the operation failed: {operation['error'].get('message')}")


def _content(answer: t.Any) -> t.Any:
    """The JSON of an answer, None without any."""
    try:
        return answer.json()
    except ValueError:
        return None


def error_of(answer: t.Any, what: str) -> GcpError:
    """The error of an answer that is a refusal, with Google's words and what to do.

    :param what: the object, as an error names it.
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
    """The session, with the connections of this client."""
    # Else an entry of .netrc would take the place of the credential.
    session.auth = lambda request: request
    session.mount("https://", _adapter())
    return session


def _adapter() -> HTTPAdapter:
    """Connections; only what never reached a server is sent again here."""
    return HTTPAdapter(
        max_retries=Retry(
            total=_CONNECT_RETRIES,
            read=False,
            other=0,  # a certificate does not get better
            backoff_factor=0.5,
            respect_retry_after_header=False,
        )
    )


def _credentials(module: AnsibleModule) -> t.Any:
    """The credential that the options name. Raises GcpError, and what google-auth raises."""
    given = module.params
    kind, universe, account = given["auth_kind"], given["universe_domain"], given["impersonate_service_account"]
    forms = {
        "universe_domain": (_DOMAIN, "a domain", _UNIVERSE),
        "impersonate_service_account": (_ACCOUNTS, "the address of a service account", "name@my-project.iam.gserviceaccount.com"),
        "quota_project": (_PROJECT, "the id of a project", "my-project"),
    }
    for option, (form, form_name, example) in forms.items():
        if given[option] and not form.fullmatch(given[option]):
            raise GcpError(f"{option} '{given[option]}' is not {form_name}. Example: {option}: {example}")
    params: dict[str, t.Any] = dict.fromkeys(option for options in _OPTIONS_OF_KIND.values() for option in options)
    params.update({option: given[option] for option in _OPTIONS_OF_KIND[kind]})
    if kind in ("serviceaccount", "accesstoken") and not any(params[o] for o in _OPTIONS_OF_KIND[kind]):
        raise GcpError(f"auth_kind {kind} needs {' or '.join(_OPTIONS_OF_KIND[kind])}")
    scopes = given["scopes"] or [CLOUD_PLATFORM]
    params.update(auth_kind=kind, scopes=scopes, env_type=given["env_type"])
    # Its session alone is used: its requests take a new token and a new connection each, and have no time-outs.
    credentials = GcpSession(SimpleNamespace(params=params, fail_json=module.fail_json), _PRODUCT).session().credentials
    credentials = _of_universe(credentials, kind, universe)
    if account:
        *delegates, target = account.split(",")
        credentials = impersonated_credentials.Credentials(credentials, target, scopes, delegates=delegates)
    if getattr(credentials, "universe_domain", _UNIVERSE) != universe:
        # An older google-auth would ask Google's own hosts for a token.
        raise GcpError(f"universe_domain {universe} needs a newer google-auth. Example: pip install 'google-auth>=2.38'")
    if given["quota_project"]:
        credentials = credentials.with_quota_project(given["quota_project"])
    return credentials


def _of_universe(credentials: t.Any, kind: str, universe: str) -> t.Any:
    """The credential, if it is one of that universe, or says nothing of it."""
    if kind == "accesstoken":  # which does not say where it is from
        of_google = universe == _UNIVERSE or not hasattr(credentials, "with_universe_domain")
        return credentials if of_google else credentials.with_universe_domain(universe)
    if hasattr(credentials, "universe_domain") and credentials.universe_domain != universe:
        raise GcpError(
            f"universe_domain is {universe}, and the credential of auth_kind {kind} is of {credentials.universe_domain}."
            f" Example: universe_domain: {credentials.universe_domain}"
        )
    return credentials


def _was_lost(error: requests.exceptions.RequestException) -> bool:
    """Whether the request was sent and its answer did not come, or not whole."""
    if isinstance(error, (requests.exceptions.ReadTimeout, requests.exceptions.ChunkedEncodingError)):
        return True
    return isinstance(error, requests.exceptions.ConnectionError) and any(isinstance(one, ProtocolError) for one in error.args)


def _retry_after(headers: t.Mapping[str, str]) -> float:
    """The seconds of a header Retry-After (RFC 9110, section 10.2.3), 0 without one."""
    value = (headers.get("Retry-After") or "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0


def _refusal(error: Exception) -> str:
    """Why google-auth has no token, with the message that an answer's body has; and what to do."""
    words = []
    for part in error.args or (error,):
        try:
            words.append(json.loads(part)["error"]["message"])
        except (TypeError, ValueError, KeyError):
            words.append(str(part))
    fix = _FIXES[401]
    if "impersonated" in words[0]:
        fix = "Grant roles/iam.serviceAccountTokenCreator on the account of impersonate_service_account"
    return f"({': '.join(words)}). {fix}."


def _cause(error: Exception) -> str:
    """The innermost reason of a failed connection, and the fix."""
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
    """The google.rpc.ErrorInfo of a refusal (https://google.aip.dev/193), with its metadata; empty without one."""
    details = refusal.get("details") if isinstance(refusal, dict) else None
    for detail in details if isinstance(details, list) else []:
        if isinstance(detail, dict) and detail.get("reason"):
            return {"metadata": {}, **detail}
    return {}


def _fix_of_reason(info: dict[str, t.Any]) -> str | None:
    """What to do about the reason that a refusal names."""
    reason, metadata = info.get("reason"), info.get("metadata", {})
    service = metadata.get("service")
    if reason == "SERVICE_DISABLED" and service == "serviceusage.googleapis.com":
        return f"Enable it once, by which others are enabled: gcloud services enable {service}"
    if reason == "SERVICE_DISABLED":
        return (
            f"Enable {service} in {metadata.get('consumer', 'the project')} with module gcp_project_services;"
            " if that was just done, set apis_just_enabled: true, by which this module waits for it"
        )
    if reason == "ACCESS_TOKEN_SCOPE_INSUFFICIENT":
        return "Leave scopes unset, or pass an access_token of scope cloud-platform"
    return None


def differing(
    current: dict[str, t.Any],
    wanted: dict[str, t.Any],
    same: t.Callable[[str, t.Any, t.Any], bool] = lambda _field, one, other: one == other,
) -> list[str]:
    """The wanted top-level fields that are not so; compared whole, so that a removed key counts.

    :param same: compares one field; plain equality unless given.
    """
    current, clean = stripped(current), stripped(wanted)
    return sorted(field for field in wanted if not same(field, current.get(field), clean.get(field)))


def stripped(resource: dict[str, t.Any]) -> dict[str, t.Any]:
    """Without empty and false fields, as Google's APIs leave them out."""
    return {key: value for key, value in resource.items() if value not in (None, "", False, {}, [])}


def same_json(one: str | None, other: str | None) -> bool:
    """Whether two JSON texts say the same; a JWKS's keys are compared by content, not by order."""

    def parsed(text: str | None) -> t.Any:
        try:
            value = json.loads(text or "null")
        except ValueError:
            return text
        if isinstance(value, dict) and isinstance(value.get("keys"), list):
            value["keys"] = sorted(value["keys"], key=lambda key: json.dumps(key, sort_keys=True))
        return value

    return parsed(one) == parsed(other)
