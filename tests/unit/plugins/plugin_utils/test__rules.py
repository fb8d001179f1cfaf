# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules over variables of roles: each is broken by a case, and good variables break none."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
import yaml
from ansible_collections.pullthrough.registry_cache.plugins.lookup import invalid_variables
from ansible_collections.pullthrough.registry_cache.plugins.plugin_utils import _rules

from sandbox.settings import ROOT

UPSTREAMS = [{"host": "us-central1-docker.pkg.dev", "repositories": ["my-project/my-repository"]}]
HASH = "$2b$05$" + "x" * 53
# A host, a repository of it and an image, and whether the cache may read that.
IMAGES = {
    ("us-docker.pkg.dev", "my-project/r", "us-docker.pkg.dev/my-project/r/i:1.0"): True,
    ("us-docker.pkg.dev", "my-project/r", "us-docker.pkg.dev/my-project/other/i:1.0"): False,
    ("us-docker.pkg.dev", "example.com:my-project/r", "us-docker.pkg.dev/example.com/my-project/r/i:1.0"): True,
    ("us-docker.pkg.dev", "example.com/my-project/r", "us-docker.pkg.dev/example.com/my-project/r/i:1.0"): True,
    ("us-docker.pkg.dev", "example.com:my-project/r", "us-docker.pkg.dev/my-project/r/i:1.0"): False,
    ("eu.gcr.io", "my-project", "eu.gcr.io/my-project/i:1.0"): True,
    ("eu.gcr.io", "my-project", "gcr.io/my-project/i:1.0"): False,
    ("eu.gcr.io", "example.com:my-project", "eu.gcr.io/example.com/my-project/i@sha256:0"): True,
}
# By role: variables that a user must set.
GOOD: dict[str, dict[str, Any]] = {
    "cache": {"upstreams": UPSTREAMS, "users": [{"name": "nodes"}]},
    "image": {"upstreams": UPSTREAMS, "image": "ghcr.io/acme/registry-cache", "image_nodes": []},
    "pull_secret": {"users": [{"name": "nodes"}], "pull_secret_namespaces": ["default"], "pull_secret_hosts": ["localhost:30026"]},
    "wif": {"upstreams": UPSTREAMS, "wif_project": "my-project", "wif_provider": "k8s-one"},
}
STOCK = {"image_mode": "stock", "image_helper": "helper.example/i:1"}
OPEN = {"auth": "none", "auth_none_confirmed": True}
ABSENT = {"cache": {"state": "absent"}, "pull_secret": {"pull_secret_state": "absent"}, "wif": {"wif_state": "absent"}}
ACCOUNT = "reader@my-project.iam.gserviceaccount.com"

