# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Google's REST APIs on google.cloud's session, taken once, with time-outs, retries and sentences for errors.

Private to this collection.
"""

from __future__ import annotations

import json
import re
import time
import traceback
import typing as t
from types import SimpleNamespace

from ansible.module_utils.basic import AnsibleModule, env_fallback, missing_required_lib

try:
    import google.auth.exceptions
    import requests
    from ansible_collections.google.cloud.plugins.module_utils.gcp_utils import GcpSession
    from google.auth.transport.requests import AuthorizedSession
    from requests.adapters import HTTPAdapter
    from urllib3.util.retry import Retry
except ImportError:
    IMPORT_ERROR: str | None = traceback.format_exc()
else:
    IMPORT_ERROR = None

# Seconds to connect and to wait for an answer.
TIMEOUT = (10, 60)
_RETRIES = 4
_PRODUCT = "registry_cache"
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
# Which options each kind of credential reads; others may come from the environment and are left alone.
_OPTIONS_OF_KIND = {
    "application": (),
    "machineaccount": ("service_account_email",),
    "serviceaccount": ("service_account_file", "service_account_contents"),
    "accesstoken": ("access_token",),
}
_WAY_OUT = {
    401: "Check auth_kind and its credential: it is expired, malformed or of another kind",
    403: "Check the project, and grant the permission to the identity that runs this module",
    404: "Check project, location and name",
    409: "Somebody else changes it at the same time: run again",
    429: "Google's quota is used up for the moment: run again in a minute",
}
_NETWORK_WAY_OUT = "Check the network, HTTPS_PROXY, and REQUESTS_CA_BUNDLE where a proxy has a CA of its own."
_CERTIFICATE_WAY_OUT = "Set REQUESTS_CA_BUNDLE to a file that holds the CA of the proxy, or of what else stands before Google."
_PROJECT = re.compile(r"[a-z0-9][a-z0-9.:-]*")  # with ':' where a domain holds it
# The name of an operation that is done, and that there is nothing to poll at.
_NO_OPERATION = "operations/noop.DONE_OPERATION"
# Seconds between polls: at first, and at most.
_PAUSE, _MAX_PAUSE = 0.2, 5


class GcpError(Exception):
    """A request that Google refused or that never reached it; the text is a sentence for the user.

    :param status: of HTTP, where Google answered.
    :param words: Google's own.
    """

    def __init__(self, text: str, status: int | None = None, words: str = "") -> None:
        super().__init__(text)
        self.status, self.words = status, words


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
        "scopes": option(["GCP_SCOPES"], type="list", elements="str"),
        "env_type": option(["GCP_ENV_TYPE"]),
    }


def gcp_module(spec: dict[str, t.Any], **rest: t.Any) -> AnsibleModule:
    """An AnsibleModule with the Google options; fails when the Python libraries are missing."""
    module = AnsibleModule(argument_spec={**argument_spec(), **spec}, supports_check_mode=True, **rest)
    if IMPORT_ERROR:
        module.fail_json(
            msg=missing_required_lib("requests, google-auth and the collection google.cloud"), exception=IMPORT_ERROR
        )
    return module


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


class GcpClient:
    """Requests with one token and one connection pool for the whole module run."""

    def __init__(self, module: AnsibleModule) -> None:
        kind = module.params["auth_kind"]
        params: dict[str, t.Any] = dict.fromkeys(option for options in _OPTIONS_OF_KIND.values() for option in options)
        params.update({option: module.params[option] for option in _OPTIONS_OF_KIND[kind]})
        if kind in ("serviceaccount", "accesstoken") and not any(params[o] for o in _OPTIONS_OF_KIND[kind]):
            raise GcpError(f"auth_kind {kind} needs {' or '.join(_OPTIONS_OF_KIND[kind])}")
        params.update(auth_kind=kind, scopes=module.params["scopes"] or list(_SCOPES), env_type=module.params["env_type"])
        try:
            session = GcpSession(SimpleNamespace(params=params, fail_json=module.fail_json), _PRODUCT).session()
        except (google.auth.exceptions.GoogleAuthError, ValueError, OSError) as error:
            raise GcpError(f"No Google credential of auth_kind {kind}: {error}") from error
        if kind == "accesstoken":
            # Nothing can refresh it: without this a 401 becomes a RefreshError that hides Google's own words.
            session = AuthorizedSession(session.credentials, refresh_status_codes=())
        session.headers["User-Agent"] = "-".join(filter(None, ("Google-Ansible-MM", _PRODUCT, params["env_type"])))
        retry = Retry(
            total=_RETRIES,
            backoff_factor=0.5,
            other=0,  # a certificate does not get better
            status_forcelist=(429, 502, 503, 504),
            allowed_methods=("GET", "PATCH", "DELETE"),  # sent twice, they come to the same
            respect_retry_after_header=False,  # a server could ask for hours
            raise_on_status=False,
        )
        session.mount("https://", HTTPAdapter(max_retries=retry))
        self._session = session

    def request(
        self, method: str, url: str, what: str, body: t.Any = None, params: dict[str, t.Any] | None = None
    ) -> dict[str, t.Any]:
        """One request.

        :param what: the object, as an error names it.
        :return: the decoded JSON answer.
        :raises GcpError: with the object, the HTTP status, Google's own message and what to do.
        """
        try:
            answer = self._session.request(method, url, json=body, params=params, timeout=TIMEOUT)
        except google.auth.exceptions.TransportError as error:
            raise GcpError(f"{what}: no token, since its server does not answer: {_cause(error)}") from error
        except google.auth.exceptions.GoogleAuthError as error:
            raise GcpError(f"{what}: Google does not take the credential ({error}). {_WAY_OUT[401]}.") from error
        except requests.exceptions.RequestException as error:
            raise GcpError(f"{what}: no answer from {url}: {_cause(error)}") from error
        try:
            content = answer.json()
        except ValueError:
            content = None
        if answer.status_code >= 400:
            refusal = content.get("error") if isinstance(content, dict) else None
            message = refusal.get("message") if isinstance(refusal, dict) else answer.text[:300]
            way_out = _way_out_of_reason(refusal) or _WAY_OUT.get(answer.status_code)
            raise GcpError(
                f"{what}: HTTP {answer.status_code}: {message}" + (f" ({way_out}.)" if way_out else ""),
                answer.status_code,
                str(message),
            )
        if not isinstance(content, dict):
            raise GcpError(f"{what}: {url} answers HTTP {answer.status_code} without a JSON object. {_NETWORK_WAY_OUT}")
        return content

    def get(self, url: str, what: str, params: dict[str, t.Any] | None = None) -> dict[str, t.Any] | None:
        """GET an object, or None where there is none (404)."""
        try:
            return self.request("GET", url, what, params=params)
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

    def wait(self, operation: dict[str, t.Any], api: str, what: str, seconds: float) -> None:
        """Poll a long-running operation (https://google.aip.dev/151) to its end.

        :param api: the service's root, such as C(https://iam.googleapis.com/v1).
        :param seconds: how long at most.
        """
        pauses = _pauses(seconds)
        while not operation.get("done") and operation.get("name") != _NO_OPERATION:
            if not next(pauses, False):
                raise GcpError(
                    f"{what}: the operation {operation.get('name')} did not end within {seconds:g} s."
                    " Raise wait_timeout, or run again to go on."
                )
            operation = self.request("GET", f"{api}/{operation['name']}", what)
        if "error" in operation:
            # A google.rpc.Status, whose code is not an HTTP status.
            raise GcpError(f"{what}: the operation failed: {operation['error'].get('message')}")


def _pauses(seconds: float) -> t.Iterator[bool]:
    """Sleep before each item, about half as long as all has gone on so far, until so many seconds are over."""
    deadline, pause = time.monotonic() + seconds, _PAUSE
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(pause, left))
        yield True
        pause = min(pause * 1.5, _MAX_PAUSE)


def patiently(act: t.Callable[[], t.Any], passes: t.Callable[[GcpError], bool], seconds: float) -> t.Any:
    """What `act` returns; tried again for so many seconds while its error is one that passes by itself."""
    pauses = _pauses(seconds)
    while True:
        try:
            return act()
        except GcpError as error:
            if not passes(error) or not next(pauses, False):
                raise


def _cause(error: Exception) -> str:
    """The innermost reason of a failed connection, and the way out."""
    cause: Exception | None = error
    proxy = ""
    while cause is not None:
        error = cause
        proxy = "through the proxy: " if "ProxyError" in type(error).__name__ else proxy
        inner = (getattr(error, "reason", None), *reversed(error.args))
        cause = next((one for one in inner if isinstance(one, Exception)), None)
    words = re.sub(r"<[^>]* at 0x[0-9a-f]+>: ", "", str(error))  # urllib3 shows an object's address
    way_out = _CERTIFICATE_WAY_OUT if "CERTIFICATE_VERIFY_FAILED" in words else _NETWORK_WAY_OUT
    return f"{proxy}{words}. {way_out}"


def _way_out_of_reason(error: t.Any) -> str | None:
    """What to do about the reason that a google.rpc.ErrorInfo names (https://google.aip.dev/193)."""
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else []:
        metadata = detail.get("metadata", {})
        service = metadata.get("service")
        if detail.get("reason") == "SERVICE_DISABLED" and service == "serviceusage.googleapis.com":
            return f"Enable it once, by which others are enabled: gcloud services enable {service}"
        if detail.get("reason") == "SERVICE_DISABLED":
            return (
                f"Enable {service} in {metadata.get('consumer', 'the project')} with module gcp_project_services;"
                " if that was just done, try again in a minute or two"
            )
        if detail.get("reason") == "ACCESS_TOKEN_SCOPE_INSUFFICIENT":
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
