# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/acceptance.yml with the emulator instead of Google: all answers are as assumed, nothing is left, no secret is shown."""

from __future__ import annotations

import json
import os
import pathlib
import re
import stat
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from sandbox.client import Cluster, Google
from sandbox.settings import LOCATION, PROJECT, ROOT, UPSTREAM_HOST, Sandbox

from .test_site import changed, words

ASSUMPTIONS = yaml.safe_load((ROOT / "playbooks" / "files" / "assumptions.yml").read_text())
NAME = "rc-acceptance"
POOLS = f"/v1/projects/{PROJECT}/locations/global/workloadIdentityPools"
REPOSITORIES = f"/v1/projects/{PROJECT}/locations/{LOCATION}/repositories"
# From docs/usage/google.md.
MODEST = ("roles/iam.workloadIdentityPoolAdmin", "roles/artifactregistry.admin")
ACCOUNTS = f"/v1/projects/{PROJECT}/serviceAccounts"


def acceptance(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the playbook in a folder, where it writes its answers."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    command = ["ansible-playbook", "--inventory", str(ROOT / "sandbox" / "inventory"), *arguments]
    playbook = str(ROOT / "playbooks" / "acceptance.yml")
    return subprocess.run([*command, playbook], cwd=folder, env=plain, check=False, capture_output=True, text=True)


def status(google: Google, host: str, path: str) -> int:
    try:
        google.call("GET", host, path)
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    return 200


def left(google: Google, cluster: Cluster) -> list[str]:
    """Returns what is left of any run. The name of a deleted pool stays."""
    pools = google.call("GET", "iam.googleapis.com", POOLS).get("workloadIdentityPools", [])
    repositories = google.call("GET", "artifactregistry.googleapis.com", REPOSITORIES).get("repositories", [])
    accounts = google.call("GET", "iam.googleapis.com", ACCOUNTS).get("accounts", [])
    namespaces = [f"namespace/{item['metadata']['name']}" for item in cluster.get("namespaces")["items"]]
    names = [one["name"] for one in (*pools, *repositories, *accounts)] + namespaces
    return [name for name in names if NAME in name]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, pathlib.Path]:
    """Returns the most verbose output of a complete run, and its file of answers."""
    folder = tmp_path_factory.mktemp("acceptance")
    result = acceptance(folder, "-vvv", "--diff")
    assert result.returncode == 0, result.stdout
    return result.stdout + result.stderr, folder / "acceptance-answers.json"


@pytest.fixture(scope="module")
def answers(run: tuple[str, pathlib.Path]) -> dict[str, dict[str, Any]]:
    return json.loads(run[1].read_text())


def test_the_emulator_behaves_as_assumed(answers: dict[str, dict[str, Any]]) -> None:
    assert {name: one for name, one in answers.items() if one["verdict"] != "same"} == {}
    assert answers.keys() == ASSUMPTIONS.keys()


def test_nothing_is_left(run: tuple[str, pathlib.Path], google: Google, cluster: Cluster) -> None:
    name = re.search(r"with the name (rc-acceptance-\w{6}):", run[0])
    assert name
    assert left(google, cluster) == []
    assert google.call("GET", "iam.googleapis.com", f"{POOLS}/{name[1]}")["state"] == "DELETED"


def test_no_secret_is_shown_or_written(run: tuple[str, pathlib.Path], sandbox: Sandbox) -> None:
    output, file = run
    for text in (output, file.read_text()):
        assert sandbox.operator_token.read_text().strip() not in text
        assert not re.search(r"ya29\.|eyJ[\w-]{20}|/downloads/(?!TOKEN)|PRIVATE KEY", text)
    assert PROJECT not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


def test_check_mode_creates_nothing(tmp_path: pathlib.Path, google: Google, cluster: Cluster) -> None:
    result = acceptance(tmp_path, "--check", "--extra-vars", f"registry_cache_acceptance_name={NAME}-check")
    assert result.returncode == 0, result.stdout
    assert "changed=0" in result.stdout
    assert left(google, cluster) == [] and list(tmp_path.iterdir()) == []
    assert status(google, "iam.googleapis.com", f"{POOLS}/{NAME}-check") == 404


