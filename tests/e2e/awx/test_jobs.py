# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs of all templates, each with something missing. They stop with a clear message before they change anything.

Complete jobs on a cluster are in tests/e2e/site/test_awx.py.
"""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from sandbox.settings import ROOT

from . import jobs
from .jobs import Credential, Job
from .test_templates import SAID, TEMPLATES

# Like an inventory in AWX, with only these host variables.
LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
EXAMPLE = yaml.safe_load((ROOT / "inventory/example/group_vars/registry_cache_clusters/main.yml").read_text())
CLUSTERS = {"registry_cache_clusters": {"hosts": {"my-cluster": LOCAL}, "vars": EXAMPLE}}
BUILDERS = {"registry_cache_builders": {"hosts": {"builder": LOCAL}}}
NOWHERE = "https://127.0.0.1:1"
PASSWORD = {"vault_registry_cache_password": "of-the-credential"}
ANSWERS: dict[str, dict[str, Any]] = {
    "playbooks/site.yml": {"registry_cache_image": "ghcr.io/o/registry-cache:1", **PASSWORD},
    "playbooks/rotate.yml": {"registry_cache_rotate_grace": 300, **PASSWORD},
    "playbooks/adopt.yml": {"registry_cache_adopt": "[{kind: Service, name: registry-cache}]"},
    "playbooks/image.yml": {
        "registry_cache_image": "ghcr.io/o/registry-cache",
        "registry_cache_image_engine": "docker",
        "registry_cache_image_publish": "kind",
    },
    "playbooks/acceptance.yml": {"registry_cache_wif_project": "my-project"},
    "playbooks/awx.yml": {"registry_cache_awx_execution_environment": "registry.example/ee:1"},
}
Start = Callable[..., Job]


@pytest.fixture(scope="session")
def collections(project: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return jobs.update_project(project, tmp_path_factory.mktemp("update"))


@pytest.fixture
def start(project: pathlib.Path, collections: pathlib.Path, tmp_path: pathlib.Path) -> Start:
    def run(playbook: str, *credentials: Credential, **changes: Any) -> Job:
        (template,) = (one for one in TEMPLATES if one["playbook"] == playbook)
        fixed = template["extra_vars"] if isinstance(template["extra_vars"], dict) else {}
        return jobs.run(
            tmp_path / "job",
            project,
            changes.pop("collections", collections),
            playbook,
            changes.pop("inventory", BUILDERS if playbook == "playbooks/image.yml" else CLUSTERS),
            credentials,
            # This host has no container engine.
            {"DOCKER_HOST": "unix:///nonexistent"},
            **{**ANSWERS[playbook], **fixed, **changes},
        )

    return run


def key() -> str:
    made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return made.private_bytes(*form).decode()


def google() -> Credential:
    return Credential("gce", {"username": "admin@my-project.iam.gserviceaccount.com", "project": "my-project", "ssh_key_data": key()})


def cluster(host: str = NOWHERE) -> Credential:
    return Credential("kubernetes_bearer_token", {"host": host, "bearer_token": "token", "verify_ssl": True, "ssl_ca_cert": "CA"})


def test_awx_injects_the_expected_variables(tmp_path: pathlib.Path) -> None:
    (tmp_path / "env").mkdir()
    injected: dict[str, str] = {}
    google().inject(injected, tmp_path)
    cluster().inject(injected, tmp_path)
    assert injected.keys() == {
        *("GCE_EMAIL", "GCE_PROJECT", "GCE_CREDENTIALS_FILE_PATH", "GOOGLE_APPLICATION_CREDENTIALS"),
        *("GCP_AUTH_KIND", "GCP_SERVICE_ACCOUNT_FILE", "GCP_PROJECT", "GCP_ENV_TYPE"),
        *("K8S_AUTH_HOST", "K8S_AUTH_API_KEY", "K8S_AUTH_VERIFY_SSL", "K8S_AUTH_SSL_CA_CERT"),
    }
    written = json.loads(pathlib.Path(injected["GCP_SERVICE_ACCOUNT_FILE"]).read_text())
    assert injected["GCP_AUTH_KIND"] == written["type"].replace("_", "") == "serviceaccount"


def test_our_types_inject_what_modules_and_the_inventory_read(tmp_path: pathlib.Path) -> None:
    of_google, password = (
        next(one for one in SAID["_registry_cache_awx_credential_types"] if one["name"] == name)
        for name in ("Google credential file", "Registry cache password")
    )
    variables, extra = jobs.own_type(of_google, tmp_path, file='{"type": "external_account"}')
    assert extra == {} and variables["GCP_AUTH_KIND"] == "application"
    assert pathlib.Path(variables["GOOGLE_APPLICATION_CREDENTIALS"]).read_text() == '{"type": "external_account"}'
    assert jobs.own_type(password, tmp_path, password="secret") == ({}, {"vault_registry_cache_password": "secret"})
    assert "vault_registry_cache_password" in EXAMPLE["registry_cache_users"][0]["password"]


def test_every_template_is_tested() -> None:
    assert ANSWERS.keys() == {template["playbook"] for template in TEMPLATES}


@pytest.mark.parametrize(
    ("playbook", "credentials", "words"),
    [
        ("playbooks/site.yml", [], ("The cluster does not answer", "OpenShift or Kubernetes API Bearer Token")),
        ("playbooks/rotate.yml", [], ("The cluster does not answer", "OpenShift or Kubernetes API Bearer Token")),
        ("playbooks/adopt.yml", [], ("Cannot connect to the cluster", "KUBECONFIG")),
        ("playbooks/acceptance.yml", [google()], ("Cannot connect to the cluster", "KUBECONFIG")),
        ("playbooks/acceptance.yml", [google(), cluster()], ("127.0.0.1", "port=1")),
        ("playbooks/image.yml", [], ("no engine answers", "registry_cache_image_mode: published")),
        ("playbooks/awx.yml", [], ("AWX does not answer", "credential of type Red Hat Ansible Automation Platform")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_job_without_its_credential(start: Start, playbook: str, credentials: list[Credential], words: tuple[str, ...]) -> None:
    job = start(playbook, *credentials)
    assert (job.status, job.changed) == ("failed", 0), job.output
    # The task repeats an item's failure, and a rescued failure is followed by another message.
    assert all(word in job.failures[-1] for word in words), job.failures
    assert "couldn't resolve" not in job.output


def test_an_unknown_variable(start: Start) -> None:
    job = start("playbooks/site.yml", cluster(), registry_cache_pull_secret_namespace=["default"])
    assert (job.status, job.changed) == ("failed", 0)
    assert job.failures == [
        "registry_cache_pull_secret_namespace is not a variable of this collection. Example: registry_cache_pull_secret_namespaces"
    ]


def test_an_execution_environment_without_a_package(start: Start, tmp_path: pathlib.Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = str(tmp_path / "bare" / "bin" / "python")
    hosts = {"my-cluster": LOCAL | {"ansible_python_interpreter": python}}
    job = start("playbooks/site.yml", inventory={"registry_cache_clusters": {"hosts": hosts, "vars": EXAMPLE}})
    assert (job.status, job.changed) == ("failed", 0)
    (said,) = job.failures
    assert re.match(rf"{python} lacks bcrypt>=\S+, google-auth>=\S+, kubernetes>=", said), said
    assert f"Example: {python} -m pip install " in said


def test_a_collection_that_is_too_old(start: Start, collections: pathlib.Path, tmp_path: pathlib.Path) -> None:
    old = tmp_path / "old" / "ansible_collections" / "kubernetes" / "core"
    old.mkdir(parents=True)
    for file in (collections / "ansible_collections" / "kubernetes" / "core").iterdir():
        if file.name != "MANIFEST.json":
            (old / file.name).symlink_to(file)
        else:
            (old / file.name).write_text(re.sub(r'"version": "[^"]*"', '"version": "4.0.0"', file.read_text()))
    shutil.copytree(collections / "ansible_collections" / "google", tmp_path / "old" / "ansible_collections" / "google")
    job = start("playbooks/site.yml", collections=tmp_path / "old")
    assert (job.status, job.changed) == ("failed", 0)
    assert job.failures == [
        "Collection kubernetes.core must be >=5.0.0 (got 4.0.0). Install that version."
        " Example: ansible-galaxy collection install 'kubernetes.core:>=5.0.0'"
    ]
