# SPDX-License-Identifier: GPL-3.0-or-later
"""The image that both engines build and push, and a second run, which finds it."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import pathlib
import re
import resource
import struct
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

from sandbox import environment
from sandbox.settings import HUB, ROOT
from tests.http_server import HttpServer

from .conftest import ENGINES, PASSWORD, PLATFORMS, PROGRAMS, USER, Outcome, Role, Server, command, forget

MAX_COMPRESSED = 25 * 1024 * 1024
Binaries = dict[tuple[str, str], dict[str, pathlib.Path]]


def tag(outcome: Outcome) -> str:
    found = re.search(r"\bb-[0-9a-f]{12}\b", outcome.output)
    assert found
    return found[0]


def repository(outcome: Outcome) -> str:
    return outcome.reference.partition("/")[2].partition("@")[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_cache_is_deployed_by_digest(published: dict[str, Outcome], server: Server, engine: str) -> None:
    outcome = published[engine]
    assert re.fullmatch(rf"{server.host}/acme/{engine}@sha256:[0-9a-f]{{64}}", outcome.reference)
    # The output of the build was shown while it ran, but not the password.
    assert f"$ {engine} build" in outcome.output and f"$ {engine} manifest push" in outcome.output
    assert PASSWORD not in outcome.output
    assert tag(outcome) in server.tags(f"acme/{engine}")


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_programs_are_the_same_from_both_engines(binaries: Binaries, platform: str) -> None:
    sums = [
        {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in binaries[engine, platform].items()}
        for engine in ENGINES
    ]
    assert sums[0] == sums[1] and len(set(sums[0].values())) == len(PROGRAMS)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_programs_match_their_platform_and_are_static_and_stripped(binaries: Binaries, platform: str) -> None:
    for file in binaries["docker", platform].values():
        content = file.read_bytes()
        assert content[:5] == b"\x7fELF\x02"
        (machine,) = struct.unpack_from("<H", content, 18)
        assert machine == PLATFORMS[platform]
        offset, size, number = (*struct.unpack_from("<Q", content, 32), *struct.unpack_from("<HH", content, 54))
        kinds = {struct.unpack_from("<I", content, offset + size * index)[0] for index in range(number)}
        assert 1 in kinds and not kinds & {2, 3}  # PT_LOAD; no PT_DYNAMIC, no PT_INTERP
        assert b".symtab\0" not in content and b"/src/registry" not in content


@pytest.mark.parametrize("engine", ENGINES)
def test_the_index_has_both_platforms(published: dict[str, Outcome], server: Server, engine: str) -> None:
    path, digest = repository(published[engine]), published[engine].reference.rpartition("@")[2]
    index = server.get(f"{path}/manifests/{digest}").json()
    described = {f"{m['platform']['os']}/{m['platform']['architecture']}": m["digest"] for m in index["manifests"]}
    assert described.keys() == PLATFORMS.keys()
    for platform, manifest in described.items():
        config = server.get(f"{path}/manifests/{manifest}").json()["config"]["digest"]
        image = server.get(f"{path}/blobs/{config}").json()
        assert f"{image['os']}/{image['architecture']}" == platform


@pytest.mark.parametrize("engine", ENGINES)
def test_labels_user_and_added_layers(published: dict[str, Outcome], server: Server, engine: str) -> None:
    path = repository(published[engine])
    index = server.get(f"{path}/manifests/{tag(published[engine])}").json()
    manifest = server.get(f"{path}/manifests/{index['manifests'][0]['digest']}").json()
    image = server.get(f"{path}/blobs/{manifest['config']['digest']}").json()
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in image["config"]["Labels"].items()}
    assert labels["source"] == "https://github.com/pullthrough/registry_cache"
    assert labels["version"] == re.findall(r"(?m)^version: (\S+)", (ROOT / "galaxy.yml").read_text())[0]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    assert labels["revision"].removesuffix("-dirty") == commit
    assert labels["base.name"] == f"{HUB}/library/registry:{labels['base.name'].rpartition(':')[2]}"
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", labels["base.digest"])
    assert re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", image["config"]["User"])
    assert not [entry for entry in image["config"]["Env"] if entry.startswith("GO")]
    base = server_of_hub().get(f"library/registry/manifests/{labels['base.name'].rpartition(':')[2]}-amd64").json()["layers"]
    added = manifest["layers"][len(base) :]
    assert 0 < sum(layer["size"] for layer in added) <= MAX_COMPRESSED
    print(f"{engine}: {sum(layer['size'] for layer in added) / 2**20:.1f} MiB compressed over its base")


def server_of_hub() -> Server:
    hub = Server.__new__(Server)
    hub.host = HUB
    return hub


def test_the_pushed_image_runs_as_non_root_and_read_only(published: dict[str, Outcome], tmp_path: pathlib.Path) -> None:
    for name in ENGINES:
        reference = published[name].reference
        (tmp_path / "config.json").write_text(json.dumps({"auths": {reference.partition("/")[0]: {"auth": encoded()}}}))
        command("docker", "--config", str(tmp_path), "pull", "--quiet", reference)
        run = ["run", "--rm", "--read-only", "--network", "none", "--cap-drop", "ALL", "--entrypoint"]
        assert command("docker", *run, "id", reference, "-u").stdout.strip() not in ("", "0")
        version = re.findall(r"distribution/v3 (v\S+)", (ROOT / "docker/registry/go.mod").read_text())[0]
        assert version in command("docker", *run, "registry", reference, "--version").stdout
        helper = re.findall(r"docker-credential-gcr/v2 v(\S+)", (ROOT / "docker/registry/go.mod").read_text())[0]
        assert helper in command("docker", *run, "docker-credential-gcr", reference, "version").stdout
        # Without a command the image runs the cache, which has no configuration here.
        bare = command("docker", *run[:-1], reference, check=False)
        assert bare.returncode == 1 and "/etc/registry-cache/config.yaml" in bare.stderr, bare.stdout + bare.stderr
        command("docker", "rmi", "--no-prune", reference)


def encoded() -> str:
    import base64

    return base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_rerun_does_nothing_and_needs_no_engine(published: dict[str, Outcome], role: Role, engine: str) -> None:
    variables = published[engine].variables  # type: ignore[attr-defined]
    gone = {"DOCKER_HOST": "unix:///no/such/engine.sock", "CONTAINERS_STORAGE_CONF": "/no/such/file"}
    again = role(env=gone, **variables)
    assert (again.returncode, again.changed, again.reference) == (0, 0, published[engine].reference), again.output
    print(f"{engine}: {again.seconds:.1f} s, {again.cpu:.1f} s of a processor")
    # Three seconds if a play of one task takes one, as on an idle machine.
    assert again.cpu < 3 * one_task(), again.output
    check = role("--check", env=gone, **variables)
    assert (check.returncode, check.changed) == (0, 0), check.output


def one_task() -> float:
    """Returns the CPU seconds of a play with one task."""
    used = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    ansible = [str(environment.VENV / "bin" / "ansible"), "localhost", "--connection", "local", "--module-name", "command"]
    subprocess.run([*ansible, "--args", "true"], check=True, capture_output=True)
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - used


@pytest.mark.parametrize("engine", ENGINES)
def test_sboms_list_the_contents_of_the_programs(published: dict[str, Outcome], engine: str) -> None:
    folder = pathlib.Path(published[engine].variables["registry_cache_image_sbom_path"])  # type: ignore[attr-defined]
    own = hashlib.sha256(published[engine].variables["registry_cache_image"].encode()).hexdigest()[:8]  # type: ignore[attr-defined]
    assert {path.name for path in folder.iterdir()} == {f"{engine}-{own}_{tag(published[engine])}_linux-{p[6:]}" for p in PLATFORMS}
    pins = dict(re.findall(r"(?m)^\s+(\S+) (v\S+)", (ROOT / "docker/registry/go.mod").read_text()))
    for beside in folder.iterdir():
        for program, module in (
            ("registry", "github.com/distribution/distribution/v3"),
            ("docker-credential-gcr", "golang.org/x/oauth2"),
        ):
            bom = json.loads((beside / f"{program}.cdx.json").read_text())
            assert bom["bomFormat"] == "CycloneDX"
            held = {component["name"]: component["version"] for component in bom["components"]}
            assert held[module] == pins[module]
        # Docker's older builder also exports empty folders of a container.
        assert {path.name for path in beside.glob("*.json")} == {f"{pathlib.Path(program).name}.cdx.json" for program in PROGRAMS}


@pytest.fixture
def goproxy(tmp_path: pathlib.Path) -> Iterator[tuple[str, pathlib.Path, list[str]]]:
    """A module proxy with a private CA that serves this machine's downloads of Go: its URL, CA and requested paths."""
    key, ca = tmp_path / "key.pem", tmp_path / "ca.pem"
    subject = ["-subj", "/CN=goproxy", "-addext", "subjectAltName=IP:127.0.0.1"]
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    subprocess.run([*new, "-keyout", str(key), "-out", str(ca), *subject], check=True, capture_output=True)
    held = subprocess.run(["go", "env", "GOMODCACHE"], capture_output=True, text=True, check=True).stdout.strip()
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_words: object) -> None:
            asked.append(self.path)

    handler = functools.partial(Handler, directory=f"{held}/cache/download")
    server = HttpServer(handler, (ca, key))
    yield server.url, ca, asked
    server.close()


