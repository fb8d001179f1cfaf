# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: invalid_variables
short_description: Find invalid variables of a role of this collection
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Compares the variables of a role with the types, choices and required options in its C(meta/argument_specs.yml). Unlike
    M(ansible.builtin.validate_argument_spec), it does not convert values, because roles use their variables as they are. It gives an
    example for each variable.
  - A number is not accepted as text. YAML reads C(0123) as 83 and C(1.10) as 1.1, so quote such a text.
  - If the types are correct, it checks the ranges of values and the rules that concern several variables, unless the role's state is
    V(absent).
options:
  _terms:
    description: Paths of the roles' directories.
    type: list
    elements: path
    required: true
"""

EXAMPLES = r"""
- name: Check the variables of a role
  ansible.builtin.assert:
    that: query('pullthrough.registry_cache.invalid_variables', role_path) | length == 0
    fail_msg: "{{ query('pullthrough.registry_cache.invalid_variables', role_path) | join(' ') }}"
"""

RETURN = r"""
_raw:
  description: One message for each problem. Each message names the variable and gives an example. No message contains a secret.
  type: list
  elements: str
"""

import json
import pathlib
import re
import typing as t
from collections.abc import Mapping

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.lookup import LookupBase
from ansible_collections.pullthrough.registry_cache.plugins.plugin_utils import _rules

# Examples for variables whose default is not a good example.
_SAMPLES: dict[str, t.Any] = {
    "registry_cache_ca_bundle": "/etc/ssl/certs/company-ca.pem",
    "registry_cache_context": "my-cluster",
    "registry_cache_credential_config": {"type": "external_account"},
    "registry_cache_gcp_access_token": "of-your-vault",
    "registry_cache_gcp_auth_kind": "application",
    "registry_cache_gcp_impersonate_service_account": "deployer@my-project.iam.gserviceaccount.com",
    "registry_cache_gcp_quota_project": "my-project",
    "registry_cache_gcp_service_account_file": "/etc/keys/my-key.json",
    "registry_cache_gcp_universe_domain": "googleapis.com",
    "registry_cache_image": "ghcr.io/acme/registry-cache",
    "registry_cache_image_archive_path": "/srv/images",
    "registry_cache_image_auth_file": "~/.docker/config.json",
    "registry_cache_image_build_network": "host",
    "registry_cache_image_build_proxy": {"https_proxy": "http://proxy.example:3128"},
    "registry_cache_image_ctr": ["k3s", "ctr"],
    "registry_cache_image_goproxy": "https://goproxy.example",
    "registry_cache_image_helper": "gcr.io/kaniko-project/executor:v1.24.0-debug",
    "registry_cache_image_nodes": ["node-1", "node-2"],
    "registry_cache_image_password": "of-your-vault",
    "registry_cache_image_platforms": ["linux/amd64", "linux/arm64"],
    "registry_cache_image_pull_secrets": ["my-pull-secret"],
    "registry_cache_image_reference": "ghcr.io/acme/registry-cache:1.0",
    "registry_cache_image_sbom_path": "/srv/sboms",
    "registry_cache_image_username": "my-user",
    "registry_cache_kubeconfig": "~/.kube/config",
    "registry_cache_node_selector": {"disk": "ssd"},
    "registry_cache_pull_secret_exclude_namespaces": ["kube-system"],
    "registry_cache_pull_secret_hosts": ["localhost:30026"],
    "registry_cache_pull_secret_annotations": {"example.com/contact": "team-a"},
    "registry_cache_pull_secret_labels": {"team": "a"},
    "registry_cache_pull_secret_name": "registry-cache-pull",
    "registry_cache_pull_secret_namespace_selector": "team in (a, b)",
    "registry_cache_pull_secret_namespaces": ["default"],
    "registry_cache_pull_secret_service_accounts": ["default"],
    "registry_cache_replicas": 3,
    "registry_cache_rotate_users": ["team-a"],
    "registry_cache_service_name": "cncf-registry-service",
    "registry_cache_storage_class": "standard",
    "registry_cache_token_audience": "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/p/providers/k",
    "registry_cache_tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "registry_cache_upstreams": [{"host": "us-central1-docker.pkg.dev", "repositories": ["my-project/my-repository"]}],
    "registry_cache_users": [{"name": "nodes", "password": "of-your-vault"}],
    "registry_cache_verify_image": "us-central1-docker.pkg.dev/my-project/my-repository/my-image:1.0",
    "registry_cache_wif_audience": "https://iam.example/my-audience",
    "registry_cache_wif_project": "my-project",
    "registry_cache_wif_project_number": "123456789012",
    "registry_cache_wif_provider": "my-cluster",
    "registry_cache_wif_service_account": "registry-cache@my-project.iam.gserviceaccount.com",
}
# Text that must be a number.
_NUMERIC_TEXTS = {"registry_cache_wif_project_number"}
_BOOLEANS = {"yes", "no", "true", "false", "on", "off", "1", "0"}
_INTEGER = re.compile(r"-?[0-9]+")
_WORDS = {
    "str": "text",
    "path": "a path as text",
    "int": "a whole number",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping",
}


def _is(value: t.Any) -> str:
    """Return the type of a value in words, without the value itself."""
    if value is None:
        return "empty"
    for kinds, words in ((bool, "true or false"), ((int, float), "a number"), (str, "text"), (Mapping, "a mapping"), (list, "a list")):
        if isinstance(value, kinds):
            return words
    return f"a {type(value).__name__}"


def _is_text(value: t.Any) -> bool:
    # Before decryption, a value with the YAML tag `!vault` has one of these types.
    return isinstance(value, str) or type(value).__name__ in ("AnsibleVaultEncryptedUnicode", "EncryptedString")


def _fits(kind: str, value: t.Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind in ("str", "path"):
        return _is_text(value)
    if kind == "int":
        return whole or (isinstance(value, str) and bool(_INTEGER.fullmatch(value)))
    if kind == "bool":
        return isinstance(value, bool) or str(value).lower() in _BOOLEANS
    return isinstance(value, list if kind == "list" else Mapping)


def _faults(where: str, option: dict[str, t.Any], value: t.Any, numeric: bool = False) -> t.Iterator[str]:
    """Yield a description of each problem of a value and of the values inside it."""
    kind = option["type"]
    if value is None and not option.get("required") and option.get("default") is None:
        return
    if not _fits(kind, value) and not (numeric and _fits("int", value)):
        # The usual cause is a name or password of digits.
        quotes = ". Put it in quotes" if kind in ("str", "path") and isinstance(value, (bool, int, float)) else ""
        yield f"{where} must be {_WORDS[kind]} (got {_is(value)}){quotes}"
        return
    if value not in option.get("choices", [value]):
        yield f"{where} must be {' or '.join(option['choices'])}"
    elif kind == "list":
        element = {"type": option.get("elements", "str"), "required": True, "options": option.get("options")}
        for number, one in enumerate(value):
            yield from _faults(f"{where}[{number}]", element, one)
    elif kind == "dict":
        for name, inner in (option.get("options") or {}).items():
            if name in value:
                yield from _faults(f"{where}.{name}", inner, value[name])
            elif inner.get("required"):
                yield f"{where}.{name} is missing"


def _example(name: str, option: dict[str, t.Any]) -> str:
    sample = _SAMPLES.get(name, option.get("default"))
    return f"{name}: {sample if isinstance(sample, str) else json.dumps(sample)}"


def wrong_types(options: dict[str, dict[str, t.Any]], values: t.Mapping[str, t.Any]) -> list[str]:
    """Return a message with an example for each value that does not have its option's type."""
    return [
        f"{fault}. Example: {_example(name, options[name])}"
        for name, value in values.items()
        for fault in _faults(name, options[name], value, name in _NUMERIC_TEXTS)
    ]


