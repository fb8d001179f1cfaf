# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules and roles that read secrets from variables, run by ansible-playbook: no secret is shown."""

from __future__ import annotations

import base64
import json
import os
import pathlib
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.pullthrough.registry_cache.plugins.action import (
    cache_handover,
    cache_image,
    cache_users,
    gcp_iam_member,
    pull_secrets,
)

from sandbox.settings import ROOT
from tests.module_runner import run
from tests.unit.plugins.image_stand_ins import Program, Registry
from tests.unit.plugins.kubernetes_api import ApiServer

PASSWORD, HASH = "the-vault-password", "$2b$05$" + "a" * 53
USERS = [
    {"name": "nodes", "password": "{{ vault_password }}"},
    {"name": "team-a", "pull_secret": {"name": "team-a"}},
    {"name": "ci", "hash": HASH, "pull_secret": {"namespaces": []}},
]
FROM = {"users_from": "registry_cache_users"}
OPTIONS = {"owner": "registry-cache/registry-cache", "hosts": ["localhost:30026"], "namespaces": ["default"]}
MODULES = {"cache_users": FROM, "pull_secrets": {**FROM, **OPTIONS}}


@pytest.fixture
def server(server: ApiServer) -> ApiServer:
    for name in ("kube-system", "registry-cache", "default"):
        server.namespace(name)
    return server


def play(server: ApiServer | None, folder: pathlib.Path, tasks: list[dict[str, Any]], *arguments: str, **variables: Any) -> tuple[str, str]:
    """Return the output of a play with high verbosity, and its recap."""
    common = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "vault_password": PASSWORD}
    host = {"registry_cache_users": USERS, **common, **variables}
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": {"one": host}}}))
    (folder / "play.json").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "K8S_", "KUBE"))}
    environment |= {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_DISPLAY_ARGS_TO_STDOUT": "1", "HOME": str(folder), "TMPDIR": str(folder)}
    environment |= {"ANSIBLE_ASYNC_DIR": str(folder / "async"), "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "playbooks" / "collections")}
    environment |= {"K8S_AUTH_HOST": server.url, "K8S_AUTH_API_KEY": "cluster-token"} if server else {}
    environment["ANSIBLE_INJECT_INVOCATION"] = "1"  # ansible-core 2.21 and later show arguments only on request
    argv = [str(pathlib.Path(sys.prefix) / "bin" / "ansible-playbook"), "-vvv", "--diff", "--inventory", str(folder / "hosts.json")]
    done = subprocess.run([*argv, *arguments, str(folder / "play.json")], env=environment, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    for secret in (PASSWORD, HASH, "cluster-token", *(made(server) if server else ())):
        assert secret not in said and base64.b64encode(secret.encode()).decode() not in said
    return said, done.stdout.partition("PLAY RECAP")[2]


def made(server: ApiServer) -> list[str]:
    """Return the active passwords."""
    found = server.secrets().get("registry-cache/registry-cache-passwords")
    state = json.loads(base64.b64decode(found["data"]["users"])) if found else {}
    return [one["password"] for record in state.values() for one in record.values()]


def test_users_of_a_variable(server: ApiServer, tmp_path: pathlib.Path) -> None:
    tasks = [{f"pullthrough.registry_cache.{module}": options} for module, options in MODULES.items()]
    said, recap = play(server, tmp_path, tasks)
    assert re.search(r"changed=2 .*failed=0", recap), said
    ours = {f"registry-cache/registry-cache-{name}" for name in ("htpasswd", "passwords")}
    assert set(server.secrets()) == {"default/registry-cache", "default/team-a"} | ours
    assert PASSWORD in made(server) and len(made(server)) == 2
    said, recap = play(server, tmp_path, [{**task, "async": 60, "poll": 1} for task in tasks])
    assert re.search(r"changed=0 .*failed=0", recap), said
    assert PASSWORD not in "".join(path.read_text() for path in (tmp_path / "async").iterdir())


LEFT = "__omit_place_holder__1"


def given(action: Any, arguments: dict[str, Any], **variables: Any) -> dict[str, Any]:
    """Return the arguments that a module gets from a task."""
    plugin = action.ActionModule.__new__(action.ActionModule)
    plugin._task = SimpleNamespace(args=arguments, async_val=0, check_mode=False)
    plugin._connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/none"))
    plugin._templar = SimpleNamespace(template=lambda value: value)
    plugin.execute = lambda arguments, _task_vars: arguments
    return plugin.run(task_vars={"omit": LEFT, **variables})


@pytest.mark.parametrize("action", [cache_handover, cache_users, pull_secrets])
def test_omitted_values(action: Any) -> None:
    """Before 2.19, ansible-core leaves a placeholder in variables. It must not become a password."""
    users = [{"name": "nodes", "password": LEFT, "hash": LEFT, "pull_secret": {"name": LEFT, "namespaces": ["a", LEFT]}}]
    expected = {"name": "nodes", "pull_secret": {"namespaces": ["a"]}}
    users = given(action, {"users_from": "my_users"}, my_users=users)["users"]
    assert users == [{key: value for key, value in expected.items() if key in action.ActionModule.KEYS}]


@pytest.mark.parametrize(("action", "option"), [(cache_image, "password"), (gcp_iam_member, "access_token")])
def test_one_secret(action: Any, option: str) -> None:
    """An empty variable leaves the option unset, so that the environment or the play's module_defaults apply."""
    source = {f"{option}_from": "my_secret"}
    assert given(action, source, my_secret=PASSWORD) == {**source, option: PASSWORD}
    for empty in (None, "", LEFT):
        assert given(action, source, my_secret=empty) == source
        assert given(action, {**source, option: "own"}, my_secret=empty) == {**source, option: "own"}
    assert given(action, {option: "own"}) == {option: "own"}
    for wrong in ({**source, option: "own"}, {f"{option}_from": "no_such_variable"}, {f"{option}_from": ["my_secret"]}):
        with pytest.raises(AnsibleActionFail, match=f"{option}_from.*Example: {option}_from: ") as caught:
            given(action, wrong, my_secret=PASSWORD)
        assert PASSWORD not in str(caught.value)


def test_every_google_module_reads_its_token_from_a_variable() -> None:
    plugins = ROOT / "plugins"
    actions = {path.name for path in (plugins / "action").glob("*.py") if "import AccessTokenAction\n" in path.read_text()}
    assert actions == {path.name for path in (plugins / "modules").glob("*.py") if "- pullthrough.registry_cache.gcp\n" in path.read_text()}


def test_invalid_variables(server: ApiServer, tmp_path: pathlib.Path) -> None:
    """All cases are in one play, because the start of Ansible takes longer than the rest."""
    rows: list[tuple[dict[str, Any], Any, str]] = [
        ({"users_from": "no_such_variable"}, USERS, "users_from: variable 'no_such_variable' "),
        ({"users_from": ""}, USERS, "users_from: variable '' "),
        ({"users_from": ["nodes"]}, USERS, "users_from: variable '['nodes']' "),
        ({"users": [{"name": "nodes"}]}, USERS, "exclude each other"),
        ({}, {"name": "nodes"}, "must be a list of users"),
        ({}, ["nodes"], "must be a list of users"),
    ]
    tasks = [
        {
            f"pullthrough.registry_cache.{module}": {**MODULES[module], **options},
            "vars": {"registry_cache_users": users},
            "ignore_errors": True,
        }
        for options, users, _words in rows
        for module in MODULES
    ]
    said, recap = play(server, tmp_path, tasks)
    assert f"ignored={len(tasks)}" in recap and not server.writes, said
    for _options, _users, words in rows:
        assert said.count(words) >= len(MODULES), words


def test_a_handover_in_check_mode(server: ApiServer, tmp_path: pathlib.Path) -> None:
    """The users of another registry are compared with those of the variable; the error names a user alone."""
    labels = {"app": "old"}
    volumes = [{"secret": {"secretName": "old"}}]
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"image": "registry:3"}], "volumes": volumes}}
    server.add("deployments", "registry-cache", "old", spec={"template": template})
    service = {"type": "NodePort", "selector": labels, "ports": [{"port": 5000, "nodePort": 30026}]}
    server.add("services", "registry-cache", "old", spec=service)
    server.add("secrets", "registry-cache", "old", data={"htpasswd": base64.b64encode(f"ci:{HASH}".encode()).decode()})
    registry = {"deployment": "old", "image": "registry:3", "htpasswd_secret": "old"}
    tasks = [{"pullthrough.registry_cache.cache_handover": {**FROM, "service": "old", "registry": registry}}]
    said, recap = play(server, tmp_path, tasks, "--check")
    assert re.search(r"changed=1 .*failed=0", recap), said
    said, recap = play(server, tmp_path, tasks, "--check", registry_cache_users=USERS[:2])
    assert "failed=1" in recap and "users: ci of Secret old" in said and not server.writes, said


