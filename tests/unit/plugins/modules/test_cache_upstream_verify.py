# SPDX-License-Identifier: GPL-3.0-or-later
"""Module cache_upstream_verify with stand-ins for the replicas and the upstream."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import reference as image_reference
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import upstream as _upstream
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes import errors, runner
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.errors import PermanentError, TransientError
from ansible_collections.pullthrough.registry_cache.plugins.modules import cache_upstream_verify

from tests.module_runner import run
from tests.unit.plugins.clock import Clock
from tests.unit.plugins.kubernetes_api import ApiServer

IMAGE = "us-central1-docker.pkg.dev/p/r/i:1.0"
HOST = "us-central1-docker.pkg.dev"
MANIFEST = b'{"schemaVersion": 2}'
DIGEST = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()
TOKEN, PASSWORD = "ya29.the-access-token", "the-cache-password"
STS_WORDS = "invalid_grant: The audience in ID Token does not match the expected audience"
GRANT_WORDS = "HTTP 403: Permission 'artifactregistry.repositories.downloadArtifacts' denied"
PARAMS = {
    "label_selector": "app=cache",
    "helper": "docker-credential-gcr",
    "timeout": 10,
    "cache_username": "nodes",
    "cache_password": PASSWORD,
}

# The active credentials.
HELD = {"nodes": {"now": {"name": "nodes.g1", "password": PASSWORD}}}


class Fakes:
    """Stand-ins for the replicas and for _upstream.fetch_manifest. Each answer can be a function of the pod."""

    def __init__(self, *pods: str) -> None:
        self.pods = list(pods)
        self.clock = Clock()
        self.calls: list[tuple[Any, ...]] = []
        self.helper: Callable[[str], tuple[str, str]] = lambda pod: ("_token", f"{TOKEN}-{pod}")
        self.upstream: Callable[[str], str] = lambda pod: DIGEST
        self.hello: Callable[[str], None] = lambda pod: None
        self.registry: Callable[[str], tuple[int, bytes]] = lambda pod: (200, MANIFEST)

    def ready(self, label_selector: str) -> list[str]:
        assert label_selector == "app=cache"
        return self.pods

    def run_helper(self, pod: str, helper: str, host: str) -> tuple[str, str]:
        self.calls.append(("helper", pod, helper, host))
        return self.helper(pod)

    def ask_upstream(self, *arguments: Any) -> str:
        self.calls.append(("upstream", *arguments))
        return self.upstream(arguments[4].removeprefix(f"{TOKEN}-"))

    def require_http(self, pod: str) -> None:
        self.calls.append(("hello", pod))
        self.hello(pod)

    def fetch(self, pod: str, path: str, username: str | None, password: str | None) -> tuple[int, bytes]:
        self.calls.append(("registry", pod, path, username, password))
        return self.registry(pod)

    def verify_all(self, **params: Any) -> list[dict[str, str]]:
        image = image_reference.parse(IMAGE)
        return cache_upstream_verify.verify_all(self, image, {**PARAMS, **params}, "/ca", self.clock, self.clock.sleep)

    def steps(self) -> list[tuple[str, str]]:
        return [(call[0], call[1]) for call in self.calls if call[0] != "upstream"]

    def error(self, kind: type[Exception], **params: Any) -> str:
        with pytest.raises((TransientError, PermanentError)) as error:
            self.verify_all(**params)
        assert type(error.value) is kind
        assert TOKEN not in str(error.value) and PASSWORD not in str(error.value)
        return str(error.value)


def fails(error: Exception) -> Callable[[str], Any]:
    def answer(_pod: str) -> Any:
        raise error

    return answer


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    made = Fakes("cache-0", "cache-1")
    monkeypatch.setattr(_upstream, "fetch_manifest", made.ask_upstream)
    return made


# The steps


def test_success(fakes: Fakes) -> None:
    assert fakes.verify_all() == [{"pod": "cache-0", "digest": DIGEST}, {"pod": "cache-1", "digest": DIGEST}]
    assert fakes.calls == [
        call
        for pod in ("cache-0", "cache-1")
        for call in (
            ("helper", pod, "docker-credential-gcr", HOST),
            ("upstream", HOST, "p/r/i", "1.0", "_token", f"{TOKEN}-{pod}", "/ca"),
            ("hello", pod),
            ("registry", pod, "/v2/p/r/i/manifests/1.0", "nodes", PASSWORD),
        )
    ]
    assert fakes.clock.slept == []


def test_verify_asks_by_digest(fakes: Fakes) -> None:
    image = image_reference.parse(f"{HOST}/p/r/i:1.0@{DIGEST}")
    assert cache_upstream_verify.verify(fakes, "cache-1", image, PARAMS, None) == DIGEST
    assert fakes.calls[1][3] == DIGEST and fakes.calls[3][2] == f"/v2/p/r/i/manifests/{DIGEST}"


# Errors that are retried until the deadline


def test_helper_refusal(fakes: Fakes) -> None:
    fakes.helper = fails(TransientError(STS_WORDS))
    message = fakes.error(TransientError)
    assert "cache-0 gets no access token" in message and STS_WORDS in message
    assert sum(fakes.clock.slept) == 10 and fakes.steps() == [("helper", "cache-0")] * 6


def test_grant_refusal(fakes: Fakes) -> None:
    fakes.upstream = fails(_upstream.UpstreamError(GRANT_WORDS))
    message = fakes.error(TransientError)
    assert message == f"{HOST} returns no manifest for the credential of cache-0: {GRANT_WORDS}"
    # Each attempt uses a new credential, and does not request a manifest that may be cached.
    assert sum(fakes.clock.slept) == 10 and fakes.steps() == [("helper", "cache-0")] * 6


@pytest.mark.parametrize("timeout", [0, 1])
def test_one_attempt_without_time(fakes: Fakes, timeout: int) -> None:
    fakes.helper = fails(TransientError(STS_WORDS))
    fakes.error(TransientError, timeout=timeout)
    assert fakes.clock.slept == [] and len(fakes.calls) == 1


def test_only_the_second_replica_is_refused(fakes: Fakes) -> None:
    def upstream(pod: str) -> str:
        if pod == "cache-1":
            raise _upstream.UpstreamError(GRANT_WORDS)
        return DIGEST

    fakes.upstream = upstream
    assert "cache-1" in fakes.error(TransientError)
    assert fakes.steps().count(("helper", "cache-0")) == 1 and fakes.steps().count(("helper", "cache-1")) == 6


def test_replicas_share_one_deadline(fakes: Fakes) -> None:
    left = {"cache-0": 3, "cache-1": 99}

    def upstream(pod: str) -> str:
        left[pod] -= 1
        if left[pod] >= 0:
            raise _upstream.UpstreamError(GRANT_WORDS)
        return DIGEST

    fakes.upstream = upstream
    assert "cache-1" in fakes.error(TransientError)
    assert sum(fakes.clock.slept) == 10


@pytest.mark.parametrize("step", ["helper", "upstream", "hello", "registry"])
def test_recovers(fakes: Fakes, step: str) -> None:
    error = _upstream.UpstreamError(GRANT_WORDS) if step == "upstream" else TransientError("not yet")
    errors, good = [error] * 3, getattr(fakes, step)

    def answer(pod: str) -> Any:
        if errors:
            raise errors.pop()
        return good(pod)

    setattr(fakes, step, answer)
    assert [one["pod"] for one in fakes.verify_all()] == ["cache-0", "cache-1"]
    assert len(fakes.clock.slept) == 3


def test_nothing_is_fetched_without_an_answer_to_the_tls_hello(fakes: Fakes) -> None:
    """The password of the cache's user is not sent either."""
    fakes.hello = fails(PermanentError("port 5000 speaks TLS"))
    assert fakes.error(PermanentError) == "cache-0: port 5000 speaks TLS"
    assert fakes.clock.slept == [] and fakes.steps() == [("helper", "cache-0"), ("hello", "cache-0")]


