# SPDX-License-Identifier: GPL-3.0-or-later
"""The base images of the Dockerfiles, under the same names: pulled if possible, else made here.

A Go image made here includes the modules and the build cache of the pins, so a build compiles only what changed.
Docker holds both images for this machine's platform. The hub is a registry that has registry:3 for two platforms.
"""

from __future__ import annotations

import json
import os
import pathlib
import platform
import shutil
import subprocess

from .. import direct, engine, processes
from ..from_source import golang, programs, tools
from ..settings import CACHE, GO_IMAGE, HUB, HUB_REGISTRY_IMAGE, REGISTRY_IMAGE, ROOT, SANDBOX, key
from ..steps import Log, step, wait
from .build import BUSYBOX, PATH, ensure_busybox, import_image, load, pulled, tar

# The images are made again when one of these changes.
_SOURCE = (SANDBOX / "images" / "base.py", SANDBOX / "images" / "build.py")
_REGISTRY_SOURCE = SANDBOX / "from_source" / "base_registry"
ARCHITECTURES = ("amd64", "arm64")
_HOST = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
_CA_BUNDLE = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")
_DOCKER = ROOT / "docker"
_MODULES = {
    "registry": (".", "github.com/GoogleCloudPlatform/docker-credential-gcr/v2"),
    "sbom": ("github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod",),
}
# The same as in the Dockerfiles, since they are part of the build cache's keys.
_GO_FLAGS = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false"}
_LINK = ("-ldflags=-s -w",)
# Not keyed by pins, so after a change of pins only what changed is compiled. Go removes entries that are unused for days.
_BUILD_CACHE = CACHE / "go-build"
_HUB_STATE = CACHE / "run" / "hub"


def _go(*words: str) -> str:
    environment = {**os.environ, **programs.toolchain()}
    argv, folder = ["go", *words], programs.SOURCE
    return subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def _alpine_like() -> tuple[list[tuple[str, pathlib.Path | bytes]], list[tuple[str, str]]]:
    """Returns the files and links of an Alpine base that are used here: shell, applets, CA bundle, root user."""
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    files: list[tuple[str, pathlib.Path | bytes]] = [
        ("bin/busybox", BUSYBOX),
        ("etc/ssl/certs/ca-certificates.crt", _CA_BUNDLE),
        ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
        ("etc/group", b"root:x:0:\n"),
    ]
    return files, [(f"bin/{applet}", "busybox") for applet in applets if applet != "busybox"]


def _registry(log: Log, architecture: str) -> pathlib.Path:
    """Returns the unmodified registry. For another architecture it has fewer storage drivers."""
    if architecture == _HOST:
        return tools.build("registry") / "registry"
    program = CACHE / "run" / f"registry-{architecture}"
    environment = {**_GO_FLAGS, **programs.toolchain(), "GOARCH": architecture, "GOCACHE": str(_BUILD_CACHE)}
    main = _REGISTRY_SOURCE / "main.go"
    golang.run(log, golang.Build("build", str(main), SANDBOX / "tools" / "registry", environment, _LINK, program))
    return program


def _make_registry(log: Log, name: str, image_key: str, architecture: str = _HOST, trusts: bool = True) -> None:
    files, links = _alpine_like()
    if architecture != _HOST:  # no shell: this machine cannot run the image
        files, links = [file for file in files if file[0] != "bin/busybox"], []
    if not trusts:
        files = [file for file in files if not file[0].endswith(".crt")]
    files += [
        ("bin/registry", _registry(log, architecture)),
        ("entrypoint.sh", b'#!/bin/sh\nexec registry serve "$@"\n'),
    ]
    config: dict[str, object] = {
        "Env": [f"PATH={PATH}"],
        "Entrypoint": ["/entrypoint.sh"],
        "Cmd": ["/etc/distribution/config.yml"],
        "ExposedPorts": {"5000/tcp": {}},
        "Labels": {"sandbox.key": image_key},
    }
    load(log, name, architecture, tar(files, links), config)


def _make_go(log: Log, image_key: str) -> None:
    root = pathlib.Path(_go("env", "GOROOT"))
    tree = CACHE / "go-image"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    try:
        files, links = _alpine_like()
        log.run("tar", "--extract", "--directory", tree, stdin=tar(files, links))
        unused = shutil.ignore_patterns("test", "doc", "api")  # only at the top level: src has packages of the same names
        ignore = lambda folder, names: unused(folder, names) if folder == str(root) else set()  # noqa: E731
        log.note("copying the Go toolchain")
        shutil.copytree(root, tree / "usr" / "local" / "go", symlinks=True, ignore=ignore)
        _compile(log, str(root / "bin" / "go"), tree)
        environment = ("GOPATH=/go", "GOCACHE=/root/.cache/go-build", "GOTOOLCHAIN=local", f"PATH=/go/bin:/usr/local/go/bin:{PATH}")
        import_image(log, GO_IMAGE, image_key, tree, *[f"ENV {entry}" for entry in environment], "WORKDIR /go")
    finally:
        log.run("chmod", "--recursive", "u+w", tree, check=False)  # Go makes its copies of modules read-only
        shutil.rmtree(tree)


