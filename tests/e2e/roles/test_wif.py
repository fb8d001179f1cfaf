# SPDX-License-Identifier: GPL-3.0-or-later
"""The role wif in a play of five hosts, with the Google emulator and three clusters."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google import workload_identity

from sandbox.settings import ROOT
from tests.unit.plugins.kubernetes_api import ApiServer
from tests.unit.sandbox.google.harness import Keys

ROLE = ROOT / "roles" / "wif"
BIN = pathlib.Path(sys.prefix) / "bin"
POOL = "projects/42/locations/global/workloadIdentityPools/registry-cache"
REPOSITORY = "projects/demo-project/locations/us/repositories/private"
# Names like those of kubectl contexts, with at least 28 characters in common.
LONG = "gke_my-project_europe-west1_production-"
NAMES = {
    "sandbox": "k8s-sandbox",
    "a" * 28: f"k8s-{'a' * 28}",
    f"{LONG}a": None,
    f"{LONG}b": None,
    "Prod": None,
    "prod.example.com": None,
    "prod-example-com": "k8s-prod-example-com",
    "a" * 29: None,
}
ACCOUNTS = {
    "cache@my-project.iam.gserviceaccount.com": "my-project",
    "cache@my-project.example.com.iam.gserviceaccount.com": "example.com:my-project",
}


def run(play: list[dict[str, Any]], folder: pathlib.Path, inventory: dict[str, Any], **environment: str) -> str:
    (folder / "play.yml").write_text(json.dumps(play))
    (folder / "inventory.json").write_text(json.dumps({"all": {"hosts": inventory}}))
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "GC", "K8S_", "KUBECONFIG"))}
    plain |= {
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "playbooks" / "collections"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_REMOTE_TMP": str(folder / "tmp"),
        **environment,
    }
    (folder / "inventory.json").rename(folder / "inventory.yml")
    command = [BIN / "ansible-playbook", "--inventory", folder / "inventory.yml", "--connection", "local", folder / "play.yml"]
    result = subprocess.run(command, env=plain, capture_output=True, text=True, check=False, cwd=folder)
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Returns a folder with the evaluated expressions of roles."""
    folder = tmp_path_factory.mktemp("names")
    expressions = {
        f"account-{number}": ("_registry_cache_wif_service_account_project", {"registry_cache_wif_service_account": account})
        for number, account in enumerate(ACCOUNTS)
    }
    others = [
        {
            "ansible.builtin.copy": {"content": f"{{{{ ({expression}) | to_json }}}}", "dest": str(folder / name)},
            "vars": variables,
            "run_once": True,
        }
        for name, (expression, variables) in expressions.items()
    ]
    copy = {"content": "{{ registry_cache_wif_provider }}", "dest": f"{folder}/{{{{ inventory_hostname | hash }}}}"}
    play = {
        "hosts": "all",
        "gather_facts": False,
        "vars_files": [str(ROLE / "defaults" / "main.yml"), str(ROLE / "vars" / "main.yml")],
        "tasks": [{"ansible.builtin.copy": copy}, *others],
    }
    hosts: dict[str, Any] = {name: {"ansible_python_interpreter": sys.executable} for name in NAMES}
    said = run([play], folder, hosts)
    assert len([*folder.iterdir()]) >= len(NAMES) + len(expressions), said
    return folder


