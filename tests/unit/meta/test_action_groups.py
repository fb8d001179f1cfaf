# SPDX-License-Identifier: GPL-3.0-or-later
"""Action groups: each has all modules with its options, and module_defaults apply to them."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from sandbox.settings import ROOT

# From the ansible-core that runs these tests.
BIN = pathlib.Path(sys.prefix) / "bin"
GROUPS = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text())["action_groups"]
NAMES = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py"))
# An option that only modules of the group have, and defaults with which they stop before using their API.
SIGN = {"google": "auth_kind", "kubernetes": "kubeconfig"}
DEFAULTS = {
    "google": {"project": "of-the-defaults", "auth_kind": "accesstoken", "access_token_from": "vault_token"},
    "kubernetes": {"kubeconfig": "kubeconfig", "context": "of-the-defaults"},
}

TOKEN = "ya29.of-the-vault"


def members(group: str) -> set[str]:
    return {entry for entry in GROUPS[group] if isinstance(entry, str)}


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    command = [BIN / "ansible-doc", "--playbook-dir", ROOT / "playbooks", "--json"]
    command += [f"pullthrough.registry_cache.{name}" for name in NAMES]
    shown = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {name.rpartition(".")[2]: page["doc"]["options"].keys() for name, page in shown.items()}


@pytest.mark.parametrize("group", GROUPS)
def test_every_module_with_its_options_is_in_the_group(options: dict[str, set[str]], group: str) -> None:
    assert members(group) == {name for name in NAMES if SIGN[group] in options[name]}
    assert all(DEFAULTS[group].keys() <= options[name] for name in members(group))


@pytest.fixture(scope="module")
def received(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The arguments that each module got from the defaults. All modules stop early."""
    folder = tmp_path_factory.mktemp("groups")
    names = [f"pullthrough.registry_cache.{name}" for name in sorted(members("google") | members("kubernetes"))]
    names += ["kubernetes.core.k8s", "kubernetes.core.k8s_info"]
    tasks: list[dict[str, Any]] = [{name: {}, "failed_when": False} for name in names]
    defaults = {f"group/pullthrough.registry_cache.{group}": values for group, values in DEFAULTS.items()}
    play = {"hosts": "localhost", "gather_facts": False, "module_defaults": defaults, "tasks": tasks, "vars": {"vault_token": TOKEN}}
    (folder / "kubeconfig").write_text(json.dumps({"kind": "Config", "clusters": [], "contexts": [], "users": []}))
    (folder / "play.yml").write_text(json.dumps([play]))
    local = ["--connection", "local", "--inventory", "localhost,", "--extra-vars", f"ansible_python_interpreter={sys.executable}"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "GC", "K8S_", "KUBECONFIG"))}
    plain["ANSIBLE_COLLECTIONS_PATH"] = str(ROOT / "playbooks" / "collections")
    plain |= {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_CALLBACK_FORMAT_PRETTY": "0"}
    plain["ANSIBLE_REMOTE_TMP"] = str(folder / "tmp")  # not in the home of the user, who may have none
    plain["ANSIBLE_INJECT_INVOCATION"] = "1"  # ansible-core 2.21 and later return arguments only on request
    command = [BIN / "ansible-playbook", "-vvv", *local, folder / "play.yml"]
    result = subprocess.run(command, env=plain, capture_output=True, text=True, check=False, cwd=folder)
    assert result.returncode == 0, result.stdout[-3000:]
    assert TOKEN not in result.stdout + result.stderr
    results = [json.loads(found) for found in re.findall(r"^ok: \[localhost\] => (\{.*\})$", result.stdout, re.M)]
    return dict(zip(names, (one["invocation"]["module_args"] for one in results), strict=True))


@pytest.mark.parametrize("group", GROUPS)
def test_module_defaults_reach_every_module(received: dict[str, dict[str, Any]], group: str) -> None:
    ours = {f"pullthrough.registry_cache.{name}" for name in members(group)}
    # The group of kubernetes.core, which ours extends.
    theirs = {"kubernetes.core.k8s", "kubernetes.core.k8s_info"} if group == "kubernetes" else set()
    for name in ours | theirs:
        # This option may contain a kubeconfig, so it is hidden.
        wanted = {option: value for option, value in DEFAULTS[group].items() if option != "kubeconfig"}
        assert received[name].items() >= wanted.items(), name


def test_the_token_of_a_variable_reaches_every_module(received: dict[str, dict[str, Any]]) -> None:
    for name in members("google"):
        assert received[f"pullthrough.registry_cache.{name}"]["access_token"] == "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER", name
