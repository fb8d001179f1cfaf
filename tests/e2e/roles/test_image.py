# SPDX-License-Identifier: GPL-3.0-or-later
"""The role image with fakes of docker and ctr, on hosts whose files the control node cannot read."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
import yaml

from sandbox.settings import ROOT
from tests.unit.plugins.image_stand_ins import Program

CLUSTERS = ["one", "two"]
# Lists its images, and uses the content of an archive as the name of its image.
_CTR = """#!{python} -IS
import pathlib, sys
held = pathlib.Path({folder!r}, "held-by-" + pathlib.Path(sys.argv[0]).name)
words = sys.argv[sys.argv.index("images") + 1:]
names = held.read_text().split() if held.exists() else []
if words[0] == "ls":
    print("\\n".join(name for name in names if "name==" + name in words))
else:
    name = pathlib.Path(words[1]).read_text().split()[-1]
    held.write_text("\\n".join([*names, name]))
"""


class Run:
    """The result of a run of the role image for two clusters that share a node."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder, self.temporary = folder, folder / "tmp"
        self.docker = Program(folder, "docker")
        program = folder / "bin" / "ctr"
        program.write_text(_CTR.format(python=sys.executable, folder=str(folder)))
        program.chmod(0o755)
        for path in (self.temporary, folder / "home", *(folder / "elsewhere" / f"{cluster}-hidden" for cluster in CLUSTERS)):
            path.mkdir(parents=True)
        tasks = [{"ansible.builtin.include_role": {"name": "pullthrough.registry_cache.image"}}]
        plays = [{"hosts": "clusters", "gather_facts": False, "tasks": tasks}]
        (folder / "play.yml").write_text(json.dumps(plays))
        python = {"ansible_python_interpreter": sys.executable}
        clusters = {
            cluster: {
                **python,
                "ansible_connection": "elsewhere",
                "ansible_remote_tmp": str(folder / "elsewhere" / cluster / "ansible"),
                "registry_cache_image": f"{cluster}.example/acme/cache",
            }
            for cluster in CLUSTERS
        }
        variables = {"registry_cache_image_publish": "containerd", "registry_cache_image_nodes": ["node"]}
        inventory = {
            "clusters": {"hosts": clusters, "vars": variables},
            "nodes": {"hosts": {"node": {**python, "ansible_connection": "local"}}},
        }
        (folder / "hosts.json").write_text(json.dumps({"all": {"children": inventory}}))
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "playbooks" / "collections"),
            "ANSIBLE_CONNECTION_PLUGINS": str(pathlib.Path(__file__).parent / "connections"),
            "ANSIBLE_REMOTE_TMP": str(folder / "ansible"),
            "ELSEWHERE": str(folder / "elsewhere"),
            "HOME": str(folder / "home"),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "TMPDIR": str(self.temporary),
        }
        argv = [str(pathlib.Path(sys.prefix) / "bin" / "ansible-playbook"), "--inventory", str(folder / "hosts.json")]
        result = subprocess.run([*argv, str(folder / "play.yml")], env=environment, capture_output=True, text=True, check=False)
        self.output = result.stdout + result.stderr
        self.ok = result.returncode == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    yield Run(tmp_path_factory.mktemp("run"))


def test_a_node_gets_an_image_that_another_host_built(run: Run) -> None:
    assert run.ok, run.output


def test_each_of_two_clusters_that_share_a_node_gets_its_image(run: Run) -> None:
    held = (run.folder / "held-by-ctr").read_text().split()
    assert sorted(re.sub(r":b-[0-9a-f]{12}$", "", name) for name in held) == [f"{cluster}.example/acme/cache" for cluster in CLUSTERS]


def test_labels_are_those_of_the_collection_on_the_control_node(run: Run) -> None:
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    builds = run.docker.called("build")
    assert len(builds) == len(CLUSTERS)
    assert all(f"org.opencontainers.image.version={version}" in words for words, _env in builds)


def test_archives_are_removed(run: Run) -> None:
    folders = [run.temporary, *((run.folder / "elsewhere").iterdir())]
    assert [path for folder in folders for path in folder.rglob("*registry-cache*")] == []