def test_digest_mismatch(fakes: Fakes) -> None:
    other = "sha256:" + hashlib.sha256(b"other").hexdigest()
    fakes.registry = lambda pod: (200, b"other")
    message = fakes.error(TransientError)
    assert message == f"cache-0 serves {other}, but the upstream has {DIGEST}"
    assert sum(fakes.clock.slept) == 10


def test_registry_refusal(fakes: Fakes) -> None:
    fakes.registry = lambda pod: (404, b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}')
    message = fakes.error(TransientError)
    assert "the upstream has it, but cache-0 answers HTTP 404: manifest unknown" in message
    assert sum(fakes.clock.slept) == 10


def test_registry_without_answer(fakes: Fakes) -> None:
    fakes.registry = fails(TransientError("no answer from its registry (reset)"))
    assert fakes.error(TransientError) == "cache-0: no answer from its registry (reset)"


# Errors that waiting does not fix


def test_pods_that_are_not_ready(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes, "ready", fails(PermanentError("not ready in namespace registry-cache: cache-1")))
    assert "cache-1" in fakes.error(PermanentError) and fakes.clock.slept == []


def test_upstream_does_not_have_the_image(fakes: Fakes) -> None:
    fakes.upstream = fails(_upstream.NotFoundError('HTTP 404: Failed to fetch "1.0"'))
    assert fakes.error(PermanentError) == f'{HOST} does not have the image: HTTP 404: Failed to fetch "1.0"'
    assert fakes.clock.slept == [] and len(fakes.calls) == 2