@pytest.fixture(scope="module")
def providers(evaluated: pathlib.Path) -> dict[str, str]:
    """Returns the default provider ID of each host name."""
    return {name: (evaluated / hashlib.sha1(name.encode()).hexdigest()).read_text() for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_default_provider_id(providers: dict[str, str], name: str) -> None:
    workload_identity.check_id("provider_id", providers[name])
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    plain = "".join(one if one in "abcdefghijklmnopqrstuvwxyz0123456789-" else "-" for one in name.lower())
    assert providers[name] == (NAMES[name] or f"k8s-{plain[:19]}-{digest}")


def test_no_two_names_share_a_provider(providers: dict[str, str]) -> None:
    assert len(set(providers.values())) == len(NAMES)


@pytest.mark.parametrize(("number", "project"), [*enumerate(ACCOUNTS.values())])
def test_the_project_of_a_service_account(evaluated: pathlib.Path, number: int, project: str) -> None:
    assert json.loads((evaluated / f"account-{number}").read_text()) == project


def test_the_role_and_the_modules_use_the_same_descriptions() -> None:
    variables = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
    assert variables["_registry_cache_wif_pool_made"] == workload_identity.POOL_DESCRIPTION
    beginning = variables["_registry_cache_wif_provider_made"].partition("{{")[0]
    assert beginning == workload_identity.CLUSTER_DESCRIPTION


# One play with five hosts


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Google:
    """The emulator as a separate process, reached through its proxy."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.port, self.proxy = _free_port(), _free_port()
        self.state, token = folder / "state", folder / "token"
        config = {
            "address": "127.0.0.1",
            "port": self.port,
            "proxy_port": self.proxy,
            "state_dir": str(self.state),
            "registry_url": "http://127.0.0.1:1",
            "operator": "user:admin@example.com",
            "operator_token_file": str(token),
            "projects": {"demo-project": "42"},
        }
        (folder / "config.json").write_text(json.dumps(config))
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "sandbox" / "google")}
        command = [sys.executable, "-m", "google_emulator", "--config", folder / "config.json"]
        self._process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.proxy), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline and self._process.poll() is None, "the emulator does not start"
                time.sleep(0.1)
        self.token = token.read_text().strip()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)

    def get(self, host: str, path: str) -> Any:
        url = f"https://127.0.0.1:{self.port}/v1/{path}"
        headers = {"Host": host, "Authorization": f"Bearer {self.token}"}
        return httpx.get(url, headers=headers, verify=self._trust(), trust_env=False, timeout=60).json()

    def _trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.state / "ca.pem"))

    def post(self, host: str, path: str, body: dict[str, Any]) -> Any:
        url = f"https://127.0.0.1:{self.port}/v1/{path}"
        headers = {"Host": host, "Authorization": f"Bearer {self.token}"}
        answer = httpx.post(url, json=body, headers=headers, verify=self._trust(), trust_env=False, timeout=60)
        return answer.raise_for_status().json()

    def make(self, host: str, collection: str, parameter: str, name: str, **fields: Any) -> None:
        """Returns a resource after its operation is done."""
        url = f"https://127.0.0.1:{self.port}/v1/{collection}"
        headers = {"Host": host, "Authorization": f"Bearer {self.token}"}
        options: dict[str, Any] = {"headers": headers, "verify": self._trust(), "trust_env": False, "timeout": 60}
        operation = httpx.post(url, params={parameter: name}, json=fields, **options).raise_for_status().json()
        deadline = time.monotonic() + 60
        while not self.get(host, operation["name"]).get("done"):
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def readers(self, repository: str) -> list[str]:
        policy = self.get("artifactregistry.googleapis.com", f"{repository}:getIamPolicy")
        return [member for binding in policy.get("bindings", []) for member in binding["members"]]


def cluster(uid: str, jwks: dict[str, Any]) -> ApiServer:
    server = ApiServer()
    server.namespace("kube-system")
    server.objects["namespaces", "", "kube-system"]["metadata"]["uid"] = uid
    server.plain = {
        "/.well-known/openid-configuration": {"issuer": f"https://{uid}.example.com", "jwks_uri": "https://10.0.0.1/openid/v1/jwks"},
        "/openid/v1/jwks": jwks,
    }
    return server


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Runs one play: two clusters with the same provider, one with a provider of others, two caches of a cluster, one of them removed.

    Starting Ansible takes longer than the tasks, so there is only one run.
    """
    folder = tmp_path_factory.mktemp("story")
    jwks = Keys().jwks()
    clusters = {name: cluster(f"uid-{name}", jwks) for name in ("east", "west", "third")}
    google = Google(folder)
    parent, _, identifier = REPOSITORY.rpartition("/")
    google.make("artifactregistry.googleapis.com", parent, "repositoryId", identifier, format="DOCKER")
    pools = POOL.rpartition("/")[0]
    google.make("iam.googleapis.com", pools, "workloadIdentityPoolId", "taken")
    elsewhere = {
        "description": "Made by pullthrough.registry_cache for cluster uid-elsewhere",
        "attributeMapping": {"google.subject": "assertion.sub"},
        "oidc": {"issuerUri": "https://elsewhere.example.com"},
    }
    google.make("iam.googleapis.com", f"{pools}/taken/providers", "workloadIdentityPoolProviderId", "k8s-taken", **elsewhere)
    labels = {"app.kubernetes.io/managed-by": "pullthrough.registry_cache"}
    for namespace in ("one", "two"):
        clusters["third"].namespace(namespace)
        clusters["third"].add("serviceaccounts", namespace, "registry-cache", metadata={"labels": labels})
    for name, server in clusters.items():
        user = {"name": "u", "user": {"token": "t"}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        kubeconfig = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server.url}}],
            "users": [user],
            "contexts": [context],
            "current-context": "c",
        }
        (folder / name).write_text(json.dumps(kubeconfig))
    common = {
        "ansible_python_interpreter": sys.executable,
        "registry_cache_wif_project": "demo-project",
        "registry_cache_wif_enable_apis": False,
        "registry_cache_gcp_auth_kind": "accesstoken",
        "registry_cache_gcp_access_token": google.token,
    }
    pkg_dev = [{"host": "us-docker.pkg.dev", "repositories": ["demo-project/private"]}]
    hosts = {
        name: {"registry_cache_kubeconfig": str(folder / name), "registry_cache_wif_provider": "k8s-same"} for name in ("east", "west")
    } | {
        name: {
            "registry_cache_kubeconfig": str(folder / "third"),
            "registry_cache_wif_provider": "k8s-third",
            "registry_cache_namespace": name,
        }
        for name in ("one", "two")
    }
    hosts["taken"] = {
        "registry_cache_kubeconfig": str(folder / "west"),
        "registry_cache_wif_pool": "taken",
        "registry_cache_wif_provider": "k8s-taken",
    }
    include = "ansible.builtin.include_role"
    role = "pullthrough.registry_cache.wif"
    play = {
        "hosts": "all",
        "gather_facts": False,
        "vars": {**common, "registry_cache_upstreams": pkg_dev},
        "tasks": [
            {include: {"name": role, "tasks_from": "preflight"}},
            {include: {"name": role}},
            {include: {"name": role, "tasks_from": "prune"}},
            {
                "name": "Read the facts",
                "ansible.builtin.copy": {
                    "content": "{{ [registry_cache_token_audience, registry_cache_credential_config] | to_json }}",
                    "dest": f"{folder}/facts-{{{{ inventory_hostname }}}}",
                },
            },
            {include: {"name": role}, "vars": {"registry_cache_wif_state": "absent"}, "when": "inventory_hostname == 'one'"},
        ],
    }
    try:
        said = run(
            [play],
            folder,
            {name: {**variables} for name, variables in hosts.items()},
            HTTPS_PROXY=f"http://127.0.0.1:{google.proxy}",
            REQUESTS_CA_BUNDLE=str(google.state / "ca.pem"),
            NO_PROXY="127.0.0.1",
        )
        yield {"said": said, "google": google, "clusters": clusters, "folder": folder}
    finally:
        google.close()
        for server in clusters.values():
            server.close()


