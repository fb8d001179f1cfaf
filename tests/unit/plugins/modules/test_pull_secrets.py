# SPDX-License-Identifier: GPL-3.0-or-later
"""Module pull_secrets against an API server in this process."""

from __future__ import annotations

import base64
import copy
import json
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pullthrough.registry_cache.plugins.module_utils import _dockerconfigjson, _pull_secrets

from tests.unit.plugins.kubernetes_api import ApiServer, Refusal
from tests.unit.plugins.module_runner import run

HOSTS = ["localhost:30026", "127.0.0.1:30026"]
PASSWORD = "correct-horse-battery"
LABELS = {
    "app.kubernetes.io/name": "registry-cache",
    "app.kubernetes.io/instance": "registry-cache",
    "app.kubernetes.io/part-of": "registry-cache",
    "app.kubernetes.io/managed-by": "pullthrough.registry_cache",
}


@pytest.fixture
def server(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # kubernetes.core keeps what it discovers there
    monkeypatch.setenv("HOME", str(tmp_path))
    running = ApiServer()
    for name, team in (("default", "a"), ("dev", "a"), ("prod", "b"), ("kube-system", "")):
        running.namespace(name, team=team)
    yield running
    running.close()


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the module warns of; where the controller is loaded, that would go to its display."""
    texts: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _self, text: texts.append(text))
    return texts


def secret(**options: Any) -> dict[str, Any]:
    if not {"namespaces", "namespace_selector", "all_namespaces_but"} & options.keys():
        options["namespaces"] = ["default"]
    return {"name": "registry-cache", "hosts": HOSTS, "username": "nodes", "password": PASSWORD, **options}


def ensure(server: ApiServer, *secrets: dict[str, Any], check: bool = False, **options: Any) -> dict[str, Any]:
    server.seen.clear()
    if secrets:
        options["secrets"] = list(secrets)
    result = run("pull_secrets", check=check, host=server.url, api_key="cluster-token", **options)
    text = json.dumps({name: value for name, value in result.items() if name != "invocation"})
    for hidden in (PASSWORD, base64.b64encode(PASSWORD.encode()).decode(), "cluster-token", "eyJ"):
        assert hidden not in text
    return result


def story(server: ApiServer, *secrets: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Check says changed and changes nothing, apply says the same, and a repeat and a check say unchanged."""
    before = copy.deepcopy(server.objects)
    checked = ensure(server, *secrets, check=True, **options)
    assert checked.get("changed"), checked
    assert server.objects == before and server.writes == []
    applied = ensure(server, *secrets, **options)
    assert {**applied, "invocation": 0} == {**checked, "invocation": 0}
    for check in (False, True):
        again = ensure(server, *secrets, check=check, **options)
        assert not again["changed"] and again["diff"] == {"before": "", "after": ""} and server.writes == []
    return applied


def refused(server: ApiServer, *secrets: dict[str, Any], **options: Any) -> str:
    """The message of a run that changes nothing."""
    before = copy.deepcopy(server.objects)
    result = ensure(server, *secrets, **options)
    assert result["failed"] and server.objects == before and server.writes == []
    return result["msg"]


def content(server: ApiServer, name: str) -> Any:
    return json.loads(base64.b64decode(server.secrets()[name]["data"][".dockerconfigjson"]))


def test_from_nothing(server: ApiServer) -> None:
    result = story(server, secret(namespaces=["default", "prod"]))
    assert result["created"] == ["default/registry-cache", "prod/registry-cache"]
    assert sorted(server.secrets()) == result["created"]
    made = server.secrets()["prod/registry-cache"]
    assert made["type"] == "kubernetes.io/dockerconfigjson" and made["metadata"]["labels"] == LABELS
    auth = base64.b64encode(f"nodes:{PASSWORD}".encode()).decode()
    entry = {"username": "nodes", "password": PASSWORD, "auth": auth}
    assert content(server, "prod/registry-cache") == {"auths": dict.fromkeys(HOSTS, entry)}
    hosts = "127.0.0.1:30026, localhost:30026"
    assert result["diff"] == {"before": "", "after": f"default/registry-cache: {hosts}\nprod/registry-cache: {hosts}\n"}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"namespaces": ["prod"]}, {"prod"}),
        ({"namespaces": ["prod", "prod"]}, {"prod"}),
        ({"namespace_selector": "team=a"}, {"default", "dev"}),
        ({"namespace_selector": "team!=a"}, {"prod", "kube-system"}),
        ({"all_namespaces_but": ["kube-system", "no-such"]}, {"default", "dev", "prod"}),
        ({"all_namespaces_but": []}, {"default", "dev", "prod", "kube-system"}),
    ],
)
def test_namespaces(server: ApiServer, choice: dict[str, Any], expected: set[str]) -> None:
    server.namespace("leaving", leaving=True, team="a")
    story(server, secret(**choice))
    assert set(server.secrets()) == {f"{name}/registry-cache" for name in expected}