@pytest.fixture
def modest(google: Google) -> Iterator[str]:
    """Returns an access token of an account that may only manage pools and repositories."""
    crm, iam, account = "cloudresourcemanager.googleapis.com", "iam.googleapis.com", f"modest@{PROJECT}.iam.gserviceaccount.com"
    google.call("POST", iam, ACCOUNTS, {"accountId": "modest"})
    before = google.call("POST", crm, f"/v1/projects/{PROJECT}:getIamPolicy", {})
    bindings = [{"role": role, "members": [f"serviceAccount:{account}"]} for role in MODEST]
    try:
        google.call("POST", crm, f"/v1/projects/{PROJECT}:setIamPolicy", {"policy": {"bindings": bindings}})
        path = f"/v1/projects/-/serviceAccounts/{account}:generateAccessToken"
        scope = ["https://www.googleapis.com/auth/cloud-platform"]
        yield google.call("POST", "iamcredentials.googleapis.com", path, {"scope": scope})["accessToken"]
    finally:
        policy = {"bindings": before.get("bindings", [])}
        google.call("POST", crm, f"/v1/projects/{PROJECT}:setIamPolicy", {"policy": policy})
        google.call("DELETE", iam, f"{ACCOUNTS}/{account}")


def test_differences_and_missing_permissions_do_not_fail_the_run(
    tmp_path: pathlib.Path, google: Google, cluster: Cluster, modest: str
) -> None:
    google.host_fault(UPSTREAM_HOST, "/manifests/none", status=500)
    try:
        result = acceptance(tmp_path, "--extra-vars", f"registry_cache_gcp_access_token={modest}")
    finally:
        google.reset_faults()
    assert result.returncode == 0, result.stdout
    answers = json.loads((tmp_path / "acceptance-answers.json").read_text())
    verdicts = {name: one["verdict"] for name, one in answers.items()}
    assert [name for name, verdict in verdicts.items() if verdict == "different"] == ["missing_tag"]
    assert answers["missing_tag"]["answered"]["status"] == 500
    skipped = {name for name, verdict in verdicts.items() if verdict == "not asked"}
    accounts = {name for name in ASSUMPTIONS if name.startswith(("account_", "impersonation_"))}
    assert skipped == accounts | {"noop_operation", "noop_poll", "project_policy_is_post"}
    assert "iam.serviceAccounts.create" in answers["account_create_is_direct"]["reason"]
    assert "different missing_tag: tag that does not exist: expected" in words(result.stdout)
    assert left(google, cluster) == []


def test_an_invalid_credential_is_reported_and_leaves_nothing(tmp_path: pathlib.Path, google: Google, cluster: Cluster) -> None:
    result = acceptance(tmp_path, "--extra-vars", "registry_cache_gcp_access_token=not-good")
    assert result.returncode != 0
    assert "HTTP 401" in words(result.stdout) and "Check auth_kind, and renew its credential" in words(result.stdout)
    assert changed(result.stdout) == 0
    assert left(google, cluster) == []


def test_leftovers_of_a_run_are_removed_by_name(tmp_path: pathlib.Path, google: Google, cluster: Cluster) -> None:
    google.call("POST", "artifactregistry.googleapis.com", REPOSITORIES, {"format": "DOCKER"}, repositoryId=f"{NAME}-left")
    google.call("POST", "iam.googleapis.com", ACCOUNTS, {"accountId": f"{NAME}-left"})
    cluster.kubectl("create", "namespace", f"{NAME}-left")
    result = acceptance(tmp_path, "--tags", "clean", "--extra-vars", f"registry_cache_acceptance_name={NAME}-left")
    assert result.returncode == 0, result.stdout
    assert left(google, cluster) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("registry_cache_acceptance_name", "registry-cache"),
        ("registry_cache_acceptance_location", "Nowhere"),
        ("registry_cache_wif_project", "P"),
    ],
)
def test_bad_input_is_reported(tmp_path: pathlib.Path, google: Google, cluster: Cluster, name: str, value: str) -> None:
    result = acceptance(tmp_path, "--extra-vars", f"{name}={value}")
    assert result.returncode != 0
    assert "changed=0" in result.stdout
    assert f"{name} must" in words(result.stdout) and f"Example: {name}:" in words(result.stdout)
    assert left(google, cluster) == []
