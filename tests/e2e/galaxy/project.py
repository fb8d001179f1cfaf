# SPDX-License-Identifier: GPL-3.0-or-later
"""A project as a new user has it: a folder, and an environment with what README.md says to install."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
from collections.abc import Mapping

import yaml

from sandbox import environment

# What the user's shell does not have: what tests and their tools set for themselves.
_FOREIGN = re.compile("ANSIBLE_|MOLECULE_|PYTHONPATH|PYTEST_|VIRTUAL_ENV")


class Project:
    """requirements.yml, an inventory and archives; no ansible.cfg.

    :param variables: the environment of the user's shell.
    """

    def __init__(self, path: pathlib.Path, variables: Mapping[str, str]) -> None:
        self.path = path
        self._shell = {name: value for name, value in variables.items() if not _FOREIGN.match(name)}
        (path / "home").mkdir(parents=True)

    def run(self, *command: str | pathlib.Path) -> subprocess.CompletedProcess[str]:
        shell = {**self._shell, "HOME": str(self.path / "home"), "LANG": "C.UTF-8", "ANSIBLE_NOCOLOR": "1"}
        shell["PATH"] = f"{environment.users()}/bin:{os.environ['PATH']}"
        return subprocess.run([str(word) for word in command], cwd=self.path, env=shell, check=False, capture_output=True, text=True)

    def install(self, *archives: pathlib.Path) -> None:
        """As Galaxy would by name: there is none here, so each is an archive."""
        wanted = [{"name": str(archive), "type": "file"} for archive in archives]
        (self.path / "requirements.yml").write_text(yaml.safe_dump({"collections": wanted}))
        result = self.run("ansible-galaxy", "collection", "install", "--offline", "-r", "requirements.yml")
        assert result.returncode == 0, result.stdout + result.stderr

    @property
    def installed(self) -> pathlib.Path:
        return self.path / "home" / ".ansible" / "collections" / "ansible_collections" / "pullthrough" / "registry_cache"
