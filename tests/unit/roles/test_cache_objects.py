# SPDX-License-Identifier: GPL-3.0-or-later
"""The objects that role `cache` applies, rendered from its own templates: with the front, as one program, and of the stock image."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from sandbox.settings import ROOT

ROLE = ROOT / "roles" / "cache"
# What a cluster or another role tells.
TOLD = {
    "ansible_python_interpreter": sys.executable,
    "registry_cache_upstreams": [{"host": "upstream.example", "repositories": ["p/r"]}],
    "registry_cache_image_reference": "image.example/cache:1",
    "registry_cache_credential_config": {"type": "external_account"},
    "registry_cache_token_audience": "audience",
    "_registry_cache_peers": ["192.0.2.1", "192.0.2.2"],
}
DIGEST = "image.example:5000/cache@sha256:" + "0" * 64
# What a user sets.
SITES: dict[str, dict[str, Any]] = {
    "on": {"registry_cache_prometheus_operator": True},
    "off": {"registry_cache_metrics": False},
    "program": {"registry_cache_front": False, "registry_cache_prometheus_operator": True},
    "small program": {
        "registry_cache_front": False,
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
    "stock": {
        "registry_cache_image_mode": "stock",
        "registry_cache_size": "3Gi",
        "registry_cache_image_helper": "helper.example/i:1",
        "registry_cache_image_helper_path": "/its/place",
    },
    "digest": {"registry_cache_image_reference": DIGEST, "registry_cache_token_seconds": 604800},
    "open": {"registry_cache_auth": "none", "registry_cache_prometheus_operator": True},
}
Objects = dict[str, Any]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Objects]:
    """Of each site, by kind and name. Ansible runs once for all: its start takes longer than the rest."""
    folder = tmp_path_factory.mktemp("rendered")
    for name in ("templates", "files"):
        (folder / name).symlink_to(ROLE / name)
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars_files": [str(ROLE / "defaults/main.yml"), str(ROLE / "vars/main.yml")],
        "tasks": [
            {
                "ansible.builtin.copy": {"content": "{{ _registry_cache_objects | to_json }}", "dest": str(folder / f"{site}.json")},
                "vars": {**TOLD, **variables},
            }
            for site, variables in SITES.items()
        ],
    }
    (folder / "play.yml").write_text(json.dumps([play]))
    argv = [str(pathlib.Path(sys.prefix) / "bin" / "ansible-playbook"), "--inventory", "localhost,", "--connection", "local"]
    # Not below the home of whoever runs this, who may have none.
    environment = {**os.environ, "ANSIBLE_REMOTE_TMP": str(folder / "tmp")}
    result = subprocess.run([*argv, str(folder / "play.yml")], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:]
    items = {site: json.loads((folder / f"{site}.json").read_text()) for site in SITES}
    return {site: {f"{item['kind']}/{item['metadata']['name']}": item for item in those} for site, those in items.items()}


def pod(objects: Objects) -> Any:
    return objects["StatefulSet/registry-cache"]["spec"]["template"]


def containers(objects: Objects) -> dict[str, Any]:
    spec = pod(objects)["spec"]
    return {item["name"]: item for item in (*spec.get("initContainers", []), *spec["containers"])}


def config(objects: Objects, name: str) -> Any:
    return yaml.safe_load(objects["ConfigMap/registry-cache"]["data"][name])


@pytest.fixture(scope="module")
def on(rendered: dict[str, Objects]) -> Objects:
    return rendered["on"]


@pytest.fixture(scope="module")
def off(rendered: dict[str, Objects]) -> Objects:
    return rendered["off"]


@pytest.fixture(scope="module")
def program(rendered: dict[str, Objects]) -> Objects:
    return rendered["program"]


@pytest.fixture(scope="module")
def stock(rendered: dict[str, Objects]) -> Objects:
    return rendered["stock"]


def probes(objects: Objects) -> dict[str, dict[str, str]]:
    return {name: containers(objects)["registry"][f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}


def test_stock_is_told_only_what_the_unmodified_registry_understands(stock: Objects, on: Objects) -> None:
    assert set(containers(stock)) == {"registry", "helper"}
    assert containers(stock)["registry"]["command"] == ["registry", "serve", "/etc/registry-cache/config.yml"]
    told = config(stock, "config.yml")
    # It panics at the name of a middleware that it does not know.
    assert not told["middleware"] and set(config(on, "config.yml")["middleware"]) == {"storage", "repository"}
    assert told["proxy"]["ttl"] == "168h" and config(on, "config.yml")["proxy"]["ttl"] in (0, "0")
    assert "uploadpurging" not in told["storage"]["maintenance"]
    assert told["auth"]["htpasswd"]["path"] == "/etc/registry-cache/auth/htpasswd"
    assert {probe["path"] for probe in probes(stock).values()} == {"/"}
    assert containers(stock)["registry"]["startupProbe"]["failureThreshold"] == 60
    assert [name for name in stock if "peer" in name] == []


def test_without_the_front_one_program_is_the_whole_replica(program: Objects) -> None:
    found = containers(program)
    assert set(found) == {"registry"}
    assert found["registry"]["command"] == ["registry", "cache", "/etc/registry-cache/config.yaml"]
    assert probes(program) == {
        "startup": {"path": "/ready", "port": "registry"},
        "readiness": {"path": "/ready", "port": "registry"},
        "liveness": {"path": "/alive", "port": "registry"},
    }
    # A large store takes a while to load; until then the replica is alive.
    assert found["registry"]["startupProbe"]["failureThreshold"] == 600
    environment = {variable["name"]: variable["value"] for variable in found["registry"]["env"]}
    assert environment["GOOGLE_APPLICATION_CREDENTIALS"] == "/etc/registry-cache/credential.json"
    assert environment["SSL_CERT_DIR"] == "/etc/registry-cache/ca"
    assert pod(program)["spec"]["terminationGracePeriodSeconds"] == 90
    assert [name for name in program if "peer" in name] == []


def test_the_program_finds_the_files_that_its_configuration_names(rendered: dict[str, Objects]) -> None:
    mounts = {mount["name"]: mount for mount in containers(rendered["program"])["registry"]["volumeMounts"]}
    assert mounts.keys() == {"config", "token", "store"}
    assert mounts["config"]["mountPath"] == "/etc/registry-cache"
    (volume,) = [volume for volume in pod(rendered["program"])["spec"]["volumes"] if volume["name"] == "config"]
    files = {item["path"] for source in volume["projected"]["sources"] for kind in source.values() for item in kind["items"]}
    assert files == {"config.yaml", "credential.json", "ca/ca.pem", "auth/htpasswd", "peers/secret"}
    told = config(rendered["program"], "config.yaml")
    assert told["auth"] == {"htpasswd": "/etc/registry-cache/auth/htpasswd"}
    assert told["peers"]["secret"] == "/etc/registry-cache/peers/secret"
    assert told["store"]["path"] == mounts["store"]["mountPath"]
    assert rendered["program"]["ConfigMap/registry-cache"]["data"].keys() == {"config.yaml", "credential.json", "ca.pem"}


def test_replicas_of_the_program_find_each_other(program: Objects, on: Objects, stock: Objects) -> None:
    """By the SRV records of a port named peers, whether they are ready or not."""
    told, found = config(program, "config.yaml")["peers"], program["Service/registry-cache-replicas"]["spec"]
    assert told["service"] == "registry-cache-replicas" == program["StatefulSet/registry-cache"]["spec"]["serviceName"]
    (port,) = [port for port in found["ports"] if port["name"] == "peers"]
    assert found["publishNotReadyAddresses"] and told["listen"] == f":{port['port']}"
    assert {"name": port["targetPort"], "containerPort": port["port"], "protocol": "TCP"} in containers(program)["registry"]["ports"]
    # The address for clients leads to replicas that are ready, and to no other port.
    assert [port["name"] for port in program["Service/registry-cache"]["spec"]["ports"]] == ["registry"]
    for others in (on, stock):
        assert [port["name"] for port in others["Service/registry-cache-replicas"]["spec"]["ports"]] == ["registry"]


@pytest.mark.parametrize("site", ["program", "small program"])
def test_the_program_takes_its_configuration(rendered: dict[str, Objects], site: str) -> None:
    """Package config's own test reads the same files, by the program's strict parser."""
    parsed = ROOT / "docker/registry/internal/config/testdata" / f"{site.replace(' ', '-')}.yaml"
    assert rendered[site]["ConfigMap/registry-cache"]["data"]["config.yaml"] == parsed.read_text()


def test_a_volume_has_room_for_more_than_the_program_keeps(rendered: dict[str, Objects]) -> None:
    objects = rendered["small program"]
    (claim,) = objects["StatefulSet/registry-cache"]["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "128Mi"
    assert config(objects, "config.yaml")["store"]["limit"] == "64Mi"
    (mount,) = [mount for mount in containers(objects)["registry"]["volumeMounts"] if mount["name"] == "content"]
    assert mount == {"name": "content", "mountPath": "/var/lib/registry", "subPath": "registry"}


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


def test_an_image_by_digest_is_what_every_container_runs(rendered: dict[str, Objects]) -> None:
    found = containers(rendered["digest"])
    assert {found[name]["image"] for name in ("registry", "credentials", "exporter")} == {DIGEST}


def test_a_credential_is_not_used_for_longer_than_google_gives_one(rendered: dict[str, Objects]) -> None:
    """However long the projected token lives."""
    lifetimes = {site: config(rendered[site], "config.yml")["proxy"]["exec"]["lifetime"] for site in ("on", "digest")}
    assert lifetimes == {"on": "540s", "digest": "2700s"}


def test_metrics_have_two_containers_and_a_port(on: Objects) -> None:
    assert set(containers(on)) == {"registry", "credentials", "exporter", "log", "front"}
    ports = {port["name"]: port["containerPort"] for port in containers(on)["front"]["ports"]}
    assert ports["metrics"] == 5006
    assert pod(on)["metadata"]["annotations"]["prometheus.io/port"] == "5006"
    # They outlive the front, and no Service leads to the port.
    assert {containers(on)[name]["restartPolicy"] for name in ("exporter", "log")} == {"Always"}
    assert "5006" not in json.dumps([item for name, item in on.items() if name.startswith("Service/")])
    assert set(config(on, "statsd.yml")) == {"defaults", "mappings"}


def test_what_has_a_profiler_listens_inside_the_pod_alone(on: Objects, stock: Objects) -> None:
    configs = [config(on, "config.yml"), config(on, "credentials.yml"), config(stock, "config.yml")]
    debug = [one["http"]["debug"] for one in configs]
    assert [one["addr"].split(":")[0] for one in debug] == ["127.0.0.1"] * 3
    assert all(one["prometheus"] == {"enabled": True} for one in debug)
    arguments = [word for word in containers(on)["exporter"]["command"] if "listen" in word]
    assert len(arguments) == 3 and all(word.endswith("=") or "=127.0.0.1:" in word for word in arguments)


def test_the_program_shows_metrics_at_one_path(program: Objects) -> None:
    assert config(program, "config.yaml")["metrics"] == {"listen": ":5006"}
    assert {"name": "metrics", "containerPort": 5006, "protocol": "TCP"} in containers(program)["registry"]["ports"]
    annotations = pod(program)["metadata"]["annotations"]
    assert (annotations["prometheus.io/port"], annotations["prometheus.io/path"]) == ("5006", "/metrics")
    assert program["PodMonitor/registry-cache"]["spec"]["podMetricsEndpoints"] == [{"port": "metrics", "path": "/metrics"}]
    assert program["PrometheusRule/registry-cache"]["spec"] == yaml.safe_load((ROLE / "files/alerts.yml").read_text())
    assert "5006" not in json.dumps([item for name, item in program.items() if name.startswith("Service/")])


def test_nothing_is_left_when_metrics_are_off(rendered: dict[str, Objects], off: Objects, stock: Objects) -> None:
    assert set(containers(off)) == {"registry", "credentials", "front"}
    for name in ("config.yml", "credentials.yml"):
        assert "debug" not in config(off, name)["http"]
    files = off["ConfigMap/registry-cache"]["data"]
    assert "log.sh" not in files and '== "metrics"' not in files["front.vcl"] and "-a metrics" not in files["front.sh"]
    small = rendered["small program"]
    assert "metrics" not in config(small, "config.yaml")
    for objects in (off, small, stock):
        assert not [name for name in pod(objects)["metadata"]["annotations"] if name.startswith("prometheus.io")]
        assert not [name for name in objects if name.startswith(("PodMonitor", "PrometheusRule"))]
        assert "5006" not in json.dumps(pod(objects))


def test_the_operator_gets_every_path_and_rule(on: Objects) -> None:
    endpoints = on["PodMonitor/registry-cache"]["spec"]["podMetricsEndpoints"]
    served = set(re.findall(r'req\.url == "(/metrics/\w+)"', on["ConfigMap/registry-cache"]["data"]["front.vcl"]))
    assert {endpoint["path"] for endpoint in endpoints} == served and len(served) == 3
    assert on["PrometheusRule/registry-cache"]["spec"] == yaml.safe_load((ROLE / "files/alerts.yml").read_text())


def test_without_credentials_nobody_is_asked_for_their_metrics(rendered: dict[str, Objects]) -> None:
    objects = rendered["open"]
    assert set(containers(objects)) == {"registry", "exporter", "log", "front"}
    endpoints = objects["PodMonitor/registry-cache"]["spec"]["podMetricsEndpoints"]
    assert {endpoint["path"] for endpoint in endpoints} == {"/metrics/registry", "/metrics/front"}
    assert "/metrics/credentials" not in objects["ConfigMap/registry-cache"]["data"]["front.vcl"]


def _defined() -> set[str]:
    source = [*(ROOT / "docker/registry/internal").glob("*/*.go"), ROLE / "templates/log.sh.j2"]
    names = set(re.findall(r"\bregistry_cache_\w+(?=[\":])", "".join(file.read_text() for file in source)))
    return {name for name in names if re.search(r"_(total|bytes|seconds|users)$", name)}


def test_alerts_and_docs_name_metrics_that_there_are() -> None:
    rules = yaml.safe_load((ROLE / "files/alerts.yml").read_text())["groups"][0]["rules"]
    docs = (ROOT / "docs/metrics.md").read_text()
    asked = {name for rule in rules for name in re.findall(r"registry_cache_\w+", rule["expr"])}
    assert asked and asked - _defined() == set()
    for rule in rules:
        assert f"`{rule['alert']}`" in docs
        assert {"summary", "description"} == rule["annotations"].keys()
    # A table's row may name the second of a pair by its ending.
    assert {name for name in _defined() if name not in docs and f"..._{name.split('_', 4)[-1]}" not in docs} - {
        "registry_cache_front_store_free_bytes",
        "registry_cache_disk_limit_bytes",
    } == set()