# Variables of a role, and parts of the message about them: one row or more for each rule.
REFUSED: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("cache", {"namespace": "-a"}, ("namespace",)),
    ("cache", {"namespace": "a" * 64}, ("namespace",)),
    ("cache", {"name": "1a"}, ("name",)),
    ("cache", {"name": "a" * 53}, ("name",)),
    ("cache", {"upstreams": []}, ("upstreams",)),
    ("cache", {"upstreams": UPSTREAMS * 2}, ("upstreams", "exactly one")),
    ("cache", {"upstreams": [{"host": "a.example", "repositories": []}]}, ("upstreams",)),
    ("cache", {"auth": "none"}, ("auth_none_confirmed", "NodePort")),
    ("cache", {"users": []}, ("users", "at least one")),
    ("cache", {"users": [{"name": "a:b"}]}, ("users", "colon")),
    ("cache", {"users": [{"name": "a b"}]}, ("users", "space")),
    ("cache", {"users": [{"name": "#a"}]}, ("users", "'#'")),
    ("cache", {"users": [{"name": "a", "password": ""}]}, ("users", "password or hash")),
    ("cache", {"users": [{"name": "a", "password": None}]}, ("users", "password or hash")),
    ("cache", {"users": [{"name": "a", "hash": "$apr1$x$y"}]}, ("users", "bcrypt", "htpasswd -nB")),
    ("cache", {"users": [{"name": "a", "hash": HASH}], "verify_image": f"{UPSTREAMS[0]['host']}/my-project/my-repository/i:1"}, ("users",)),
    ("cache", {"image_mode": "stock"}, ("image_helper",)),
    ("image", {"image_mode": "stock"}, ("image_helper", "image_helper_path")),
    ("cache", {"replicas": 0}, ("replicas",)),
    ("cache", {"node_port": 80}, ("node_port", "30000")),
    ("cache", {"node_port": "32768"}, ("node_port",)),
    ("cache", {"service_name": "1-a"}, ("service_name", "letter")),
    ("cache", {"token_seconds": 599}, ("token_seconds", "600")),
    ("cache", {"size": "20"}, ("size",)),
    ("cache", {"size": "63Mi"}, ("size", "64Mi")),
    ("cache", {"size": "1.5Gi"}, ("size",)),
    ("cache", {"tag_ttl": 0}, ("tag_ttl", "1 to 86400")),
    ("cache", {"drain_seconds": 3601}, ("drain_seconds",)),
    ("cache", {"rotate_grace": 2592001}, ("rotate_grace", "30 days")),
    ("cache", {"rotate_timeout": 0}, ("rotate_timeout",)),
    ("cache", {**STOCK, "prometheus_operator": True}, ("prometheus_operator",)),
    ("cache", {"metrics": False, "prometheus_operator": True}, ("prometheus_operator", "registry_cache_metrics")),
    ("cache", {"ca_bundle": "/no/such/ca.pem"}, ("ca_bundle", "/no/such/ca.pem")),
    ("image", {"ca_bundle": "/no/such/ca.pem"}, ("ca_bundle", "/no/such/ca.pem")),
    ("cache", {"verify_image": "docker.io/library/hello:1.0"}, ("verify_image", "registry_cache_upstreams", "docker.io/library/hello:1.0")),
    ("wif", {"upstreams": None}, ("upstreams",)),
    ("wif", {"upstreams": [{"host": "https://gcr.io", "repositories": ["p"]}]}, ("upstreams", "https://gcr.io")),
    ("wif", {"upstreams": [{"host": "us-docker.pkg.dev", "repositories": ["r"]}]}, ("upstreams", "project/repository")),
    ("wif", {"wif_project": "A"}, ("wif_project",)),
    ("wif", {"wif_project": None}, ("wif_project",)),
    ("wif", {"wif_manage": False}, ("wif_project_number", "registry_cache_wif_manage")),
    ("wif", {"wif_pool": "gcp-pool"}, ("wif_pool", "gcp-")),
    ("wif", {"wif_provider": "abc"}, ("wif_provider",)),
    ("wif", {"wif_provider": "k" * 32, "namespace": "n" * 63}, ("wif_provider", "127 bytes", "registry_cache_namespace")),
    ("wif", {"wif_service_account": "me@example.com"}, ("wif_service_account",)),
    ("wif", {"wif_create_service_account": True}, ("wif_service_account", "registry_cache_wif_create_service_account")),
    ("wif", {"gcp_auth_kind": "oauth"}, ("gcp_auth_kind", "application")),
    ("image", {"image": None}, ("image",)),
    ("image", {"image": "Acme"}, ("image", "'Acme'")),
    ("image", {"image": "ghcr.io/acme/i:1"}, ("image", "no tag")),
    ("image", {"image_mode": "published"}, ("image", "tag or digest")),
    ("image", {"image": f"{UPSTREAMS[0]['host']}/p/r/i"}, ("image", f"{UPSTREAMS[0]['host']}/p/r/i", "registry_cache_image_pull_secrets")),
    ("image", {"image_platforms": ["linux/s390x"]}, ("image_platforms", "linux/s390x")),
    ("image", {"image_publish": "archive"}, ("image_archive_path",)),
    ("image", {"image_publish": "k3s"}, ("image_nodes", "registry_cache_nodes")),
    ("image", {"image_username": "me"}, ("image_password",)),
    (
        "image",
        {"image_username": "me", "image_password": "x", "image_auth_file": __file__},
        ("image_auth_file", "registry_cache_image_username"),
    ),
    ("image", {"image_auth_file": "/no/such/file"}, ("image_auth_file", "/no/such/file")),
    ("pull_secret", {"pull_secret_namespace_selector": "a=b"}, ("pull_secret_namespaces", "registry_cache_pull_secret_namespace_selector")),
    ("pull_secret", {"pull_secret_exclude_namespaces": []}, ("pull_secret_namespaces", "registry_cache_pull_secret_exclude_namespaces")),
    ("pull_secret", {"users": [{"name": "ci", "hash": HASH}]}, ("users", "user ci", "password", "hash")),
    ("pull_secret", {"users": [{"name": "ci", "hash": ""}]}, ("users", "user ci")),
    (
        "pull_secret",
        {"users": [{"name": "ci", "hash": HASH, "pull_secret": {"exclude_namespaces": []}}], "pull_secret_namespaces": []},
        ("users", "user ci"),
    ),
    ("pull_secret", {"auth": "none", "users": [{"name": "a", "password": "x"}, {"name": "b"}]}, ("users", "user b ", "none")),
    # Only the argument specs refuse these.
    ("cache", {"users": [{"name": "a", "pasword": "x"}]}, ("users", "pasword")),
    (
        "pull_secret",
        {"users": [{"name": "a", "pull_secret": {"namespaces": ["a"], "exclude_namespaces": []}}]},
        ("users", "mutually exclusive"),
    ),
]
PASSED: list[tuple[str, dict[str, Any]]] = [
    *((role, {}) for role in GOOD),
    ("cache", {**OPEN, "users": [{"name": "a", "hash": "none of bcrypt"}], "verify_image": None}),
    ("cache", {"users": [{"name": "a", "hash": HASH}]}),
    (
        "cache",
        {"users": [{"name": "a", "hash": HASH, "password": "x"}], "verify_image": f"{UPSTREAMS[0]['host']}/my-project/my-repository/i"},
    ),
    ("cache", {**STOCK, "replicas": "3", "node_port": "30026", "size": "64Mi", "ca_bundle": __file__, "metrics": "no"}),
    ("image", {"image_mode": "published", "image": "ghcr.io/acme/i@sha256:" + "0" * 64}),
    ("image", {**STOCK, "image": None, "upstreams": []}),
    ("image", {"image": f"{UPSTREAMS[0]['host']}/p/r/i", "image_pull_secrets": ["theirs"]}),
    ("pull_secret", {"users": [{"name": "ci", "hash": HASH, "pull_secret": {"namespaces": []}}]}),
    ("pull_secret", {"users": [{"name": "ci", "hash": HASH, "password": "x"}]}),
    ("pull_secret", {"users": [{"name": "ci", "hash": HASH}], "pull_secret_namespaces": []}),
    ("pull_secret", {"users": [{"name": "a"}], "auth": "none", "pull_secret_namespaces": []}),
    ("wif", {"wif_manage": False, "wif_project": None, "wif_project_number": 42}),
    ("wif", {"wif_service_account": ACCOUNT, "wif_create_service_account": True, "wif_project": "example.com:my-project"}),
    ("wif", {**ABSENT["wif"], "wif_provider": "k" * 32, "namespace": "n" * 63, "wif_create_service_account": True}),
    # Of what is removed, only the name is checked.
    ("cache", {**ABSENT["cache"], "upstreams": [], "users": [], "size": "1", "ca_bundle": "/no/such/ca.pem"}),
    ("wif", {**ABSENT["wif"], "wif_manage": False, "upstreams": None, "wif_pool": "gcp-x"}),
    ("pull_secret", {**ABSENT["pull_secret"], "pull_secret_exclude_namespaces": [], "auth": "none"}),
]


