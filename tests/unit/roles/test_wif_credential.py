# SPDX-License-Identifier: GPL-3.0-or-later
"""The credential file that the role `wif` sets for the cache, in the universe googleapis.com and in another."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from sandbox.settings import ROOT

BIN = pathlib.Path(sys.prefix) / "bin"
ACCOUNT = "reader@my-project.iam.gserviceaccount.com"
UNIVERSES = {"google": "", "sovereign": "apis-sovereign.example"}


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Returns the credential file of each universe."""
    folder = tmp_path_factory.mktemp("credentials")
    content = "{{ registry_cache_credential_config | ansible.builtin.to_json }}"
    play = {
        "hosts": "all",
        "gather_facts": False,
        "vars": {
            "registry_cache_wif_manage": False,
            "registry_cache_wif_project_number": "42",
            "registry_cache_wif_provider": "k8s-one",
            "registry_cache_wif_service_account": ACCOUNT,
            "registry_cache_upstreams": [{"host": "us-docker.pkg.dev", "repositories": ["my-project/my-repository"]}],
        },
        "tasks": [
            {"ansible.builtin.include_role": {"name": "pullthrough.registry_cache.wif"}},
            {"ansible.builtin.copy": {"content": content, "dest": f"{folder}/{{{{ inventory_hostname }}}}"}},
        ],
    }
    hosts = {name: {"registry_cache_gcp_universe_domain": universe} for name, universe in UNIVERSES.items()}
    (folder / "play.yml").write_text(json.dumps([play]))
    (folder / "hosts.yml").write_text(json.dumps({"all": {"hosts": hosts}}))
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "GC", "GOOGLE_"))}
    plain |= {"ANSIBLE_COLLECTIONS_PATH": str(ROOT / "playbooks" / "collections"), "ANSIBLE_REMOTE_TMP": str(folder / "tmp")}
    local = ["--connection", "local", "--extra-vars", f"ansible_python_interpreter={sys.executable}"]
    command = [BIN / "ansible-playbook", "--inventory", folder / "hosts.yml", *local, folder / "play.yml"]
    result = subprocess.run(command, env=plain, capture_output=True, text=True, check=False, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return {name: json.loads((folder / name).read_text()) for name in UNIVERSES}


def test_in_googleapis_com(credentials: dict[str, Any]) -> None:
    found = credentials["google"]
    assert found["token_url"] == "https://sts.googleapis.com/v1/token" and "universe_domain" not in found
    assert found["service_account_impersonation_url"].startswith("https://iamcredentials.googleapis.com/v1/projects/-/")


def test_in_another_universe(credentials: dict[str, Any]) -> None:
    found = credentials["sovereign"]
    assert found["token_url"] == "https://sts.apis-sovereign.example/v1/token"
    assert found["service_account_impersonation_url"] == (
        f"https://iamcredentials.apis-sovereign.example/v1/projects/-/serviceAccounts/{ACCOUNT}:generateAccessToken"
    )
    assert found["universe_domain"] == "apis-sovereign.example"
    # As gcloud writes it: names of pools contain iam.googleapis.com in every universe.
    assert found["audience"] == credentials["google"]["audience"]
    assert found["audience"].startswith("//iam.googleapis.com/projects/42/")
