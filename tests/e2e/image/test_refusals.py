# SPDX-License-Identifier: GPL-3.0-or-later
"""Failures with a real engine and a real registry: each has a clear message, and nothing is half-published."""

from __future__ import annotations

import json
import pathlib
import re
import socket
import threading
from typing import Any

import pytest

from sandbox.settings import HUB, ROOT

from .conftest import ENGINES, PASSWORD, USER, Outcome, Role, Server, forget, tmpfs

CREDENTIAL = {"registry_cache_image_username": USER, "registry_cache_image_password": PASSWORD}
AMD64 = {"registry_cache_image_platforms": ["linux/amd64"]}


def assert_fails_with(outcome: Outcome, *parts: str) -> None:
    """Check that a run failed with a message that contains these parts."""
    assert outcome.returncode != 0, outcome.output
    for part in parts:
        assert part in outcome.words, outcome.output


def on(server: Server, name: str, **variables: Any) -> dict[str, Any]:
    return {"registry_cache_image": f"{server.host}/refused/{name}", "registry_cache_image_pull_secrets": ["named"], **AMD64, **variables}


def final(tags: list[str]) -> list[str]:
    """Returns the tags that a cluster would pull, without those of single platforms."""
    return [tag for tag in tags if re.fullmatch(r"b-[0-9a-f]{12}", tag)]


class Cut:
    """A proxy to a registry that stops working after so many bytes."""

    def __init__(self, target: str, after: int) -> None:
        self._target, self._left, self._lock = target, after, threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        host, _colon, port = self._target.partition(":")
        with client, socket.create_connection((host, int(port))) as upstream:
            threading.Thread(target=self._copy, args=(upstream, client, False), daemon=True).start()
            self._copy(client, upstream, True)

    def _copy(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(65536):
                if counted:
                    with self._lock:
                        self._left -= len(data)
                    if self._left < 0:
                        self.close()
                        break
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_registry_that_goes_down_in_the_middle_of_a_push(role: Role, server: Server, engine: str, published: dict[str, Outcome]) -> None:
    way = Cut(server.host, 8_000_000)
    options = {
        "registry_cache_image": f"{way.host}/refused/cut-{engine}",
        "registry_cache_image_engine": engine,
        "registry_cache_image_pull_secrets": ["named"],
        **CREDENTIAL,
    }
    if engine == "podman":
        options["registry_cache_image_push_retries"] = 1
    broken = role(**options)
    assert_fails_with(broken, "was not pushed, and the registry has no such tag", f"(tries: {2 if engine == 'podman' else 1})")
    assert final(server.tags(f"refused/cut-{engine}")) == []
    # A run after the registry is back publishes the image.
    whole = role(**{**options, "registry_cache_image": f"{server.host}/refused/cut-{engine}"})
    assert whole.returncode == 0, whole.output
    assert len(final(server.tags(f"refused/cut-{engine}"))) == 1
    forget("/refused/")


def test_a_wrong_password(role: Role, server: Server) -> None:
    refused = role(**on(server, "password", **{**CREDENTIAL, "registry_cache_image_password": "of-another-vault"}))
    assert_fails_with(refused, "refuses the credential", "username and password", "Example: auth_file: ")
    assert "of-another-vault" not in refused.output and "$ docker build" not in refused.output
    assert refused.changed == 0


def test_a_registry_from_which_the_cluster_cannot_pull(role: Role, server: Server, published: dict[str, Outcome]) -> None:
    refused = role(**{**on(server, "private"), **CREDENTIAL, "registry_cache_image_pull_secrets": []})
    assert_fails_with(refused, "lets nobody pull it without a credential", "HTTP 401", "Example: anonymous_pull: false")
    assert refused.reference == ""
    named = role(**on(server, "private", **CREDENTIAL))
    assert (named.returncode, named.changed) == (0, 0), named.output
    forget("/refused/")


def test_a_registry_from_which_anybody_can_pull(role: Role, tmp_path: pathlib.Path, published: dict[str, Outcome]) -> None:
    public = Server(tmp_path / "public", auth=False)
    try:
        outcome = role(**{**on(public, "open"), "registry_cache_image_pull_secrets": []})
        assert outcome.returncode == 0 and "@sha256:" in outcome.reference, outcome.output
    finally:
        public.stop()
        forget("/refused/")


def test_a_registry_whose_disk_is_full(role: Role, tmp_path: pathlib.Path, published: dict[str, Outcome]) -> None:
    with tmpfs(tmp_path / "full", "4m") as store:
        full = Server(tmp_path / "registry", store=store)
        try:
            assert_fails_with(role(**on(full, "full", **CREDENTIAL)), "was not pushed, and the registry has no such tag")
            assert final(full.tags("refused/full")) == []
        finally:
            full.stop()
            forget("/refused/")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_archive_on_a_full_disk(role: Role, tmp_path: pathlib.Path, published: dict[str, Outcome], engine: str) -> None:
    with tmpfs(tmp_path / "full", "4m") as folder:
        options = {"registry_cache_image": "acme/full", "registry_cache_image_engine": engine, **AMD64}
        refused = role(**options, registry_cache_image_publish="archive", registry_cache_image_archive_path=str(folder))
        assert_fails_with(refused, "was not written. The disk is full.", "system prune")
        assert list(folder.iterdir()) == []
    forget("acme/full")


def test_a_build_on_a_full_disk(role: Role, tmp_path: pathlib.Path) -> None:
    with tmpfs(tmp_path / "full", "8m") as folder:
        (tmp_path / "storage.conf").write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}"\nrunroot = "{tmp_path}/run"\n')
        options = {"registry_cache_image": "acme/full", "registry_cache_image_engine": "podman", **AMD64}
        options |= {"registry_cache_image_publish": "archive", "registry_cache_image_archive_path": str(tmp_path)}
        # From the hub, since this store has no image and the builder comes first.
        options["registry_cache_image_builder"] = f"{HUB}/library/registry:untrusting"
        assert_fails_with(role(env={"CONTAINERS_STORAGE_CONF": str(tmp_path / "storage.conf")}, **options), "The disk is full")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_base_without_ca_certificates(role: Role, server: Server, engine: str) -> None:
    base = f"{HUB}/library/registry:untrusting"
    refused = role(**on(server, "untrusting", **CREDENTIAL, registry_cache_image_base=base, registry_cache_image_engine=engine))
    assert_fails_with(refused, "The image was not built. base", base, "has no CA certificates")
    assert server.tags("refused/untrusting") == []


