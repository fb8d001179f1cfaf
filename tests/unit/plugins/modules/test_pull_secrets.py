# SPDX-License-Identifier: GPL-3.0-or-later
"""Module pull_secrets against an API server in this process."""

from __future__ import annotations

import base64
import copy
import functools
import json
import pathlib
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials import dockerconfigjson

from tests.module_runner import run
from tests.unit.plugins.kubernetes_api import ApiServer, Refusal, cut

HOSTS = ["localhost:30026", "127.0.0.1:30026"]
PASSWORD = "correct-horse-battery"
LABELS = {
    "app.kubernetes.io/name": "registry-cache",
    "app.kubernetes.io/instance": "registry-cache",
    "app.kubernetes.io/part-of": "registry-cache",
    "app.kubernetes.io/managed-by": "pullthrough.registry_cache",
    "registry-cache.pullthrough/namespace": "registry-cache",
}
OWNER = "registry-cache/registry-cache"
RECORD = "attached.registry-cache.pullthrough/registry-cache"
SOURCE = {**LABELS, "app.kubernetes.io/component": "pull-secret-source"}


@pytest.fixture
def server(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # kubernetes.core has its discovery cache there
    monkeypatch.setenv("HOME", str(tmp_path))
    running = ApiServer()
    for name, team in (("default", "a"), ("dev", "a"), ("prod", "b"), ("kube-system", "")):
        running.namespace(name, team=team)
    yield running
    running.close()


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The warnings of the module. If the controller is loaded, they would be displayed instead."""
    texts: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _self, text: texts.append(text))
    return texts


def secret(**options: Any) -> dict[str, Any]:
    if not {"namespaces", "namespace_selector", "exclude_namespaces"} & options.keys():
        options["namespaces"] = ["default"]
    return {"name": "registry-cache", "hosts": HOSTS, "username": "nodes", "password": PASSWORD, **options}


def given(*secrets: dict[str, Any]) -> dict[str, Any]:
    """Return the options of the module for these pull secrets, which have the same hosts, labels and annotations."""
    own = ("name", "namespaces", "namespace_selector", "exclude_namespaces", "service_accounts")
    users = [
        {
            "name": secret["username"],
            "password": secret["password"],
            "pull_secret": {name: secret[name] for name in own if name in secret},
        }
        for secret in secrets
    ]
    common = {name: secrets[0][name] for name in ("hosts", "labels", "annotations") if name in secrets[0]}
    assert all(common.items() <= secret.items() for secret in secrets)
    return {"users": users, **common}


def ensure(server: ApiServer, *secrets: dict[str, Any], check: bool = False, **options: Any) -> dict[str, Any]:
    server.seen.clear()
    if secrets := tuple(options.pop("secrets", secrets)):
        options = {**given(*secrets), **options}
    options = {"owner": OWNER, **options}
    result = run("pull_secrets", check=check, host=server.url, api_key="cluster-token", **options)
    text = json.dumps({name: value for name, value in result.items() if name != "invocation"})
    for hidden in (PASSWORD, base64.b64encode(PASSWORD.encode()).decode(), "cluster-token", "eyJ"):
        assert hidden not in text
    assert result.get("changed", True) or result["diff"] == {"before": "", "after": ""}
    return result


def story(server: ApiServer, *secrets: dict[str, Any], **options: Any) -> dict[str, Any]:
    # Objects for a controller are applied in each run. The API server reports that they are unchanged.
    return server.story(functools.partial(ensure, server, *secrets, **options), rewrites="controller" in options)


def forbid(*patterns: str, method: str = ".*") -> Callable[[str, str], None]:
    """Return a hook of the API server that forbids paths."""

    def hook(asked: str, path: str) -> None:
        if re.fullmatch(method, asked) and any(re.fullmatch(pattern, path) for pattern in patterns):
            raise Refusal(403, "no")

    return hook


def refused(server: ApiServer, *secrets: dict[str, Any], **options: Any) -> str:
    """Return the error message of a run that changes nothing."""
    before = copy.deepcopy(server.objects)
    result = ensure(server, *secrets, **options)
    assert result["failed"] and server.objects == before and server.writes == []
    return result["msg"]


def content(server: ApiServer, name: str) -> Any:
    return json.loads(base64.b64decode(server.secrets()[name]["data"][".dockerconfigjson"]))


def hold(server: ApiServer, **now: dict[str, str]) -> None:
    """Set the active credentials, like module cache_users."""
    server.hold(json.dumps({user: {"now": credential} for user, credential in now.items()}))


def entry(server: ApiServer, name: str) -> tuple[str, str]:
    """Return the user name and password in a pull secret."""
    found = content(server, name)["auths"]["localhost:30026"]
    return found["username"], found["password"]


def test_create_all(server: ApiServer) -> None:
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
        ({"exclude_namespaces": ["kube-system", "no-such"]}, {"default", "dev", "prod"}),
        ({"exclude_namespaces": []}, {"default", "dev", "prod", "kube-system"}),
    ],
)
def test_namespaces(server: ApiServer, choice: dict[str, Any], expected: set[str]) -> None:
    server.namespace("leaving", leaving=True, team="a")
    story(server, secret(**choice))
    assert set(server.secrets()) == {f"{name}/registry-cache" for name in expected}


def test_pull_secrets_are_removed_from_namespaces_that_no_longer_match(server: ApiServer) -> None:
    ensure(server, secret(exclude_namespaces=[]))
    result = story(server, secret(namespace_selector="team=a"))
    assert result["removed"] == ["kube-system/registry-cache", "prod/registry-cache"] and result["unchanged"] == 2
    assert set(server.secrets()) == {"default/registry-cache", "dev/registry-cache"}
    assert story(server, secret(namespaces=[]))["removed"] == ["default/registry-cache", "dev/registry-cache"]


def test_a_rerun_covers_a_new_namespace(server: ApiServer) -> None:
    ensure(server, secret(namespace_selector="team=a"))
    server.namespace("later", team="a")
    assert story(server, secret(namespace_selector="team=a"))["created"] == ["later/registry-cache"]


def test_absent(server: ApiServer) -> None:
    ensure(server, secret(exclude_namespaces=[], service_accounts=["default"]))
    others = ensure(server, secret(name="other"), owner="registry-cache/other")
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


def test_changes_of_others_are_reverted(server: ApiServer) -> None:
    ensure(server, secret(namespaces=["default", "dev", "prod"]))
    ours = server.secrets()
    ours["default/registry-cache"]["data"] = {".dockerconfigjson": base64.b64encode(b"no json").decode()}
    del ours["dev/registry-cache"]["metadata"]["labels"]["app.kubernetes.io/part-of"]
    ours["prod/registry-cache"]["metadata"]["labels"]["argocd"] = "theirs"
    result = story(server, secret(namespaces=["default", "dev", "prod"]))
    assert result["updated"] == ["default/registry-cache", "dev/registry-cache"]
    assert server.secrets()["prod/registry-cache"]["metadata"]["labels"]["argocd"] == "theirs"


def test_a_secret_of_an_earlier_version_is_ours(server: ApiServer) -> None:
    text = dockerconfigjson.render(HOSTS, "nodes", PASSWORD)
    data = {".dockerconfigjson": base64.b64encode(text.encode()).decode()}
    server.add("secrets", "default", "registry-cache", type="kubernetes.io/dockerconfigjson", metadata={"labels": LABELS}, data=data)
    assert not ensure(server, secret())["changed"]


def copy_of(source: str) -> dict[str, Any]:
    """Return a Secret like one that reflector copied."""
    annotations = {f"reflector.v1.k8s.emberstack.com/{name}": value for name, value in (("reflects", source), ("auto-reflects", "True"))}
    data = {".dockerconfigjson": base64.b64encode(b"{}").decode()}
    return {"type": "kubernetes.io/dockerconfigjson", "metadata": {"annotations": annotations}, "data": data}


def test_a_copy_of_reflector_is_taken_over(server: ApiServer) -> None:
    server.namespace("registry-cache")
    wanted = {"controller": "reflector"}
    ensure(server, secret(namespaces=["dev"]), **wanted)
    del server.add("secrets", "default", "registry-cache", **copy_of("registry-cache/registry-cache"))["metadata"]["labels"]
    assert story(server, secret(namespaces=["default", "dev"]), **wanted)["updated"] == ["default/registry-cache"]
    taken = server.secrets()["default/registry-cache"]["metadata"]
    assert taken["labels"] == LABELS and not taken["annotations"]
    assert "nodes" in content(server, "default/registry-cache")["auths"]["localhost:30026"]["username"]
    # The source itself is not a pull secret.
    assert "pull-secret-source of cache registry-cache/registry-cache" in refused(server, secret(namespaces=["registry-cache"]), **wanted)


def test_a_copy_of_reflector_is_taken_over_when_it_is_switched_off(server: ApiServer) -> None:
    server.namespace("registry-cache")
    ensure(server, secret(namespaces=["dev"]), controller="reflector")
    server.add("secrets", "default", "registry-cache", **copy_of("registry-cache/registry-cache"))
    # Reflector must forget its copies before their source is deleted.
    asked: list[str] = []

    def listen(method: str, path: str) -> None:
        if "/registry-cache/secrets/" in path and method != "GET":
            asked.append(method)

    server.hook = listen
    result = story(server, secret(namespaces=["default", "dev"]))
    assert result["updated"] == ["default/registry-cache"] and result["sources_removed"] == ["Secret registry-cache/registry-cache"]
    assert asked == ["PATCH", "DELETE"]
    assert set(server.secrets()) == {"default/registry-cache", "dev/registry-cache"}


@pytest.mark.parametrize("source", [None, "other/registry-cache", "registry-cache/registry-cache"])
def test_a_copy_of_another_secret_is_not_taken_over(server: ApiServer, source: str | None) -> None:
    """A copy of a foreign Secret in the cache's namespace is not taken over either."""
    server.namespace("registry-cache")
    server.add("secrets", "registry-cache", "registry-cache", type="kubernetes.io/dockerconfigjson")
    server.add("secrets", "default", "registry-cache", **copy_of(source or "registry-cache/other"))
    assert "name: Secret default/registry-cache already exists" in refused(server, secret())


class TestOwner:
    def test_two_caches_with_default_names(self, server: ApiServer) -> None:
        """Runs of one cache do not change the pull secrets of the other, although both are for the same namespace."""
        options = {"name": None, "namespaces": ["default", "dev"], "service_accounts": ["default"]}
        caches = {"registry-cache/registry-cache": 30026, "team-b/registry-cache": 30027}
        results = {}
        for _run in range(3):
            for owner, port in caches.items():
                results[owner, _run] = ensure(server, secret(hosts=[f"localhost:{port}"], **options), owner=owner)
        assert {key[1] for key, result in results.items() if result["changed"]} == {0}
        assert server.bound("dev") == ["registry-cache", "registry-cache.team-b"]
        assert list(content(server, "dev/registry-cache.team-b")["auths"]) == ["localhost:30027"]
        ensure(server, owner="registry-cache/registry-cache", state="absent")
        assert set(server.secrets()) == {"default/registry-cache.team-b", "dev/registry-cache.team-b"}
        assert server.bound("dev") == ["registry-cache.team-b"]
        assert not ensure(server, secret(hosts=["localhost:30027"], **options), owner="team-b/registry-cache")["changed"]

    def test_one_name_for_two_caches(self, server: ApiServer) -> None:
        ensure(server, secret(), owner="team-b/registry-cache")
        message = refused(server, secret())
        assert "name: Secret default/registry-cache (of cache team-b/registry-cache) already exists" in message
        assert "Delete it, or choose another name. Example: name: registry-cache-pull" in message

    def test_default_names_differ(self, server: ApiServer) -> None:
        long = "n" * 52
        owners = ["mirror/mirror", "team/mirror", f"{'s' * 63}/{long}", f"{'s' * 62}t/{long}"]
        made = [ensure(server, secret(name=None), owner=owner)["created"][0].removeprefix("default/") for owner in owners]
        assert made[:2] == ["mirror", "mirror.team"] and len(set(made)) == 4
        assert all(len(name) == 63 and re.fullmatch(r"[a-z0-9.-]+[a-z0-9]", name) for name in made[2:])

    def test_another_name_replaces_the_old_one(self, server: ApiServer) -> None:
        ensure(server, secret(service_accounts=["default"]))
        result = story(server, secret(name="new", service_accounts=["default"]))
        assert (result["created"], result["removed"]) == (["default/new"], ["default/registry-cache"])
        assert (result["attached"], result["detached"]) == (["default/default/new"], ["default/default/registry-cache"])
        assert set(server.secrets()) == {"default/new"} and server.bound("default") == ["new"]

    def test_no_service_account_names_a_missing_secret(self, server: ApiServer) -> None:
        ensure(server, secret(service_accounts=["default"]))

        def look(_method: str, _path: str) -> None:
            assert {f"default/{name}" for name in server.bound("default")} <= set(server.secrets())

        server.hook = look
        assert not ensure(server, secret(name="new", service_accounts=["default"])).get("failed")

    @pytest.mark.parametrize("owner", ["", "cache", "a/", "/a", "a/b/c", "A/b", "a.b/c", f"a/{'x' * 64}"])
    def test_an_invalid_owner(self, server: ApiServer, owner: str) -> None:
        message = refused(server, secret(), owner=owner)
        assert message.startswith("owner: ") and "Example: owner: registry-cache/registry-cache" in message


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
        # From now on, the entry belongs to somebody else.
        left = server.objects["serviceaccounts", "prod", "default"]["metadata"]
        assert RECORD not in left["labels"] and RECORD not in left["annotations"]
        server.bind("prod", "registry-cache")
        assert not ensure(server, secret(namespaces=names))["changed"]

    def test_an_entry_added_by_hand_is_kept(self, server: ApiServer) -> None:
        server.bind("default", "registry-cache")
        assert story(server, secret(service_accounts=["default"]))["attached"] == []
        story(server, state="absent")
        assert server.bound("default") == ["registry-cache"]

    def test_an_entry_removed_by_hand_is_restored(self, server: ApiServer) -> None:
        ensure(server, secret(service_accounts=["default"]))
        server.bind("default")
        result = story(server, secret(service_accounts=["default"]))
        assert result["attached"] == ["default/default/registry-cache"] and result["updated"] == []

    @pytest.mark.parametrize("options", [{}, {"state": "absent"}])
    def test_a_concurrent_entry_is_kept(self, server: ApiServer, options: dict[str, str]) -> None:
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

    def test_endless_concurrent_changes_of_a_service_account(self, server: ApiServer) -> None:
        def attach(method: str, path: str) -> None:
            if method == "PATCH" and path.endswith("/default"):
                server.bind("default", "theirs")

        server.hook = attach
        assert "HTTP 409" in ensure(server, secret(service_accounts=["default"]))["msg"]

    def test_two_secrets_for_one_service_account(self, server: ApiServer) -> None:
        names = [f"team-{number}" for number in range(8)]
        story(server, *(secret(name=name, service_accounts=["default"]) for name in names))
        assert sorted(server.bound("default")) == names

    def test_a_secret_that_cannot_be_written(self, server: ApiServer) -> None:
        """New Secrets are not attached, and existing entries are kept."""
        ensure(server, secret(name="old", service_accounts=["default"]))
        server.hook = forbid(".*/secrets.*", method="POST|PATCH")
        after = [secret(name=name, username="team", service_accounts=["default"]) for name in ("new", "old")]
        result = ensure(server, *after)
        assert result["failed"] and not result.get("changed") and server.bound("default") == ["old"]
        server.hook = lambda _method, _path: None
        assert ensure(server, *after)["attached"] == ["default/default/new"]

    def test_only_service_accounts_with_a_record_are_listed_if_none_are_wanted(self, server: ApiServer) -> None:
        ensure(server, secret())
        (query,) = [query for _method, path, query, _accept in server.seen if path == "/api/v1/serviceaccounts"]
        assert query == {"labelSelector": RECORD}

    @pytest.mark.parametrize("options", [{"state": "absent"}, {"secrets": [secret()]}, {"secrets": [secret(namespaces=[])]}])
    def test_a_secret_that_was_deleted_by_hand(self, server: ApiServer, options: dict[str, Any]) -> None:
        server.bind("dev", "registry-cache")
        ensure(server, secret(namespaces=["default", "dev"], service_accounts=["default"]))
        for namespace in ("default", "dev"):
            del server.objects["secrets", namespace, "registry-cache"]
        assert story(server, **options)["detached"] == ["default/default/registry-cache"]
        # The other entry does not belong to this module.
        assert server.bound("default") == [] and server.bound("dev") == ["registry-cache"]
        assert RECORD not in server.objects["serviceaccounts", "default", "default"]["metadata"]["labels"]

    def test_an_entry_added_by_hand_after_ours_was_removed(self, server: ApiServer) -> None:
        ensure(server, secret(service_accounts=["default"]))
        ensure(server, state="absent")
        server.bind("default", "registry-cache")
        assert not ensure(server, state="absent")["changed"] and server.bound("default") == ["registry-cache"]

    def test_a_missing_one(self, server: ApiServer, warned: list[str]) -> None:
        server.add("serviceaccounts", "prod", "builder")
        secrets = secret(namespaces=["default", "prod"], service_accounts=["builder"])
        result = ensure(server, secrets)
        assert result["attached"] == ["prod/builder/registry-cache"]
        assert warned == ["service_accounts: builder does not exist in default. Run again when it exists."]
        server.add("serviceaccounts", "default", "builder")
        assert story(server, secrets)["attached"] == ["default/builder/registry-cache"]

    @pytest.mark.parametrize("times", [1, 2])
    def test_a_run_that_was_killed_between_its_writes(self, server: ApiServer, times: int) -> None:
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


def test_users_with_separate_namespaces_and_names(server: ApiServer) -> None:
    secrets = [
        secret(username="a", namespace_selector="team=a"),
        secret(username="b", namespaces=["prod"]),
        secret(username="c", namespaces=["prod"], name="c"),
    ]
    result = story(server, *secrets)
    assert result["created"] == ["default/registry-cache", "dev/registry-cache", "prod/c", "prod/registry-cache"]
    assert content(server, "dev/registry-cache")["auths"]["localhost:30026"]["username"] == "a"
    assert content(server, "prod/registry-cache")["auths"]["localhost:30026"]["username"] == "b"
    # A removed user.
    assert story(server, *secrets[:2])["removed"] == ["prod/c"]


def test_each_kind_is_listed_once_and_only_differences_are_written(server: ApiServer) -> None:
    for number in range(200):
        server.namespace(f"many-{number}", team="many")
    ensure(server, secret(exclude_namespaces=[], service_accounts=["default"]))
    assert len(server.writes) == 2 * 204
    lists = ["/api/v1/namespaces", "/api/v1/namespaces/registry-cache/secrets"]
    lists += ["/api/v1/namespaces/registry-cache/secrets/registry-cache-passwords", "/api/v1/namespaces/registry-cache/serviceaccounts"]
    lists += ["/api/v1/secrets", "/api/v1/secrets", "/api/v1/serviceaccounts", "/apis/external-secrets.io/v1"]
    lists += [f"/apis/rbac.authorization.k8s.io/v1/namespaces/registry-cache/{kind}" for kind in ("rolebindings", "roles")]
    assert sorted(path for method, path in server.asked if method == "GET") == lists
    ensure(server, secret(exclude_namespaces=[], service_accounts=["default"]))
    assert sorted(server.asked) == [("GET", path) for path in lists]
    server.secrets()["many-7/registry-cache"]["data"] = {}
    ensure(server, secret(exclude_namespaces=[], service_accounts=["default"]))
    assert server.writes == [("PATCH", "/api/v1/namespaces/many-7/secrets/registry-cache")]


def test_the_content_of_others_is_not_read(server: ApiServer) -> None:
    ensure(server, secret())
    lists = [(path, query) for method, path, query, accept in server.seen if method == "GET" and "PartialObjectMetadataList" in accept]
    assert ("/api/v1/namespaces", {}) in lists
    assert ("/api/v1/secrets", {"fieldSelector": "metadata.name=registry-cache"}) in lists


def test_writes_run_in_parallel(server: ApiServer) -> None:
    meeting = threading.Barrier(4)

    def meet(method: str, _path: str) -> None:
        if method == "POST":
            meeting.wait(timeout=10)

    server.hook = meet
    assert len(ensure(server, secret(exclude_namespaces=[]))["created"]) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"namespaces": ["default", "no-such"]}, ("namespaces: namespace no-such does not exist", "Example: namespaces: [default]")),
        ({"namespaces": ["leaving"]}, ("namespaces: namespace leaving is being deleted", "run again")),
        ({"namespace_selector": "team==(a"}, ("namespace_selector: ", "'team==(a': HTTP 400", "Example: namespace_selector: team=a")),
        ({"namespace_selector": " "}, ("namespace_selector: must not be empty", "exclude_namespaces: []", "Example: ")),
        ({"name": "Registry"}, ("name: ", "(got 'Registry')", "Example: name: registry-cache")),
        ({"name": "x" * 64}, ("name: ", "(got 'xxx", "63")),
        ({"hosts": ["https://localhost:30026"]}, ("hosts: must", "'https://localhost:30026'", "Example: hosts")),
        ({"hosts": []}, ("hosts: user 'nodes' needs", "Example: hosts")),
        ({"hosts": [f"host-{number}.example.com" for number in range(12000)]}, ("hosts: ", "12000 hosts", "1 MiB", "Example: hosts")),
        ({"username": "a:b"}, ("users", "'a:b'", "colon")),
        ({"username": ""}, ("users", "must not be empty")),
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