def test_namespaces_that_no_longer_match_lose_ours(server: ApiServer) -> None:
    ensure(server, secret(all_namespaces_but=[]))
    result = story(server, secret(namespace_selector="team=a"))
    assert result["removed"] == ["kube-system/registry-cache", "prod/registry-cache"] and result["unchanged"] == 2
    assert set(server.secrets()) == {"default/registry-cache", "dev/registry-cache"}
    assert story(server, secret(namespaces=[]))["removed"] == ["default/registry-cache", "dev/registry-cache"]


def test_a_namespace_made_later_is_covered_by_a_rerun(server: ApiServer) -> None:
    ensure(server, secret(namespace_selector="team=a"))
    server.namespace("later", team="a")
    assert story(server, secret(namespace_selector="team=a"))["created"] == ["later/registry-cache"]


def test_absent(server: ApiServer) -> None:
    ensure(server, secret(all_namespaces_but=[], service_accounts=["default"]))
    others = ensure(server, secret(name="other"), instance="other")
    assert others["created"] == ["default/other"]
    result = story(server, state="absent")
    assert len(result["removed"]) == len(result["detached"]) == 4
    assert list(server.secrets()) == ["default/other"]
    assert server.bound("prod") == []


@pytest.mark.parametrize("options", [{"password": "another-password"}, {"username": "team"}, {"hosts": [*HOSTS, "cache:5000"]}])
def test_another_credential_or_host_is_written(server: ApiServer, options: dict[str, Any]) -> None:
    ensure(server, secret())
    result = story(server, secret(**options))
    assert result["updated"] == ["default/registry-cache"]
    assert set(content(server, "default/registry-cache")["auths"]) == set(options.get("hosts", HOSTS))
    assert "another-password" not in json.dumps(result["diff"])
    assert ("(credential replaced)" in result["diff"]["after"]) == ("hosts" not in options)


def test_what_others_changed_in_ours(server: ApiServer) -> None:
    ensure(server, secret(namespaces=["default", "dev", "prod"]))
    ours = server.secrets()
    ours["default/registry-cache"]["data"] = {".dockerconfigjson": base64.b64encode(b"no json").decode()}
    del ours["dev/registry-cache"]["metadata"]["labels"]["app.kubernetes.io/part-of"]
    ours["prod/registry-cache"]["metadata"]["labels"]["argocd"] = "theirs"
    result = story(server, secret(namespaces=["default", "dev", "prod"]))
    assert result["updated"] == ["default/registry-cache", "dev/registry-cache"]
    assert server.secrets()["prod/registry-cache"]["metadata"]["labels"]["argocd"] == "theirs"


def test_a_secret_as_the_role_made_it_before_is_ours(server: ApiServer) -> None:
    text = _dockerconfigjson.render(HOSTS, "nodes", PASSWORD)
    data = {".dockerconfigjson": base64.b64encode(text.encode()).decode()}
    server.add("secrets", "default", "registry-cache", type="kubernetes.io/dockerconfigjson", metadata={"labels": LABELS}, data=data)
    assert not ensure(server, secret())["changed"]


def copy_of(source: str) -> dict[str, Any]:
    """A Secret as reflector makes it."""
    annotations = {f"reflector.v1.k8s.emberstack.com/{name}": value for name, value in (("reflects", source), ("auto-reflects", "True"))}
    data = {".dockerconfigjson": base64.b64encode(b"{}").decode()}
    return {"type": "kubernetes.io/dockerconfigjson", "metadata": {"annotations": annotations}, "data": data}