def _converted(option: dict[str, t.Any], value: t.Any) -> t.Any:
    """Return a value in its option's type. Option --extra-vars KEY=VALUE gives text for numbers and booleans."""
    if value is None:
        return None
    return int(value) if option["type"] == "int" else boolean(value) if option["type"] == "bool" else value


def invalid(role: str, options: dict[str, dict[str, t.Any]], values: t.Mapping[str, t.Any]) -> list[str]:
    """Return a message for each problem of a role's variables.

    :param values: the variables that are set, by name.
    """
    if found := wrong_types(options, values):
        return found
    names = {name: name.removeprefix(_rules.PREFIX) for name in options}
    variables = _rules.Variables(**{short: _converted(options[name], values.get(name)) for name, short in names.items()})
    if found := _rules.broken(role, variables):
        return found
    if not _rules.ACTIVE[role](variables):
        return []
    # This finds what is left: misspelt options of users and upstreams, and options that exclude each other.
    return [f"{message}." for message in ArgumentSpecValidator(options).validate(dict(values)).error_messages]


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: dict[str, t.Any] | None = None, **_kwargs: t.Any) -> list[str]:
        found, given = [], variables or {}
        for term in terms:
            role = pathlib.Path(term)
            specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
            options = specs["argument_specs"]["main"]["options"]
            values = {name: self._templar.template(given[name]) for name in options if name in given}
            found += invalid(role.name, options, values)
        return found