@pytest.mark.parametrize("engine", ["docker"])
def test_one_command_changes_a_pin_and_the_image(
    published: dict[str, Outcome],
    role: Role,
    other_collection: pathlib.Path,
    goproxy: tuple[str, pathlib.Path, list[str]],
    engine: str,
) -> None:
    url, ca, asked = goproxy
    # An older helper, which the builder's image does not have.
    pin = "github.com/GoogleCloudPlatform/docker-credential-gcr/v2@v2.1.32"
    subprocess.run(["make", "pin", f"PIN={pin}"], cwd=other_collection, check=True, capture_output=True)
    options = {
        "registry_cache_image": "acme/pinned",
        "registry_cache_image_publish": "archive",
        "registry_cache_image_archive_path": str(other_collection.parent / "archives"),
        "registry_cache_image_platforms": ["linux/amd64"],
        "registry_cache_image_engine": engine,
        "registry_cache_image_goproxy": url,
        "registry_cache_ca_bundle": str(ca),
    }
    changed = role(collections=other_collection.parents[2], **options)
    assert changed.returncode == 0, changed.output
    assert changed.changed > 0 and tag(changed) != tag(published[engine])
    assert any("docker-credential-gcr" in path and path.endswith(".zip") for path in asked), asked
    again = role(collections=other_collection.parents[2], **options)
    assert (again.returncode, again.changed, again.reference) == (0, 0, changed.reference), again.output
    # The other engine loads what this one saved.
    (archive,) = (other_collection.parent / "archives").iterdir()
    other = ENGINES[1 - ENGINES.index(engine)]
    command(other, "load", "--input", str(archive))
    run = ["docker", "run", "--rm", "--read-only", "--network", "none", "--entrypoint", "docker-credential-gcr"]
    if other == "docker":
        assert "2.1.32" in command(*run, changed.reference, "version").stdout
    forget("acme/pinned")


