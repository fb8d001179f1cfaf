# SPDX-License-Identifier: GPL-3.0-or-later
"""The objects that the role `cache` applies, rendered from its templates, and the StatefulSets that it refuses to change."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest
import yaml
from ansible_collections.pullthrough.registry_cache.plugins.filter.stateful_set_storage import stateful_set_storage
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.owner import Owner

from sandbox.settings import ROOT

ROLE = ROOT / "roles" / "cache"
# Variables that other roles set.
FROM_OTHER_ROLES = {
    "ansible_python_interpreter": sys.executable,
    "registry_cache_upstreams": [{"host": "upstream.example", "repositories": ["p/r"]}],
    "registry_cache_image_reference": "image.example/cache:1",
    "registry_cache_credential_config": {"type": "external_account"},
    "registry_cache_token_audience": "audience",
}
DIGEST = "image.example:5000/cache@sha256:" + "0" * 64
STOCK = {
    "registry_cache_image_mode": "stock",
    "registry_cache_image_helper": "helper.example/i:1",
    "registry_cache_image_helper_path": "/its/place",
}
# Variables that a user sets.
SITES: dict[str, dict[str, Any]] = {
    "default": {"registry_cache_prometheus_operator": True},
    "small": {
        "registry_cache_upstreams": [{"host": "one.example", "repositories": ["p/r"]}, {"host": "two.example:5000", "repositories": ["q"]}],
        "registry_cache_auth": "none",
        "registry_cache_metrics": False,
        "registry_cache_share_blobs": False,
        "registry_cache_storage": "volumeClaim",
        "registry_cache_size": "64Mi",
        "registry_cache_token_seconds": 600,
        "registry_cache_tag_ttl": 86400,
        "registry_cache_drain_seconds": 3600,
    },
    "digest": {"registry_cache_image_reference": DIGEST, "registry_cache_token_seconds": 604800},
    "taken over": {"registry_cache_service_name": "cncf-registry-service"},
    "stock": {**STOCK, "registry_cache_size": "3Gi"},
    # Values that YAML reads as numbers unless they are quoted.
    "digits": {
        **STOCK,
        "registry_cache_namespace": "123",
        "registry_cache_image_reference": "456",
        "registry_cache_image_helper": "1.10",
        "registry_cache_image_pull_secrets": ["789"],
        "registry_cache_token_audience": "0123",
        "registry_cache_storage": "volumeClaim",
        "registry_cache_storage_class": "1e3",
        "registry_cache_node_selector": {"1": "2"},
        "registry_cache_prometheus_operator": True,
    },
    "open stock": {**STOCK, "registry_cache_auth": "none", "registry_cache_drain_seconds": 7},
}
Objects = dict[str, Any]


def _stateful_set(*folders: str, claims: tuple[str, ...] = ("content",), storage: str = "128Mi") -> Objects:
    """Returns a StatefulSet whose containers mount these folders of its volumes."""
    mounts = [{"name": claim, "mountPath": f"/{claim}/{folder}", "subPath": folder} for claim in claims for folder in folders]
    other = {"name": "config", "mountPath": "/config", "subPath": "config"}
    pod = {
        "containers": [{"name": "last", "volumeMounts": [*mounts[1:], other]}],
        "initContainers": [{"name": "first", "volumeMounts": mounts[:1]}, {"name": "mounts nothing"}],
    }
    templates = [{"metadata": {"name": claim}, "spec": {"resources": {"requests": {"storage": storage}}}} for claim in claims]
    return {"spec": {"template": {"spec": pod}, "volumeClaimTemplates": templates}}


# A StatefulSet in the cluster, and whether the site "small" may change it.
BEFORE: dict[str, tuple[Objects, bool]] = {
    "the same": (_stateful_set("registry"), True),
    "an unused folder": (_stateful_set("other", "registry"), False),
    "two claims": (_stateful_set("registry", claims=("content", "other")), False),
    "another claim": (_stateful_set("registry", claims=("store",)), False),
    "another size": (_stateful_set("registry", storage="1Gi"), False),
    "no volume": (_stateful_set(claims=()), False),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Renders the objects of all sites in one run of Ansible, because its start takes the most time."""
    folder = tmp_path_factory.mktemp("written")
    for name in ("templates", "files"):
        (folder / name).symlink_to(ROLE / name)
    wanted = {
        name: (expression, variables)
        for site, variables in SITES.items()
        for name, expression in ((site, "_registry_cache_objects"), (f"{site}, secrets", "_registry_cache_secrets"))
    }
    wanted["storage"] = ("_registry_cache_storage", SITES["small"])
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars_files": [str(ROLE / "defaults/main.yml"), str(ROLE / "vars/main.yml")],
        "tasks": [
            {
                "ansible.builtin.copy": {"content": f"{{{{ ({expression}) | to_json }}}}", "dest": str(folder / f"{name}.json")},
                "vars": {**FROM_OTHER_ROLES, **variables},
            }
            for name, (expression, variables) in wanted.items()
        ],
    }
    (folder / "play.yml").write_text(json.dumps([play]))
    argv = [str(pathlib.Path(sys.prefix) / "bin" / "ansible-playbook"), "--inventory", "localhost,", "--connection", "local"]
    # The user who runs this may have no home directory.
    environment = {**os.environ, "ANSIBLE_REMOTE_TMP": str(folder / "tmp")}
    result = subprocess.run([*argv, str(folder / "play.yml")], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:]
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in wanted}


