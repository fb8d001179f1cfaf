# SPDX-License-Identifier: GPL-3.0-or-later
"""The session of the Google client: credentials, retries, and errors below HTTP, over real sockets."""

from __future__ import annotations

import base64
import email.utils
import importlib
import importlib.util
import json
import pathlib
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import google.auth.credentials
import google.auth.exceptions
import google.auth.impersonated_credentials
import pytest
import yaml
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google import client as gcp
from requests.adapters import HTTPAdapter

from google_emulator import tls
from sandbox.settings import ROOT
from tests.http_server import HttpServer, QuietHandler
from tests.module_runner import run
from tests.unit.plugins.google_wire import Wire
from tests.unit.sandbox.google.harness import CLOUD_PLATFORM, IAM, READER, REPOSITORY

GOOGLE_CLOUD = "ansible_collections.google.cloud.plugins.module_utils"
POOL = {"project": "demo", "pool_id": "cache"}
MODULE = "gcp_iam_workload_identity_pool"
ROLE = {"role": "roles/x", "member": "user:a@example.com"}
# Each module, with options for it, and the object that its errors name.
EVERY = [
    (MODULE, POOL, "projects/demo/locations/global/workloadIdentityPools/cache"),
    (
        f"{MODULE}_provider",
        {
            **POOL,
            "provider_id": "kubernetes",
            "attribute_mapping": {"google.subject": "assertion.sub"},
            "oidc": {"issuer_uri": "https://issuer.example.com"},
        },
        "projects/demo/locations/global/workloadIdentityPools/cache/providers/kubernetes",
    ),
    (
        "gcp_iam_member",
        {"resources": ["projects/p/locations/l/repositories/r"], **ROLE},
        "IAM policy of projects/p/locations/l/repositories/r",
    ),
    (f"{MODULE}_info", {"project": "demo"}, "projects/demo/locations/global/workloadIdentityPools"),
    (f"{MODULE}_provider_info", POOL, "projects/demo/locations/global/workloadIdentityPools/cache/providers"),
    (
        "gcp_artifactregistry_repository",
        {"project": "demo", "location": "us", "repository_id": "r"},
        "projects/demo/locations/us/repositories/r",
    ),
    (
        "gcp_artifactregistry_repository_info",
        {"project": "demo", "location": "us"},
        "projects/demo/locations/us/repositories",
    ),
    ("gcp_project_services", {"project": "demo", "services": ["iam.googleapis.com"]}, "services of project demo"),
    (
        "gcp_iam_service_account",
        {"project": "demo", "account_id": "reader"},
        "projects/demo/serviceAccounts/reader@demo.iam.gserviceaccount.com",
    ),
]