@pytest.mark.parametrize("engine", ENGINES)
def test_three_hosts_build_once(role: Role, server: Server, engine: str) -> None:
    options = {
        "registry_cache_image": f"{server.host}/acme/three-{engine}",
        "registry_cache_image_engine": engine,
        "registry_cache_image_pull_secrets": ["named"],
        "registry_cache_image_username": USER,
        "registry_cache_image_password": PASSWORD,
    }
    outcome = role("--inventory", "one,two,three,", **options)
    assert outcome.returncode == 0, outcome.output
    assert outcome.output.count(f"$ {engine} build ") == len(PLATFORMS)
    assert len(set(re.findall(r"reference=\[(.*?)\]", outcome.output))) == 1
    index = server.get(f"acme/three-{engine}/manifests/{outcome.reference.rpartition('@')[2]}").json()
    assert len(index["manifests"]) == len(PLATFORMS)
    forget(f"acme/three-{engine}")


def test_containerd_and_k3s_nodes_get_the_image(role: Role, tmp_path: pathlib.Path) -> None:
    """A real containerd on this machine."""
    address = tmp_path / "containerd.sock"
    # A replacement for k3s, whose `k3s ctr` is containerd's client.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "k3s").write_text('#!/bin/sh\nexec "$@"\n')
    (tmp_path / "bin" / "k3s").chmod(0o755)
    env = {"CONTAINERD_ADDRESS": str(address), "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    (tmp_path / "config.toml").write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    daemon = ["containerd", "--config", str(tmp_path / "config.toml"), "--address", str(address)]
    daemon += ["--root", str(tmp_path / "root"), "--state", str(tmp_path / "state")]
    before = set(pathlib.Path(tempfile.gettempdir()).glob("registry-cache-*"))
    with (tmp_path / "log").open("w") as log, subprocess.Popen(daemon, stdout=log, stderr=log) as process:
        try:
            for publish in ("containerd", "k3s"):
                options = {
                    "registry_cache_image": f"acme/{publish}",
                    "registry_cache_image_publish": publish,
                    "registry_cache_image_nodes": ["localhost"],
                    "registry_cache_image_engine": "docker",
                }
                first = role(env=env, **options)
                assert first.returncode == 0 and first.changed > 0, first.output
                listed = subprocess.run(
                    ["ctr", "--namespace", "k8s.io", "images", "ls", "--quiet"],
                    env={**os.environ, **env}, capture_output=True, text=True, check=True,
                ).stdout.split()
                assert first.reference in listed and re.fullmatch(rf"docker.io/acme/{publish}:b-[0-9a-f]{{12}}", first.reference)
                again = role(env=env, **options)
                assert (again.returncode, again.changed) == (0, 0), again.output
                assert set(pathlib.Path(tempfile.gettempdir()).glob("registry-cache-*")) == before
        finally:
            process.terminate()
    forget("acme/containerd", "acme/k3s")
