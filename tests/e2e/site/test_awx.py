# SPDX-License-Identifier: GPL-3.0-or-later
"""Job templates, run by ansible-runner as in AWX, with only the variables that AWX injects for its credentials."""

from __future__ import annotations

import base64
import os
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import yaml

from sandbox.client import NAMESPACE, Cache, Cluster, Google
from sandbox.settings import PROJECT, ROOT, Sandbox
from tests.e2e.administrator import ACCOUNTS, administrator
from tests.e2e.awx import jobs
from tests.e2e.awx.jobs import Credential, Job
from tests.e2e.awx.test_templates import TEMPLATES
from tools import artifact

from .test_site import state

Start = Callable[..., Job]


@pytest.fixture(scope="module")
def key(google: Google) -> Iterator[dict[str, str]]:
    """Returns a key of an administrator's service account, created by Google."""
    with administrator(google, "awx-admin") as made:
        yield made


def of_google(key: dict[str, str]) -> Credential:
    return Credential("gce", {"username": key["client_email"], "project": PROJECT, "ssh_key_data": key["private_key"]})


def of_kubernetes(sandbox: Sandbox, token: str) -> Credential:
    (known,) = yaml.safe_load(sandbox.kubeconfig.read_text())["clusters"]
    ca = base64.b64decode(known["cluster"]["certificate-authority-data"]).decode()
    inputs = {"host": known["cluster"]["server"], "bearer_token": token, "verify_ssl": True, "ssl_ca_cert": ca}
    return Credential("kubernetes_bearer_token", inputs)


@pytest.fixture(scope="module")
def token(cluster: Cluster) -> Iterator[str]:
    cluster.kubectl("create", "serviceaccount", "awx", "--namespace", "kube-system")
    cluster.kubectl("create", "clusterrolebinding", "awx", "--clusterrole=cluster-admin", "--serviceaccount=kube-system:awx")
    yield cluster.kubectl("create", "token", "awx", "--namespace", "kube-system", "--duration", "1h").strip()
    cluster.kubectl("delete", "clusterrolebinding", "awx")
    cluster.kubectl("delete", "serviceaccount", "awx", "--namespace", "kube-system", "--ignore-not-found")


@pytest.fixture(scope="module")
def inventory(sandbox: Sandbox) -> dict[str, Any]:
    """Returns the sandbox's inventory without credentials, which AWX injects."""
    groups = yaml.safe_load((ROOT / "sandbox/inventory/hosts.yml").read_text())
    variables = groups["registry_cache_clusters"]["vars"]
    for name in ("registry_cache_gcp_auth_kind", "registry_cache_gcp_access_token"):
        del variables[name]
    variables |= {"sandbox_state": str(sandbox.state), "registry_cache_image_kind_cluster": sandbox.cluster}
    variables["registry_cache_users"] = [{"name": "nodes", "password": "{{ vault_registry_cache_password }}"}]
    builder = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    building = {name: variables[name] for name in variables if name.startswith(("registry_cache_image_", "registry_cache_ca"))}
    return {**groups, "registry_cache_builders": {"hosts": {"builder": builder}, "vars": {"sandbox_state": str(sandbox.state), **building}}}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, inventory: dict[str, Any], cache: Cache, cluster: Cluster) -> Start:
    base = tmp_path_factory.mktemp("awx")
    project = artifact.clone(base / "projects" / "_8__registry_cache")
    collections = jobs.update_project(project, base)
    pod = cluster.get("statefulset", "registry-cache", "--namespace", NAMESPACE)["spec"]["template"]["spec"]
    (reference,) = {container["image"] for container in pod["containers"]}
    answers: dict[str, dict[str, Any]] = {
        "playbooks/site.yml": {"registry_cache_image": reference, "vault_registry_cache_password": cache.password},
        "playbooks/rotate.yml": {"vault_registry_cache_password": "the-next-one-of-the-vault"},
        "playbooks/image.yml": {"registry_cache_image": reference.partition("@")[0].rpartition(":")[0].rpartition("/")[2]},
        "playbooks/acceptance.yml": {},
    }
    # An execution environment behind a TLS-inspecting proxy.
    further = {name: os.environ[name] for name in ("HTTPS_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE")}

    def run(playbook: str, *credentials: Credential, check: bool = False, **changes: str) -> Job:
        (template,) = (one for one in TEMPLATES if one["playbook"] == playbook)
        folder = base / f"job-{len(list(base.glob('job-*')))}"
        return jobs.run(
            folder, project, collections, playbook, inventory, credentials, {**further, **changes}, check=check,
            **{**template["extra_vars"], **answers[playbook]},
        )  # fmt: skip

    return run