def test_one_choice_of_namespaces(server: ApiServer) -> None:
    two = {"namespaces": ["default"], "namespace_selector": "a=b"}
    message = refused(server, secret(**two))
    assert "namespace_selector" in message and "found in users" in message
    users = [{"name": "nodes", "password": PASSWORD}]
    assert "namespace_selector" in refused(server, users=users, hosts=HOSTS, **two)


@pytest.mark.parametrize(
    ("labels", "manager"),
    [
        ({}, ""),
        ({"app.kubernetes.io/managed-by": "Helm"}, " (managed by Helm)"),
        ({**LABELS, "app.kubernetes.io/managed-by": "Helm"}, " (managed by Helm)"),
        ({**LABELS, "app.kubernetes.io/instance": "another"}, " (of cache registry-cache/another)"),
        ({**LABELS, "registry-cache.pullthrough/namespace": "another"}, " (of cache another/registry-cache)"),
    ],
)
@pytest.mark.parametrize("kind", ["kubernetes.io/dockerconfigjson", "Opaque"])
def test_a_secret_that_is_not_ours(server: ApiServer, labels: dict[str, str], manager: str, kind: str) -> None:
    server.add("secrets", "prod", "registry-cache", type=kind, metadata={"labels": labels}, data={"key": "dGhlaXJz"})
    message = refused(server, secret(exclude_namespaces=[]))
    assert f"name: Secret prod/registry-cache{manager} already exists" in message and "Example: name: " in message
    # It is not removed either.
    assert not ensure(server, state="absent")["changed"]
    assert not ensure(server, secret(namespaces=[]))["changed"]