def test_no_stream_to_the_registry(fakes: Fakes) -> None:
    fakes.registry = fails(PermanentError("the API server refuses the stream to it"))
    assert fakes.error(PermanentError) == "cache-0: the API server refuses the stream to it"
    assert fakes.clock.slept == []


def test_cache_refuses_its_user(fakes: Fakes) -> None:
    fakes.registry = lambda pod: (401, b'{"errors": [{"message": "authentication required"}]}')
    message = fakes.error(TransientError)
    assert "cache-0" in message and "user nodes" in message and "HTTP 401: authentication required" in message
    assert fakes.clock.slept  # a new htpasswd file needs some time to reach the pod


def test_helper_that_cannot_be_run(fakes: Fakes) -> None:
    fakes.helper = fails(PermanentError("docker-credential-gcr cannot be run"))
    assert "cache-0 gets no access token: docker-credential-gcr cannot be run" in fakes.error(PermanentError)
    assert fakes.clock.slept == [] and len(fakes.calls) == 1


# The module


def module(**arguments: Any) -> dict[str, Any]:
    given = {"namespace": "registry-cache", "label_selector": "app=cache", "image": IMAGE, "timeout": 0}
    merged = {"name": "registry-cache", **given, **arguments}
    return run("cache_upstream_verify", with_secrets=True, **{name: value for name, value in merged.items() if value is not None})


