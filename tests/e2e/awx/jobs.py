# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs jobs as AWX does: a playbook in a clone, by ansible-runner, with the environment that AWX injects."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ansible_runner
import jinja2
from awx_plugins.credentials import injectors, plugins

from sandbox import environment
from tools import artifact

_FOREIGN = re.compile("ANSIBLE_|CONTROLLER_|DOCKER_|GC[EP]_|GOOGLE_|K8S_|KUBECONFIG|PYTHONPATH|TOWER_|.*_PROXY|REQUESTS_")


@dataclass
class Credential:
    """A credential of a built-in type of AWX, given by its namespace, for AWX's injectors."""

    kind: str
    inputs: Mapping[str, Any]

    def get_input(self, name: str, default: Any = "") -> Any:
        return self.inputs.get(name, default)

    def has_input(self, name: str) -> bool:
        return bool(self.inputs.get(name))

    def inject(self, variables: dict[str, str], folder: pathlib.Path) -> None:
        """Inject the credential with AWX's code. AWX mounts the job's folder at /runner; here there is no container."""
        if hasattr(injectors, self.kind):
            injected: dict[str, str] = {}
            getattr(injectors, self.kind)(self, injected, str(folder))
            variables.update({name: re.sub(r"^/runner(?=/)", str(folder), value) for name, value in injected.items()})
            return
        managed = next(found for found in vars(plugins).values() if getattr(found, "namespace", None) == self.kind)
        variables.update({name: jinja2.Template(value).render(self.inputs) for name, value in managed.injectors["env"].items()})


@dataclass
class Job:
    """The result of a job."""

    status: str
    output: str
    changed: int
    failures: list[str] = field(default_factory=list)


def update_project(project: pathlib.Path, base: pathlib.Path) -> pathlib.Path:
    """Install the collections of collections/requirements.yml beside the project, like AWX after it fetched a project."""
    target = base / "requirements_collections"
    entries = ("kubernetes.core", "google.cloud", "awx.awx")
    command = [environment.users() / "bin" / "ansible-galaxy", "collection", "install", "--offline", "--collections-path", target]
    subprocess.run([*command, *map(artifact.dependency, entries)], check=True, capture_output=True, cwd=project)
    # Galaxy cannot be reached here. Its collections are installed already, in versions that the file allows.
    result = subprocess.run(
        [*command, "--requirements-file", "collections/requirements.yml"], check=False, capture_output=True, text=True, cwd=project
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Nothing to do" in result.stdout, result.stdout
    return target


def run(
    folder: pathlib.Path,
    project: pathlib.Path,
    collections: pathlib.Path,
    playbook: str,
    inventory: Mapping[str, Any],
    credentials: Sequence[Credential] = (),
    further: Mapping[str, str] | None = None,
    check: bool = False,
    **extra_vars: Any,
) -> Job:
    """Run a job in a separate folder.

    :param further: variables of the execution environment, for example a proxy.
    :param check: whether it is a job of type check.
    """
    for name in ("env", "inventory"):
        (folder / name).mkdir(parents=True)
    (folder / "project").symlink_to(project)
    (folder / "inventory" / "hosts.json").write_text(json.dumps(inventory))
    # The part of awx/main/tasks/jobs.py that affects a playbook.
    variables = {
        "ANSIBLE_COLLECTIONS_PATH": f"{collections}:{folder}/.ansible/collections:/usr/share/ansible/collections",
        "ANSIBLE_FORCE_COLOR": "False",
        "ANSIBLE_HOST_KEY_CHECKING": "False",
        "ANSIBLE_INVENTORY_UNPARSED_FAILED": "True",
        "ANSIBLE_RETRY_FILES_ENABLED": "False",
        "HOME": str(folder),
        "JOB_ID": "1",
        "PATH": f"{environment.users()}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        **(further or {}),
    }
    for credential in credentials:
        credential.inject(variables, folder)
    # ansible-runner keeps this process's environment, which may have credentials or a kubeconfig.
    own = dict(os.environ)
    try:
        for name in filter(_FOREIGN.match, own):
            del os.environ[name]
        ran = ansible_runner.run(
            private_data_dir=str(folder),
            playbook=playbook,
            inventory=str(folder / "inventory" / "hosts.json"),
            envvars=variables,
            extravars={"awx_job_id": 1, "tower_job_id": 1, **extra_vars},
            cmdline="--check" if check else None,
            quiet=True,
        )
    finally:
        os.environ.clear()
        os.environ.update(own)
    events = list(ran.events)
    failed = [event["event_data"] for event in events if event["event"] in ("runner_on_failed", "runner_item_on_failed")]
    # In a loop, each failed item has a reason; then the task reports that one failed.
    own = [data["res"] for data in failed if not data.get("ignore_errors") and "results" not in data["res"]]
    said = [str(result.get("msg", result)) for result in own]
    output = re.sub(r"\s+", " ", "\n".join(event["stdout"] for event in events))
    return Job(ran.status, output, sum((ran.stats or {}).get("changed", {}).values()), said)


def own_type(definition: Mapping[str, Any], folder: pathlib.Path, **inputs: str) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the environment and extra variables of a credential of a type of playbooks/awx.yml, rendered like in AWX."""
    names = {}
    for name, template in definition["injectors"].get("file", {}).items():
        path = folder / f"injected-{name}"
        path.write_text(jinja2.Template(template).render(inputs))
        names[name.removeprefix("template.")] = str(path)
    space = {**inputs, "tower": {"filename": names}}

    def rendered(kind: str) -> dict[str, str]:
        return {name: jinja2.Template(text).render(space) for name, text in definition["injectors"].get(kind, {}).items()}

    return rendered("env"), rendered("extra_vars")

