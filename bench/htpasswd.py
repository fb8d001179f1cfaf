# SPDX-License-Identifier: GPL-3.0-or-later
"""Module htpasswd with many unchanged users: in its process, as a task, and what both are compared with."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import bcrypt

from sandbox.settings import ROOT
from sandbox.steps import StepFailed

# Excludes the start of the interpreter and Ansible's imports, which every module needs.
_PROCESS = """
import contextlib, io, json, site, sys, time
from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder
_AnsibleCollectionFinder(paths=[sys.argv[1], *site.getsitepackages()])._install()
from ansible.module_utils.testing import patch_module_args
from ansible_collections.pullthrough.registry_cache.plugins.modules import htpasswd
with patch_module_args(json.load(sys.stdin)), contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
    started = time.monotonic()
    try:
        htpasswd.main()
    finally:
        seconds = time.monotonic() - started
print(json.dumps({"seconds": seconds, "changed": json.loads(out.getvalue())["changed"]}))
"""


@dataclass
class Users:
    """A folder with an htpasswd file, its users, and the cost of their hashes."""

    folder: pathlib.Path
    passwords: dict[str, str]
    hashes: dict[str, str]
    cost: int

    @property
    def path(self) -> str:
        return str(self.folder / "htpasswd")

    @property
    def arguments(self) -> dict[str, object]:
        """The arguments for module htpasswd."""
        users = [{"name": name, "password": password} for name, password in self.passwords.items()]
        return {"path": self.path, "cost": self.cost, "users": users}


def make(folder: pathlib.Path, count: int, cost: int) -> Users:
    """Writes an htpasswd file with `count` users."""
    folder.mkdir(parents=True)
    passwords = {f"user-{n}": f"the-password-of-{n}" for n in range(count)}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        hashes = pool.map(lambda password: bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode(), passwords.values())
        users = Users(folder, passwords, dict(zip(passwords, hashes, strict=True)), cost)
    text = "".join(f"{name}:{hashed}\n" for name, hashed in users.hashes.items())
    pathlib.Path(users.path).touch(0o600)
    pathlib.Path(users.path).write_text(text)
    return users


def alone(users: Users) -> float:
    """Returns the time of the verifications alone, on all CPUs, in seconds."""
    pairs = [(password.encode(), users.hashes[name].encode()) for name, password in users.passwords.items()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        started = time.monotonic()
        right = all(pool.map(lambda pair: bcrypt.checkpw(*pair), pairs))
        seconds = time.monotonic() - started
    if not right:
        raise StepFailed("a hash does not match its password")
    return seconds


def module(users: Users) -> float:
    """Returns the time of the module's main(), from arguments to result, in seconds."""
    argv = [sys.executable, "-c", _PROCESS, str(ROOT / "playbooks" / "collections")]
    done = subprocess.run(argv, input=json.dumps(users.arguments), capture_output=True, text=True, check=False)
    if done.returncode or (result := json.loads(done.stdout))["changed"]:
        raise StepFailed(f"module htpasswd: {done.stdout}{done.stderr}")
    return result["seconds"]


def play(users: Users, name: str, tasks: Sequence[dict[str, object]]) -> Callable[[], float]:
    """Returns a function that returns the time of a run of ansible-playbook without changes, in seconds."""
    file = users.folder / f"{name}.json"
    file.touch(0o600)
    file.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    argv = ["ansible-playbook", "--inventory", "localhost,", "--connection", "local"]
    argv += ["--extra-vars", json.dumps({"ansible_python_interpreter": sys.executable}), str(file)]
    env = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "playbooks" / "collections")}

    def run() -> float:
        started = time.monotonic()
        done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        if done.returncode or "changed=0" not in done.stdout:
            raise StepFailed(f"{name}: {done.stdout}{done.stderr}")
        return time.monotonic() - started

    return run


def ours(users: Users) -> Callable[[], float]:
    return play(users, "ours", [{"pullthrough.registry_cache.htpasswd": users.arguments}])


def peer(users: Users, count: int) -> Callable[[], float]:
    """Returns a run of community.general.htpasswd, once for each of the first `count` users."""
    some = list(users.arguments["users"])[:count]  # type: ignore[call-overload]
    arguments = {"path": users.path, "name": "{{ item.name }}", "password": "{{ item.password }}", "hash_scheme": "bcrypt", "mode": "0600"}
    return play(users, "peer", [{"community.general.htpasswd": arguments, "loop": some, "no_log": True}])


def nothing(users: Users) -> Callable[[], float]:
    """Returns a run without such a task."""
    return play(users, "nothing", [{"ansible.builtin.assert": {"that": "true"}}])
