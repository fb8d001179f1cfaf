# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures for the role image: docker and Debian's podman, base images for two platforms, registries on loopback, no cluster."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from sandbox import debian, engine, environment, processes
from sandbox.from_source import tools
from sandbox.images import base
from sandbox.settings import CACHE, GO_IMAGE, HUB, HUB_REGISTRY_IMAGE, ROOT
from sandbox.steps import wait

USER, PASSWORD = "pusher", "of-the-vault"
PLATFORMS = {"linux/amd64": 0x3E, "linux/arm64": 0xB7}  # with e_machine of the ELF header
PROGRAMS = ("bin/registry", "usr/local/bin/docker-credential-gcr")
ENGINES = ("docker", "podman")


@dataclass
class Outcome:
    """The result of a run of the role image."""

    returncode: int
    output: str
    seconds: float
    cpu: float  # CPU seconds, which depend less on other load than elapsed time
    reference: str
    changed: int
    environment: dict[str, str] = field(repr=False)

    @property
    def words(self) -> str:
        """The output without line breaks and escapes, so that sentences can be found in it."""
        return re.sub(r"\s+", " ", self.output.replace("\\n", " ").replace('\\"', '"'))


def command(engine_name: str, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    result = subprocess.run([engine_name, *words], capture_output=True, text=True, check=False)
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


class Server:
    """A real registry on a loopback port, with a user and a separate folder."""

    def __init__(self, folder: pathlib.Path, auth: bool = True, store: pathlib.Path | None = None) -> None:
        folder.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.host, self._pid = f"127.0.0.1:{free.getsockname()[1]}", folder / "registry.pid"
        import bcrypt

        hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        (folder / "htpasswd").write_text(f"{USER}:{hashed}\n")
        config = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(store or folder / "store")}},
            "http": {"addr": self.host, "relativeurls": True},
            **({"auth": {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}} if auth else {}),
        }
        self._config = folder / "config.json"
        self._config.write_text(json.dumps(config))
        self.start()

    def start(self) -> None:
        processes.start(self._pid, [str(tools.build("registry") / "registry"), "serve", str(self._config)])
        wait(lambda: self.status("") in (200, 401), 20, f"the registry at {self.host}")

    def stop(self) -> None:
        processes.stop(self._pid)

    def get(self, path: str) -> Any:
        import requests

        accept = ", ".join(
            f"application/vnd.{kind}+json"
            for kind in (
                "oci.image.index.v1",
                "oci.image.manifest.v1",
                "docker.distribution.manifest.list.v2",
                "docker.distribution.manifest.v2",
            )
        )
        with requests.Session() as session:
            session.trust_env = False
            url = f"http://{self.host}/v2/{path}"
            return session.get(url, auth=(USER, PASSWORD), headers={"Accept": accept}, timeout=10)

    def status(self, path: str) -> int:
        try:
            return int(self.get(path).status_code)
        except OSError:
            return 0

    def tags(self, repository: str) -> list[str]:
        answer = self.get(f"{repository}/tags/list")
        return sorted(answer.json()["tags"] or []) if answer.status_code == 200 else []


@pytest.fixture(scope="session", autouse=True)
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Both engines, each with the builder's image, and the hub with base images for two platforms."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    engine.ensure()
    base.ensure()
    base.ensure_hub()
    debian.ensure({"podman": "podman"})
    folder = tmp_path_factory.mktemp("podman")
    store = f'[storage]\ndriver = "overlay"\ngraphroot = "{CACHE}/podman"\nrunroot = "{CACHE}/run/podman"\n'
    (folder / "storage.conf").write_text(store)
    (folder / "registries.conf").write_text('[[registry]]\nlocation = "127.0.0.1"\n' + f'[[registry]]\nlocation = "{HUB}"\ninsecure = true\n')
    # As root, podman 5 requests a million files and processes, which not every machine allows. Podman 4 first lowers its own
    # limit of processes to pid_max, and cannot give a container more than that.
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = int(pathlib.Path("/proc/sys/kernel/pid_max").read_text())
    tasks = [min(limit, most) if limit >= 0 else most for limit in resource.getrlimit(resource.RLIMIT_NPROC)]
    own = [f"nofile={files[0]}:{files[1]}", f"nproc={tasks[0]}:{tasks[1]}"]
    (folder / "containers.conf").write_text(f"[containers]\ndefault_ulimits = {json.dumps(own)}\n")
    os.environ.update(
        CONTAINERS_CONF=str(folder / "containers.conf"),
        CONTAINERS_STORAGE_CONF=str(folder / "storage.conf"),
        CONTAINERS_REGISTRIES_CONF=str(folder / "registries.conf"),
        BUILDAH_ISOLATION="chroot",  # podman cannot start containers in a sandbox like this
    )
    wanted = command("docker", "image", "inspect", "--format", "{{.Id}}", GO_IMAGE).stdout.strip().removeprefix("sha256:")
    held = command("podman", "image", "inspect", "--format", "{{.Id}}", GO_IMAGE, check=False).stdout.strip()
    if held != wanted:
        with subprocess.Popen(["docker", "save", GO_IMAGE], stdout=subprocess.PIPE) as saved:
            subprocess.run(["podman", "load", "--quiet"], stdin=saved.stdout, check=True, stdout=subprocess.DEVNULL)
        command("podman", "tag", wanted, GO_IMAGE)
    yield
    base.stop_hub()


