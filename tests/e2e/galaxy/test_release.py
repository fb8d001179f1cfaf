# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of docs/development/releasing.md, as far as they need nobody else, in a copy of this clone."""

from __future__ import annotations

import pathlib
import re
import subprocess
import tarfile

import pytest
import yaml

from sandbox.settings import ROOT
from tools import artifact

PAGE = ROOT / "docs" / "development" / "releasing.md"
VERSION = "9.9.9"
CHANGELOGS = ("CHANGELOG.md", "CHANGELOG.rst")


def commands(name: str) -> str:
    """The block of commands that follows a comment with this name."""
    (block,) = re.findall(rf"<!-- {name} -->\n```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return f"version={VERSION}\n{block}"


def run(script: str, source: pathlib.Path) -> None:
    result = subprocess.run(["sh", "-euc", script], cwd=source, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def fragments(source: pathlib.Path) -> list[pathlib.Path]:
    return sorted((source / "changelogs" / "fragments").glob("*.yml"))


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    source = artifact.clone(tmp_path_factory.mktemp("release") / "source")
    run(commands("prepare"), source)
    return source


def test_the_changelog_is_made_of_the_fragments(released: pathlib.Path) -> None:
    sections = [section for file in fragments(ROOT) for section in yaml.safe_load(file.read_text()).values()]
    entries = [re.sub(r"\s+", " ", entry).strip() for section in sections for entry in section]
    text = re.sub(r"\s+", " ", (released / "CHANGELOG.rst").read_text())
    assert entries and not [entry for entry in entries if entry not in text]
    for name in CHANGELOGS:
        assert f"v{VERSION}" in (released / name).read_text().replace("\\", "")
        assert "What this release is about" in (released / name).read_text()
    assert fragments(released) == []


def test_generate_makes_the_same_changelog(released: pathlib.Path) -> None:
    before = [(released / name).read_text() for name in CHANGELOGS]
    run("python3 -m sandbox tool -- sh -euc 'antsibull-changelog lint; antsibull-changelog generate'", released)
    assert [(released / name).read_text() for name in CHANGELOGS] == before


def test_the_artifact_is_of_the_version_and_has_its_changelog(released: pathlib.Path) -> None:
    run(commands("build"), released)
    (built,) = (released / "build" / "artifact").iterdir()
    assert built.name == f"pullthrough-registry_cache-{VERSION}.tar.gz"
    with tarfile.open(built) as archive:
        names = set(archive.getnames())
    assert {*CHANGELOGS, "changelogs/changelog.yaml", "changelogs/fragments/.keep"} <= names
    assert not [name for name in names if name.startswith(("build", "changelogs/."))]


def test_the_changelog_of_this_clone_is_up_to_date(tmp_path: pathlib.Path) -> None:
    source = artifact.clone(tmp_path / "source")
    if yaml.safe_load((source / "changelogs" / "changelog.yaml").read_text())["releases"]:
        run("python3 -m sandbox tool -- antsibull-changelog generate", source)
        assert [(source / name).read_text() for name in CHANGELOGS] == [(ROOT / name).read_text() for name in CHANGELOGS]
    else:
        assert all("Nothing is released yet" in (ROOT / name).read_text() for name in CHANGELOGS)