def test_a_copy_that_reflector_made_is_taken_over(server: ApiServer) -> None:
    labels = {**LABELS, "app.kubernetes.io/component": "pull-secret-source"}
    source = {"metadata": {"labels": labels}, "type": "kubernetes.io/dockerconfigjson"}
    server.namespace("registry-cache")
    server.add("secrets", "registry-cache", "registry-cache", **source)
    del server.add("secrets", "default", "registry-cache", **copy_of("registry-cache/registry-cache"))["metadata"]["labels"]
    wanted = {"reflected_from": "registry-cache"}
    assert story(server, secret(namespaces=["default", "dev"]), **wanted)["updated"] == ["default/registry-cache"]
    taken = server.secrets()["default/registry-cache"]["metadata"]
    assert taken["labels"] == LABELS and not taken["annotations"]
    assert "nodes" in content(server, "default/registry-cache")["auths"]["localhost:30026"]["username"]
    # The source is neither a pull secret nor removed as one.
    story(server, state="absent", **wanted)
    assert set(server.secrets()) == {"registry-cache/registry-cache"}
    assert "registry-cache/registry-cache" in refused(server, secret(namespaces=["registry-cache"]), **wanted)


@pytest.mark.parametrize(
    ("source", "options"),
    [("registry-cache/registry-cache", {}), ("other/registry-cache", {"reflected_from": "registry-cache"})],
)
def test_a_copy_of_something_else_is_not(server: ApiServer, source: str, options: dict[str, str]) -> None:
    server.add("secrets", "default", "registry-cache", **copy_of(source))
    assert "there is another Secret default/registry-cache" in refused(server, secret(), **options)


class TestServiceAccounts:
    def test_attach_and_detach(self, server: ApiServer) -> None:
        server.bind("default", "theirs")
        names = ["default", "prod"]
        result = story(server, secret(namespaces=names, service_accounts=["default"]))
        assert result["attached"] == ["default/default/registry-cache", "prod/default/registry-cache"]
        assert server.bound("default") == ["theirs", "registry-cache"] and server.bound("dev") == []
        assert "prod/default/registry-cache in imagePullSecrets" in result["diff"]["after"]
        result = story(server, secret(namespaces=names))
        assert result["detached"] == ["default/default/registry-cache", "prod/default/registry-cache"]
        assert server.bound("default") == ["theirs"] and server.bound("prod") == []
        # From here on it is theirs.
        assert not server.secrets()["prod/registry-cache"]["metadata"]["annotations"]
        server.bind("prod", "registry-cache")
        assert not ensure(server, secret(namespaces=names))["changed"]

    def test_what_somebody_attached_by_hand_stays(self, server: ApiServer) -> None:
        server.bind("default", "registry-cache")
        assert story(server, secret(service_accounts=["default"]))["attached"] == []
        story(server, state="absent")
        assert server.bound("default") == ["registry-cache"]

    def test_what_somebody_took_away_comes_back(self, server: ApiServer) -> None:
        ensure(server, secret(service_accounts=["default"]))
        server.bind("default")
        result = story(server, secret(service_accounts=["default"]))
        assert result["attached"] == ["default/default/registry-cache"] and result["updated"] == []

    @pytest.mark.parametrize("options", [{}, {"state": "absent"}])
    def test_what_somebody_attaches_meanwhile(self, server: ApiServer, options: dict[str, str]) -> None:
        if options:
            ensure(server, secret(service_accounts=["default"]))
        else:
            options = {"secrets": [secret(service_accounts=["default"])]}
        times = 2

        def attach(method: str, path: str) -> None:
            nonlocal times
            if method == "PATCH" and path.endswith("/default") and times:
                times -= 1
                server.bind("default", *server.bound("default"), f"theirs-{times}")

        server.hook = attach
        assert ensure(server, **options)["changed"]
        theirs = {"theirs-0", "theirs-1"}
        assert set(server.bound("default")) == (theirs if "state" in options else {*theirs, "registry-cache"})

    def test_one_that_is_always_changed_meanwhile(self, server: ApiServer) -> None:
        def attach(method: str, path: str) -> None:
            if method == "PATCH" and path.endswith("/default"):
                server.bind("default", "theirs")

        server.hook = attach
        assert "HTTP 409" in ensure(server, secret(service_accounts=["default"]))["msg"]

    def test_two_secrets_for_the_same(self, server: ApiServer) -> None:
        names = [f"team-{number}" for number in range(8)]
        story(server, *(secret(name=name, service_accounts=["default"]) for name in names))
        assert sorted(server.bound("default")) == names

    def test_are_not_asked_for_unless_wanted(self, server: ApiServer) -> None:
        ensure(server, secret())
        assert ("GET", "/api/v1/serviceaccounts") not in server.asked

    def test_one_that_is_not_there(self, server: ApiServer, warned: list[str]) -> None:
        server.add("serviceaccounts", "prod", "builder")
        secrets = secret(namespaces=["default", "prod"], service_accounts=["builder"])
        result = ensure(server, secrets)
        assert result["attached"] == ["prod/builder/registry-cache"]
        assert warned == ["service_accounts: there is no builder in default; once it is there, run again."]
        server.add("serviceaccounts", "default", "builder")
        assert story(server, secrets)["attached"] == ["default/builder/registry-cache"]

    @pytest.mark.parametrize("times", [1, 2])
    def test_a_run_that_died_between_its_writes(self, server: ApiServer, times: int) -> None:
        def die(method: str, _path: str) -> None:
            nonlocal times
            times -= method != "GET"
            if times < 0:
                raise Refusal(500, "etcd is out")

        secrets = [secret(name=name, service_accounts=["default"]) for name in ("one", "two")]
        server.hook = die
        assert ensure(server, *secrets)["failed"]
        server.hook = lambda _method, _path: None
        ensure(server, *secrets)
        assert sorted(server.bound("default")) == ["one", "two"]
        story(server, state="absent")
        assert server.bound("default") == []