def test_a_base_that_does_not_exist(role: Role, server: Server) -> None:
    base = f"{HUB}/library/registry:9.9.9"
    refused = role(**on(server, "nobody-s", **CREDENTIAL, registry_cache_image_base=base))
    assert_fails_with(refused, "base", base, "cannot be pulled for linux/amd64", "Name an image and a version that exist")


def test_a_pin_that_does_not_exist(role: Role, server: Server, other_collection: pathlib.Path) -> None:
    pins = other_collection / "docker" / "registry" / "go.mod"
    pins.write_text(re.sub(r"(docker-credential-gcr/v2) v\S+", r"\1 v2.999.0", pins.read_text()))
    refused = role(collections=other_collection.parents[2], **on(server, "pin", **CREDENTIAL))
    assert_fails_with(refused, "The image was not built. A go.mod in docker/ requires a version that does not exist", "go.sum")
    assert server.tags("refused/pin") == []


def test_no_running_engine(role: Role, server: Server) -> None:
    env = {"DOCKER_HOST": "unix:///no/such/engine.sock"}
    refused = role(env=env, **on(server, "engine", **CREDENTIAL, registry_cache_image_engine="docker"))
    assert_fails_with(refused, "engine: no engine answers for docker", "/no/such/engine.sock", "Example: engine: ")
    assert refused.changed == 0


BAD_INPUT: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown platform": ({"registry_cache_image_platforms": ["linux/riscv64"]}, ("registry_cache_image_platforms", "linux/riscv64", "linux/arm64")),
    "no image": ({"registry_cache_image": ""}, ("registry_cache_image: must name", "Example",)),
    "a tag": ({"registry_cache_image": "acme/cache:1"}, ("must have no tag",)),
    "no archive folder": ({"registry_cache_image_publish": "archive"}, ("registry_cache_image_archive_path",)),
    "no nodes": ({"registry_cache_image_publish": "k3s"}, ("registry_cache_image_nodes", "registry_cache_nodes")),
    "a user without password": ({"registry_cache_image_username": "ada"}, ("registry_cache_image_password: ", "registry_cache_image_username", "Example")),
    "a missing auth file": ({"registry_cache_image_auth_file": "/no/such/auth.json"}, ("registry_cache_image_auth_file", "/no/such/auth.json")),
    "stock without a helper": ({"registry_cache_image_mode": "stock"}, ("registry_cache_image_helper: must name", "Example",)),
}


@pytest.fixture(scope="module")
def refusals(role: Role, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The result of a single run with a host per row."""
    hosts = {f"row-{number}": {"registry_cache_image": "acme/cache", **BAD_INPUT[name][0]} for number, name in enumerate(BAD_INPUT)}
    inventory = tmp_path_factory.mktemp("bad-input") / "hosts.yml"
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
    return role("--inventory", str(inventory))


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input(refusals: Outcome, name: str) -> None:
    host = f"row-{[*BAD_INPUT].index(name)}"
    ran, recap = refusals.output.split("PLAY RECAP", 1)
    said = re.sub(r"\s+", " ", "".join(re.findall(rf"^(?:fatal|failed): \[{host}\].*$", ran, re.M)).replace("\\n", " "))
    for part in BAD_INPUT[name][1]:
        assert part in said, refusals.output
    (line,) = re.findall(rf"^{host} .*$", recap, re.M)
    assert "changed=0" in line and "failed=1" in line


def test_stock_builds_nothing_and_reports_what_it_lacks(role: Role) -> None:
    stock = role(
        registry_cache_image_mode="stock",
        registry_cache_image_helper="helper.example/kaniko:debug",
        env={"PATH": "/usr/bin:/bin", "DOCKER_HOST": "unix:///no/such"},
    )
    assert (stock.returncode, stock.changed) == (0, 0), stock.output
    assert "docs/usage/stock.md" in stock.words and stock.reference == f"{HUB}/library/registry:{stock.reference.rpartition(':')[2]}"
    assert str(ROOT) not in stock.reference
