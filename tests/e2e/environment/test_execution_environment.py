# SPDX-License-Identifier: GPL-3.0-or-later
"""The execution environment: its build context and packages, and the documentation that ansible-doc shows."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess

import pytest
import yaml

from sandbox import environment
from sandbox.settings import ROOT
from tools import artifact

BIN = environment.VENV / "bin"
DEFINITION = yaml.safe_load((ROOT / "execution-environment.yml").read_text())


@pytest.fixture(scope="module")
def clean() -> pathlib.Path:
    return environment.users()


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Returns the collections, as ansible-galaxy installs them in the image, with the built artifact."""
    tree = tmp_path_factory.mktemp("collections")
    built = artifact.build(tree / "built")
    # Hides what is installed elsewhere on this machine.
    command = [BIN / "ansible-galaxy", "collection", "install", "--force", "--offline", "--collections-path", tree, built]
    subprocess.run([*command, *map(artifact.dependency, ("kubernetes.core", "google.cloud"))], check=True, capture_output=True)
    return tree


def test_ansible_builder_creates_the_context(tmp_path: pathlib.Path) -> None:
    source = artifact.clone(tmp_path / "source")
    command = [BIN / "ansible-builder", "create", "--file", "execution-environment.yml", "--context", tmp_path / "context"]
    # By default it uses the file name of the engine that it finds.
    command += ["--output-filename", "Containerfile"]
    result = subprocess.run(command, cwd=source, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    build = tmp_path / "context" / "_build"
    assert (build / "requirements.txt").read_text() == (ROOT / "requirements.txt").read_text()
    assert yaml.safe_load((build / "requirements.yml").read_text()) == yaml.safe_load((ROOT / "collections/requirements.yml").read_text())
    containerfile = (tmp_path / "context" / "Containerfile").read_text()
    assert DEFINITION["images"]["base_image"]["name"] in containerfile
    assert DEFINITION["dependencies"]["ansible_core"]["package_pip"] in containerfile


def test_ansible_builder_finds_the_requirements_of_the_collection(collections: pathlib.Path) -> None:
    result = subprocess.run([BIN / "ansible-builder", "introspect", collections], check=True, capture_output=True, text=True)
    found = yaml.safe_load(result.stdout)
    mark = "  # from collection pullthrough.registry_cache"
    ours = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    # PyYAML is not listed, since ansible-core depends on it.
    wanted = {line for line in ours if not line.startswith("PyYAML")}
    assert {line.removesuffix(mark) for line in found["python"] if line.endswith(mark)} == wanted
    assert not [line for line in found["system"] if line.endswith(mark)]


def test_the_packages_are_enough_for_every_import(clean: pathlib.Path, collections: pathlib.Path) -> None:
    plugins = sorted((collections / "ansible_collections/pullthrough/registry_cache/plugins").rglob("*.py"))
    script = pathlib.Path(__file__).with_name("imports.py")
    result = subprocess.run(
        [clean / "bin" / "python", "-W", "error::DeprecationWarning:importlib", script, collections, *plugins],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    *missing, number = result.stdout.splitlines()
    assert not missing, missing
    assert int(number.split()[0]) > 100


def test_versions_agree_in_all_files() -> None:
    entries = yaml.safe_load((ROOT / "collections/requirements.yml").read_text())["collections"]
    wanted = {entry["name"]: entry["version"] for entry in entries}
    dependencies = yaml.safe_load((ROOT / "galaxy.yml").read_text())["dependencies"]
    assert dependencies.items() <= wanted.items()
    named = {name for file in ROOT.glob("playbooks/*.yml") for name in re.findall(r"\b([a-z]+\.[a-z]+>=[0-9.]+)", file.read_text())}
    assert named <= {f"{name}{version}" for name, version in wanted.items()}
    oldest = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())["requires_ansible"].removeprefix(">=").rpartition(".")[0]
    for file in ROOT.glob("roles/*/meta/main.yml"):
        assert yaml.safe_load(file.read_text())["galaxy_info"]["min_ansible_version"] == oldest, file


def documented(kind: str, *names: str) -> tuple[dict[str, object], str]:
    command = [BIN / "ansible-doc", "--playbook-dir", ROOT / "playbooks", "--json", "--type", kind, *names]
    bare = {"PATH": str(BIN), "HOME": "/nonexistent", "LANG": "C.UTF-8"}
    result = subprocess.run(command, check=False, capture_output=True, text=True, env=bare)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout), result.stderr


@pytest.mark.parametrize("kind", ["module", "filter", "lookup"])
def test_ansible_doc_shows_every_plugin(kind: str) -> None:
    folder = "modules" if kind == "module" else kind
    names = sorted(f"pullthrough.registry_cache.{path.stem}" for path in (ROOT / "plugins" / folder).glob("[a-z]*.py"))
    shown, warnings = documented(kind, *names)
    assert not warnings
    assert sorted(shown) == names
    for name, page in shown.items():
        assert page["doc"]["short_description"] and page["examples"], name
        assert all(option["description"] for option in page["doc"]["options"].values()), name


def test_ansible_doc_shows_every_role_and_option() -> None:
    names = sorted(f"pullthrough.registry_cache.{path.name}" for path in (ROOT / "roles").iterdir())
    shown, warnings = documented("role", *names)
    assert not warnings
    assert sorted(shown) == names
    for name, page in shown.items():
        specs = yaml.safe_load((ROOT / "roles" / name.split(".")[-1] / "meta/argument_specs.yml").read_text())
        assert page["entry_points"]["main"]["options"].keys() == specs["argument_specs"]["main"]["options"].keys(), name


def test_the_text_pages_render() -> None:
    """Without --json, ansible-doc renders the text, and reports invalid markup."""
    folders = {"module": "plugins/modules", "filter": "plugins/filter", "lookup": "plugins/lookup", "role": "roles"}
    for kind, folder in folders.items():
        names = [f"pullthrough.registry_cache.{path.stem}" for path in sorted((ROOT / folder).iterdir()) if path.stem[0] != "_"]
        command = [BIN / "ansible-doc", "--playbook-dir", ROOT / "playbooks", "--type", kind, *names]
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (0, ""), kind
        assert result.stdout.count("pullthrough.registry_cache.") >= len(names), kind