def test_users_of_their_own_namespaces_and_names(server: ApiServer) -> None:
    secrets = [
        secret(username="a", namespace_selector="team=a"),
        secret(username="b", namespaces=["prod"]),
        secret(username="c", namespaces=["prod"], name="c"),
    ]
    result = story(server, *secrets)
    assert result["created"] == ["default/registry-cache", "dev/registry-cache", "prod/c", "prod/registry-cache"]
    assert content(server, "dev/registry-cache")["auths"]["localhost:30026"]["username"] == "a"
    assert content(server, "prod/registry-cache")["auths"]["localhost:30026"]["username"] == "b"
    # A user who left.
    assert story(server, *secrets[:2])["removed"] == ["prod/c"]


def test_each_kind_is_listed_once_and_only_differences_are_written(server: ApiServer) -> None:
    for number in range(200):
        server.namespace(f"many-{number}", team="many")
    ensure(server, secret(all_namespaces_but=[], service_accounts=["default"]))
    assert len(server.writes) == 2 * 204
    lists = ["/api/v1/namespaces", "/api/v1/secrets", "/api/v1/secrets", "/api/v1/serviceaccounts"]
    assert sorted(path for method, path in server.asked if method == "GET") == lists
    ensure(server, secret(all_namespaces_but=[], service_accounts=["default"]))
    assert sorted(server.asked) == [("GET", path) for path in lists]
    server.secrets()["many-7/registry-cache"]["data"] = {}
    ensure(server, secret(all_namespaces_but=[], service_accounts=["default"]))
    assert server.writes == [("PATCH", "/api/v1/namespaces/many-7/secrets/registry-cache")]


def test_the_content_of_others_is_not_read(server: ApiServer) -> None:
    ensure(server, secret())
    lists = [(path, query) for method, path, query, accept in server.seen if method == "GET" and "PartialObjectMetadataList" in accept]
    assert ("/api/v1/namespaces", {}) in lists
    assert ("/api/v1/secrets", {"fieldSelector": "metadata.name=registry-cache"}) in lists