def forget(*repositories: str) -> None:
    """Remove the names of built images. Their layers stay, so another build is fast."""
    for name in ENGINES:
        for line in command(name, "images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split():
            if any(repository in line for repository in repositories):
                command(name, *(("rmi", "--no-prune") if name == "docker" else ("untag",)), line, check=False)


Role = Callable[..., Outcome]


@pytest.fixture(scope="session")
def role(tmp_path_factory: pytest.TempPathFactory) -> Role:
    """Runs the preflight and the role image with variables, optionally in check mode or from another copy of the collection."""

    def run(
        *arguments: str, collections: pathlib.Path | None = None, env: dict[str, str] | None = None, **variables: Any
    ) -> Outcome:
        folder = tmp_path_factory.mktemp("role")
        name = "pullthrough.registry_cache.image"
        tasks = [
            {"ansible.builtin.include_role": {"name": name, "tasks_from": "preflight"}},
            {"ansible.builtin.include_role": {"name": name}},
            {"ansible.builtin.debug": {"msg": "reference=[{{ registry_cache_image_reference }}]"}},
        ]
        play = {"hosts": "all", "connection": "local", "gather_facts": False, "tasks": tasks}
        (folder / "play.yml").write_text(json.dumps([play]))
        given = {
            "ansible_python_interpreter": str(environment.PYTHON),
            "registry_cache_image_base": HUB_REGISTRY_IMAGE,
            "registry_cache_image_build_network": "host",
            "registry_cache_image_insecure": True,
            "registry_cache_image_push_retries": 0,
            **variables,
        }
        inventory = [] if "--inventory" in arguments else ["--inventory", "localhost,"]
        argv = ["ansible-playbook", *inventory, "--extra-vars", json.dumps(given), *arguments, str(folder / "play.yml")]
        where = str(collections or ROOT / "playbooks" / "collections")
        environ = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": where, **(env or {})}
        started, used = time.monotonic(), sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        result = subprocess.run([str(environment.VENV / "bin" / argv[0]), *argv[1:]], env=environ, capture_output=True, text=True, check=False)
        seconds, cpu = time.monotonic() - started, sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - used
        output = result.stdout + result.stderr
        changed = re.search(r"changed=(\d+)", output)
        reference = re.search(r"reference=\[(.*?)\]", output)
        return Outcome(result.returncode, output, seconds, cpu, reference[1] if reference else "", int(changed[1]) if changed else -1, environ)

    return run


@pytest.fixture(scope="session")
def server(engines: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A registry with basic authentication."""
    running = Server(tmp_path_factory.mktemp("registry") / "auth")
    yield running
    running.stop()
    forget(running.host)


@contextlib.contextmanager
def tmpfs(folder: pathlib.Path, size: str) -> Iterator[pathlib.Path]:
    """A small file system."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def programs(engine_name: str, image: str, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Copy the programs out of an image without running it."""
    folder.mkdir()
    container = command(engine_name, "create", image, "none").stdout.split()[-1]
    try:
        for program in PROGRAMS:
            command(engine_name, "cp", f"{container}:/{program}", str(folder / pathlib.Path(program).name))
    finally:
        command(engine_name, "rm", container)
    return {pathlib.Path(program).name: folder / pathlib.Path(program).name for program in PROGRAMS}


@pytest.fixture(scope="session")
def published(
    role: Role, server: Server, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[str, Outcome]:
    """The image built and pushed by each engine: docker with a user and password, podman with an auth file."""
    import base64

    folder = tmp_path_factory.mktemp("published")
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (folder / "auth.json").write_text(json.dumps({"auths": {server.host: {"auth": auth}}}))
    credentials: dict[str, dict[str, Any]] = {
        "docker": {"registry_cache_image_username": USER, "registry_cache_image_password": PASSWORD},
        "podman": {"registry_cache_image_auth_file": str(folder / "auth.json")},
    }
    outcomes = {}
    for name in ENGINES:
        variables = {
            "registry_cache_image": f"{server.host}/acme/{name}",
            "registry_cache_image_engine": name,
            "registry_cache_image_pull_secrets": ["named"],
            "registry_cache_image_sbom_path": str(folder / f"sbom-{name}"),
            **credentials[name],
        }
        outcomes[name] = role(**variables)
        outcomes[name].variables = variables  # type: ignore[attr-defined]
        assert outcomes[name].returncode == 0, outcomes[name].output
        said = f"{name}: built and pushed for {len(PLATFORMS)} platforms in {outcomes[name].seconds:.0f} s"
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\n  {said}", flush=True)
    return outcomes


@pytest.fixture(scope="session")
def binaries(
    published: dict[str, Outcome], server: Server, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], dict[str, pathlib.Path]]:
    """The programs by engine and platform."""
    folder, found = tmp_path_factory.mktemp("binaries"), {}
    for name in ENGINES:
        lines = command(name, "images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
        for platform in PLATFORMS:
            (image,) = [line for line in lines if line.startswith(f"{server.host}/acme/{name}:b-") and line.endswith(f"-{platform[6:]}")]
            found[name, platform] = programs(name, image, folder / f"{name}-{platform[6:]}")
    return found


@pytest.fixture
def other_collection(tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the collection whose sources a test can change. Returns the folder for the second argument of `role`."""
    target = tmp_path / "collections" / "ansible_collections" / "pullthrough" / "registry_cache"
    ignore = shutil.ignore_patterns(".git", "collections", "sandbox", "bench", "molecule")
    shutil.copytree(ROOT, target, ignore=ignore)
    return target
