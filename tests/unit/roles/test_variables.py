# SPDX-License-Identifier: GPL-3.0-or-later
"""Every variable of every role is refused with every wrong type, by an error that names it and has an example."""

from __future__ import annotations

import datetime
import functools
import pathlib
from typing import Any

import pytest
import yaml
from ansible_collections.pullthrough.registry_cache.plugins.lookup import invalid_variables

ROLES = pathlib.Path(__file__).resolve().parents[3] / "roles"
NAMES = ("cache", "image", "pull_secret", "wif")
SECRET = "of-the-vault"
VALUES: dict[str, Any] = {
    "empty": None,
    "list": [[SECRET]],
    "mapping": {"any": {"key": SECRET}},
    "number": 5,
    "fraction": 1.5,
    "boolean": True,
    "text": SECRET,
    "date": datetime.date(2026, 1, 1),
}
# The values that each type accepts.
FITS = {
    "str": {"text"},
    "path": {"text"},
    "int": {"number"},
    "bool": {"boolean"},
    "list": set(),  # the elements have another type
    "dict": {"mapping"},
}


def wrong(role: str, **variables: Any) -> list[str]:
    return invalid_variables.wrong_types(options(role), variables)


@functools.cache
def options(role: str) -> dict[str, dict[str, Any]]:
    return yaml.safe_load((ROLES / role / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]


CASES = [(role, name) for role in NAMES for name in options(role)]


def test_all_roles_are_covered() -> None:
    assert set(NAMES) == {path.name for path in ROLES.iterdir()} and len(CASES) > 80


@pytest.mark.parametrize("role", NAMES)
def test_the_preflight_checks_variables_first(role: str) -> None:
    first = yaml.safe_load((ROLES / role / "tasks" / "preflight.yml").read_text())[0]
    ((name, query),) = first["vars"].items()
    assert "query('pullthrough.registry_cache.invalid_variables', role_path)" in query
    assert name in first["ansible.builtin.assert"]["that"] and "when" not in first


@pytest.mark.parametrize(("role", "name"), CASES, ids=lambda value: value)
def test_every_variable_with_every_type(role: str, name: str) -> None:
    option = options(role)[name]
    for kind, value in VALUES.items():
        fits = (kind in FITS[option["type"]] and "choices" not in option) or (
            name == "registry_cache_wif_project_number" and kind == "number"
        )
        if kind == "empty":
            fits = not option.get("required") and option.get("default") is None
        said = wrong(role, **{name: value})
        assert bool(said) is not fits, (kind, said)
        for sentence in said:
            assert sentence.startswith(name) and f". Example: {name}: " in sentence and SECRET not in sentence, sentence


@pytest.mark.parametrize(("role", "name"), CASES, ids=lambda value: value)
def test_every_example_is_valid(role: str, name: str) -> None:
    """An error must not show an example that would be refused too."""
    example = invalid_variables._example(name, options(role)[name])
    (value,) = yaml.safe_load(example).values()
    assert value not in (None, "", [], {}) and "{{" not in example
    assert wrong(role, **{name: value}) == []


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"registry_cache_namespace": 123}, "registry_cache_namespace must be text (got a number). Put it in quotes. "),
        (
            {"registry_cache_users": [{"name": "a"}, {"name": 83}]},
            "registry_cache_users[1].name must be text (got a number). Put it in quotes. ",
        ),
        ({"registry_cache_users": [{"name": "a", "password": 12345}]}, "registry_cache_users[0].password must be text"),
        ({"registry_cache_users": ["nodes"]}, "registry_cache_users[0] must be a mapping (got text). "),
        (
            {"registry_cache_upstreams": [{"host": ["h"], "repositories": []}]},
            "registry_cache_upstreams[0].host must be text (got a list). ",
        ),
        (
            {"registry_cache_upstreams": [{"host": "h", "repositories": "p/r"}]},
            "registry_cache_upstreams[0].repositories must be a list (got text). ",
        ),
        ({"registry_cache_upstreams": [{"host": "h"}]}, "registry_cache_upstreams[0].repositories is missing. "),
        ({"registry_cache_storage": "hostPath"}, "registry_cache_storage must be emptyDir or volumeClaim. "),
        (
            {"registry_cache_upstreams": [{"host": "h", "repositories": ["p/r", None]}]},
            "registry_cache_upstreams[0].repositories[1] must be text (got empty). ",
        ),
        ({"registry_cache_metrics": "maybe"}, "registry_cache_metrics must be true or false (got text). "),
        ({"registry_cache_replicas": "many"}, "registry_cache_replicas must be a whole number (got text). "),
        ({"registry_cache_replicas": True}, "registry_cache_replicas must be a whole number (got true or false). "),
    ],
)
def test_messages(variables: dict[str, Any], words: str) -> None:
    (said,) = wrong("cache", **variables)
    assert said.startswith(words) and "12345" not in said


def test_valid_values() -> None:
    """Includes values as --extra-vars and surveys of AWX pass them."""

    class AnsibleVaultEncryptedUnicode:
        """The type of a !vault value."""

    users = [
        {"name": "nodes", "password": AnsibleVaultEncryptedUnicode(), "pull_secret": {"namespaces": ["a"]}},
        {"name": "a", "hash": None},
    ]
    variables: dict[str, Any] = {
        "registry_cache_users": users,
        "registry_cache_node_port": "30026",
        "registry_cache_replicas": None,
        "registry_cache_ca_bundle": "",
        "registry_cache_resources": {"any": ["thing"]},
    }
    assert wrong("cache", **variables) == []
    for text in ("yes", "No", "true", "False", "on", "off", "1", 0):
        assert wrong("cache", registry_cache_metrics=text) == []


def test_the_lookup_returns_all_problems() -> None:
    class Templar:
        def template(self, value: Any) -> Any:
            return [] if value == "{{ a_template }}" else value

    lookup = invalid_variables.LookupModule()
    lookup._templar = Templar()
    variables = {"registry_cache_ca_bundle": 5, "registry_cache_verify_image": "{{ a_template }}", "of_somebody_else": []}
    said = lookup.run([str(ROLES / "cache")], variables)
    assert [sentence.split()[0] for sentence in sorted(said)] == ["registry_cache_ca_bundle", "registry_cache_verify_image"]