def test_a_rotation_in_check_mode(server: ApiServer, tmp_path: pathlib.Path) -> None:
    """Role cache reports what it would change, and changes nothing."""
    users = [{"name": "nodes", "password": PASSWORD}, {"name": "team-a"}]
    assert run("cache_users", host=server.url, api_key="x", users=users)["changed"]
    role = {"name": "pullthrough.registry_cache.cache"}
    stages = ("rotate_preflight", "rotate_issue", "rotate_revoke")
    tasks = [{"ansible.builtin.include_role": {**role, "tasks_from": stage}} for stage in stages]
    upstreams = [{"host": "us-central1-docker.pkg.dev", "repositories": ["my-project/my-repository"]}]
    common = {"registry_cache_upstreams": upstreams, "registry_cache_users": users}
    server.seen.clear()
    said, recap = play(server, tmp_path, tasks, "--check", **common, registry_cache_rotate_users=["team-a"])
    assert re.search(r"changed=1 .*failed=0", recap) and "team-a: team-a, team-a.g1 is next" in said, said
    # The inventory has the active password.
    said, recap = play(server, tmp_path, tasks, **common)
    assert "registry_cache_users" in said and "Example: rotate: [team-a]" in said and "failed=1" in recap
    said, recap = play(server, tmp_path, tasks, **common, registry_cache_auth="none", registry_cache_auth_none_confirmed=True)
    assert "Example: registry_cache_auth: htpasswd" in said and "failed=1" in recap
    assert not server.writes


def test_the_credential_of_the_image(registry: Registry, docker: Program, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Role image authenticates to a registry with the password in its variable."""
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}{os.defpath}")
    registry.auth, registry.user = "basic", ("ada", PASSWORD)
    role = {"name": "pullthrough.registry_cache.image", "tasks_from": "preflight"}
    variables = {
        "registry_cache_image": f"{registry.host}/cache/registry-cache",
        "registry_cache_image_insecure": True,
        "registry_cache_image_publish": "push",
        "registry_cache_image_pull_secrets": ["push"],
        "registry_cache_image_username": "ada",
    }
    tasks = [{"ansible.builtin.include_role": role}]
    said, recap = play(None, tmp_path, tasks, **variables, registry_cache_image_password="{{ vault_password }}")
    assert "failed=0" in recap and docker.called("image"), said
    said, recap = play(None, tmp_path, tasks, **variables, registry_cache_image_password="of-another-vault")
    assert "failed=1" in recap and "of-another-vault" not in said, said