class Server(HttpServer):
    """Gives prepared answers in order, and repeats the last one. It answers for any https host."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self.retry_after = ""
        self.seen: list[str] = []
        outer = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                outer.seen.append(self.command)
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, body = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                if status == 0:  # hangs up
                    self.close_connection = True
                    return
                if status == -1:  # never answers
                    outer.release.wait(10)
                    return
                if status == -2:  # ends in the middle of the body
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body) * 2))
                    self.end_headers()
                    self.wfile.write(body)
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                if outer.retry_after:
                    self.send_header("Retry-After", outer.retry_after)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PATCH = do_DELETE = answer

        self.release = threading.Event()
        super().__init__(Handler)

        class Loopback(HTTPAdapter):
            def send(self, request: Any, *arguments: Any, **options: Any) -> Any:
                request.url = outer.url + request.path_url
                return super().send(request, *arguments, **options)

        monkeypatch.setattr(gcp, "HTTPAdapter", Loopback)
        self.pauses: list[float] = []
        # The clock advances only during sleep. urllib3 also pauses between attempts to connect.
        started, now = time.monotonic(), time.time()
        clock = {"monotonic": lambda: started + sum(self.pauses), "time": lambda: now + sum(self.pauses), "sleep": self.pauses.append}
        monkeypatch.setattr(gcp, "time", SimpleNamespace(**clock))
        monkeypatch.setattr(time, "sleep", self.pauses.append)

    def close(self) -> None:
        self.release.set()
        super().close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    running = Server(monkeypatch)
    yield running
    running.close()


def client(**params: Any) -> gcp.GcpClient:
    def fail_json(msg: str) -> None:
        raise AssertionError(msg)

    defaults = {name: option.get("default") for name, option in gcp.argument_spec().items()}
    options = {**defaults, "auth_kind": "accesstoken", "access_token": "token", **params}
    return gcp.GcpClient(SimpleNamespace(params=options, check_mode=False, fail_json=fail_json))


URL = "https://iam.googleapis.com/v1/x"
FAULTS = [(429, b"{}"), (500, b"{}"), (502, b"<html>"), (503, b"{}"), (504, b"{}"), (0, b""), (-2, b'{"na')]


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
@pytest.mark.parametrize("fault", FAULTS)
def test_transient_errors_are_retried(server: Server, method: str, fault: tuple[int, bytes]) -> None:
    server.answers = [*[fault] * 7, (200, b'{"name": "x"}')]
    assert client().request(method, URL, "x") == {"name": "x"}
    assert server.seen == [method] * 8
    # Pauses grow, and are random, so that concurrent clients do not retry at the same time.
    assert len(set(server.pauses)) == 7
    assert all(pause <= min(2**number, 32) for number, pause in enumerate(server.pauses))


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("fault", FAULTS)
def test_retries_end_at_wait_timeout(server: Server, method: str, fault: tuple[int, bytes]) -> None:
    server.answers = [fault]
    with pytest.raises(gcp.GcpError, match=r"^x: .* Tried \d+ times; wait_timeout is 90 s.* Example: wait_timeout: 180$") as caught:
        client(wait_timeout=90).request(method, URL, "x")
    assert sum(server.pauses) == pytest.approx(90) and len(server.seen) == len(server.pauses) + 1
    # Without quota, Google has not processed the request. After other errors, this is unknown.
    assert caught.value.ambiguous == (fault[0] != 429)


def test_the_timeout_is_for_all_requests_together(server: Server) -> None:
    server.answers = [(503, b"{}")]
    google = client(wait_timeout=90)
    for _request in range(3):
        with pytest.raises(gcp.GcpError):
            google.request("GET", URL, "x")
    assert sum(server.pauses) == pytest.approx(90)


def test_a_timeout_of_zero_allows_one_try(server: Server) -> None:
    server.answers = [(503, b"{}")]
    with pytest.raises(gcp.GcpError):
        client(wait_timeout=0).request("GET", URL, "x")
    assert len(server.seen) == 1 and not server.pauses


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_the_shortest_pause(server: Server, form: str) -> None:
    server.answers = [(429, b"{}"), (200, b'{"name": "x"}')]
    # A date only has whole seconds.
    server.retry_after = "45" if form == "seconds" else email.utils.formatdate(gcp.time.time() + 46, usegmt=True)
    assert client().request("POST", URL, "x") == {"name": "x"}
    assert 45 <= server.pauses[0] <= 47 and len(server.seen) == 2


def test_a_pause_longer_than_the_timeout_is_not_started(server: Server) -> None:
    server.answers, server.retry_after = [(429, b'{"error": {"message": "Quota exceeded"}}')], "3600"
    with pytest.raises(gcp.GcpError, match=r"^x: HTTP 429: Quota exceeded .*wait_timeout is 300 s, but Google asks .*3600 s"):
        client().request("GET", URL, "x")
    assert len(server.seen) == 1 and not server.pauses


def test_an_invalid_retry_after_is_ignored(server: Server) -> None:
    server.answers, server.retry_after = [(503, b"{}"), (200, b"{}")], "soon"
    assert client().request("GET", URL, "x") == {} and server.pauses[0] <= 1


def test_a_server_that_hangs(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcp, "TIMEOUT", (1, 0.1))
    server.answers = [(-1, b"")]
    with pytest.raises(gcp.GcpError, match=r"^x: no answer from https://iam\.googleapis\.com/v1/x: .*HTTPS_PROXY") as caught:
        client(wait_timeout=3).request("POST", URL, "x", body={})
    assert caught.value.ambiguous and len(server.seen) > 1


@pytest.mark.parametrize(("module", "options", "what"), EVERY)
def test_a_refused_connection(server: Server, module: str, options: dict[str, Any], what: str) -> None:
    server.close()
    result = run(module, auth_kind="accesstoken", access_token="secret-token", **options)
    assert result["failed"] and result["msg"].startswith(f"{what}: no answer from https://")
    assert "refused" in result["msg"] and "HTTPS_PROXY" in result["msg"] and "REQUESTS_CA_BUNDLE" in result["msg"]
    assert "object at" not in result["msg"] and "Max retries" not in result["msg"]
    assert "secret-token" not in json.dumps(result) and sum(server.pauses) < 10


@pytest.mark.parametrize(("status", "fix"), sorted(gcp._FIXES.items()))
def test_an_error_names_a_fix(wire: Wire, status: int, fix: str) -> None:
    refusal = {"error": {"code": status, "message": "Google's words"}}
    wire.answer("POST", "workloadIdentityPoolId", status, refusal, times=100)
    message = wire.run(MODULE, **POOL)["msg"]
    assert f"/workloadIdentityPools/cache: HTTP {status}: Google's words ({fix}.)" in message


@pytest.mark.parametrize("body", [b"", b"<html>Log in</html>", b"[]"])
def test_an_answer_that_is_not_googles(server: Server, body: bytes) -> None:
    server.answers = [(200, body)]
    with pytest.raises(gcp.GcpError, match="HTTP 200 without a JSON object.*HTTPS_PROXY"):
        client().request("GET", "https://iam.googleapis.com/v1/x", "x")


def test_an_error_that_is_not_json(server: Server) -> None:
    server.answers = [(501, b"Bad day")]
    with pytest.raises(gcp.GcpError, match="^x: HTTP 501: Bad day$"):
        client().request("GET", "https://iam.googleapis.com/v1/x", "x")


def test_expired_access_token(wire: Wire) -> None:
    result = wire.run(MODULE, **POOL, access_token="expired-token")
    assert "workloadIdentityPools/cache: HTTP 401: Request had invalid authentication credentials" in result["msg"]
    assert "Check auth_kind" in result["msg"] and len(wire.requests) == 1
    assert "expired-token" not in json.dumps(result)


def test_one_session_token_time_out_and_user_agent(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCP_ENV_TYPE", "awx")
    wire.run(MODULE, **POOL)
    # One for Google's APIs, and one for the token servers.
    assert wire.sessions == 2 and len(wire.requests) == 5
    assert {request.timeout for request in wire.requests} == {(10, 60)}
    assert {request.headers["User-Agent"] for request in wire.requests} == {"Google-Ansible-MM-registry_cache-awx"}


def test_credentials_of_another_kind_in_the_environment(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GCP_SERVICE_ACCOUNT_FILE", "GCP_SERVICE_ACCOUNT_CONTENTS", "GCP_SERVICE_ACCOUNT_EMAIL"):
        monkeypatch.setenv(name, "{}")
    assert wire.run(MODULE, **POOL)["changed"]


def test_access_token_from_the_environment(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCP_AUTH_KIND", "accesstoken")
    monkeypatch.setenv("GCP_ACCESS_TOKEN", wire.google.operator)
    assert run(MODULE, **POOL)["changed"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"auth_kind": "accesstoken", "access_token": None}, "accesstoken needs access_token. Example: access_token_from: "),
        ({"auth_kind": "serviceaccount"}, "needs service_account_file or service_account_contents. Example: "),
        ({"auth_kind": "serviceaccount", "service_account_file": "/nowhere.json"}, "service_account_file at /nowhere.json"),
        ({"auth_kind": "serviceaccount", "service_account_contents": "{}"}, "auth_kind: no credential for service"),
        ({"auth_kind": "key"}, "auth_kind"),
    ],
)
def test_missing_credential(wire: Wire, options: dict[str, Any], words: str) -> None:
    result = wire.run(MODULE, **POOL, **options)
    assert result["failed"] and words in result["msg"] and not wire.requests


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (google.auth.exceptions.TransportError("unreachable"), r"no access token.*unreachable.*HTTPS_PROXY"),
        (google.auth.exceptions.RefreshError("invalid_grant"), r"does not accept the credential \(invalid_grant\)"),
    ],
)
def test_no_token(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    google_client = client()

    def fail(*_arguments: Any, **_options: Any) -> None:
        raise error

    monkeypatch.setattr(google_client._session.credentials, "before_request", fail)
    with pytest.raises(gcp.GcpError, match=f"^x: .*{words}"):
        google_client.request("GET", "https://iam.googleapis.com/v1/x", "x")


def test_missing_library(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcp, "IMPORT_ERROR", "ImportError: google.auth")
    message = wire.run(MODULE, **POOL)["msg"]
    assert "google-auth" in message and not wire.requests


def reloaded(monkeypatch: pytest.MonkeyPatch, **modules: Any) -> Any:
    """Return the client as it is with a google.cloud that has only these utilities."""
    for name in ("gcp_utils", "gcp_v2"):
        # A module that is None cannot be imported.
        monkeypatch.setitem(sys.modules, f"{GOOGLE_CLOUD}.{name}", modules.get(name))
    spec = importlib.util.spec_from_file_location(gcp.__name__, gcp.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_session_in_its_new_place_in_google_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = importlib.import_module(f"{GOOGLE_CLOUD}.gcp_utils").GcpSession
    for utilities in (
        {"gcp_utils": SimpleNamespace(GcpSession=theirs)},
        {"gcp_v2": SimpleNamespace(Session=theirs)},
        {"gcp_utils": SimpleNamespace(), "gcp_v2": SimpleNamespace(Session=theirs)},
    ):
        module = reloaded(monkeypatch, **utilities)
        assert module.GcpSession is theirs and module.SESSION_ERROR is None


@pytest.mark.parametrize("installed", [True, False])
def test_a_google_cloud_without_a_session(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, installed: bool
) -> None:
    module = reloaded(monkeypatch, gcp_utils=SimpleNamespace(), gcp_v2=SimpleNamespace())
    assert "ImportError" in module.SESSION_ERROR
    monkeypatch.setattr(gcp, "SESSION_ERROR", module.SESSION_ERROR)
    folder = tmp_path / "ansible_collections" / "google" / "cloud"
    folder.mkdir(parents=True)
    if installed:
        (folder / "MANIFEST.json").write_text('{"collection_info": {"version": "9.8.7"}}')
    monkeypatch.setenv("ANSIBLE_COLLECTIONS_PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [])
    result = wire.run(MODULE, **POOL)
    assert result["failed"] and "google.cloud" in result["msg"] and f"'{gcp.GOOGLE_CLOUD}'" in result["msg"]
    assert ("version 9.8.7" in result["msg"]) == installed and "ansible-galaxy collection install" in result["msg"]
    assert "not found" in result["msg"] or installed or pathlib.Path("/usr/share/ansible/collections").exists()


def test_the_versions_of_google_cloud_agree_with_galaxy_yml() -> None:
    lowest = yaml.safe_load((ROOT / "galaxy.yml").read_text())["dependencies"]["google.cloud"]
    assert gcp.GOOGLE_CLOUD.startswith(f"google.cloud:{lowest},<")
    assert f"google.cloud:{lowest}" in (ROOT / "README.md").read_text()


def test_options_and_variables_match_google_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings for its modules also work for ours."""
    utilities = importlib.import_module(f"{GOOGLE_CLOUD}.gcp_utils")
    seen: dict[str, Any] = {}
    monkeypatch.setattr(utilities.AnsibleModule, "__init__", lambda self, *_arguments, **options: seen.update(options))
    utilities.GcpModule(argument_spec={})
    ours, theirs = gcp.argument_spec(), seen["argument_spec"]
    assert theirs.keys() <= ours.keys()
    for name, option in theirs.items():
        assert ours[name]["type"] == option["type"] and set(ours[name].get("choices", [])) == set(option.get("choices", []))
        assert set(option["fallback"][1]) <= set(ours[name]["fallback"][1]), name