def test_the_template_changes_nothing_in_the_installed_cache(
    start: Start, sandbox: Sandbox, key: dict[str, str], token: str, cluster: Cluster
) -> None:
    before = state(cluster)
    job = start("playbooks/site.yml", of_google(key), of_kubernetes(sandbox, token))
    assert (job.status, job.changed, job.failures) == ("successful", 0, []), job.output
    assert state(cluster) == before
    for secret in (token, key["private_key"]):
        assert secret not in job.output


def test_the_other_templates(start: Start, sandbox: Sandbox, key: dict[str, str], token: str) -> None:
    """They run as check jobs, which read everything that they need."""
    credentials = (of_google(key), of_kubernetes(sandbox, token))
    for playbook in ("playbooks/acceptance.yml", "playbooks/rotate.yml"):
        job = start(playbook, *credentials, check=True)
        assert (job.status, job.failures) == ("successful", []), job.output
    own = {name: os.environ[name] for name in ("PATH", "DOCKER_HOST") if name in os.environ}
    job = start("playbooks/image.yml", **own)
    assert (job.status, job.changed) == ("successful", 0), job.output
    assert "registry_cache_image_mode: published" in job.output


class TestCredentials:
    """Jobs without a valid credential change nothing."""

    @pytest.fixture(autouse=True)
    def _unchanged(self, cluster: Cluster, google: Google) -> Iterator[None]:
        before, policy = state(cluster), google.policy()
        yield
        assert state(cluster) == before and google.policy() == policy

    def test_missing_google_credential(self, start: Start, sandbox: Sandbox, token: str) -> None:
        job = start("playbooks/site.yml", of_kubernetes(sandbox, token), NO_GCE_CHECK="true", GCE_METADATA_HOST="127.0.0.1:1")
        assert (job.status, job.changed) == ("failed", 0), job.output
        assert "auth_kind: no credential for application" in job.failures[-1]

    def test_revoked_google_credential(
        self, start: Start, sandbox: Sandbox, google: Google, key: dict[str, str], token: str
    ) -> None:
        google.call("DELETE", "iam.googleapis.com", f"{ACCOUNTS}/{key['client_email']}/keys/{key['private_key_id']}")
        job = start("playbooks/site.yml", of_google(key), of_kubernetes(sandbox, token))
        assert (job.status, job.changed) == ("failed", 0), job.output
        assert "Google does not accept the credential" in job.failures[-1] and "Check auth_kind" in job.failures[-1]

    def test_expired_cluster_credential(
        self, start: Start, sandbox: Sandbox, cluster: Cluster, key: dict[str, str], token: str
    ) -> None:
        cluster.kubectl("delete", "serviceaccount", "awx", "--namespace", "kube-system")
        kubernetes = of_kubernetes(sandbox, token)
        trusted = ssl.create_default_context(cadata=kubernetes.inputs["ssl_ca_cert"])
        # The API server caches authentication for some seconds.
        deadline = time.monotonic() + 60
        with httpx.Client(headers={"Authorization": f"Bearer {token}"}, verify=trusted, trust_env=False) as client:
            while client.get(f"{kubernetes.inputs['host']}/api").status_code != 401:
                assert time.monotonic() < deadline
                time.sleep(0.5)
        job = start("playbooks/site.yml", of_google(key), kubernetes)
        assert (job.status, job.changed) == ("failed", 0), job.output
        assert "The cluster does not answer" in job.failures[-1] and "Unauthorized" in job.failures[-1]
