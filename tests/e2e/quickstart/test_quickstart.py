# SPDX-License-Identifier: GPL-3.0-or-later
"""The quick start of README.md, typed line by line into a terminal: `user.py` lists what is replaced.

The tests are one story, in this order.
"""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from sandbox.client import NAMESPACE, Cache, Cluster, Google
from sandbox.settings import NODE_PORT, PROJECT, REPOSITORY, ROOT, Sandbox
from tests.e2e.administrator import administrator
from tests.e2e.conftest import Push, Say
from tests.e2e.site.test_site import changed, words

from . import galaxy, registry, user
from .registry import Registry
from .terminal import Result, Terminal

LINES = user.lines(user.README, "Quick start")
SET_UP, CHECK, INSTALL = LINES[:-2], *LINES[-2:]
ABSENT = json.dumps({f"registry_cache_{name}": "absent" for name in ("state", "wif_state", "pull_secret_state")})


@pytest.fixture(scope="module")
def images(cluster: Cluster, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The registry of the cache's image."""
    running = Registry(tmp_path_factory.mktemp("registry") / "private")
    try:
        with registry.on_nodes(cluster, sandbox.gateway):
            yield running
    finally:
        running.stop()
        listed = subprocess.run(["docker", "images", "--format", "{{.Repository}}:{{.Tag}}"], capture_output=True, text=True, check=False)
        for name in listed.stdout.split():
            if name.startswith(registry.HOST):
                subprocess.run(["docker", "rmi", "--no-prune", name], capture_output=True, check=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def terminal(home: pathlib.Path, images: Registry, sandbox: Sandbox, google: Google, cluster: Cluster, cache: Cache) -> Iterator[Terminal]:
    """The terminal of a user, whose cache is removed at the end."""
    server = galaxy.serve()
    with administrator(google, "quick-start") as key:
        shell = Terminal(home, user.prepare(home, server.url, key, sandbox.kubeconfig, cache.password), user.ANSWERS)
        try:
            yield shell
            removed = shell.run(f"{user.typed(INSTALL)} --extra-vars '{ABSENT}'")
        finally:
            shell.close()
            server.close()
    assert removed.status == 0 and not installed(cluster), removed.output


def installed(cluster: Cluster) -> bool:
    """Whether the cluster has the namespace of the cache."""
    return NAMESPACE in {item["metadata"]["name"] for item in cluster.get("namespaces")["items"]}


def no_secret(result: Result, cache: Cache) -> bool:
    return not any(secret in result.output for secret in (cache.password, user.VAULT_PASSWORD, registry.PASSWORD))


def test_the_quick_start_ends_with_a_check_and_a_run() -> None:
    assert SET_UP and f"{INSTALL} --check --diff" == CHECK
    page = user.lines((ROOT / "docs" / "usage" / "install.md").read_text(), "Install from a clone")
    assert [line.partition(" #")[0].rstrip() for line in page] == [line.partition(" #")[0] for line in LINES]


@pytest.mark.parametrize("number", range(len(SET_UP)))
def test_a_line_of_the_set_up(terminal: Terminal, home: pathlib.Path, sandbox: Sandbox, cache: Cache, number: int) -> None:
    result = terminal.run(user.typed(SET_UP[number]))
    assert result.status == 0, result.output
    assert no_secret(result, cache)
    if SET_UP[number].startswith("cp -r inventory/example"):
        user.fill_in(home / user.GROUP, sandbox.ca)


def test_the_vault_is_encrypted(home: pathlib.Path) -> None:
    assert (home / user.GROUP / "vault.yml").read_text().startswith("$ANSIBLE_VAULT;")


def test_check_mode_changes_nothing(terminal: Terminal, cluster: Cluster, cache: Cache) -> None:
    result = terminal.run(user.typed(CHECK))
    assert result.status == 0 and changed(result.output) > 0, result.output
    assert not installed(cluster) and no_secret(result, cache)


def test_a_private_image_stops_the_first_run(terminal: Terminal, cluster: Cluster, cache: Cache) -> None:
    assert "the last command stops after it has pushed the image" in words(user.README)
    result = terminal.run(user.typed(INSTALL))
    assert result.status != 0 and not installed(cluster), result.output
    for part in (registry.HOST, "without a credential (HTTP 401)", "Make the repository public"):
        assert part in words(result.output), result.output
    assert no_secret(result, cache)


def test_the_repeated_command_installs_the_cache(terminal: Terminal, images: Registry, cluster: Cluster, cache: Cache, say: Say) -> None:
    assert "Make the package public and run the command again." in words(user.README)
    images.make_public()
    result = terminal.run(user.typed(INSTALL))
    assert result.status == 0 and changed(result.output) > 0, result.output
    assert cluster.replicas() and no_secret(result, cache)
    assert cache.manifest("hello", "1.0").status_code == 200
    pod = cluster.get("statefulset", "registry-cache", "--namespace", NAMESPACE)["spec"]["template"]["spec"]
    say(f"the quick start installed {pod['containers'][0]['image']}")


def test_a_pod_of_the_readme_pulls(terminal: Terminal, home: pathlib.Path, cluster: Cluster, push: Push) -> None:
    """In the namespace that the example inventory names."""
    (port, secret) = re.findall(r"`localhost:(\d+)/…` with\s+`imagePullSecrets: \[\{name: ([\w-]+)\}\]`", user.README)[0]
    assert int(port) == NODE_PORT
    (namespace,) = yaml.safe_load((home / user.GROUP / "main.yml").read_text())["registry_cache_pull_secret_namespaces"]
    image = push("quick-start", [1 << 20])
    reference = f"localhost:{port}/{PROJECT}/{REPOSITORY}/{image.name}:{image.tag}"
    for node in cluster.nodes:
        pod = f"quick-start-{cluster.nodes.index(node)}"
        try:
            cluster.run_pod(pod, reference, namespace, node, [secret])
            assert cluster.pulled(pod, reference, namespace)
        finally:
            cluster.delete_pod(pod, namespace)
        cluster.forget_image(reference, node)


def test_a_second_complete_run_changes_nothing(terminal: Terminal) -> None:
    result = terminal.run(user.typed(INSTALL))
    assert result.status == 0 and changed(result.output) == 0, result.output