# ---- impersonation, quota project, universe


EMAIL = "deployer@demo.iam.gserviceaccount.com"
GENERATE = f"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{EMAIL}:generateAccessToken"


@pytest.fixture
def deployer(wire: Wire) -> Wire:
    """A service account that may manage pools, and that the operator may impersonate."""
    assert wire.google.create_account("deployer").is_success
    return wire


def test_impersonation(deployer: Wire) -> None:
    denied = deployer.run(MODULE, **POOL, impersonate_service_account=EMAIL)
    assert "HTTP 403: Permission 'iam.workloadIdentityPools.get' denied" in denied["msg"], "the request was sent as the account"
    binding = {"role": "roles/iam.workloadIdentityPoolAdmin", "members": [f"serviceAccount:{EMAIL}"]}
    assert deployer.google.set_project_policy(binding).is_success
    assert deployer.run(MODULE, **POOL, impersonate_service_account=EMAIL)["changed"]
    token, *rest = deployer.requests
    assert (token.method, token.url, token.body["scope"]) == ("POST", GENERATE, [CLOUD_PLATFORM])
    assert token.headers["authorization"] == f"Bearer {deployer.google.operator}"
    assert len(rest) > 3 and all(deployer.google.operator not in str(request.headers) for request in rest)


@pytest.mark.parametrize(
    "variable",
    ["GCP_IMPERSONATE_SERVICE_ACCOUNT", "CLOUDSDK_AUTH_IMPERSONATE_SERVICE_ACCOUNT", "GOOGLE_IMPERSONATE_SERVICE_ACCOUNT"],
)
def test_the_account_comes_from_the_environment(deployer: Wire, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, EMAIL)
    deployer.run(MODULE, **POOL)
    assert deployer.sent()[0] == ("POST", GENERATE)


