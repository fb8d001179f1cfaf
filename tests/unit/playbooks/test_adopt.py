# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/adopt.yml, with an API server in this process."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.owner import Owner

from sandbox.settings import ROOT
from tests.unit.plugins.kubernetes_api import ApiServer

# Values as a survey of AWX and as --extra-vars pass them.
HOSTS: dict[str, Any] = {
    "text": "[{kind: Service, name: registry-cache}]",
    "list": [{"kind": "Secret", "name": "pull", "namespace": "demo"}],
    "nothing": [],
}


def test_named_objects_are_shown_and_labelled(tmp_path: pathlib.Path) -> None:
    server = ApiServer()
    for name in ("registry-cache", "demo"):
        server.namespace(name)
    server.add("services", "registry-cache", "registry-cache", metadata={"labels": {"app.kubernetes.io/managed-by": "Helm"}})
    server.add("secrets", "demo", "pull", data={})
    common = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    hosts = {host: {**common, "registry_cache_adopt": objects} for host, objects in HOSTS.items()}
    (tmp_path / "hosts.json").write_text(json.dumps({"registry_cache_clusters": {"hosts": hosts}}))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "K8S_", "KUBE"))}
    environment |= {"ANSIBLE_NOCOLOR": "1", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment |= {"K8S_AUTH_HOST": server.url, "K8S_AUTH_API_KEY": "cluster-token"}
    argv = [str(pathlib.Path(sys.prefix) / "bin" / "ansible-playbook"), "--inventory", str(tmp_path / "hosts.json"), "playbooks/adopt.yml"]
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    server.close()
    for host, ended in {"text": "changed=1", "list": "changed=1", "nothing": "changed=0"}.items():
        assert re.search(rf"^{host} .*{ended} .*failed={int(host == 'nothing')}", done.stdout, re.M), done.stdout
    assert "Service registry-cache/registry-cache (managed by Helm, created" in done.stdout
    assert "Example: registry_cache_adopt: [{kind: Service" in done.stdout
    ours = Owner("registry-cache", "registry-cache").labels
    for key in (("services", "registry-cache", "registry-cache"), ("secrets", "demo", "pull")):
        assert server.objects[key]["metadata"]["labels"] == ours
    assert len(server.writes) == 2
