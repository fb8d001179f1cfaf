# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters image_reference, cache_reference and dockerconfigjson."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.pullthrough.registry_cache.plugins.filter import cache_reference as cache_reference_plugin
from ansible_collections.pullthrough.registry_cache.plugins.filter import dockerconfigjson as dockerconfigjson_plugin
from ansible_collections.pullthrough.registry_cache.plugins.filter import image_reference as image_reference_plugin
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import reference as _image_reference

image_reference = image_reference_plugin.FilterModule().filters()["image_reference"]
cache_reference = cache_reference_plugin.FilterModule().filters()["cache_reference"]
dockerconfigjson = dockerconfigjson_plugin.FilterModule().filters()["dockerconfigjson"]

SHA256, SHA384, SHA512 = "sha256:" + "0a" * 32, "sha384:" + "0c" * 48, "sha512:" + "0b" * 64
GAR = "us-central1-docker.pkg.dev"


@pytest.mark.parametrize(
    ("reference", "registry", "repository", "tag", "digest"),
    [
        ("us-central1-docker.pkg.dev/p/r/i:1.0", "us-central1-docker.pkg.dev", "p/r/i", "1.0", None),
        ("us-central1-docker.pkg.dev/p/r/i", "us-central1-docker.pkg.dev", "p/r/i", None, None),
        ("gcr.io/p/i__x/y-z--a/b.c:_T.a-G", "gcr.io", "p/i__x/y-z--a/b.c", "_T.a-G", None),
        ("alpine", "docker.io", "library/alpine", None, None),
        ("alpine:3", "docker.io", "library/alpine", "3", None),
        ("docker.io/alpine:3", "docker.io", "library/alpine", "3", None),
        ("grafana/grafana", "docker.io", "grafana/grafana", None, None),
        ("localhost/i", "localhost", "i", None, None),
        ("localhost:30026/p/i:1", "localhost:30026", "p/i", "1", None),
        ("cache:5000/i", "cache:5000", "i", None, None),
        ("Cache/i", "Cache", "i", None, None),
        ("127.0.0.1:5000/i", "127.0.0.1:5000", "i", None, None),
        ("[::1]:5000/i:1", "[::1]:5000", "i", "1", None),
        (f"gcr.io/p/i@{SHA256}", "gcr.io", "p/i", None, SHA256),
        (f"gcr.io/p/i:1@{SHA256}", "gcr.io", "p/i", "1", SHA256),
        (f"localhost:5000/i:1@{SHA512}", "localhost:5000", "i", "1", SHA512),
        (f"alpine@{SHA256}", "docker.io", "library/alpine", None, SHA256),
        (f"gcr.io/p/i@{SHA384}", "gcr.io", "p/i", None, SHA384),
        ("index.docker.io/ubuntu", "docker.io", "library/ubuntu", None, None),
        ("index.docker.io/grafana/grafana:1", "docker.io", "grafana/grafana", "1", None),
        ("ubuntu/index.docker.io", "docker.io", "ubuntu/index.docker.io", None, None),
        (f"{'a' * 64}:1", "docker.io", f"library/{'a' * 64}", "1", None),
        (f"gcr.io/{'a' * 64}", "gcr.io", "a" * 64, None, None),
        (f"gcr.io/{'a' * 255}", "gcr.io", "a" * 255, None, None),
        ("a" * 247, "docker.io", f"library/{'a' * 247}", None, None),
        ("gcr.io/i:" + "t" * 128, "gcr.io", "i", "t" * 128, None),
    ],
)
def test_parts(reference: str, registry: str, repository: str, tag: str | None, digest: str | None) -> None:
    parts = image_reference(reference)
    assert parts == {"registry": registry, "repository": repository, "tag": tag, "digest": digest}
    assert type(parts) is dict
    assert _image_reference.parse(reference).version == (digest or tag or "latest")


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "gcr.io/",
        "/i",
        "gcr.io//i",
        "gcr.io/p/I:1",
        "Alpine",
        "https://gcr.io/p/i",
        "gcr.io/p/i:",
        "gcr.io/p/i:-t",
        "gcr.io/p/i:" + "t" * 129,
        "gcr.io/p/i@",
        "gcr.io/p/i@sha256:0a",
        f"gcr.io/p/i@{SHA256}0",
        f"gcr.io/p/i@{SHA256.upper()}",
        f"gcr.io/p/i@{SHA256}:1",
        "gcr.io/p/i..j",
        "gcr.io/p/-i",
        "gcr.io/p/i ",
        " gcr.io/p/i",
        "gcr.io/p/i:1\n",
        "gcr.io/p/é",
        "gcr.io:port/i",
        "a" * 64,
        "foo..bar/x",
        "a.-b/x",
        "a_b.c/x",
        f"gcr.io/p/i@sha1:{'0a' * 20}",
        f"gcr.io/p/i@sha384:{'0a' * 32}",
    ],
)
def test_malformed(reference: str) -> None:
    with pytest.raises(AnsibleFilterError) as error:
        image_reference(reference)
    assert f"'{reference}' is not a valid image reference" in str(error.value)
    assert f"Example: {_image_reference.EXAMPLE}" in str(error.value)


