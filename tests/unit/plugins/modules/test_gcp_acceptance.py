# SPDX-License-Identifier: GPL-3.0-or-later
"""Module gcp_acceptance against the Google emulator, an API server and a registry in memory."""

from __future__ import annotations

import hashlib
import json
import pathlib
import re
from typing import Any

import pytest
import yaml
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google import client as gcp
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.acceptance import answers, images, pools
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.acceptance import run as running
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.settings import ROOT
from tests.unit.plugins.google_wire import Wire
from tests.unit.plugins.kubernetes_api import ApiServer, Refusal
from tests.unit.sandbox.google.harness import ACCOUNTS, AR, ISSUER, POOLS, Google

ASSUMPTIONS = yaml.safe_load((ROOT / "playbooks" / "files" / "assumptions.yml").read_text())
NAME = "rc-acceptance-1"
KINDS = ["account", "pool", "repository"]
REPOSITORIES = f"{AR}/projects/demo/locations/us-central1/repositories"
ACCOUNT = f"{ACCOUNTS}/{NAME}@demo.iam.gserviceaccount.com"
SECRET = re.compile(r"ya29\.|eyJ[\w-]{20}|/downloads/(?!TOKEN)|PRIVATE KEY")


class Clock:
    """A clock for the module, the tokens and the emulator. It advances only during sleep."""

    def __init__(self, google: Google) -> None:
        self._google = google

    def time(self) -> float:
        return self._google.now

    def monotonic(self) -> float:
        return self._google.steady

    def sleep(self, seconds: float) -> None:
        self._google.now += seconds
        self._google.steady += seconds


def storing_registry() -> Starlette:
    """Return a registry that stores blobs and manifests."""
    stored: dict[str, bytes] = {}

    def digest(body: bytes) -> str:
        return f"sha256:{hashlib.sha256(body).hexdigest()}"

    async def start(request: Request) -> Response:
        return Response(status_code=202, headers={"Location": f"{request.url.path}1"})

    async def finish(request: Request) -> Response:
        body = await request.body()
        assert request.query_params["digest"] == digest(body)
        stored[digest(body)] = body
        return Response(status_code=201)

    async def item(request: Request) -> Response:
        reference = request.path_params["reference"]
        if request.method == "PUT":
            stored[reference] = await request.body()
            return Response(status_code=201)
        if reference not in stored:
            return Response('{"errors":[{"code":"UNKNOWN"}]}', 404)
        body = stored[reference]
        headers = {"Docker-Content-Digest": digest(body)}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", "")):
            first, last = int(wanted[1]), int(wanted[2])
            return Response(body[first : last + 1], 206, {"Content-Range": f"bytes {first}-{last}/{len(body)}"})
        return Response(body, headers=headers)

    name = "/v2/{name:path}"
    return Starlette(
        routes=[
            Route(f"{name}/blobs/uploads/", start, methods=["POST"]),
            Route(f"{name}/blobs/uploads/1", finish, methods=["PUT"]),
            Route(f"{name}/manifests/{{reference}}", item, methods=["GET", "PUT"]),
            Route(f"{name}/blobs/{{reference}}", item),
        ]
    )