def test_two_users_for_one_secret(server: ApiServer) -> None:
    message = refused(server, secret(username="a"), secret(username="b", namespace_selector="team=a"))
    assert "users 'a' and 'b' would both use Secret registry-cache in namespace default" in message


def test_a_concurrently_created_secret(server: ApiServer) -> None:
    def appear(method: str, path: str) -> None:
        if method == "POST" and ("secrets", "dev", "registry-cache") not in server.objects:
            server.add("secrets", "dev", "registry-cache", type="Opaque", data={"key": "dGhlaXJz"})

    server.hook = appear
    result = ensure(server, secret(namespaces=["dev", "prod"]))
    assert result["failed"] and "cannot write Secret dev/registry-cache (HTTP 409" in result["msg"]
    assert "someone else" in result["msg"] and "run again" in result["msg"]
    assert server.secrets()["dev/registry-cache"]["data"] == {"key": "dGhlaXJz"}
    assert "prod/registry-cache" in server.secrets()


@pytest.mark.parametrize("options", [{"secrets": [secret(password="another-password")]}, {"state": "absent"}])
def test_a_concurrently_replaced_secret(server: ApiServer, options: dict[str, Any]) -> None:
    ensure(server, secret())

    def replace(method: str, _path: str) -> None:
        if method != "GET":
            server.add("secrets", "default", "registry-cache", type="Opaque", data={"key": "dGhlaXJz"})

    server.hook = replace
    result = ensure(server, **options)
    assert result["failed"] and "HTTP 409" in result["msg"]
    assert server.secrets()["default/registry-cache"]["data"] == {"key": "dGhlaXJz"}