@pytest.fixture
def cluster(fakes: Fakes, server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    client = server.client()
    monkeypatch.setattr(runner, "connect", lambda module: client)
    server.hold(json.dumps(HELD))

    def replicas(*arguments: Any) -> Fakes:
        assert arguments == (client, "registry-cache", "registry", 5000)
        return fakes

    monkeypatch.setattr(cache_upstream_verify, "Replicas", replicas)
    return fakes


def test_module_success(cluster: Fakes) -> None:
    result = module()
    replicas = [{"pod": "cache-0", "digest": DIGEST}, {"pod": "cache-1", "digest": DIGEST}]
    assert result == {"changed": False, "replicas": replicas}
    assert cluster.calls[1][-1] is None


def test_module_refused(cluster: Fakes) -> None:
    cluster.helper = fails(TransientError(STS_WORDS))
    result = module()
    assert result["failed"] and result["msg"] == f"{IMAGE}, tried for 0 s: cache-0 gets no access token: {STS_WORDS}."


def test_module_permanent_error(cluster: Fakes) -> None:
    cluster.helper = fails(PermanentError("docker-credential-gcr cannot be run"))
    result = module(timeout=300)
    assert result["failed"] and result["msg"].startswith(f"{IMAGE}: cache-0 gets no access token")
    assert TOKEN not in json.dumps(result) and PASSWORD not in json.dumps(result)


@pytest.mark.parametrize("error", [errors.of_response("h", 403, "Forbidden", "{}"), errors.UnreachableError("Forbidden")])
def test_module_without_cluster(cluster: Fakes, error: Exception) -> None:
    cluster.helper = fails(error)
    result = module()
    assert result["failed"] and "Forbidden" in result["msg"] and TOKEN not in result["msg"]


def test_module_with_a_missing_ca_file_in_the_environment(cluster: Fakes) -> None:
    """The error of requests for REQUESTS_CA_BUNDLE."""
    cluster.upstream = fails(OSError("Could not find a suitable TLS CA certificate bundle, invalid path: /no/such.pem"))
    result = module(timeout=300)
    assert result["failed"] and result["msg"].startswith(f"{IMAGE}: ") and "/no/such.pem" in result["msg"]


def test_module_names_the_image_only_in_its_own_errors(cluster: Fakes) -> None:
    cluster.helper = fails(ValueError("something else"))
    with pytest.raises(ValueError, match="something else"):
        module()


def test_module_malformed_image(cluster: Fakes) -> None:
    result = module(image="Not an image")
    assert result["failed"] and result["msg"].startswith("image: 'Not an image'") and "Example" in result["msg"]
    assert cluster.calls == []


def test_module_authenticates_as_a_user_with_a_known_password(cluster: Fakes, server: ApiServer) -> None:
    assert "replicas" in module()
    assert cluster.calls[3][-2:] == ("nodes.g1", PASSWORD)
    server.hold(json.dumps({"a": {"now": {"name": "a", "hash": "x"}}, **HELD}))
    del cluster.calls[:]
    assert "replicas" in module() and cluster.calls[3][-2:] == ("nodes.g1", PASSWORD)


@pytest.mark.parametrize("held", [{}, {"a": {"now": {"name": "a", "hash": "x"}}}, {"a": 1}])
def test_module_without_a_known_password(cluster: Fakes, server: ApiServer, held: Any) -> None:
    server.hold(json.dumps(held))
    result = module()
    assert result["failed"] and "Secret registry-cache-passwords" in result["msg"] and "site.yml" in result["msg"] and cluster.calls == []


def test_module_without_user(cluster: Fakes) -> None:
    assert "replicas" in module(name=None)
    assert cluster.calls[3][-2:] == (None, None)


def test_module_adds_ca_to_the_default_ones(
    cluster: Fakes, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    usual, own = tmp_path / "usual.pem", tmp_path / "own.pem"
    usual.write_text("usual")
    own.write_text("own")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(usual))
    paths, texts = [], []

    def ask(*arguments: Any) -> str:
        paths.append(pathlib.Path(arguments[5]))
        texts.append(paths[-1].read_text())
        return DIGEST

    monkeypatch.setattr(_upstream, "fetch_manifest", ask)
    module(ca_path=str(own))
    assert texts == ["usual\nown\n"] * 2
    assert not any(path.exists() for path in paths) and usual.exists() and own.exists()


def test_module_missing_ca(cluster: Fakes, tmp_path: pathlib.Path) -> None:
    result = module(ca_path=str(tmp_path / "absent.pem"))
    assert result["failed"] and "absent.pem" in result["msg"]