def test_a_delegation_chain(deployer: Wire) -> None:
    deployer.answer("POST", ":generateAccessToken", 400, {"error": {"code": 400, "message": "No chains here"}})
    between = "between@demo.iam.gserviceaccount.com"
    assert "No chains here" in deployer.run(MODULE, **POOL, impersonate_service_account=f"{between},{EMAIL}")["msg"]
    (token,) = deployer.requests
    assert token.url == GENERATE and token.body["delegates"] == [between]


def test_an_account_that_may_not_be_impersonated(wire: Wire) -> None:
    message = wire.run(MODULE, **POOL, impersonate_service_account="nobody@demo.iam.gserviceaccount.com")["msg"]
    assert "iam.serviceAccounts.getAccessToken" in message and "roles/iam.serviceAccountTokenCreator" in message
    assert "{" not in message and not wire.clock.pauses


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_outage_of_the_token_server_is_retried(deployer: Wire, status: int) -> None:
    deployer.outage("POST", ":generateAccessToken", status, times=8)
    assert "workloadIdentityPools.get" in deployer.run(MODULE, **POOL, impersonate_service_account=EMAIL)["msg"]
    assert len(deployer.clock.pauses) == 8


@pytest.mark.parametrize(("module", "options", "what"), EVERY)
def test_a_quota_project_is_named_in_every_request(wire: Wire, module: str, options: dict[str, Any], what: str) -> None:
    wire.run(module, **options, quota_project="example.com:billing")
    assert wire.requests and {request.headers.get("x-goog-user-project") for request in wire.requests} == {"example.com:billing"}
    wire.run(module, **options)
    assert not any("x-goog-user-project" in request.headers for request in wire.requests)