@pytest.mark.parametrize("gone", [True, False])
def test_a_concurrently_deleted_namespace(server: ApiServer, warned: list[str], gone: bool) -> None:
    def go(method: str, _path: str) -> None:
        if method == "POST" and ("namespaces", "", "dev") in server.objects:
            if gone:
                del server.objects["namespaces", "", "dev"]
            else:
                server.objects["namespaces", "", "dev"]["metadata"]["deletionTimestamp"] = "now"

    server.hook = go
    result = ensure(server, secret(namespace_selector="team=a"))
    assert result["created"] == ["default/registry-cache"]
    assert warned == ["Namespace dev is being deleted, and was skipped."]


def test_a_secret_that_is_deleted_concurrently(server: ApiServer) -> None:
    ensure(server, secret(service_accounts=["default"]))

    def go(method: str, path: str) -> None:
        kind = path.split("/")[-2]
        if method in ("PATCH", "DELETE"):
            server.objects.pop((kind, "default", path.split("/")[-1]), None)

    server.hook = go
    assert ensure(server, state="absent")["changed"]


def test_an_overloaded_api_server(server: ApiServer) -> None:
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
    ("kind", "status", "choice", "words"),
    [
        ("secrets", 403, {}, "namespaces: access to namespace default is forbidden: cannot list its secrets (HTTP 403: no)."),
        ("secrets", 401, {}, "The cluster refuses to list secrets (HTTP 401: no). Use an identity that may list secrets"),
        ("secrets", 500, {}, "refuses: HTTP 500: no. Set kubeconfig"),
        ("namespaces", 403, {"exclude_namespaces": []}, "namespaces: the cluster refuses to list namespaces (HTTP 403: no)."),
        ("namespaces", 403, {"namespace_selector": "team=a"}, "namespaces: the cluster refuses to list namespaces (HTTP 403: no)."),
        ("serviceaccounts", 403, {}, "namespace default is forbidden: cannot list its service accounts (HTTP 403: no)."),
    ],
)
def test_a_cluster_that_refuses(server: ApiServer, warned: list[str], kind: str, status: int, choice: dict[str, Any], words: str) -> None:
    def refuse(_method: str, path: str) -> None:
        # The cache's own namespace is tested separately.
        if path in (f"/api/v1/{kind}", f"/api/v1/namespaces/default/{kind}"):
            raise Refusal(status, "no")

    server.hook = refuse
    assert words in refused(server, secret(service_accounts=["default"], **choice))