def variables(role: str, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the argument specs of a role, and its variables: the defaults with some changes."""
    folder = ROOT / "roles" / role
    options = yaml.safe_load((folder / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    defaults = yaml.safe_load((folder / "defaults/main.yml").read_text())
    given = {**GOOD[role], **changes}
    values = {**defaults, **{f"registry_cache_{name}": value for name, value in given.items()}}
    return options, {
        name: value for name, value in values.items() if name in options and not (name.endswith("upstreams") and value is None)
    }


@pytest.mark.parametrize(("role", "changes", "words"), REFUSED)
def test_refused(role: str, changes: dict[str, Any], words: tuple[str, ...]) -> None:
    (said,) = invalid_variables.invalid(role, *variables(role, **changes))
    # For nested options, ansible-core names only their place.
    named = re.match(r"registry_cache_(\w+): .*\. Example: registry_cache_\1: .", said) or "pasword" in said or "mutually" in said
    assert named and all(part in said for part in words), said
    assert f"registry_cache_{words[0]}" in said


@pytest.mark.parametrize(("role", "changes"), PASSED)
def test_passed(role: str, changes: dict[str, Any]) -> None:
    assert invalid_variables.invalid(role, *variables(role, **changes)) == []


def test_every_rule_is_broken_by_a_case() -> None:
    broken = set()
    for role, changes, _words in REFUSED:
        options, values = variables(role, **changes)
        short = {name: name.removeprefix("registry_cache_") for name in options}
        given = {short[name]: invalid_variables._converted(options[name], values.get(name)) for name in options}
        checked = [*_rules.ALWAYS.get(role, ()), *_rules.RULES[role]]
        broken |= {(role, number) for number, rule in enumerate(checked) if not rule.holds(_rules.Variables(**given))}
    assert broken == {(role, n) for role, rules in _rules.RULES.items() for n in range(len(rules) + len(_rules.ALWAYS.get(role, ())))}


def test_every_role_has_rules() -> None:
    roles = {path.name for path in (ROOT / "roles").iterdir()}
    assert _rules.RULES.keys() == _rules.ACTIVE.keys() == roles and _rules.ALWAYS.keys() <= roles


@pytest.mark.parametrize("role", GOOD)
def test_a_rule_is_about_a_variable_of_its_role(role: str) -> None:
    options, _values = variables(role)
    assert {_rules.PREFIX + rule.variable for rule in (*_rules.ALWAYS.get(role, ()), *_rules.RULES[role])} <= options.keys()


@pytest.mark.parametrize(("host", "path", "image"), IMAGES)
def test_verify_image_must_be_readable_by_the_cache(host: str, path: str, image: str) -> None:
    wanted = IMAGES[host, path, image]
    assert _rules.reads({"host": host, "repositories": [path]}, image) is wanted
    found = invalid_variables.invalid("cache", *variables("cache", upstreams=[{"host": host, "repositories": [path]}], verify_image=image))
    assert bool(found) is not wanted


def test_the_platforms_are_those_of_the_role() -> None:
    known = yaml.safe_load(pathlib.Path(ROOT / "roles/image/vars/main.yml").read_text())
    assert set(_rules.PLATFORMS) == set(known["_registry_cache_image_machine_platforms"].values())
    assert list(_rules.NODE_MODES) == known["_registry_cache_image_node_modes"]
