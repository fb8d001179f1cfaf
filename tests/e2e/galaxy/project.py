# SPDX-License-Identifier: GPL-3.0-or-later
"""A project of a new user: a folder, and an environment with the packages that README.md lists."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
from collections.abc import Mapping

import yaml

from sandbox import environment

# Variables of tests and their tools, which a user's shell does not have.
_FOREIGN = re.compile("ANSIBLE_|MOLECULE_|PYTHONPATH|PYTEST_|VIRTUAL_ENV")


class Project:
    """A project with requirements.yml, an inventory and archives, without ansible.cfg.

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
        """Install the collections. Galaxy cannot be reached, so each is an archive."""
        wanted = [{"name": str(archive), "type": "file"} for archive in archives]
        (self.path / "requirements.yml").write_text(yaml.safe_dump({"collections": wanted}))
        result = self.run("ansible-galaxy", "collection", "install", "--offline", "-r", "requirements.yml")
        assert result.returncode == 0, result.stdout + result.stderr

    @property
    def installed(self) -> pathlib.Path:
        return self.path / "home" / ".ansible" / "collections" / "ansible_collections" / "pullthrough" / "registry_cache"