@pytest.mark.parametrize("variable", ["GCP_QUOTA_PROJECT", "GOOGLE_CLOUD_QUOTA_PROJECT"])
def test_the_quota_project_comes_from_the_environment(wire: Wire, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "billing")
    wire.run(MODULE, **POOL)
    assert {request.headers.get("x-goog-user-project") for request in wire.requests} == {"billing"}


@pytest.mark.parametrize(("module", "options", "what"), EVERY)
def test_every_host_is_in_the_universe(wire: Wire, module: str, options: dict[str, Any], what: str) -> None:
    wire.universe = "apis-sovereign.example"
    wire.run(module, **options, universe_domain=wire.universe)
    assert wire.requests and all(request.host.endswith(".apis-sovereign.example") for request in wire.requests)


def test_tokens_of_an_account_come_from_the_universe_too(deployer: Wire) -> None:
    deployer.universe = "apis-sovereign.example"
    deployer.run(MODULE, **POOL, universe_domain=deployer.universe, impersonate_service_account=EMAIL)
    assert [request.host for request in deployer.requests] == [
        "iamcredentials.apis-sovereign.example",
        "iam.apis-sovereign.example",
    ]


@pytest.mark.parametrize(
    "variable", ["GCP_UNIVERSE_DOMAIN", "GOOGLE_CLOUD_UNIVERSE_DOMAIN", "CLOUDSDK_CORE_UNIVERSE_DOMAIN"]
)
def test_the_universe_comes_from_the_environment(wire: Wire, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    wire.universe = "apis-sovereign.example"
    monkeypatch.setenv(variable, wire.universe)
    wire.run(MODULE, **POOL)
    assert wire.requests[0].host == "iam.apis-sovereign.example"


@pytest.mark.parametrize(("own", "given"), [("googleapis.com", "apis-sovereign.example"), ("apis-sovereign.example", None)])
def test_a_credential_of_another_universe(wire: Wire, own: str, given: str | None) -> None:
    assert wire.google.create_account("deployer").is_success
    key = wire.google.call("POST", f"{IAM}/projects/demo/serviceAccounts/{EMAIL}/keys", json={}).json()
    content = {**json.loads(base64.b64decode(key["privateKeyData"])), "universe_domain": own}
    credential = {"auth_kind": "serviceaccount", "service_account_contents": json.dumps(content), "access_token": None}
    message = wire.run(MODULE, **POOL, **credential, **({"universe_domain": given} if given else {}))["msg"]
    assert message.startswith("universe_domain: ") and message.endswith(f"Example: universe_domain: {own}")
    assert not wire.requests


@pytest.mark.parametrize("account", [None, EMAIL])
def test_an_older_google_auth_does_not_know_universes(wire: Wire, monkeypatch: pytest.MonkeyPatch, account: str | None) -> None:
    kind = google.auth.credentials.Credentials
    if account:  # that version supports universes except for tokens of impersonated accounts
        kind = google.auth.impersonated_credentials.Credentials
    monkeypatch.setattr(kind, "universe_domain", "googleapis.com")
    message = wire.run(MODULE, **POOL, universe_domain="apis-sovereign.example", impersonate_service_account=account)["msg"]
    assert "google-auth" in message and "pip install" in message and not wire.requests


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("universe_domain", "https://googleapis.com"),
        ("universe_domain", "googleapis"),
        ("impersonate_service_account", "deployer"),
        ("impersonate_service_account", f"{EMAIL},"),
        ("quota_project", "My Project"),
    ],
)
def test_bad_input_is_refused_before_any_request(wire: Wire, option: str, value: str) -> None:
    message = wire.run(MODULE, **POOL, **{option: value})["msg"]
    assert message.startswith(f"{option}: ") and f"(got '{value}')" in message and f"Example: {option}: " in message and not wire.requests