def test_writes_run_side_by_side(server: ApiServer) -> None:
    meeting = threading.Barrier(4)

    def meet(method: str, _path: str) -> None:
        if method == "POST":
            meeting.wait(timeout=10)

    server.hook = meet
    assert len(ensure(server, secret(all_namespaces_but=[]))["created"]) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"namespaces": ["default", "no-such"]}, ("namespaces: there is no namespace no-such", "Example: namespaces: [default]")),
        ({"namespaces": ["leaving"]}, ("namespaces: namespace leaving is being deleted", "run again")),
        ({"namespace_selector": "team==(a"}, ("namespace_selector: 'team==(a' is no label selector (HTTP 400", "team=a")),
        ({"namespace_selector": " "}, ("namespace_selector: it is empty", "all_namespaces_but: []")),
        ({"name": "Registry"}, ("name: 'Registry' must have", "Example: name: registry-cache")),
        ({"name": "x" * 64}, ("name: 'xxx", "63")),
        ({"hosts": ["https://localhost:30026"]}, ("hosts: 'https://localhost:30026' must be a host", "Example: hosts")),
        ({"hosts": []}, ("hosts: user 'nodes' has none", "Example: hosts")),
        ({"hosts": [f"host-{number}.example.com" for number in range(12000)]}, ("hosts: the 12000 hosts", "1 MiB", "fewer")),
        ({"username": "a:b"}, ("username", "'a:b'", "colon")),
        ({"username": ""}, ("username", "must not be empty")),
        ({"password": ""}, ("password", "user 'nodes' has no password")),
        ({"password": "é" * 37}, ("password", "72 bytes", "Choose a shorter one")),
        ({"password": "a\0b"}, ("password", "NUL", "Choose one without")),
        ({"password": "a\nb"}, ("password", "line break", "Choose one without")),
    ],
)
def test_bad_input(server: ApiServer, options: dict[str, Any], words: tuple[str, ...]) -> None:
    server.namespace("leaving", leaving=True)
    message = refused(server, secret(**options))
    assert all(part in message for part in words), message
    assert message.endswith(". Nothing was changed.") and "\n" not in message
    if options.get("password"):
        assert options["password"] not in message


@pytest.mark.parametrize("options", [{}, {"namespaces": ["default"], "namespace_selector": "a=b"}])
def test_one_choice_of_namespaces(server: ApiServer, options: dict[str, Any]) -> None:
    given = {name: value for name, value in secret().items() if name != "namespaces"}
    message = refused(server, {**given, **options})
    assert "namespace_selector" in message and "found in secrets" in message


@pytest.mark.parametrize("labels", [{}, {**LABELS, "app.kubernetes.io/instance": "another"}])
@pytest.mark.parametrize("kind", ["kubernetes.io/dockerconfigjson", "Opaque"])
def test_a_secret_that_is_not_ours(server: ApiServer, labels: dict[str, str], kind: str) -> None:
    server.add("secrets", "prod", "registry-cache", type=kind, metadata={"labels": labels}, data={"key": "dGhlaXJz"})
    message = refused(server, secret(all_namespaces_but=[]))
    assert "name: there is another Secret prod/registry-cache" in message and "Delete it, or choose another name" in message
    # Nor is it removed.
    assert not ensure(server, state="absent")["changed"]
    assert not ensure(server, secret(namespaces=[]))["changed"]


def test_two_users_for_one_secret(server: ApiServer) -> None:
    message = refused(server, secret(username="a"), secret(username="b", namespace_selector="team=a"))
    assert "users 'a' and 'b' would both have Secret registry-cache in namespace default" in message


def test_a_secret_that_somebody_makes_meanwhile(server: ApiServer) -> None:
    def appear(method: str, path: str) -> None:
        if method == "POST" and ("secrets", "dev", "registry-cache") not in server.objects:
            server.add("secrets", "dev", "registry-cache", type="Opaque", data={"key": "dGhlaXJz"})

    server.hook = appear
    result = ensure(server, secret(namespaces=["dev", "prod"]))
    assert result["failed"] and "Secret dev/registry-cache could not be written (HTTP 409" in result["msg"]
    assert "somebody else" in result["msg"] and "run again" in result["msg"]
    assert server.secrets()["dev/registry-cache"]["data"] == {"key": "dGhlaXJz"}
    assert "prod/registry-cache" in server.secrets()


@pytest.mark.parametrize("options", [{"secrets": [secret(password="another-password")]}, {"state": "absent"}])
def test_a_secret_that_somebody_replaces_meanwhile(server: ApiServer, options: dict[str, Any]) -> None:
    ensure(server, secret())

    def replace(method: str, _path: str) -> None:
        if method != "GET":
            server.add("secrets", "default", "registry-cache", type="Opaque", data={"key": "dGhlaXJz"})

    server.hook = replace
    result = ensure(server, **options)
    assert result["failed"] and "HTTP 409" in result["msg"]
    assert server.secrets()["default/registry-cache"]["data"] == {"key": "dGhlaXJz"}