def test_two_clusters_with_one_provider_are_refused(story: dict[str, Any]) -> None:
    said = " ".join(story["said"].split())
    assert "registry_cache_wif_provider: hosts east and west are different clusters" in said and "k8s-same" in said, story["said"]
    assert "Example: registry_cache_wif_provider: k8s-my-cluster" in said
    listed = story["google"].get("iam.googleapis.com", f"{POOL}/providers")["workloadIdentityPoolProviders"]
    assert [item["name"].rpartition("/")[2] for item in listed] == ["k8s-third"]


def test_a_provider_of_another_cluster_is_refused(story: dict[str, Any]) -> None:
    said = " ".join(story["said"].split())
    assert "registry_cache_wif_provider: provider k8s-taken of pool taken belongs to another cluster" in said, story["said"]
    assert "for cluster uid-elsewhere', not 'Made by pullthrough.registry_cache for cluster uid-west'" in said
    provider = story["google"].get("iam.googleapis.com", f"{POOL.rpartition('/')[0]}/taken/providers/k8s-taken")
    assert provider["description"].endswith("uid-elsewhere") and "attributeCondition" not in provider


def test_two_caches_of_a_cluster_share_a_provider_until_one_is_removed(story: dict[str, Any]) -> None:
    provider = story["google"].get("iam.googleapis.com", f"{POOL}/providers/k8s-third")
    assert provider["description"] == "Made by pullthrough.registry_cache for cluster uid-third", story["said"]
    assert provider["attributeCondition"] == "assertion.sub in ['system:serviceaccount:two:registry-cache']"
    pool = story["google"].get("iam.googleapis.com", POOL)
    assert (pool["state"], pool["description"]) == ("ACTIVE", "Made by pullthrough.registry_cache")
    member = f"principal://iam.googleapis.com/{POOL}/subject/k8s-third:system:serviceaccount:two:registry-cache"
    assert story["google"].readers(REPOSITORY) == [member]


def test_each_cache_gets_its_credential(story: dict[str, Any]) -> None:
    for host in ("one", "two"):
        audience, config = json.loads((story["folder"] / f"facts-{host}").read_text())
        assert audience == f"https://iam.googleapis.com/{POOL}/providers/k8s-third"
        assert config["audience"] == f"//iam.googleapis.com/{POOL}/providers/k8s-third"