def _compile(log: Log, go: str, tree: pathlib.Path) -> None:
    """Fill the module and build caches in the tree with what the image's builds need."""
    held = pathlib.Path(_go("env", "GOMODCACHE")) / "cache" / "download"
    environment = {
        **_GO_FLAGS,
        "GOTOOLCHAIN": "local",
        "GOMODCACHE": str(tree / "go" / "pkg" / "mod"),
        "GOCACHE": str(_BUILD_CACHE),
        "GOPROXY": f"file://{held},{_go('env', 'GOPROXY')}",
        "GONOSUMDB": "*",  # go.sum has every hash
    }
    builds = [
        golang.Build("build", package, _DOCKER / module, {**environment, "GOARCH": architecture}, _LINK, os.devnull, go)
        for architecture in ARCHITECTURES
        for module, packages in _MODULES.items()
        if module != "sbom" or architecture == _HOST
        for package in packages
    ]
    golang.run(log, *builds)
    log.note("copying the build cache")
    shutil.copytree(_BUILD_CACHE, tree / "root" / ".cache" / "go-build")


def ensure() -> None:
    """Make sure that Docker has the base images for this machine's platform."""
    ensure_busybox()
    tools.require_go()
    pins = [_DOCKER / module / name for module in _MODULES for name in ("go.mod", "go.sum")]
    keys = {
        REGISTRY_IMAGE: key(*_SOURCE, SANDBOX / "tools" / "registry"),
        GO_IMAGE: key(*_SOURCE, _go("version"), *pins),
    }
    for name, image_key in keys.items():
        if engine.has_image(name, image_key) or (engine.has_image(name) and not engine.made_here(name)):
            continue
        tools.build("registry")
        waits_for = "a pull, or making it here"
        with step(f"base image {name}", waits_for, f"base image {name.rpartition(':')[0]}") as log:
            if pulled(name, log):
                continue
            if name == REGISTRY_IMAGE:
                _make_registry(log, name, image_key)
            else:
                _make_go(log, image_key)


def ensure_hub() -> None:
    """Run a registry on loopback with registry:3 for two platforms, and with `registry:untrusting`, which has no CA certificates."""
    server = _HUB_STATE / "registry.pid"
    if not processes.running(server, _hub_key()):
        stop_hub()  # a running one has images of other sources
        _HUB_STATE.mkdir(parents=True, exist_ok=True, mode=0o700)
        config = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(CACHE / f"hub-{_hub_key()}")}},
            "http": {"addr": HUB, "relativeurls": True},
        }
        (_HUB_STATE / "registry.json").write_text(json.dumps(config))
        command = [str(tools.build("registry") / "registry"), "serve", str(_HUB_STATE / "registry.json")]
        processes.start(server, command, key=_hub_key())
        wait(lambda: _status("/v2/") == 200, 20, "the registry of base images")
    # Pushed last, so if it exists, all images exist.
    if _status("/v2/library/registry/manifests/untrusting") == 200:
        return
    with step(f"base images for {' and '.join(ARCHITECTURES)}", "the Go compiler") as log:
        names = {architecture: f"{HUB_REGISTRY_IMAGE}-{architecture}" for architecture in ARCHITECTURES}
        for architecture, name in names.items():
            _make_registry(log, name, "hub", architecture)
            log.run("docker", "push", name)
        log.run("docker", "manifest", "create", "--insecure", "--amend", HUB_REGISTRY_IMAGE, *names.values())
        log.run("docker", "manifest", "push", "--insecure", "--purge", HUB_REGISTRY_IMAGE)
        untrusting = f"{HUB}/library/registry:untrusting"
        _make_registry(log, untrusting, "hub", trusts=False)
        log.run("docker", "push", untrusting)


def stop_hub() -> None:
    processes.stop(_HUB_STATE / "registry.pid")


def _hub_key() -> str:
    return key(*_SOURCE, _REGISTRY_SOURCE, SANDBOX / "tools" / "registry")


def _status(path: str) -> int:
    accept = "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"
    return direct.status(f"http://{HUB}{path}", {"Accept": accept})