@pytest.fixture
def wire(wire: Wire, server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Wire:
    google, clock = wire.google, Clock(wire.google)
    google.registry.app = storing_registry()
    wire.well_formed = False  # some questions send malformed requests
    for module in (gcp, answers, images, pools, running):
        monkeypatch.setattr(module, "time", clock)

    def sign(namespace: str, account: str, spec: dict[str, Any]) -> str:
        assert spec["expirationSeconds"] == 600
        subject = f"system:serviceaccount:{namespace}:{account}"
        return google.jwt(sub=subject, aud=spec["audiences"], exp=int(google.now) + 600)

    server.sign = sign
    return wire


def act(wire: Wire, server: ApiServer, **options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"project": "demo", "name": NAME, "host": server.url, "api_key": "cluster-token"}
    if options.get("step") != "clean":
        given |= {"issuer_uri": ISSUER, "jwks": wire.google.keys.jwks(), "assumptions": ASSUMPTIONS}
    return wire.run("gcp_acceptance", **{**given, **options})


def status(wire: Wire, url: str) -> int:
    return wire.google.call("GET", url).status_code


def test_every_answer_is_as_assumed_and_cleaning_leaves_nothing(wire: Wire, server: ApiServer) -> None:
    asked = act(wire, server)
    assert asked.get("msg") is None
    assert {name: one for name, one in asked["answers"].items() if one["verdict"] != "same"} == {}
    assert asked["answers"].keys() == ASSUMPTIONS.keys() and len(asked["table"]) == len(ASSUMPTIONS)
    assert asked["changed"] and sorted(asked["made"]) == KINDS
    shown = json.dumps({name: asked[name] for name in ("answers", "table")})
    assert not SECRET.search(shown) and wire.google.operator not in json.dumps(asked)
    assert not re.search(r"\bdemo\b|rc-acceptance", json.dumps([one["answered"] for one in asked["answers"].values()]))
    # Questions about other identities do not use the module's own credential.
    strangers = [request for request in wire.requests if "sts." in request.host or request.url.endswith("/v2/")]
    assert strangers and all(wire.google.operator not in request.headers.get("Authorization", "") for request in strangers)

    assert act(wire, server, step="clean", made=asked["made"])["changed"] is True
    assert wire.google.call("GET", f"{POOLS}/{NAME}").json()["state"] == "DELETED"
    assert (status(wire, f"{REPOSITORIES}/{NAME}"), status(wire, ACCOUNT)) == (404, 404)
    assert act(wire, server, step="clean")["changed"] is False


def test_impersonation_in_a_run(wire: Wire, server: ApiServer) -> None:
    google, email = wire.google, "deployer@demo.iam.gserviceaccount.com"
    assert google.create_account("deployer").status_code == 200
    roles = ("roles/iam.workloadIdentityPoolAdmin", "roles/artifactregistry.admin")
    assert google.set_project_policy(*({"role": role, "members": [f"serviceAccount:{email}"]} for role in roles)).status_code == 200
    asked = act(wire, server, impersonate_service_account=email)
    verdicts = {name: one["verdict"] for name, one in asked["answers"].items()}
    skipped = {name for name in ASSUMPTIONS if name.startswith(("account_", "impersonation_"))}
    skipped |= {"noop_operation", "noop_poll", "project_policy_is_post"}
    assert verdicts == {name: "not asked" if name in skipped else "same" for name in ASSUMPTIONS}
    assert "iam.serviceAccounts.create" in asked["answers"]["account_create_is_direct"]["reason"]
    assert sorted(asked["made"]) == ["pool", "repository"] and asked.get("msg") is None


def test_an_overload_is_retried_and_a_refusal_is_an_answer(wire: Wire, server: ApiServer) -> None:
    wire.outage("GET", "/manifests/none", 503)
    wire.outage("GET", "/blobs/", 500)
    asked = act(wire, server)
    different = {name: one["answered"] for name, one in asked["answers"].items() if one["verdict"] == "different"}
    assert different.keys() == {"missing_blob"} and different["missing_blob"]["status"] == 500
    question = re.escape(ASSUMPTIONS["missing_blob"]["asked"])
    assert any(re.match(f"different +missing_blob: {question}: expected", line) for line in asked["table"])


def test_earlier_answers_are_returned_after_an_error(wire: Wire, server: ApiServer) -> None:
    def refuse(_method: str, path: str) -> None:
        if path.endswith("/token"):
            raise Refusal(403, "serviceaccounts is forbidden")

    server.hook = refuse
    asked = act(wire, server)
    assert asked["failed"] and "serviceaccounts is forbidden" in asked["msg"] and server.url in asked["msg"]
    assert sorted(asked["made"]) == ["pool", "repository"]
    assert asked["answers"]["missing_pool"]["verdict"] == "same"
    not_asked = {"verdict": "not asked", "reason": "the run ended before this question"}
    assert asked["answers"]["json_body"] == {**ASSUMPTIONS["json_body"], **not_asked}


def test_a_create_without_an_answer_is_removed_too(wire: Wire, server: ApiServer) -> None:
    wire.answer("POST", "workloadIdentityPools/rc-acceptance-1/providers", 200, b"<html>proxy</html>")
    asked = act(wire, server)
    assert asked["failed"] and asked["made"] == ["pool"]


def test_cleaning_goes_on_after_an_error(wire: Wire, server: ApiServer) -> None:
    wire.google.create_account(NAME)
    wire.google.done(wire.google.call("POST", REPOSITORIES, params={"repositoryId": NAME}, json={"format": "DOCKER"}))
    wire.answer("DELETE", "/serviceAccounts/", 403, {"error": {"code": 403, "message": "no"}})
    result = act(wire, server, step="clean")
    assert result["failed"] and result["changed"] and f"account {NAME}" in result["msg"] and "HTTP 403: no" in result["msg"]
    assert (status(wire, f"{REPOSITORIES}/{NAME}"), status(wire, ACCOUNT)) == (404, 200)
    assert server.seen == []


def test_cleaning_removes_only_what_is_named(wire: Wire, server: ApiServer) -> None:
    wire.google.create_account(NAME)
    assert act(wire, server, step="clean", made=["pool"])["changed"] is False
    assert status(wire, ACCOUNT) == 200


def test_a_bad_credential_creates_nothing(wire: Wire, server: ApiServer) -> None:
    asked = act(wire, server, access_token="not-good")
    assert asked["failed"] and "HTTP 401" in asked["msg"] and "auth_kind" in asked["msg"] and "not-good" not in json.dumps(asked)
    assert asked["made"] == [] and wire.google.call("GET", POOLS).json() == {}
    cleaned = act(wire, server, access_token="not-good", step="clean")
    assert cleaned["failed"] and not cleaned["changed"] and all(kind in cleaned["msg"] for kind in KINDS)


def test_a_cluster_that_does_not_answer_creates_nothing(wire: Wire, server: ApiServer) -> None:
    asked = act(wire, server, host="http://127.0.0.1:1")
    assert asked["failed"] and "127.0.0.1" in asked["msg"] and "kubeconfig" in asked["msg"]
    assert wire.requests == []


def test_required_options_of_step_ask(wire: Wire, server: ApiServer) -> None:
    asked = wire.run("gcp_acceptance", project="demo", name=NAME)
    assert asked["failed"] and all(option in asked["msg"] for option in ("issuer_uri", "jwks", "assumptions"))
    assert wire.requests == []


def test_check_mode_is_refused(wire: Wire, server: ApiServer) -> None:
    result = act(wire, server, check=True)
    assert result["skipped"] and wire.requests == [] and server.seen == []


@pytest.mark.parametrize("name", ["registry-cache", "rc-acceptance-", "rc-acceptance-A", f"{NAME}\n"])
@pytest.mark.parametrize("step", ["ask", "clean"])
def test_objects_with_other_names_are_refused(wire: Wire, server: ApiServer, name: str, step: str) -> None:
    result = act(wire, server, name=name, step=step)
    assert result["failed"] and result["msg"].startswith("name: ") and "Example: name: " in result["msg"]
    assert wire.requests == []


def test_an_entry_of_netrc_is_no_credential(wire: Wire, server: ApiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    (tmp_path / "netrc").write_text("machine us-central1-docker.pkg.dev login ada password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    asked = act(wire, server)
    assert asked["answers"]["v2_challenge_without_service"]["verdict"] == "same"