class TestRightsInSomeNamespaces:
    """An identity with all permissions in `default` and `dev`, and none elsewhere. It cannot read the credentials of the cache."""

    OWN: ClassVar = {"credentials_in_force": False}

    @pytest.fixture(autouse=True)
    def _rights(self, server: ApiServer) -> None:
        allowed = "/version|/apis|/api/v1|/api/v1/namespaces/(default|dev)(/.*)?|/apis/external-secrets.io/v1"
        server.hook = forbid(f"(?!({allowed})$).*")

    def test_namespaces_by_name(self, server: ApiServer, warned: list[str]) -> None:
        secrets = secret(namespaces=["default", "dev"], service_accounts=["default"])
        result = story(server, secrets, **self.OWN)
        assert result["created"] == ["default/registry-cache", "dev/registry-cache"] and result["forbidden"] == []
        assert len(result["attached"]) == 2
        assert any("in namespaces other than default, dev are kept" in text for text in warned)
        result = story(server, secret(namespaces=["default"]), namespaces=["dev"], **self.OWN)
        assert result["removed"] == ["dev/registry-cache"] and len(result["detached"]) == 2

    def test_a_forbidden_namespace(self, server: ApiServer, warned: list[str]) -> None:
        secrets = secret(namespaces=["default", "prod"], service_accounts=["default"])
        message = refused(server, secrets, **self.OWN)
        assert "namespaces: access to namespace prod is forbidden: cannot list its secrets (HTTP 403: no)" in message
        assert "Example: skip_forbidden: true" in message
        warned.clear()
        result = story(server, secrets, skip_forbidden=True, **self.OWN)
        assert result["created"] == ["default/registry-cache"] and result["forbidden"] == ["prod"]
        assert "Namespace prod was skipped: cannot list its secrets (HTTP 403: no)." in warned

    def test_the_credentials_in_force_cannot_be_read(self, server: ApiServer, warned: list[str]) -> None:
        assert "HTTP 403" in refused(server, secret())

    def test_a_missing_one(self, server: ApiServer, warned: list[str]) -> None:
        del server.objects["namespaces", "", "dev"]
        assert "namespaces: namespace dev does not exist" in refused(server, secret(namespaces=["default", "dev"]), **self.OWN)

    def test_absent(self, server: ApiServer, warned: list[str]) -> None:
        ensure(server, secret(namespaces=["default", "dev"], service_accounts=["default"]), **self.OWN)
        assert "namespaces: [default]" in refused(server, state="absent")
        result = story(server, state="absent", namespaces=["default", "dev"])
        assert result["removed"] == ["default/registry-cache", "dev/registry-cache"] and len(result["detached"]) == 2

    @pytest.mark.parametrize("kind", ["secrets", "serviceaccounts"])
    def test_a_namespace_with_read_access_only(self, server: ApiServer, warned: list[str], kind: str) -> None:
        server.hook = forbid(f"/api/v1/namespaces/dev/{kind}.*", method="POST|PATCH|DELETE")
        secrets = secret(namespaces=["default", "dev"], service_accounts=["default"])
        result = ensure(server, secrets, **self.OWN)
        assert result["failed"] and "cannot write " in result["msg"] and "dev/" in result["msg"] and "(HTTP 403: no)" in result["msg"]
        result = ensure(server, secrets, skip_forbidden=True, **self.OWN)
        assert not result.get("failed") and result["forbidden"] == ["dev"] and not result["changed"]
        assert any(text.startswith("Namespace dev was skipped: ") and "HTTP 403: no" in text for text in warned)


