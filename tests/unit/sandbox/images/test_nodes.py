# SPDX-License-Identifier: GPL-3.0-or-later
"""The containerd of each node, and its configuration, which is the default for users of that version."""

from __future__ import annotations

import pathlib
import re
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from sandbox.from_source import tools
from sandbox.images import kind_node, nodes
from sandbox.settings import SANDBOX

OURS = f"{kind_node.NODE_IMAGE}:v1"
DEBIAN_12_AND_13 = SANDBOX / "node/rootfs/etc/containerd/config.toml"
NEWEST = SANDBOX / "node/containerd-2/etc/containerd/config.toml"


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda name: monkeypatch.setattr(kind_node, "ensure", lambda: name)


def _no_build(*_words: Any) -> pathlib.Path:
    pytest.fail("something was built")


def test_kinds_own_image_serves_all_nodes(base: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    base("kindest/node:v1")
    monkeypatch.setattr(nodes, "_debian_13", _no_build)
    monkeypatch.setattr(tools, "build", _no_build)
    assert nodes.ensure() == ["kindest/node:v1"] * 3


def test_each_node_has_another_containerd(base: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    base(OURS)
    monkeypatch.setattr(nodes, "_debian_13", lambda: pathlib.Path("/cache/debian"))
    monkeypatch.setattr(tools, "build", lambda group: pathlib.Path("/cache") / group)
    made: dict[str, tuple[str, dict[str, str]]] = {}

    def ensure(containerd: str, of: str, files: Mapping[pathlib.Path, str], *parts: str) -> str:
        assert parts
        made[containerd] = of, {str(file): place for file, place in files.items()}
        return f"with {containerd}"

    monkeypatch.setattr(nodes, "_ensure", ensure)
    assert nodes.ensure() == [OURS, "with 1.7", "with 2"]
    assert [of for of, _files in made.values()] == [OURS, OURS]
    programs = ("containerd", "containerd-shim-runc-v2", "ctr")
    assert made["1.7"][1] == {f"/cache/debian/usr/bin/{program}": f"/usr/bin/{program}" for program in programs}
    assert made["2"][1] == {
        str(NEWEST): "/etc/containerd/config.toml",
        **{f"/cache/containerd/{program}": f"/usr/bin/{program}" for program in programs},
    }


def test_the_newest_containerd_is_2_3_or_later() -> None:
    pinned = re.findall(r"(?m)^\tgithub\.com/containerd/containerd/v2 v(\d+)\.(\d+)\.", (SANDBOX / "tools/containerd/go.mod").read_text())
    assert [tuple(map(int, version)) >= (2, 3) for version in pinned] == [True]


def test_containerd_1_has_config_path_and_no_mirror() -> None:
    config = tomllib.loads(DEBIAN_12_AND_13.read_text())
    assert config["version"] == 2
    assert config["plugins"]["io.containerd.grpc.v1.cri"]["registry"] == {"config_path": "/etc/containerd/certs.d"}


def test_containerd_2_has_its_default_config_path_and_no_mirror() -> None:
    config = tomllib.loads(NEWEST.read_text())
    assert config["version"] == 3
    assert "registry" not in config["plugins"]["io.containerd.cri.v1.images"]


def test_no_node_has_a_hosts_toml() -> None:
    files = [file.relative_to(SANDBOX / "node") for file in (SANDBOX / "node").rglob("*")]
    assert files and not [file for file in files if file.name in ("hosts.toml", "certs.d")]


@pytest.mark.parametrize(
    ("version", "reads", "proved"),
    [("1.7.24~ds1", "true", True), ("1.6.20~ds1", "true", False), ("2.1.7", "true", False), ("1.7.24~ds1", "false", False)],
)
def test_a_node_image_is_checked(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, version: str, reads: str, proved: bool) -> None:
    for program in ("containerd-shim-runc-v2", "ctr", "runc"):
        (tmp_path / program).write_text("#!/bin/sh\n")
    script = f'#!/bin/sh\n[ "$1" != config ] || exec {reads}\necho "containerd example.org/containerd {version}"\n'
    (tmp_path / "containerd").write_text(script)
    for program in tmp_path.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def run() -> bool:
        return not subprocess.run(["sh", "-euc", nodes._PROOF, "sh", "1.7"], capture_output=True, check=False).returncode

    assert run() is proved
    (tmp_path / "ctr").write_text("#!/bin/sh\nexit 1\n")  # as if the C library were too old
    assert not run()