@pytest.mark.parametrize("reference", [f"gcr.io/{'a' * 256}", "a" * 248, f"index.docker.io/{'a' * 248}", f"gcr.io/{'a/' * 127}aa:1"])
def test_a_repository_of_more_than_255_characters(reference: str) -> None:
    with pytest.raises(AnsibleFilterError, match=r"255 characters \(got 256\)\. Example: "):
        image_reference(reference)


@pytest.mark.parametrize("value", [None, 5, ["alpine"], {"image": "alpine"}, b"alpine"])
def test_not_a_string(value: Any) -> None:
    with pytest.raises(AnsibleFilterError) as error:
        image_reference(value)
    assert f"must be a string (got {type(value).__name__}). Example: {_image_reference.EXAMPLE}" in str(error.value)


def test_example_is_a_reference() -> None:
    assert image_reference(_image_reference.EXAMPLE)["tag"] == "1.0"


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("us-central1-docker.pkg.dev/p/r/i:1.0", "localhost:30026/p/r/i:1.0"),
        ("US-central1-docker.pkg.dev/p/r/i:1.0", "localhost:30026/p/r/i:1.0"),
        ("us-central1-docker.pkg.dev/p/r/i", "localhost:30026/p/r/i"),
        (f"us-central1-docker.pkg.dev/p/r/i@{SHA256}", f"localhost:30026/p/r/i@{SHA256}"),
        (f"us-central1-docker.pkg.dev/p/r/i:1.0@{SHA256}", f"localhost:30026/p/r/i:1.0@{SHA256}"),
        ("alpine:3", "localhost:30026/library/alpine:3"),
        ("index.docker.io/alpine:3", "localhost:30026/library/alpine:3"),
        ("localhost:30026/p/r/i:1.0", "localhost:30026/p/r/i:1.0"),
    ],
)
@pytest.mark.parametrize("upstreams", [[GAR, "docker.io"], [{"host": GAR, "repositories": ["p/r"]}, "index.docker.io"]])
def test_cache_reference(reference: str, expected: str, upstreams: list[Any]) -> None:
    assert cache_reference(reference, upstreams) == expected
    endpoint = "cache.example.com"
    ours = reference.replace("localhost:30026", endpoint)
    assert cache_reference(ours, upstreams, endpoint) == expected.replace("localhost:30026", endpoint)


@pytest.mark.parametrize("reference", ["alpine", "gcr.io/p/i:1", "eu-docker.pkg.dev/p/r/i", "localhost:30027/p/i", f"{GAR}:443/p/i"])
def test_cache_reference_of_another_registry(reference: str) -> None:
    with pytest.raises(AnsibleFilterError) as error:
        cache_reference(reference, [GAR])
    for part in (f"'{reference}' is in registry ", f"({GAR})", f"Example: {GAR}/"):
        assert part in str(error.value)