def test_every_module_is_in_the_table() -> None:
    modules = pathlib.Path(gcp.__file__).parents[2] / "modules"
    # These modules ask a cluster first, and have separate tests.
    others = {"gcp_acceptance", "gcp_iam_cluster_principals"}
    assert {path.stem for path in modules.glob("gcp_*.py")} == {module for module, _options, _what in EVERY} | others


@pytest.mark.parametrize(("module", "options", "what"), EVERY)
def test_every_module_requires_a_token(
    wire: Wire, module: str, options: dict[str, Any], what: str
) -> None:
    result = wire.run(module, access_token="expired-token", **options)
    assert result["msg"].startswith(f"{what}: HTTP 401: Request had invalid authentication credentials")
    assert "Check auth_kind" in result["msg"] and len(wire.requests) == 1 and wire.sessions == 2
    assert "expired-token" not in json.dumps(result)


@pytest.mark.parametrize(("module", "options", "what"), EVERY)
def test_a_token_of_another_project(wire: Wire, module: str, options: dict[str, Any], what: str) -> None:
    theirs = {"resources": ["projects/other/locations/l/repositories/r"]} if "resources" in options else {"project": "other"}
    options = {**options, **theirs}
    message = wire.run(module, **options)["msg"]
    assert "HTTP 403: Permission '" in message and ("projects/other" in message or "project other" in message)
    assert "(Check the project, and grant the permission to the identity that runs this module.)" in message
    assert not [request for request in wire.writes() if not request.url.endswith(":getIamPolicy")]


