# SPDX-License-Identifier: GPL-3.0-or-later
"""The built artifact: its contents, the result of Galaxy's importer, and its installation in an empty project."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
import tarfile

import pytest
import yaml

from sandbox import environment
from sandbox.settings import ROOT
from tools import artifact

from .project import Project

DEPENDENCIES = ("kubernetes.core", "google.cloud")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return artifact.build(tmp_path_factory.mktemp("built"))


def test_the_artifact_contains_exactly_what_users_need(built: pathlib.Path) -> None:
    with tarfile.open(built) as archive:
        members = [member for member in archive.getmembers() if not member.isdir()]
    assert all(member.isfile() for member in members)  # no link
    named = {member.name for member in members} - {"MANIFEST.json", "FILES.json"}
    assert {name.split("/")[0] for name in named} == artifact.SHIPPED
    left_out = ("playbooks/collections/", "docs/development/")
    wanted = {str(file) for file in artifact.files() if file.parts[0] in artifact.SHIPPED and not str(file).startswith(left_out)}
    assert named == wanted


def test_the_collection_depends_only_on_what_site_yml_needs() -> None:
    """Engines are used through their command lines, and only the playbook for AWX needs awx.awx."""
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    assert galaxy["dependencies"].keys() == set(DEPENDENCIES)
    assert re.fullmatch(r"\d+\.\d+\.\d+", galaxy["version"])
    used = re.compile(r"\b(containers\.podman|community\.docker|awx\.awx)\.\w")
    files = [*ROOT.glob("roles/*/*/*.yml"), *ROOT.glob("playbooks/*.yml"), *ROOT.glob("playbooks/tasks/*.yml")]
    assert {file.name for file in files if used.search(file.read_text())} == {"awx.yml"}


def test_galaxy_importer_passes(built: pathlib.Path, tmp_path: pathlib.Path) -> None:
    venv = environment.further("galaxy-importer", [pathlib.Path(__file__).with_name("requirements.txt")])
    # The importer looks for dependencies beside itself.
    link = environment.collections(venv) / "ansible_collections"
    link.unlink(missing_ok=True)
    link.symlink_to(environment.collections() / "ansible_collections")
    (tmp_path / "importer.cfg").write_text("[galaxy-importer]\nCHECK_REQUIRED_TAGS = True\n")
    variables = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    variables |= {"GALAXY_IMPORTER_CONFIG": str(tmp_path / "importer.cfg"), "HOME": str(tmp_path)}
    variables["PATH"] = f"{venv}/bin:{os.environ['PATH']}"
    command = [venv / "bin" / "python", "-m", "galaxy_importer.main", built]
    result = subprocess.run(command, cwd=tmp_path, env=variables, check=False, capture_output=True, text=True)
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    assert "Importer processing completed successfully" in said
    assert not re.findall(r"^(?:WARNING|ERROR).*", said, re.M), said
    imported = json.loads((tmp_path / "importer_result.json").read_text())
    found = {content["name"] for content in imported["contents"]}
    assert {path.name for path in (ROOT / "roles").iterdir()} | {path.name for path in (ROOT / "playbooks").glob("*.yml")} <= found
    # Galaxy makes a page from these.
    pages = imported["docs_blob"]["contents"]
    documented = {page["content_name"] for page in pages if page["doc_strings"] or page["readme_html"]}
    assert {path.stem for path in (ROOT / "plugins").glob("[flm][io][lod]*/[a-z]*.py")} <= documented


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, built: pathlib.Path) -> Project:
    made = Project(tmp_path_factory.mktemp("user") / "project", {})
    shutil.copytree(ROOT / "inventory" / "example", made.path / "inventory")
    made.install(built, *map(artifact.dependency, DEPENDENCIES))
    return made


def test_an_empty_project_runs_the_playbook_by_its_full_name(project: Project) -> None:
    command = ["ansible-playbook", "-i", "inventory", "pullthrough.registry_cache.site", "-e", "vault_registry_cache_password=of-the-vault"]
    # Like in an execution environment, which has no engine.
    result = project.run(*command, "-e", "registry_cache_image_mode=published", "-e", "registry_cache_image=ghcr.io/o/registry-cache:1")
    said = re.sub(r"\s+", " ", result.stdout + result.stderr)
    # There is no cluster: all roles and modules are found, then the preflight reports it.
    assert "The cluster does not answer" in said and re.search(r"changed=0 .*failed=1", said), said
    assert "couldn't resolve" not in said and "WARNING" not in said, said


def test_every_playbook_resolves_by_its_full_name(project: Project) -> None:
    playbooks = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))
    names = [f"pullthrough.registry_cache.{name}" for name in playbooks]
    result = project.run("ansible-playbook", "-i", "inventory", "--list-tasks", *names)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("playbook: ") == len(playbooks) > 1


def test_a_second_version_replaces_the_first(project: Project, tmp_path: pathlib.Path) -> None:
    source = artifact.clone(tmp_path / "source")
    galaxy = source / "galaxy.yml"
    galaxy.write_text(re.sub(r"(?m)^version: .*", "version: 9.9.9", galaxy.read_text()))
    (source / "docs" / "usage" / "google.md").unlink()
    (source / "docs" / "new.md").write_text("# New\n")
    project.install(artifact.build(tmp_path / "built", source), *map(artifact.dependency, DEPENDENCIES))
    assert json.loads((project.installed / "MANIFEST.json").read_text())["collection_info"]["version"] == "9.9.9"
    assert (project.installed / "docs" / "new.md").exists()
    assert not (project.installed / "docs" / "usage" / "google.md").exists()
    result = project.run("ansible-galaxy", "collection", "verify", "--offline", "pullthrough.registry_cache")
    assert result.returncode == 0, result.stdout + result.stderr