class TestUsers:
    """The settings of users, and the active credentials."""

    def test_the_credential_in_force_precedes_the_given_password(self, server: ApiServer) -> None:
        ensure(server, secret())
        hold(server, nodes={"name": "nodes.g1", "password": "in-force"}, other={"name": "other", "password": "x"})
        result = story(server, secret())
        assert result["updated"] == ["default/registry-cache"] and entry(server, "default/registry-cache") == ("nodes.g1", "in-force")
        assert "in-force" not in json.dumps({**result, "invocation": 0})
        story(server, secret(), credentials_in_force=False)
        assert entry(server, "default/registry-cache") == ("nodes", PASSWORD)

    def test_a_generated_password(self, server: ApiServer) -> None:
        options = {"users": [{"name": "nodes"}, {"name": "team-a"}], "hosts": HOSTS, "namespaces": ["default"]}
        message = refused(server, **options)
        assert message.startswith("users: user nodes, team-a has no password") and "Example: users: " in message
        options["users"][1]["pull_secret"] = {"name": "team-a"}
        checked = ensure(server, check=True, **options)
        assert checked["created"] == ["default/registry-cache", "default/team-a"] and server.writes == []
        hold(server, **{name: {"name": name, "password": f"of-{name}"} for name in ("nodes", "team-a")})
        story(server, **options)
        assert entry(server, "default/team-a") == ("team-a", "of-team-a")

    def test_an_active_hash_is_not_a_password(self, server: ApiServer) -> None:
        hold(server, nodes={"name": "nodes.g1", "hash": "$2b$05$x"})
        story(server, secret())
        assert entry(server, "default/registry-cache") == ("nodes.g1", PASSWORD)

    def test_settings_of_all_and_of_one(self, server: ApiServer) -> None:
        own = {"name": "own", "namespace_selector": "team=b", "service_accounts": ["builder"]}
        users = [
            {"name": "all", "password": "of-all"},
            {"name": "none", "pull_secret": {"namespaces": []}},
            {"name": "own", "password": "of-one", "pull_secret": own},
            {"name": "everywhere", "password": "of-every", "pull_secret": {"name": "all", "exclude_namespaces": []}},
        ]
        server.add("serviceaccounts", "prod", "builder")
        options = {"users": users, "hosts": HOSTS, "namespaces": ["dev"], "service_accounts": ["default"], "name": "pull"}
        result = story(server, **options)
        made = {"dev/pull", "prod/own", *(f"{name}/all" for name in ("default", "dev", "kube-system", "prod"))}
        assert set(result["created"]) == made
        assert server.bound("prod", "builder") == ["own"] and server.bound("prod") == ["all"] and server.bound("dev") == ["all", "pull"]
        # Without the module's own namespaces, only those of the users apply.
        del options["namespaces"]
        assert story(server, **options)["removed"] == ["dev/pull"]

    @pytest.mark.parametrize("text", ["no json", '{"a": 1}'])
    def test_credentials_that_were_edited_by_hand(self, server: ApiServer, text: str) -> None:
        server.hold(text)
        message = refused(server, secret())
        assert message.startswith("Secret registry-cache-passwords in namespace registry-cache: ") and "site.yml" in message

    def test_credentials_of_others(self, server: ApiServer) -> None:
        server.add("secrets", "registry-cache", "registry-cache-passwords", data={})
        message = refused(server, secret())
        assert "Secret registry-cache-passwords in namespace registry-cache" in message and "Example: owner: " in message

    def test_users_are_needed(self, server: ApiServer) -> None:
        assert "users" in refused(server, hosts=HOSTS)