@pytest.mark.parametrize(
    ("module", "options", "api"),
    [(module, options, "iam") for module, options, _what in EVERY if "_iam_" in module and module != "gcp_iam_member"]
    + [(module, options, "artifactregistry") for module, options, _what in EVERY if "artifactregistry" in module]
    + [
        ("gcp_iam_member", {"resources": ["projects/demo"], **ROLE}, "cloudresourcemanager"),
        ("gcp_iam_member", {"resources": ["projects/demo/serviceAccounts/a@b.c"], **ROLE}, "iam"),
        ("gcp_iam_member", {"resources": ["projects/demo/locations/us/repositories/r"], **ROLE}, "artifactregistry"),
    ],
)
def test_an_api_that_is_not_enabled(wire: Wire, module: str, options: dict[str, Any], api: str) -> None:
    service = f"{api}.googleapis.com"
    url = f"https://serviceusage.googleapis.com/v1/projects/demo/services/{service}:disable"
    wire.google.done(wire.google.call("POST", url, json={}))
    for check in (True, False):
        message = wire.run(module, check=check, **options)["msg"]
        assert f"(Enable {service} in projects/42 with module gcp_project_services; if that was just done" in message
        assert "apis_just_enabled: true" in message and not wire.clock.pauses, "nobody waits for what will not come"
    wire.run("gcp_project_services", project="demo", services=[service])
    assert "Enable" not in wire.run(module, check=True, **options).get("msg", "")


# Service Usage itself always answers, because other APIs are enabled with it.
ENABLED = [(name, options) for name, options, _what in EVERY if name != "gcp_project_services"]


def just_enabled(wire: Wire, seconds: float) -> None:
    """Enable all APIs except Service Usage. For the first half of the time, they report that they are disabled."""
    for service in ("iam", "artifactregistry", "cloudresourcemanager"):
        url = f"https://serviceusage.googleapis.com/v1/projects/demo/services/{service}.googleapis.com"
        wire.google.done(wire.google.call("POST", f"{url}:disable", json={}))
        wire.google.fault(enable_lag=seconds)
        wire.google.done(wire.google.call("POST", f"{url}:enable", json={}))


@pytest.mark.parametrize("asked_first", ["disabled", "denied"])
@pytest.mark.parametrize(("module", "options"), ENABLED)
def test_an_api_that_was_just_enabled_is_retried(
    wire: Wire, module: str, options: dict[str, Any], asked_first: str
) -> None:
    there = {"resources": [REPOSITORY], "role": READER}
    options = {name: there.get(name, value) for name, value in options.items()}
    wire.google.done(wire.google.create_pool())
    wire.google.create_repository()
    just_enabled(wire, 120)
    wire.google.steady += 70 if asked_first == "denied" else 0
    # If the first error is a missing permission, the module cannot know that the API is new.
    result = wire.run(module, **options, apis_just_enabled=asked_first == "denied")
    assert "failed" not in result and sum(wire.clock.pauses) >= (40 if asked_first == "denied" else 110)


def test_an_api_that_stays_disabled_although_it_was_just_enabled(wire: Wire) -> None:
    just_enabled(wire, 10_000)
    for options in ({}, {"apis_just_enabled": True}):
        wire.clock.pauses.clear()
        message = wire.run(MODULE, **POOL, wait_timeout=100, **options)["msg"]
        assert "(Enable iam.googleapis.com in projects/42" in message and "wait_timeout is 100 s" in message
        assert sum(wire.clock.pauses) == pytest.approx(100)


def test_check_mode_does_not_wait_for_an_api(wire: Wire) -> None:
    url = "https://serviceusage.googleapis.com/v1/projects/demo/services/iam.googleapis.com:disable"
    wire.google.done(wire.google.call("POST", url, json={}))
    assert wire.run(MODULE, check=True, **POOL, apis_just_enabled=True)["failed"] and not wire.clock.pauses


def test_an_api_whose_state_cannot_be_read_is_not_retried(wire: Wire) -> None:
    just_enabled(wire, 120)
    wire.answer("GET", "/services/iam", 403, {"error": {"code": 403, "message": "Permission denied"}})
    assert "Enable iam.googleapis.com" in wire.run(MODULE, **POOL)["msg"] and not wire.clock.pauses