@pytest.mark.parametrize("gone", [True, False])
def test_a_namespace_that_goes_meanwhile(server: ApiServer, warned: list[str], gone: bool) -> None:
    def go(method: str, _path: str) -> None:
        if method == "POST" and ("namespaces", "", "dev") in server.objects:
            if gone:
                del server.objects["namespaces", "", "dev"]
            else:
                server.objects["namespaces", "", "dev"]["metadata"]["deletionTimestamp"] = "now"

    server.hook = go
    result = ensure(server, secret(namespace_selector="team=a"))
    assert result["created"] == ["default/registry-cache"]
    assert warned == ["Namespace dev is being deleted: it was left out."]


def test_what_goes_before_it_is_removed(server: ApiServer) -> None:
    ensure(server, secret(service_accounts=["default"]))

    def go(method: str, path: str) -> None:
        kind = path.split("/")[-2]
        if method in ("PATCH", "DELETE"):
            server.objects.pop((kind, "default", path.split("/")[-1]), None)

    server.hook = go
    assert ensure(server, state="absent")["changed"]


def test_an_api_server_that_puts_off(server: ApiServer) -> None:
    left = 3

    def busy(_method: str, path: str) -> None:
        nonlocal left
        if path.endswith("secrets") and left:
            left -= 1
            raise Refusal(429, "too many requests")

    server.hook = busy
    assert ensure(server, secret())["created"] == ["default/registry-cache"] and left == 0
    server.hook = lambda method, _path: (_ for _ in ()).throw(Refusal(429, "too many requests")) if method == "PATCH" else None
    assert "HTTP 429: too many requests" in ensure(server, secret(username="team"))["msg"]
    assert len(server.writes) == 5


@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [
        ("secrets", 403, "The cluster does not list its secrets (HTTP 403: no). Use an identity that may list secrets"),
        ("namespaces", 403, "The cluster does not list its namespaces (HTTP 403: no)."),
        ("serviceaccounts", 403, "The cluster does not list its serviceaccounts (HTTP 403: no)."),
        ("secrets", 500, "refuses: HTTP 500: no. Set kubeconfig"),
    ],
)
def test_a_cluster_that_refuses(server: ApiServer, kind: str, status: int, words: str) -> None:
    def refuse(_method: str, path: str) -> None:
        if path == f"/api/v1/{kind}":
            raise Refusal(status, "no")

    server.hook = refuse
    assert words in refused(server, secret(service_accounts=["default"]))


def test_several_that_cannot_be_written(server: ApiServer) -> None:
    def refuse(method: str, path: str) -> None:
        if method == "POST" and "prod" not in path:
            raise Refusal(403, "no")

    server.hook = refuse
    result = ensure(server, secret(all_namespaces_but=[]))
    assert result["failed"] and result["changed"]
    assert result["msg"].startswith("Secret default/registry-cache could not be written (HTTP 403: no), and 2 more.")
    assert list(server.secrets()) == ["prod/registry-cache"]


def test_no_answer(server: ApiServer) -> None:
    server.close()
    message = ensure(server, secret())["msg"]
    assert "refused" in message and "KUBECONFIG" in message


@pytest.mark.parametrize("answer", [[], {"kind": "Status"}, None])
def test_no_list(server: ApiServer, monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    handle = server.handle
    monkeypatch.setattr(server, "handle", lambda method, url, *rest: answer if "/api/v1/" in url else handle(method, url, *rest))
    assert "No usable answer from" in ensure(server, secret())["msg"]


def test_a_cluster_that_goes_away_between_the_writes(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    written = _pull_secrets.Plan._write

    def write(self: Any, change: Any) -> None:
        if change.key[0] == "dev":
            raise OSError("Network is unreachable")
        written(self, change)

    monkeypatch.setattr(_pull_secrets.Plan, "_write", write)
    result = ensure(server, secret(namespaces=["dev", "prod"]))
    assert result["changed"] and "Secret dev/registry-cache could not be written (Network is unreachable)" in result["msg"]