@pytest.fixture(scope="module")
def rendered(written: dict[str, Any]) -> dict[str, Objects]:
    """Returns the objects of each site by kind and name."""
    return {site: {f"{item['kind']}/{item['metadata']['name']}": item for item in written[site]} for site in SITES}


def pod(objects: Objects) -> Any:
    return objects["StatefulSet/registry-cache"]["spec"]["template"]


def containers(objects: Objects) -> dict[str, Any]:
    spec = pod(objects)["spec"]
    return {item["name"]: item for item in (*spec.get("initContainers", []), *spec["containers"])}


def config(objects: Objects, name: str = "config.yaml") -> Any:
    return yaml.safe_load(objects["ConfigMap/registry-cache"]["data"][name])


@pytest.fixture(scope="module")
def default(rendered: dict[str, Objects]) -> Objects:
    return rendered["default"]


@pytest.fixture(scope="module")
def small(rendered: dict[str, Objects]) -> Objects:
    return rendered["small"]


@pytest.fixture(scope="module")
def stock(rendered: dict[str, Objects]) -> Objects:
    return rendered["stock"]


def probes(objects: Objects) -> dict[str, dict[str, str]]:
    return {name: containers(objects)["registry"][f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}


# The cache


def test_a_replica_has_one_container(default: Objects) -> None:
    found = containers(default)
    assert set(found) == {"registry"}
    assert found["registry"]["command"] == ["registry", "cache", "/etc/registry-cache/config.yaml"]
    assert probes(default) == {
        "startup": {"path": "/ready", "port": "registry"},
        "readiness": {"path": "/ready", "port": "registry"},
        "liveness": {"path": "/alive", "port": "registry"},
    }
    # A large store takes a while to load. Until then the replica is alive, but not ready.
    assert found["registry"]["startupProbe"]["failureThreshold"] == 600
    environment = {variable["name"]: variable["value"] for variable in found["registry"]["env"]}
    assert environment["GOOGLE_APPLICATION_CREDENTIALS"] == "/etc/registry-cache/credential.json"
    assert environment["SSL_CERT_DIR"] == "/etc/registry-cache/ca"
    assert found["registry"]["resources"] == yaml.safe_load((ROLE / "defaults/main.yml").read_text())["registry_cache_resources"]
    assert found["registry"]["lifecycle"] == {"preStop": {"exec": {"command": ["sleep", "5"]}}}
    assert pod(default)["spec"]["terminationGracePeriodSeconds"] == 90
    assert [name for name in default if "peer" in name] == []


def test_every_file_of_the_configuration_is_mounted(default: Objects) -> None:
    mounts = {mount["name"]: mount for mount in containers(default)["registry"]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod(default)["spec"]["volumes"]}
    assert mounts.keys() == volumes.keys() == {"config", "token", "store"}
    assert mounts["config"]["mountPath"] == "/etc/registry-cache"
    sources = volumes["config"]["projected"]["sources"]
    files = {item["path"] for source in sources for kind in source.values() for item in kind["items"]}
    assert files == {"config.yaml", "credential.json", "ca/ca.pem", "auth/htpasswd", "peers/secret"}
    told = config(default)
    assert told["auth"] == {"htpasswd": "/etc/registry-cache/auth/htpasswd"}
    assert told["peers"]["secret"] == "/etc/registry-cache/peers/secret"
    assert told["store"]["path"] == mounts["store"]["mountPath"]
    assert default["ConfigMap/registry-cache"]["data"].keys() == {"config.yaml", "credential.json", "ca.pem"}


def test_replicas_find_each_other(default: Objects, stock: Objects) -> None:
    """They use the SRV records of the port peers, whether replicas are ready or not."""
    told, found = config(default)["peers"], default["Service/registry-cache-replicas"]["spec"]
    assert told["service"] == "registry-cache-replicas" == default["StatefulSet/registry-cache"]["spec"]["serviceName"]
    (port,) = [port for port in found["ports"] if port["name"] == "peers"]
    assert found["publishNotReadyAddresses"] and told["listen"] == f":{port['port']}"
    assert {"name": port["targetPort"], "containerPort": port["port"], "protocol": "TCP"} in containers(default)["registry"]["ports"]
    # Clients reach only ready replicas, and no other port.
    assert [port["name"] for port in default["Service/registry-cache"]["spec"]["ports"]] == ["registry"]
    assert [port["name"] for port in stock["Service/registry-cache-replicas"]["spec"]["ports"]] == ["registry"]


def test_a_service_that_was_taken_over_keeps_its_name_and_that_of_its_port(rendered: dict[str, Objects], default: Objects) -> None:
    ours, taken = default["Service/registry-cache"], rendered["taken over"]["Service/cncf-registry-service"]
    assert "Service/registry-cache" not in rendered["taken over"]
    assert taken["metadata"] == {**ours["metadata"], "name": "cncf-registry-service"}
    (port,) = ours["spec"]["ports"]
    assert taken["spec"] == {**ours["spec"], "ports": [{key: value for key, value in port.items() if key != "name"}]}


@pytest.mark.parametrize("site", ["default", "small"])
def test_the_cache_accepts_its_configuration(rendered: dict[str, Objects], site: str) -> None:
    """A Go test of the package config parses the same files strictly."""
    parsed = ROOT / "docker/registry/internal/config/testdata" / f"{site}.yaml"
    assert rendered[site]["ConfigMap/registry-cache"]["data"]["config.yaml"] == parsed.read_text()


def test_a_volume_is_larger_than_the_store(small: Objects) -> None:
    (claim,) = small["StatefulSet/registry-cache"]["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "128Mi"
    assert config(small)["store"]["limit"] == "64Mi"
    (mount,) = [mount for mount in containers(small)["registry"]["volumeMounts"] if mount["name"] == claim["metadata"]["name"]]
    assert mount == {"name": "content", "mountPath": "/var/lib/registry", "subPath": "registry"}


def test_an_image_with_a_digest_is_used_as_it_is(rendered: dict[str, Objects]) -> None:
    assert {name: found["image"] for name, found in containers(rendered["digest"]).items()} == {"registry": DIGEST}


def test_a_credential_is_not_used_after_it_expires_at_google(rendered: dict[str, Objects], stock: Objects) -> None:
    """Whatever the lifetime of the projected token."""
    lifetimes = {site: config(rendered[site])["upstreams"][0]["credential"]["lifetime"] for site in ("default", "digest")}
    assert lifetimes == {"default": "540s", "digest": "2700s"}
    assert config(stock, "config.yml")["proxy"]["exec"]["lifetime"] == "540s"


def test_metrics_are_at_one_path(default: Objects) -> None:
    assert config(default)["metrics"] == {"listen": ":5006"}
    assert {"name": "metrics", "containerPort": 5006, "protocol": "TCP"} in containers(default)["registry"]["ports"]
    annotations = pod(default)["metadata"]["annotations"]
    assert (annotations["prometheus.io/port"], annotations["prometheus.io/path"]) == ("5006", "/metrics")
    assert default["PodMonitor/registry-cache"]["spec"]["podMetricsEndpoints"] == [{"port": "metrics", "path": "/metrics"}]
    assert default["PrometheusRule/registry-cache"]["spec"] == yaml.safe_load((ROLE / "files/alerts.yml").read_text())
    # No Service has the port.
    assert "5006" not in json.dumps([item for name, item in default.items() if name.startswith("Service/")])


def test_without_metrics_no_object_mentions_them(small: Objects, stock: Objects) -> None:
    assert "metrics" not in config(small)
    for objects in (small, stock):
        assert not [name for name in pod(objects)["metadata"]["annotations"] if name.startswith("prometheus.io")]
        assert not [name for name in objects if name.startswith(("PodMonitor", "PrometheusRule"))]
        assert "5006" not in json.dumps(pod(objects))


def test_digits_stay_text(rendered: dict[str, Objects]) -> None:
    objects = rendered["digits"]
    for item in objects.values():
        assert item["metadata"]["namespace"] == "123"
        assert item["metadata"]["labels"]["registry-cache.pullthrough/namespace"] == "123"
    spec, claims = pod(objects)["spec"], objects["StatefulSet/registry-cache"]["spec"]["volumeClaimTemplates"]
    assert {name: one["image"] for name, one in containers(objects).items()} == {"registry": "456", "helper": "1.10"}
    assert spec["imagePullSecrets"] == [{"name": "789"}] and spec["nodeSelector"] == {"1": "2"}
    assert claims[0]["spec"]["storageClassName"] == "1e3"
    (token,) = [volume for volume in spec["volumes"] if volume["name"] == "token"]
    assert token["projected"]["sources"][0]["serviceAccountToken"]["audience"] == "0123"


def test_objects_name_their_owner(rendered: dict[str, Objects]) -> None:
    """They have the owner labels of the modules. The selector of the replicas does not contain the namespace."""
    owner = Owner("registry-cache", "registry-cache")
    objects = rendered["default"]
    assert all(owner.owns(item["metadata"]) for item in [*objects.values(), pod(objects)])
    selector = {"app.kubernetes.io/name": "registry-cache", "app.kubernetes.io/instance": "registry-cache"}
    assert objects["StatefulSet/registry-cache"]["spec"]["selector"] == {"matchLabels": selector}
    assert all(item["spec"]["selector"] == selector for name, item in objects.items() if name.startswith("Service/"))


def test_applied_objects_are_kept_by_prune() -> None:
    apply, prune = ((ROLE / "tasks" / name).read_text() for name in ("apply.yml", "prune.yml"))
    assert 'objects: "{{ _registry_cache_objects }}"' in apply and 'keep: "{{ _registry_cache_objects }}"' in prune
    assert 'keep_secrets: "{{ _registry_cache_secrets }}"' in prune


@pytest.mark.parametrize("site", SITES)
def test_the_secrets_in_use_are_kept_by_prune(written: dict[str, Any], site: str) -> None:
    used = json.dumps(written[site])
    assert set(written[f"{site}, secrets"]) == {
        f"registry-cache-{name}"
        for name, mounted in (("htpasswd", "htpasswd"), ("passwords", "htpasswd"), ("peers", "peers"))
        if f"registry-cache-{mounted}" in used
    }


# The unmodified registry


def test_stock_has_a_configuration_for_the_unmodified_registry(rendered: dict[str, Objects], stock: Objects) -> None:
    assert set(containers(stock)) == {"registry", "helper"}
    assert containers(stock)["registry"]["command"] == ["registry", "serve", "/etc/registry-cache/config.yml"]
    told = config(stock, "config.yml")
    # The registry panics at an unknown middleware, and its debug port has a profiler.
    assert told.keys() == {"version", "log", "storage", "http", "auth", "proxy"}
    assert told["http"] == {"addr": ":5000", "draintimeout": "60s"}
    assert told["proxy"]["remoteurl"] == "https://upstream.example" and told["proxy"]["ttl"] == "168h"
    # Otherwise nothing is removed after the ttl.
    assert told["storage"]["delete"] == {"enabled": True}
    (store,) = [mount for mount in containers(stock)["registry"]["volumeMounts"] if mount["name"] == "store"]
    assert told["storage"]["filesystem"] == {"rootdirectory": store["mountPath"]}
    assert told["auth"]["htpasswd"]["path"] == "/etc/registry-cache/auth/htpasswd"
    assert {probe["path"] for probe in probes(stock).values()} == {"/"}
    assert containers(stock)["registry"]["startupProbe"]["failureThreshold"] == 60
    assert stock["ConfigMap/registry-cache"]["data"].keys() == {"config.yml", "credential.json", "ca.pem"}
    assert "peer" not in json.dumps(stock)
    nobody = rendered["open stock"]
    assert "auth" not in config(nobody, "config.yml") and "htpasswd" not in json.dumps(nobody)
    assert config(nobody, "config.yml")["http"]["draintimeout"] == "7s"


def test_stock_gets_its_helper_from_another_image(stock: Objects) -> None:
    helper, registry = containers(stock)["helper"], containers(stock)["registry"]
    (source, target), image = helper["command"][1:], helper["image"]
    assert (image, source) == ("helper.example/i:1", "/its/place")
    assert config(stock, "config.yml")["proxy"]["exec"]["command"] == target
    (written,) = [mount for mount in helper["volumeMounts"] if target.startswith(mount["mountPath"])]
    (read,) = [mount for mount in registry["volumeMounts"] if mount["name"] == written["name"]]
    assert read["mountPath"] == written["mountPath"] and read["readOnly"]
    assert helper["securityContext"] == registry["securityContext"]
    store = [volume for volume in pod(stock)["spec"]["volumes"] if volume["name"] == "store"]
    assert store == [{"name": "store", "emptyDir": {"sizeLimit": "3Gi"}}]


# Changes of existing objects


@pytest.mark.parametrize("before", BEFORE)
def test_the_preflight_detects_volumes_that_cannot_be_changed(written: dict[str, Any], before: str) -> None:
    assert (stateful_set_storage(BEFORE[before][0]) == written["storage"]) is BEFORE[before][1]


def test_the_rendered_statefulset_has_the_storage_that_the_preflight_expects(rendered: dict[str, Objects], written: dict[str, Any]) -> None:
    assert stateful_set_storage(rendered["small"]["StatefulSet/registry-cache"]) == written["storage"]
    assert stateful_set_storage(rendered["default"]["StatefulSet/registry-cache"]) == "emptyDir"
