# SPDX-License-Identifier: GPL-3.0-or-later
"""Module cache_image with stand-ins for docker and podman: their calls, and the messages after failures."""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
import json
import pathlib
import re
import subprocess
import sys
import threading
from typing import Any

import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import engine as _engine
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import inputs, publish
from ansible_collections.pullthrough.registry_cache.plugins.modules import cache_image

from sandbox.settings import ROOT
from tests.module_runner import run
from tests.unit.plugins.image_stand_ins import DIGEST, Program, Registry

BASE = "docker.io/library/registry:3.1.2"
BUILDER = "docker.io/library/golang:1.26.10-alpine"
BOTH = ["linux/amd64", "linux/arm64"]


def image(name: str = "registry-cache", check: bool = False, **options: Any) -> dict[str, Any]:
    given = {"name": name, "base": BASE, "builder": BUILDER, "retries": 0, **options}
    if "sources" not in given:
        given["context"] = str(ROOT / "docker")
    return run("cache_image", check=check, **given)


def no_pause(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr(publish, "_sleep", pauses.append)
    return pauses


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_check_build_repeat_check(engine: str, request: pytest.FixtureRequest) -> None:
    program: Program = request.getfixturevalue(engine)
    would = image(platforms=BOTH, check=True)
    assert would["changed"] and not would["complete"] and would["built"] == BOTH and not program.called("build")
    built = image(platforms=BOTH)
    assert built["changed"] and not built["complete"] and built["built"] == BOTH and built["engine"] == engine
    reference = f"docker.io/library/registry-cache:{built['tag']}"
    assert built["reference"] == reference == would["reference"]
    assert program.held[f"{reference}-amd64"] == "linux/amd64"
    assert program.held[f"{reference}-arm64"] == "linux/arm64"
    for again in (image(platforms=BOTH), image(platforms=BOTH, check=True)):
        assert not again["changed"] and again["complete"] and again["built"] == [] and again["tag"] == built["tag"]
    assert len(program.called("build")) == 2


def test_each_platform_is_built_with_its_base_and_arguments(docker: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:pass@proxy.example:3128")
    own = {"version": "1.2.3", "revision": "abc"}
    image(platforms=BOTH, goproxy="https://user:pass@goproxy.example", build_network="host", labels=own)
    order = [words for words, _env in docker.calls if words[0] in ("pull", "build")]
    assert [words[0] for words in order] == ["pull", "pull", "build", "pull", "build"]
    # The base's name has one platform at a time, so each platform's base is pulled right before its build.
    assert [words[2:] for words in order if words[0] == "pull"] == [["linux/amd64", BUILDER], ["linux/amd64", BASE], ["linux/arm64", BASE]]
    for words, env in docker.called("build"):
        assert "--network" in words and "host" in words
        assert "--platform" not in words and env["DOCKER_BUILDKIT"] == "0"  # without buildx
        assert "pass" not in " ".join(words)  # a process list shows no secret
        assert {"BASE", "BUILDER", "BUILDPLATFORM", "TARGETPLATFORM", "GOPROXY", "https_proxy"} <= set(words)
        assert env["GOPROXY"] == "https://user:pass@goproxy.example"
        assert env["https_proxy"] == "http://user:pass@proxy.example:3128"
        labels = dict(word.split("=", 1) for flag, word in itertools.pairwise(words) if flag == "--label")
        assert labels["org.opencontainers.image.base.digest"] == "sha256:ba5e"
        assert labels["org.opencontainers.image.version"] == "1.2.3" and labels["org.opencontainers.image.revision"] == "abc"
    assert (docker.home / "image" / "registry" / "main.go").exists()
    assert not list((docker.home / "image").rglob("*_test.go"))


def test_sources_in_an_archive(docker: Program, tmp_path: pathlib.Path) -> None:
    inputs.pack(ROOT / "docker", str(tmp_path / "sources.tar.gz"))
    sent = image(sources=str(tmp_path / "sources.tar.gz"), sbom_path=str(tmp_path / "sbom"), platforms=["linux/amd64"])
    assert sent["tag"] == image(platforms=["linux/amd64"], check=True)["tag"]
    assert (docker.home / "image" / "registry" / "main.go").exists() and (docker.home / "sbom" / "go.mod").exists()


def test_buildkit_gets_the_platform_and_creates_no_attestation(docker: Program) -> None:
    (docker.home / "has-buildx").touch()
    image(platforms=["linux/arm64"])
    ((words, env),) = docker.called("build")
    assert words[words.index("--platform") + 1] == "linux/arm64" and "--load" in words
    assert env["BUILDX_NO_DEFAULT_ATTESTATIONS"] == "1" and env["DOCKER_BUILDKIT"] is None


def test_the_engines_copy_is_used_if_the_base_cannot_be_pulled(docker: Program) -> None:
    docker.fail("pull", "no such host")
    docker.hold(BUILDER, "linux/amd64")
    docker.hold(BASE, "linux/amd64")
    assert image(platforms=["linux/amd64"])["built"] == ["linux/amd64"]
    refused = image(platforms=BOTH)
    assert refused["failed"]
    for part in ("base: '", BASE, "linux/arm64", "no such host"):
        assert part in refused["msg"]


def test_no_engine(programs: pathlib.Path) -> None:
    for check in (True, False):
        refused = image(check=check)
        assert refused["failed"]
        for part in ("engine: no engine answers", "docker is not installed; podman is not installed", "Example: engine:"):
            assert part in refused["msg"]


def test_an_engine_that_does_not_run(docker: Program) -> None:
    docker.fail("version", "Cannot connect to the Docker daemon. Is the docker daemon running?")
    refused = image()
    assert "docker: Cannot connect to the Docker daemon" in refused["msg"] and "podman is not installed" in refused["msg"]


def test_docker_is_preferred_and_podman_used_if_docker_does_not_run(docker: Program, podman: Program) -> None:
    assert image(check=True)["engine"] == "docker"
    assert image(check=True, engine="podman")["engine"] == "podman"
    docker.fail("version", "Cannot connect")
    assert image(check=True)["engine"] == "podman"
    assert image(check=True, engine="docker")["failed"]


@pytest.mark.parametrize(
    ("output", "parts"),
    [
        ("write /out/registry: no space left on device", ("disk is full", "docker system prune")),
        (
            "COPY failed: stat etc/ssl/certs/ca-certificates.crt: file does not exist",  # docker
            ("base: '", "no CA certificates"),
        ),
        (
            'copier: stat: "/etc/ssl/certs/ca-certificates.crt": no such file or directory',  # podman
            ("base: '", "no CA certificates"),
        ),
        (
            "missing go.sum entry for module providing package github.com/x/y; to add: go mod download github.com/x/y",
            ("version that does not exist", "go.mod"),
        ),
        ("no CA certificates in the base", ("base: '", "no CA certificates")),
        (
            "go: github.com/x/y@v9.9.9: reading https://goproxy.example.com/github.com/x/y/@v/v9.9.9.info: 404 Not Found",
            ("version that does not exist", "go.mod"),
        ),
        ("tls: failed to verify certificate: x509: certificate signed by unknown authority", ("Example: ca_path: /",)),
        ("dial tcp: lookup goproxy.example.com: no such host", ("Example: goproxy: https://",)),
        ("undefined: something", ("The image was not built", "failed with exit code 1", "undefined: something")),
    ],
)
def test_causes_of_failed_builds(docker: Program, output: str, parts: tuple[str, ...]) -> None:
    docker.fail("build", output)
    refused = image(platforms=["linux/amd64"])
    assert refused["failed"]
    for part in (*parts, output.splitlines()[-1]):
        assert part in refused["msg"]
    assert not [name for name in docker.held if ":b-" in name]


@pytest.mark.parametrize("platform", ["linux/riscv64", "amd64"])
def test_an_unknown_platform(docker: Program, platform: str) -> None:
    refused = image(platforms=[platform])
    assert refused["failed"] and platform in refused["msg"] and "linux/arm64" in refused["msg"]


def test_an_invalid_name_or_one_with_a_tag(docker: Program) -> None:
    assert "must have no tag" in image("r.example/cache:1.0")["msg"]
    assert "'R.example/Cache UPPER' is not a valid image reference" in image("R.example/Cache UPPER")["msg"]


def pushing(registry: Registry, **options: Any) -> dict[str, Any]:
    return image(f"{registry.host}/acme/cache", publish="push", platforms=BOTH, insecure=True, **options)


class Pushed:
    """A registry that has the tag after the push."""

    def __init__(self, registry: Registry, monkeypatch: pytest.MonkeyPatch, program: Program) -> None:
        original = _engine.Engine.run

        def watched(engine: Any, *words: str, **options: Any) -> str:
            output = original(engine, *words, **options)
            if words[:2] == ("manifest", "push"):
                registry.tags[words[-1].rpartition(":")[2]] = DIGEST
            return output

        monkeypatch.setattr(_engine.Engine, "run", watched)
        self.program = program


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_push(engine: str, request: pytest.FixtureRequest, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    program: Program = request.getfixturevalue(engine)
    Pushed(registry, monkeypatch, program)
    registry.auth = "basic"
    credential = {"username": "ada", "password": "s3cret"}
    would = pushing(registry, **credential, check=True)
    assert would["changed"] and not program.called("push")
    first = pushing(registry, **credential)
    assert first["changed"] and first["digest"] == DIGEST
    assert first["reference"] == f"{registry.host}/acme/cache@{DIGEST}"
    calls = program.calls
    assert all("s3cret" not in " ".join(words) for words, _env in calls)
    pushes = [(words, env) for words, env in calls if "push" in words[:2]]
    stored = json.loads(pushes[-1][1]["auth"] or "{}")
    assert stored["auths"].keys() == {registry.host}
    # The index is pushed last.
    assert pushes[-1][0][:2] == ["manifest", "push"]
    again = pushing(registry, **credential)
    assert not again["changed"] and again["complete"] and again["digest"] == DIGEST and again["engine"] == ""
    assert program.calls == calls  # the engine was not used


def test_a_published_image_needs_no_engine(programs: pathlib.Path, registry: Registry, docker: Program) -> None:
    registry.tags[image(f"{registry.host}/acme/cache", platforms=BOTH, check=True)["tag"]] = DIGEST
    docker.fail("version", "down")
    found = pushing(registry)
    assert not found["changed"] and found["reference"].endswith(DIGEST)


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_a_wrong_credential_is_reported_before_the_build(docker: Program, registry: Registry, auth: str) -> None:
    registry.auth = auth
    for options in ({"username": "ada", "password": "wrong"}, {}):
        for check in (True, False):
            refused = pushing(registry, check=check, **options)
            for part in ("refuses the credential", "username and password", "Example: auth_file: "):
                assert part in refused["msg"]
    assert not docker.called("build")


def test_a_registry_that_is_down_is_reported_before_the_build(docker: Program) -> None:
    refused = image("127.0.0.1:1/acme/cache", publish="push", platforms=BOTH)
    assert "cannot be asked for" in refused["msg"] and "no answer from 127.0.0.1:1" in refused["msg"]
    assert not docker.called("build")


def test_an_interrupted_push_is_retried(docker: Program, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = no_pause(monkeypatch)
    Pushed(registry, monkeypatch, docker)
    docker.fail("push", "connection reset by peer", times=2)
    assert pushing(registry, retries=3)["digest"] == DIGEST
    assert pauses == [2, 4]


def test_a_push_that_always_fails_leaves_no_tag(docker: Program, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = no_pause(monkeypatch)
    docker.fail("push", "connection reset by peer")
    refused = pushing(registry, retries=1)
    assert "was not pushed, and the registry has no such tag (tries: 2)" in refused["msg"]
    assert "connection reset by peer" in refused["msg"]
    assert pauses == [2]
    assert not docker.called("manifest")


def test_a_refused_push_is_not_retried(docker: Program, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = no_pause(monkeypatch)
    docker.fail("push", "unauthorized: authentication required")
    refused = pushing(registry, retries=3)
    assert "refuses the credential" in refused["msg"] and pauses == []


def test_an_image_that_cannot_be_pulled_anonymously(docker: Program, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    Pushed(registry, monkeypatch, docker)
    registry.auth = "basic"
    options = {"username": "ada", "password": "s3cret", "anonymous_pull": True}
    for _time in ("pushed now", "there already"):
        refused = pushing(registry, **options)
        for part in ("lets nobody pull it without a credential", "HTTP 401", "Example: anonymous_pull: false"):
            assert part in refused["msg"]
    registry.auth = "none"
    assert pushing(registry, **options)["digest"] == DIGEST


def test_archives(docker: Program, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "new" / "folder"
    options = {"publish": "archive", "archive_path": str(folder), "platforms": BOTH}
    would = image(check=True, **options)
    assert would["changed"] and not folder.exists()
    saved = image(**options)
    assert saved["changed"]
    for platform, file in saved["archives"].items():
        assert pathlib.Path(file).read_text() == f"archive of {saved['reference']}"
        assert platform.replace("/", "-") in file
    kept = len(docker.calls)
    again = image(**options)
    assert not again["changed"] and len(docker.calls) == kept  # an existing archive needs no engine


def test_a_failed_archive_leaves_no_file(docker: Program, tmp_path: pathlib.Path) -> None:
    docker.fail("save", "write: no space left on device")
    refused = image(publish="archive", archive_path=str(tmp_path / "a"), platforms=["linux/amd64"])
    assert "was not written. The disk is full" in refused["msg"]
    assert list((tmp_path / "a").iterdir()) == []


def test_an_sbom_in_addition(docker: Program, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "sbom"
    first = image(platforms=["linux/amd64"])
    options = {"platforms": ["linux/amd64"], "sbom_path": str(folder)}
    assert image(check=True, **options)["changed"] and not folder.exists()
    made = image(**options)
    assert made["changed"] and made["built"] == []
    (target,) = folder.iterdir()
    assert re.fullmatch(rf"registry-cache-[0-9a-f]{{8}}_{first['tag']}_linux-amd64", target.name)
    assert (target / "registry.cdx.json").read_text() == "sbom"
    assert not image(**options)["changed"]


def test_the_users_docker_configuration_is_kept(
    docker: Program, registry: Registry, programs: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Pushed(registry, monkeypatch, docker)
    own = programs / "home" / ".docker"
    (own / "contexts").mkdir(parents=True)
    (own / "config.json").write_text(json.dumps({"currentContext": "colima", "credsStore": "desktop", "auths": {"x": {}}}))
    pushing(registry, username="ada", password="s3cret")
    stored = json.loads(docker.called("push")[0][1]["auth"] or "{}")
    assert stored["currentContext"] == "colima" and "credsStore" not in stored and stored["auths"].keys() == {registry.host}


def test_archives_of_different_images_have_different_names(docker: Program, tmp_path: pathlib.Path) -> None:
    options = {"publish": "archive", "archive_path": str(tmp_path / "a"), "platforms": ["linux/amd64"], "sbom_path": str(tmp_path / "s")}
    for name in ("r.example/acme/cache", "r.example/other/cache", "s.example/acme/cache"):
        saved = image(name, **options)
        assert saved["changed"] and saved["built"] == ["linux/amd64"]
        assert pathlib.Path(saved["archives"]["linux/amd64"]).read_text() == f"archive of {saved['reference']}"
    assert len(list((tmp_path / "a").iterdir())) == len(list((tmp_path / "s").iterdir())) == 3


# Concurrent runs


def bring(**options: Any) -> dict[str, Any]:
    """Run the module's function without main(), which uses global state of the process."""
    given = {"name": "registry-cache", "context": str(ROOT / "docker"), "labels": {}, "base": BASE, "builder": BUILDER}
    given |= {"publish": "none", "engine": "auto", "platforms": BOTH, "retries": 0, "insecure": True, **options}
    return cache_image.build_and_publish(collections.defaultdict(lambda: None, given), False)


def at_once(*runs: dict[str, Any]) -> list[dict[str, Any]]:
    """Start runs at the same time; return their results."""
    start = threading.Barrier(len(runs))

    def run_one(options: dict[str, Any]) -> dict[str, Any]:
        start.wait(30)
        return bring(**options)

    with concurrent.futures.ThreadPoolExecutor(len(runs)) as executor:
        return list(executor.map(run_one, runs))


@pytest.mark.parametrize("engine", ["docker", "podman"])
@pytest.mark.parametrize("publish", ["none", "push", "archive"])
def test_three_hosts_build_once(
    engine: str,
    publish: str,
    request: pytest.FixtureRequest,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
) -> None:
    program: Program = request.getfixturevalue(engine)
    Pushed(registry, monkeypatch, program)
    (program.home / "slow").write_text("0.3")
    folders = {"archive_path": str(tmp_path / "a"), "sbom_path": str(tmp_path / "s")}
    options = {"name": f"{registry.host}/acme/cache", "publish": publish, **folders}
    results = at_once(options, options, options)
    assert len([call for call in program.called("build") if not call[0][-1].endswith("sbom")]) == 2
    assert sorted(result["changed"] for result in results) == [False, False, True]
    assert sorted(result["built"] for result in results) == [[], [], BOTH]
    assert len({result["reference"] for result in results}) == 1
    if publish == "push":
        assert [len(images) for _index, images in program.pushed] == [2]
    if publish == "archive":
        assert len(program.called("save")) == 2 and len(list((tmp_path / "a").iterdir())) == 2
    assert len(list((tmp_path / "s").iterdir())) == 2


def test_hosts_with_different_platforms_use_the_right_base(docker: Program) -> None:
    (docker.home / "slow").write_text("0.3")
    at_once(*({"platforms": [platform], "name": name} for platform in BOTH for name in ("a/cache", "b/cache")))
    order = [words for words, _env in docker.calls if words[0] == "build" or (words[0] == "pull" and words[-1] == BASE)]
    assert [words[0] for words in order] == ["pull", "build"] * 4


def test_a_run_reports_that_it_waits(docker: Program, tmp_path: pathlib.Path) -> None:
    (docker.home / "slow").write_text("0.3")
    logs = [tmp_path / "one", tmp_path / "two"]
    at_once(*({"log_path": str(log), "platforms": ["linux/amd64"]} for log in logs))
    assert sum("Another run uses docker on this host. Waiting" in log.read_text() for log in logs if log.exists()) == 1


def test_a_killed_run_releases_the_lock(docker: Program, programs: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = programs / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    (cache / "pullthrough.registry_cache").mkdir(parents=True)
    code = "import fcntl,sys; f=open(sys.argv[1],'a'); fcntl.flock(f,fcntl.LOCK_EX); print('held',flush=True); sys.stdin.read()"
    words = [sys.executable, "-ISc", code, str(cache / "pullthrough.registry_cache" / "docker.lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout and killed.stdout.readline() == "held\n"
        killed.kill()
    assert bring()["built"] == BOTH


def test_a_lock_directory_that_cannot_be_created(docker: Program, programs: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (programs / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(programs / "file"))
    refused = image(platforms=["linux/amd64"])
    assert refused["failed"] and "Example: XDG_CACHE_HOME=" in refused["msg"] and not docker.called("build")
    assert image(platforms=["linux/amd64"], check=True)["changed"]


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_concurrent_runs_of_two_users_do_not_mix_their_indexes(
    engine: str, request: pytest.FixtureRequest, registry: Registry, monkeypatch: pytest.MonkeyPatch, programs: pathlib.Path
) -> None:
    """The second run pushes in the middle of the first push, and does not share its lock."""
    program: Program = request.getfixturevalue(engine)
    Pushed(registry, monkeypatch, program)
    options = {"name": f"{registry.host}/acme/cache", "publish": "push"}
    original, others = _engine.Engine.run, []

    def watched(engine: Any, *words: str, **more: Any) -> str:
        if words[:2] == ("manifest", "push") and not others:
            others.append("begun")
            with monkeypatch.context() as other:
                other.setenv("XDG_CACHE_HOME", str(programs / "other"))
                registry.tags.clear()
                others.append(bring(**options)["digest"])
                registry.tags.clear()
        return original(engine, *words, **more)

    monkeypatch.setattr(_engine.Engine, "run", watched)
    assert bring(**options)["digest"] == DIGEST == others[1]
    assert [len(set(images)) for _index, images in program.pushed] == [2, 2]
    assert {index.rpartition(":")[0] for index, _images in program.pushed} == {options["name"]}


def test_podman_removes_the_index_of_a_killed_run(podman: Program, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    Pushed(registry, monkeypatch, podman)
    options = {"name": f"{registry.host}/acme/cache", "publish": "push"}
    original = _engine.Engine.run

    def killed(engine: Any, *words: str, **more: Any) -> str:
        if words[:2] in (("manifest", "push"), ("manifest", "rm")):
            raise KeyboardInterrupt
        return original(engine, *words, **more)

    with monkeypatch.context() as once:
        once.setattr(_engine.Engine, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            bring(**options)
    assert bring(**options)["digest"] == DIGEST
    assert [len(images) for _index, images in podman.pushed] == [2]
    assert not [file for file in podman.home.iterdir() if "registry-cache-index" in file.name]
    names = {words[2] for words, _env in podman.calls if words[:2] == ["manifest", "create"]}
    assert len(names) == 1 and names.pop().startswith("localhost/registry-cache-index:b-")


def test_a_base_image_that_was_replaced_during_the_build(docker: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    original = _engine.Engine.run

    def replaced(engine: Any, *words: str, **more: Any) -> str:
        output = original(engine, *words, **more)
        if words[0] == "build":
            docker.hold(words[words.index("--tag") + 1], "linux/arm64")
        return output

    monkeypatch.setattr(_engine.Engine, "run", replaced)
    refused = image(platforms=["linux/amd64"])
    assert refused["failed"] and "was replaced during the build" in refused["msg"]
    assert docker.called("rmi")


def test_sources_that_change_during_the_run(docker: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    tags = itertools.count()
    monkeypatch.setattr(inputs, "tag", lambda *_inputs: f"b-{next(tags)}")
    refused = image(platforms=["linux/amd64"])
    assert refused["failed"] and "changed during this run. Run it again." in refused["msg"]
    assert not docker.called("build")