class TestLabelsAndAnnotations:
    def test_added_and_removed(self, server: ApiServer) -> None:
        own = {"labels": {"team": "a", "example.com/tier": ""}, "annotations": {"example.com/contact": "team a, floor 2"}}
        ensure(server, secret())
        story(server, secret(**own))
        made = server.secrets()["default/registry-cache"]["metadata"]
        assert made["labels"] == {**own["labels"], **LABELS} and own["annotations"].items() <= made["annotations"].items()
        made["labels"]["argocd"] = made["annotations"]["argocd"] = "theirs"
        result = story(server, secret(labels={"team": "b"}))
        assert "(labels or annotations replaced)" in result["diff"]["after"]
        made = server.secrets()["default/registry-cache"]["metadata"]
        assert made["labels"] == {"team": "b", "argocd": "theirs", **LABELS}
        assert "example.com/contact" not in made["annotations"]
        story(server, secret())
        made = server.secrets()["default/registry-cache"]["metadata"]
        assert made["labels"] == {"argocd": "theirs", **LABELS} and made["annotations"] == {"argocd": "theirs"}

    def test_of_a_new_secret(self, server: ApiServer) -> None:
        story(server, secret(labels={"team": "a"}))
        assert server.secrets()["default/registry-cache"]["metadata"]["labels"] == {"team": "a", **LABELS}

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"labels": {"app.kubernetes.io/managed-by": "Helm"}}, "labels: 'app.kubernetes.io/managed-by' is reserved"),
            ({"labels": {"app.kubernetes.io/component": "x"}}, "labels: 'app.kubernetes.io/component' is reserved"),
            ({"labels": {"registry-cache.pullthrough/namespace": "x"}}, "labels: 'registry-cache.pullthrough/namespace' is reserved"),
            ({"annotations": {RECORD: "x"}}, f"annotations: '{RECORD}' is reserved"),
            ({"annotations": {"reflector.v1.k8s.emberstack.com/reflects": "a/b"}}, "emberstack.com/reflects' is reserved"),
            ({"labels": {"team": True}}, "labels: the value of 'team' must be a string of at most 63"),
            ({"labels": {"team": "a b"}}, "labels: the value of 'team' must be a string of at most 63"),
            ({"annotations": {"team": 1}}, "annotations: the value of 'team' must be a string. Example: annotations: {"),
            ({"labels": {"a/b/c": "x"}}, "labels: 'a/b/c' must be a valid name"),
            ({"annotations": {"": "x"}}, "annotations: '' must be a valid name"),
        ],
    )
    def test_invalid_labels_and_annotations(self, server: ApiServer, options: dict[str, Any], words: str) -> None:
        message = refused(server, secret(**options))
        assert words in message and "Example: " in message


ESO = {
    "Secret registry-cache/registry-cache-pull-nodes",
    "ServiceAccount registry-cache/registry-cache-pull-nodes",
    "Role registry-cache/registry-cache-pull-nodes",
    "RoleBinding registry-cache/registry-cache-pull-nodes",
    "ClusterSecretStore registry-cache-pull-nodes.registry-cache",
    "ClusterExternalSecret registry-cache-pull-nodes.registry-cache",
}


class TestSources:
    """The objects for a controller."""

    @pytest.fixture(autouse=True)
    def _cluster(self, server: ApiServer) -> None:
        server.namespace("registry-cache")
        server.external_secrets = True

    @staticmethod
    def made(server: ApiServer) -> set[str]:
        component = "app.kubernetes.io/component"
        return {
            f"{key[0]} {key[2]}" for key, item in server.objects.items() if item["metadata"]["labels"].get(component) == SOURCE[component]
        }

    def test_external_secrets_are_created_and_removed(self, server: ApiServer) -> None:
        result = story(server, secret(), controller="external_secrets")
        assert set(result["sources_written"]) == ESO and result["created"] == ["default/registry-cache"]
        assert "ClusterSecretStore registry-cache-pull-nodes.registry-cache for a controller" in result["diff"]["after"]
        result = story(server, secret(username="team"), controller="external_secrets")
        assert set(result["sources_removed"]) == ESO and len(result["sources_written"]) == 6
        result = story(server, secret(username="team"))
        assert len(result["sources_removed"]) == 6 and self.made(server) == set() and list(server.secrets()) == ["default/registry-cache"]

    def test_a_rotation_changes_only_the_source(self, server: ApiServer) -> None:
        ensure(server, secret(), controller="external_secrets")
        hold(server, nodes={"name": "nodes.g1", "password": "another"})
        result = story(server, secret(), controller="external_secrets")
        assert result["sources_written"] == ["Secret registry-cache/registry-cache-pull-nodes"] and result["sources_removed"] == []

    def test_the_source_is_written_before_the_pull_secrets(self, server: ApiServer) -> None:
        ensure(server, secret(), controller="external_secrets")
        hold(server, nodes={"name": "nodes.g1", "password": "another"})
        ensure(server, secret(), controller="external_secrets")
        paths = [path for _method, path in server.writes]
        assert paths.index("/api/v1/namespaces/default/secrets/registry-cache") > max(
            index for index, path in enumerate(paths) if "pull-nodes" in path
        )

    @pytest.mark.parametrize("gone", [False, True])
    def test_absent_removes_them_with_the_cache(self, server: ApiServer, gone: bool) -> None:
        """Role cache may have removed the namespace already, and this run does not name the controller."""
        ensure(server, secret(), controller="external_secrets")
        if gone:
            for key in [key for key in server.objects if key[1] == "registry-cache" or key == ("namespaces", "", "registry-cache")]:
                del server.objects[key]
        result = story(server, state="absent")
        assert {"ClusterSecretStore", "ClusterExternalSecret"} <= {name.split()[0] for name in result["sources_removed"]}
        assert self.made(server) == set() and server.secrets() == {}

    def test_absent_in_a_cluster_without_the_kinds(self, server: ApiServer) -> None:
        server.external_secrets = False
        ensure(server, secret())
        story(server, state="absent")

    def test_absent_of_one_cache_leaves_the_others(self, server: ApiServer) -> None:
        server.namespace("team-b")
        ensure(server, secret(name=None), controller="external_secrets")
        ensure(server, secret(name=None), controller="external_secrets", owner="team-b/registry-cache")
        assert "clustersecretstores registry-cache-pull-nodes.team-b" in self.made(server)
        ensure(server, state="absent")
        left = {name for name in self.made(server) if "cluster" in name}
        assert left == {f"{kind} registry-cache-pull-nodes.team-b" for kind in ("clustersecretstores", "clusterexternalsecrets")}
        assert not ensure(server, secret(name=None), controller="external_secrets", owner="team-b/registry-cache")["changed"]

    def test_without_the_controller(self, server: ApiServer) -> None:
        server.external_secrets = False
        message = refused(server, secret(), controller="external_secrets")
        assert "controller: the cluster does not have ClusterSecretStore" in message and "Example: controller: none" in message

    def test_check_mode_before_the_cache_exists(self, server: ApiServer) -> None:
        del server.objects["namespaces", "", "registry-cache"]
        result = ensure(server, secret(), controller="external_secrets", check=True)
        assert set(result["sources_written"]) == ESO

    @pytest.mark.parametrize(
        "kind", ["secrets", "serviceaccounts", "roles", "rolebindings", "clustersecretstores", "clusterexternalsecrets"]
    )
    @pytest.mark.parametrize(
        "labels", [{"app.kubernetes.io/managed-by": "Helm"}, LABELS, {**SOURCE, "app.kubernetes.io/instance": "other"}]
    )
    def test_an_object_that_is_not_ours(self, server: ApiServer, kind: str, labels: dict[str, str]) -> None:
        place, name = (
            ("", "registry-cache-pull-nodes.registry-cache") if "cluster" in kind else ("registry-cache", "registry-cache-pull-nodes")
        )
        server.add(kind, place, name, metadata={"labels": labels})
        message = refused(server, secret(), controller="external_secrets")
        assert f"controller: {'Cluster' if place == '' else ''}" in message and "already exists" in message and name in message
        assert ("managed by Helm" in message) == (labels["app.kubernetes.io/managed-by"] == "Helm") and "Delete it" in message
        assert not ensure(server, state="absent")["changed"]

    def test_the_source_of_reflector_belongs_to_others(self, server: ApiServer) -> None:
        metadata = {"labels": {"app.kubernetes.io/managed-by": "Helm"}}
        server.add("secrets", "registry-cache", "registry-cache", type="kubernetes.io/dockerconfigjson", metadata=metadata, data={"a": "b"})
        message = refused(server, secret(), controller="reflector")
        assert "name: Secret registry-cache/registry-cache already exists (managed by Helm)" in message
        assert not ensure(server, state="absent")["changed"]

    def test_a_pull_secret_becomes_the_source(self, server: ApiServer) -> None:
        ensure(server, secret(namespaces=["registry-cache", "dev"]))
        result = story(server, secret(namespaces=["dev"]), controller="reflector")
        assert result["sources_written"] == ["Secret registry-cache/registry-cache"] and result["removed"] == []
        assert set(server.secrets()) == {"dev/registry-cache", "registry-cache/registry-cache"}

    def test_an_empty_list_of_namespaces_is_not_all_namespaces(self, server: ApiServer) -> None:
        for controller in ("external_secrets", "reflector"):
            assert not ensure(server, secret(namespaces=[]), controller=controller)["changed"]

    def test_kinds_that_cannot_be_listed_are_reported(self, server: ApiServer, warned: list[str]) -> None:
        server.hook = forbid("/apis/.*/v1/.*")
        ensure(server, secret())
        assert len(warned) == 4 and all(text.startswith("Cannot list ") and "(HTTP 403: no)" in text for text in warned)
        assert "HTTP 403" in refused(server, secret(), controller="external_secrets")

    def test_a_source_that_cannot_be_written(self, server: ApiServer) -> None:
        server.hook = forbid(".*/roles/.*", method="PATCH")
        result = ensure(server, secret(), controller="external_secrets")
        assert result["failed"] and result["changed"] and "HTTP 403" in result["msg"]
        assert result["sources_written"] == [f"{kind} registry-cache/registry-cache-pull-nodes" for kind in ("Secret", "ServiceAccount")]
        assert result["created"] == [] and set(server.secrets()) == {"registry-cache/registry-cache-pull-nodes"}