@pytest.mark.parametrize("upstreams", [None, [], GAR, {"host": GAR}, [None], [{"repositories": []}], [{"host": f"https://{GAR}"}], [5]])
def test_cache_reference_without_upstreams(upstreams: Any) -> None:
    with pytest.raises(AnsibleFilterError) as error:
        cache_reference(f"{GAR}/p/r/i", upstreams)
    assert "upstreams" in str(error.value) and f"Example: upstreams=['{GAR}']" in str(error.value)


@pytest.mark.parametrize("value", [None, 5, ["alpine"], "Not an image"])
def test_cache_reference_malformed(value: Any) -> None:
    with pytest.raises(AnsibleFilterError) as error:
        cache_reference(value, [GAR])
    assert f"Example: {_image_reference.EXAMPLE}" in str(error.value)


@pytest.mark.parametrize("endpoint", ["", "http://localhost:30026", "localhost:30026/", "cache/p", "a..b", None, "a b"])
def test_cache_reference_malformed_endpoint(endpoint: Any) -> None:
    with pytest.raises(AnsibleFilterError) as error:
        cache_reference(f"{GAR}/p/r/i", [GAR], endpoint)
    assert f"'{endpoint}'" in str(error.value) and "Example: endpoint='localhost:30026'" in str(error.value)


def test_dockerconfigjson() -> None:
    text = dockerconfigjson(["localhost:30026", "cache.example.com"], "nodes", "päss:word")
    auth = base64.b64encode("nodes:päss:word".encode()).decode()
    entry = {"username": "nodes", "password": "päss:word", "auth": auth}
    assert json.loads(text) == {"auths": {"localhost:30026": entry, "cache.example.com": entry}}


def test_dockerconfigjson_is_stable() -> None:
    text = dockerconfigjson(["b", "a", "c"], "nodes", "x")
    assert text == dockerconfigjson(["c", "b", "a"], "nodes", "x") == dockerconfigjson(["a", "b", "c", "a"], "nodes", "x")
    entry = '{"auth": "bm9kZXM6eA==", "password": "x", "username": "nodes"}'
    assert text == f'{{"auths": {{"a": {entry}, "b": {entry}, "c": {entry}}}}}'


@pytest.mark.parametrize("hosts", ["localhost:30026", "", [], None, {"localhost:30026": 1}, [None], [""], [5], ["a", None], 5])
def test_dockerconfigjson_needs_a_list(hosts: Any) -> None:
    with pytest.raises(AnsibleFilterError) as error:
        dockerconfigjson(hosts, "nodes", "secret-password")
    assert "list of hosts" in str(error.value) and "Example: ['localhost:30026']" in str(error.value)
    assert "secret-password" not in str(error.value)


@pytest.mark.parametrize("username", [None, "", "team:ci", 5, True, ["nodes"], {"name": "nodes"}, b"nodes"])
def test_dockerconfigjson_with_a_wrong_user(username: Any) -> None:
    with pytest.raises(AnsibleFilterError) as error:
        dockerconfigjson(["localhost:30026"], username, "secret-password")
    assert "username must be" in str(error.value) and "Example: username='nodes'" in str(error.value)
    assert "secret-password" not in str(error.value)


@pytest.mark.parametrize("password", [None, "", 12345, True, ["12345"], {"secret": "12345"}, b"12345"])
def test_dockerconfigjson_with_a_wrong_password(password: Any) -> None:
    with pytest.raises(AnsibleFilterError) as error:
        dockerconfigjson(["localhost:30026"], "nodes", password)
    assert "password must be" in str(error.value) and "Example: password=vault_password" in str(error.value)
    assert "12345" not in str(error.value)


def test_dockerconfigjson_accepts_an_inline_vault() -> None:
    """Before ansible-core 2.19 such a value is no str."""

    class Encrypted:
        __ENCRYPTED__ = True

        def __str__(self) -> str:
            return "x"

    assert dockerconfigjson(["a"], "nodes", Encrypted()) == dockerconfigjson(["a"], "nodes", "x")