def test_an_outage_while_the_state_of_an_api_is_read_is_retried(wire: Wire) -> None:
    just_enabled(wire, 60)
    wire.outage("GET", "/services/iam", 503, times=3)
    assert wire.run(MODULE, **POOL)["changed"]


def test_a_missing_permission_is_not_retried(wire: Wire) -> None:
    denied = {"error": {"code": 403, "message": "Permission 'iam.workloadIdentityPools.get' denied"}}
    wire.answer("GET", "/cache", 403, denied)
    assert wire.run(MODULE, **POOL)["failed"] and not wire.clock.pauses


def test_service_usage_itself_is_not_enabled(wire: Wire) -> None:
    info = {"reason": "SERVICE_DISABLED", "metadata": {"service": "serviceusage.googleapis.com"}}
    wire.answer("GET", ":batchGet", 403, {"error": {"code": 403, "message": "Disabled.", "details": [info]}})
    message = wire.run("gcp_project_services", project="demo", services=["iam.googleapis.com"])["msg"]
    assert message.endswith("gcloud services enable serviceusage.googleapis.com.)")


def test_a_token_with_a_scope_that_is_too_narrow(wire: Wire) -> None:
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT"}
    details = [{"@type": "type.googleapis.com/google.rpc.Help"}, info]
    wire.answer("GET", "/cache", 403, {"error": {"code": 403, "message": "Insufficient scopes.", "details": details}})
    message = wire.run(MODULE, **POOL)["msg"]
    assert "/workloadIdentityPools/cache: HTTP 403: Insufficient scopes. (" in message and "cloud-platform" in message


@pytest.fixture
def tls_server(tmp_path: pathlib.Path) -> Iterator[str]:
    """Yield the URL of a server with an unknown CA. The CA certificate is in C(ca.pem)."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"name": "x"}')

    server = HttpServer(Handler, tls.ensure(tmp_path, "127.0.0.1"))
    yield server.url.replace("127.0.0.1", "localhost")
    server.close()


def test_a_proxy_with_a_private_ca(tls_server: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with pytest.raises(gcp.GcpError) as caught:
        client().request("GET", f"{tls_server}/v1/x", "x")
    message = str(caught.value)
    assert message.startswith(f"x: no answer from {tls_server}/v1/x: [SSL: CERTIFICATE_VERIFY_FAILED]")
    assert message.endswith(f". {gcp._CERTIFICATE_FIX}") and "REQUESTS_CA_BUNDLE" in gcp._CERTIFICATE_FIX
    assert not pauses, "retries do not fix a certificate"
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    assert client().request("GET", f"{tls_server}/v1/x", "x") == {"name": "x"}


def test_a_proxy_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(QuietHandler):
        def do_CONNECT(self) -> None:
            self.send_error(403, "Forbidden")

    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    proxy = HttpServer(Handler)
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    refused = r"^x: no answer from https://iam\.googleapis\.com/v1/x: through the proxy: .*{}.*Check the network and HTTPS_PROXY"
    with pytest.raises(gcp.GcpError, match=refused.format("403 Forbidden")):
        client().request("GET", f"{IAM}/x", "x")
    proxy.close()
    with pytest.raises(gcp.GcpError, match=refused.format("refused")):
        client().request("GET", f"{IAM}/x", "x")


def test_no_memory_address_is_shown() -> None:
    error = OSError("<urllib3.connection.HTTPSConnection object at 0x7f00aa>: Failed to establish a new connection")
    assert gcp._cause(error).startswith("Failed to establish a new connection. Check the network")


def test_fields_are_compared_whole() -> None:
    current = {"a": {"x": "1", "y": "2"}, "b": "", "c": False, "d": "kept", "e": {"x": ""}}
    assert gcp.differing(current, {"a": {"x": "1"}, "b": "", "c": False}) == ["a"]
    assert gcp.differing(current, {"a": {"x": "1", "y": "2", "z": ""}, "d": ""}) == ["a", "d"]
    assert gcp.differing(current, {"e": {}}) == ["e"] and gcp.differing({}, {"e": {}, "b": "", "c": False}) == []