def test_several_secrets_that_cannot_be_written(server: ApiServer) -> None:
    def refuse(method: str, path: str) -> None:
        if method == "POST" and "prod" not in path:
            raise Refusal(403, "no")

    server.hook = refuse
    result = ensure(server, secret(exclude_namespaces=[]))
    assert result["failed"] and result["changed"]
    assert result["msg"].startswith("cannot write Secret default/registry-cache (HTTP 403: no), and 2 more.")
    assert list(server.secrets()) == ["prod/registry-cache"]


def test_a_failure_reports_earlier_changes(server: ApiServer) -> None:
    def refuse(_method: str, path: str) -> None:
        if re.fullmatch("/api/v1/namespaces/dev/.*/.*", path):
            raise Refusal(500, "no")

    before = [secret(namespaces=["default", "dev"], service_accounts=["default"]), secret(name="old", namespaces=["default", "dev"])]
    ensure(server, *before)
    server.hook = refuse
    after = secret(namespaces=["default", "dev", "prod"], username="team", service_accounts=["default"])
    result = ensure(server, after)
    assert result["failed"] and result["changed"] and "cannot write Secret dev/registry-cache" in result["msg"]
    assert {word: result[word] for word in ("created", "updated", "removed", "attached", "detached")} == {
        "created": ["prod/registry-cache"],
        "updated": ["default/registry-cache"],
        "removed": ["default/old"],
        "attached": ["prod/default/registry-cache"],
        "detached": [],
    }
    assert "dev/" not in json.dumps(result["diff"])


def test_no_answer(server: ApiServer) -> None:
    server.close()
    message = ensure(server, secret())["msg"]
    assert "refused" in message and "KUBECONFIG" in message


@pytest.mark.parametrize("answer", [[], {"kind": "Status"}, None])
def test_an_answer_that_is_not_a_list(server: ApiServer, monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    handle = server.handle
    monkeypatch.setattr(server, "handle", lambda method, url, *rest: answer if "/api/v1/" in url else handle(method, url, *rest))
    assert "No usable answer from" in ensure(server, secret())["msg"]


def test_a_cluster_that_stops_answering_between_the_writes(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, "post", "/namespaces/dev/", OSError("Network is unreachable"))
    result = ensure(server, secret(namespaces=["dev", "prod"]))
    assert result["changed"] and "cannot write Secret dev/registry-cache (" in result["msg"]
    assert "Network is unreachable)" in result["msg"]
