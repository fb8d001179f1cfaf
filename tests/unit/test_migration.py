# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/usage/migrate-from-pulumi.md: every key of the Pulumi program has a variable, and every variable is one of ours."""

from __future__ import annotations

import re
from typing import Any

import jinja2
import pytest
import yaml
from ansible_collections.pullthrough.registry_cache.plugins.filter.htpasswd_users import htpasswd_users
from ansible_collections.pullthrough.registry_cache.plugins.lookup.invalid_variables import _SAMPLES
from ansible_collections.pullthrough.registry_cache.plugins.lookup.unmet_requirements import known_variables
from ansible_collections.pullthrough.registry_cache.plugins.modules import cache_handover

from sandbox.settings import ROOT

PAGE = (ROOT / "docs" / "usage" / "migrate-from-pulumi.md").read_text()
KEYS = {
    "registryHtpasswd",
    "registryNodePort",
    "registryReplicas",
    "createGarRegistry",
    "garRegistryName",
    "createNamespace",
    "k8sNamespace",
    "registryImage",
    "registryImagePullSecret",
    "gcpLocation",
    "gcp:project",
}
TABLE = dict(re.findall(r"(?m)^\| `([\w:]+)` \| `(\w+)` \| .+ \|$", PAGE.split("| Pulumi config |")[1].split("\n\n")[0]))
EXAMPLES = [yaml.safe_load(block) for block in re.findall(r"(?s)```yaml\n(.*?)```", PAGE)]
EXAMPLE: dict[str, Any] = {name: value for block in EXAMPLES for name, value in block.items()}


def options() -> dict[str, Any]:
    """The options of all roles' main entry points."""
    found: dict[str, Any] = {}
    for file in ROOT.glob("roles/*/meta/argument_specs.yml"):
        found |= yaml.safe_load(file.read_text())["argument_specs"]["main"]["options"]
    return found


def test_every_key_has_a_variable() -> None:
    assert TABLE.keys() == KEYS


@pytest.mark.parametrize("key", sorted(KEYS))
def test_the_variable_is_an_option_of_a_role(key: str) -> None:
    assert TABLE[key] in options()


def test_variables_of_the_page_are_ours() -> None:
    assert set(re.findall(r"\bregistry_cache_\w+", PAGE)) - {"registry_cache_clusters"} <= known_variables(ROOT)


def test_the_examples_are_of_the_types_of_the_options() -> None:
    specs, types = options(), {"str": str, "int": int, "list": (list, str), "dict": dict}
    for name, value in EXAMPLE.items():
        if not name.startswith("registry_cache_adopt"):
            assert isinstance(value, types[specs[name]["type"]]), name
    assert EXAMPLE["registry_cache_service_name"] == _SAMPLES["registry_cache_service_name"]


def test_the_example_of_the_users() -> None:
    environment = jinja2.nativetypes.NativeEnvironment()
    environment.filters["pullthrough.registry_cache.htpasswd_users"] = htpasswd_users
    template = environment.from_string(EXAMPLE["registry_cache_users"])
    users = template.render(vault_registry_htpasswd="ci:$2y$10$x\n")
    assert users == [{"name": "ci", "hash": "$2y$10$x", "pull_secret": {"namespaces": []}}, {"name": "nodes"}]


def test_the_example_of_what_is_taken_over() -> None:
    documented = yaml.safe_load(cache_handover.DOCUMENTATION)["options"]["registry"]["suboptions"]
    assert EXAMPLE["registry_cache_adopt_registry"].keys() <= documented.keys()
    assert {one["kind"] for one in EXAMPLE["registry_cache_adopt_registry"]["objects"]} <= set(cache_handover.KINDS)
    specs = yaml.safe_load((ROOT / "roles/wif/meta/argument_specs.yml").read_text())["argument_specs"]
    google = specs["adopt_preflight"]["options"]["registry_cache_adopt_google"]["options"]
    assert EXAMPLE["registry_cache_adopt_google"].keys() == google.keys()
    assert EXAMPLE["registry_cache_adopt_google"]["pool"] == EXAMPLE["registry_cache_wif_pool"]
