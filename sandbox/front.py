# SPDX-License-Identifier: GPL-3.0-or-later
"""The front as role `cache` configures it, on this machine: for tests and measurements without a cluster."""

from __future__ import annotations

import itertools
import json
import pathlib
import subprocess
import tempfile
from typing import Any

from . import environment
from .settings import ROOT

_ROLE = ROOT / "roles" / "cache"


def render(folder: pathlib.Path, **variables: Any) -> None:
    """Write the VCL and the scripts of the front into a folder, which also is their run-time folder, from the role's own templates.

    :param variables: variables of the role; what only a cluster has is set here.
    :raises subprocess.CalledProcessError: a template does not render; the output says where.
    """
    files = [_ROLE / "defaults" / "main.yml", _ROLE / "vars" / "main.yml"]
    local = {
        "ansible_python_interpreter": str(environment.PYTHON),
        "registry_cache_upstreams": [{"host": "upstream.example", "repositories": ["p/r"]}],
        "_registry_cache_peers": ["127.0.0.1", "127.0.0.2"],
        "_registry_cache_run": str(folder),
        "_registry_cache_front_etc": str(folder),
        "_registry_cache_front_store": str(folder / "store"),
        **variables,
    }
    tasks = [
        {
            "ansible.builtin.template": {"src": str(_ROLE / "templates" / f"{name}.j2"), "dest": str(folder / name)},
        }
        for name in ("front.vcl", "peers.vcl", "front.sh", "drain.sh", "log.sh")
    ]
    play = [{"hosts": "localhost", "gather_facts": False, "vars_files": [str(file) for file in files], "tasks": tasks}]
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        json.dump(play, file)
        file.flush()
        subprocess.run(
            [
                *[environment.VENV / "bin" / "ansible-playbook", "--inventory", "localhost,", "--connection", "local"],
                *["--extra-vars", json.dumps(local), file.name],
            ],
            check=True,
            capture_output=True,
            text=True,
        )


def parameters(folder: pathlib.Path) -> list[str]:
    """The `-p NAME=VALUE` words that a rendered front.sh gives to varnishd."""
    words = (folder / "front.sh").read_text().split()
    return [word for flag, value in itertools.pairwise(words) if flag == "-p" and "vcl_path" not in value for word in (flag, value)]
