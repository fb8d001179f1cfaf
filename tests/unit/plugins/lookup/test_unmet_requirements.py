# SPDX-License-Identifier: GPL-3.0-or-later
"""Lookup unmet_requirements: which problems it finds, and that it finds none in the environment of these tests."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
from ansible.errors import AnsibleLookupError
from ansible_collections.pullthrough.registry_cache.plugins.lookup import unmet_requirements
from ansible_collections.pullthrough.registry_cache.plugins.modules import pull_secrets  # the collection as it is found

ROOT = pathlib.Path(__file__).resolve().parents[4]


def unmet(*terms: str, **variables: Any) -> list[str]:
    return unmet_requirements.LookupModule().run(list(terms), variables)


def test_this_environment_meets_all() -> None:
    assert pull_secrets
    assert unmet("kubernetes.core>=5.0.0", registry_cache_state="present", other=1) == []


def test_an_older_ansible_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unmet_requirements, "__version__", "2.15.13")
    (said,) = unmet()
    assert said.startswith("ansible-core ") and "2.15.13" in said and "Example: pip install 'ansible-core>=2.16.0'" in said
    for version in ("2.16.0", "2.16.0rc1", "2.22.0.dev0"):
        monkeypatch.setattr(unmet_requirements, "__version__", version)
        assert unmet() == []


@pytest.mark.parametrize(("version", "shown"), [("4.0.1", "4.0.1"), (None, "none installed")])
def test_an_older_collection(monkeypatch: pytest.MonkeyPatch, version: str | None, shown: str) -> None:
    found = {"google.cloud": "1.10.2", "kubernetes.core": version}
    monkeypatch.setattr(unmet_requirements, "_installed", found.get)
    (said,) = unmet()
    assert said.startswith("Collection kubernetes.core ") and shown in said and ">=5.0.0" in said
    assert "Example: ansible-galaxy collection install 'kubernetes.core:>=5.0.0'" in said


def test_a_clone_of_a_collection_may_have_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unmet_requirements, "_installed", lambda _name: "")
    assert unmet() == []


def test_an_installed_collection_is_read_from_its_manifest(tmp_path: pathlib.Path) -> None:
    (tmp_path / "MANIFEST.json").write_text('{"collection_info": {"version": "1.2.3", "dependencies": {"a.b": ">=1"}}}')
    (tmp_path / "galaxy.yml").write_text("version: 0.0.0\n")
    assert unmet_requirements._metadata(tmp_path) == {"version": "1.2.3", "dependencies": {"a.b": ">=1"}}
    (tmp_path / "MANIFEST.json").unlink()
    assert unmet_requirements._metadata(tmp_path) == {"version": "0.0.0"}


@pytest.mark.parametrize(
    ("version", "wanted", "met"),
    [
        ("5.0.0", ">=5.0.0", True),
        ("5.10.0", ">=5.9.0", True),
        ("4.9.9", ">=5.0.0", False),
        ("7.0.0", ">=5.0.0,<7.0.0", False),
        ("6.1.0", ">=5.0.0, <7.0.0", True),
        ("6.1.0", "!=6.1.0", False),
        ("6.1.0", "*", True),
        ("6.1.0", "", True),
    ],
)
def test_versions(version: str, wanted: str, met: bool) -> None:
    assert unmet_requirements._meets(version, wanted) is met


@pytest.mark.parametrize("term", ["awx", "awx.awx>=", "awx.awx=24", "kubernetes.core>=", "not.there=24"])
def test_bad_terms(term: str) -> None:
    with pytest.raises(AnsibleLookupError, match="Example: "):
        unmet(term)


@pytest.mark.parametrize(
    ("name", "example"),
    [
        ("registry_cache_token_second", "Example: registry_cache_token_seconds"),
        ("registry_cache_pull_secrets_namespaces", "Example: registry_cache_pull_secret_namespaces"),
        ("registry_cache_wif_projekt", "Example: registry_cache_wif_project"),
        ("registry_cache_zzzzzzzzzz", "does not begin with registry_cache_"),
    ],
)
def test_an_unknown_variable(name: str, example: str) -> None:
    (said,) = unmet(**{name: 1, "registry_cache_size": "1Gi"})
    assert said.startswith(f"{name} is not a variable") and example in said


def test_every_documented_variable_is_known() -> None:
    known = unmet_requirements.known_variables(ROOT)
    # Of a role, a fact that one role sets for another, and of a playbook only.
    assert {"registry_cache_size", "registry_cache_image_reference", "registry_cache_acceptance_location"} <= known
    assert not [name for name in known if not name.startswith("registry_cache_")]
