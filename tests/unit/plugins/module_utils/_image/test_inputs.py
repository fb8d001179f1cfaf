# SPDX-License-Identifier: GPL-3.0-or-later
"""The tag, the labels, and that all places pin the same versions."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import subprocess

import pytest
import yaml
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import inputs

from sandbox import settings
from sandbox.settings import ROOT
from tools import artifact

DOCKER = ROOT / "docker"


@pytest.fixture
def context(tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(DOCKER, tmp_path / "docker"))


def test_the_same_inputs_give_the_same_tag(context: pathlib.Path) -> None:
    assert re.fullmatch(r"b-[0-9a-f]{12}", inputs.tag(context, "base", "builder"))
    assert inputs.tag(context, "base", "builder") == inputs.tag(DOCKER, "base", "builder")


def test_each_input_changes_the_tag(context: pathlib.Path) -> None:
    before = inputs.tag(context, "base", "builder")
    tags = {before, inputs.tag(context, "other", "builder"), inputs.tag(context, "base", "other")}
    for name in ("registry/go.mod", "registry/main.go", "registry/go.sum", "Dockerfile"):
        file = context / name
        kept = file.read_bytes()
        file.write_bytes(kept + b"\n")
        tags.add(inputs.tag(context, "base", "builder"))
        file.write_bytes(kept)
    (context / "registry" / "main.go").rename(context / "registry" / "entry.go")
    tags.add(inputs.tag(context, "base", "builder"))
    assert len(tags) == 8


def test_files_outside_the_image_do_not_change_the_tag(context: pathlib.Path) -> None:
    before = inputs.tag(context)
    (context / "registry" / "new_test.go").write_text("package main\n")
    (context / "sbom" / "go.mod").write_text("module other\n")
    (context / "registry" / "internal" / "testutil" / "other.go").write_text("package testutil\n")
    assert inputs.tag(context) == before
    patterns = (DOCKER / ".dockerignore").read_text().split()
    assert patterns == ["**/*_test.go", "sbom", "registry/internal/testutil"]


def test_a_copied_context_contains_the_sources_and_the_extra_ca(tmp_path: pathlib.Path) -> None:
    inputs.copy(DOCKER, tmp_path, b"ca")
    copied = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    assert {"Dockerfile", "registry/main.go", "registry/go.mod", "extra-ca.crt"} <= copied
    assert not [name for name in copied if name.endswith("_test.go") or name.startswith("sbom") or "testutil" in name]
    assert (tmp_path / "extra-ca.crt").read_bytes() == b"ca"


def test_labels_of_a_clone(tmp_path: pathlib.Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    (tmp_path / "galaxy.yml").write_text('namespace: a\nversion: 1.2.3\n')
    assert inputs.labels(tmp_path) == {"version": "1.2.3"}
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "Dockerfile").write_text("FROM scratch\n")
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "one"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert inputs.labels(tmp_path) == {"version": "1.2.3", "revision": commit}
    (tmp_path / "docker" / "Dockerfile").write_text("FROM other\n")
    assert inputs.labels(tmp_path)["revision"] == f"{commit}-dirty"


def test_labels_of_the_artifact(tmp_path: pathlib.Path) -> None:
    shutil.unpack_archive(artifact.build(tmp_path), tmp_path / "built")
    manifest = json.loads((tmp_path / "built" / "MANIFEST.json").read_text())
    expected = f"sha256:{manifest['file_manifest_file']['chksum_sha256']}"
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    assert inputs.labels(tmp_path / "built") == {"version": version, "revision": expected}
    # The same sources give the same image, wherever they are.
    assert inputs.tag(tmp_path / "built" / "docker") == inputs.tag(DOCKER)


@pytest.mark.parametrize(
    ("given", "environ", "expected"),
    [
        (None, {"HTTPS_PROXY": "p", "no_proxy": "n"}, {"https_proxy": "p", "no_proxy": "n"}),
        ({}, {"HTTPS_PROXY": "p"}, {}),
        ({"https_proxy": "q", "http_proxy": None}, {"HTTP_PROXY": "p"}, {"https_proxy": "q"}),
    ],
)
def test_proxies(given: dict[str, str] | None, environ: dict[str, str], expected: dict[str, str]) -> None:
    both = {**expected, **{name.upper(): value for name, value in expected.items()}}
    assert inputs.proxy_args(given, environ) == both


def pins(module: str) -> str:
    return (DOCKER / module / "go.mod").read_text()


def test_the_base_is_of_the_distribution_that_is_compiled() -> None:
    found = re.search(r"distribution/distribution/v3 v(\S+)", pins("registry"))
    assert found
    base = f"docker.io/library/registry:{found[1]}"
    assert named("BASE") == {base}
    assert defaults()["registry_cache_image_base"] == base == settings.REGISTRY_IMAGE
    # The sandbox's stand-in for it is the same distribution.
    assert f"distribution/distribution/v3 v{found[1]} " in (ROOT / "sandbox/tools/registry/go.mod").read_text()


def test_the_builder_is_the_toolchain_of_every_module() -> None:
    toolchains = {re.findall(r"(?m)^toolchain go(\S+)", pins(module))[0] for module in ("registry", "sbom")}
    assert len(toolchains) == 1
    builder = f"docker.io/library/golang:{toolchains.pop()}-alpine"
    assert named("BUILDER") == {builder}
    assert defaults()["registry_cache_image_builder"] == builder == settings.GO_IMAGE


def named(argument: str) -> set[str]:
    """Return the defaults of an argument in both Dockerfiles."""
    files = (DOCKER / "Dockerfile", DOCKER / "sbom" / "Dockerfile")
    return {value for file in files for value in re.findall(rf"(?m)^ARG {argument}=(\S+)", file.read_text())}


def defaults() -> dict[str, str]:
    return dict(yaml.safe_load((ROOT / "roles/image/defaults/main.yml").read_text()))
