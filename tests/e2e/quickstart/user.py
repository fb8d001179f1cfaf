# SPDX-License-Identifier: GPL-3.0-or-later
"""A new user of the quick start in README.md: a home, and replacements for what the sandbox does not have.

| in the quick start | in the sandbox |
| --- | --- |
| github.com | a repository with the files of this clone, by git's `insteadOf` |
| the Python package index | a folder of wheels, by pip's own variables |
| Galaxy | an emulator with the collections of the sandbox, by Ansible's own variable |
| gcloud | a program that writes the key of a service account where gcloud writes a user's credential |
| ghcr.io | a registry on loopback without TLS; its name is the only word of a line that is replaced |
| an editor | a program that writes the line that README.md names |
| Google | the sandbox's emulator, behind a proxy with a private CA |
"""

from __future__ import annotations

import json
import os
import pathlib
import platform
import re
import subprocess
from collections.abc import Mapping

import yaml

from sandbox import environment
from sandbox.settings import CACHE, PROJECT, REPOSITORY, ROOT
from tools import artifact

from . import registry

README = (ROOT / "README.md").read_text()
# In interactive programs, the user types these.
VAULT_PASSWORD = "of-the-vault-file"
ANSWERS = {
    "Username: ": registry.USER,
    "Password: ": registry.PASSWORD,
    "(?:New|Confirm New) [Vv]ault password[^:]*: ": VAULT_PASSWORD,
    "Vault password: ": VAULT_PASSWORD,
}
GROUP = pathlib.Path("registry_cache", "inventory", "mine", "group_vars", "registry_cache_clusters")
_CLONED = "https://github.com/pullthrough/registry_cache"
# What the comments in the example's main.yml ask for, in this order: the text to replace, and the user's value.
_FILLED_IN = {
    "my-project/my-repository/my-image:1.0": f"{PROJECT}/{REPOSITORY}/hello:1.0",
    "my-project/my-repository": f"{PROJECT}/{REPOSITORY}",
    "registry_cache_wif_project: my-project": f"registry_cache_wif_project: {PROJECT}",
    "ghcr.io/": f"{registry.HOST}/",
}
# Variables of the shell that a user has, too; the proxy and its CA are those of a company.
_KEPT = ("DOCKER_HOST", "HTTPS_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE")


def lines(page: str, heading: str) -> list[str]:
    """Returns the lines of the first block of commands below a heading."""
    return page.partition(f"## {heading}")[2].partition("```sh\n")[2].partition("```")[0].splitlines()


def typed(line: str) -> str:
    """Returns a line with the registry of the sandbox."""
    return line.replace("ghcr.io", registry.HOST)


def prepare(home: pathlib.Path, galaxy: str, key: Mapping[str, str], kubeconfig: pathlib.Path, password: str) -> dict[str, str]:
    """Fill the home of a user. Returns the variables of the user's shell.

    :param galaxy: the URL of the emulator of Galaxy.
    :param key: the key of a service account of Google.
    :param kubeconfig: a file whose current context is the cluster.
    :param password: the password for the vault file.
    """
    github = artifact.clone(home / "github")
    author = ["-c", "user.name=ada", "-c", "user.email=ada@example.com"]
    for command in (["init", "--quiet"], ["add", "--all"], [*author, "commit", "--quiet", "--message", "All"]):
        subprocess.run(["git", *command], cwd=github, check=True)
    (home / ".gitconfig").write_text(f'[url "{github}"]\n\tinsteadOf = {_CLONED}\n')
    (home / ".kube").mkdir()
    (home / ".kube" / "config").write_text(kubeconfig.read_text())
    (home / "key.json").write_text(json.dumps(dict(key)))
    (vaulted,) = re.findall(r"vault\.yml +# add (\w+: )PASSWORD$", "\n".join(lines(README, "Quick start")), re.M)
    (home / "vaulted").write_text(f"{vaulted}{password}\n")
    for secret in (home / ".kube" / "config", home / "key.json", home / "vaulted"):
        secret.chmod(0o600)
    programs = home / "programs"
    programs.mkdir()
    credential = ".config/gcloud/application_default_credentials.json"
    for name, script in {
        "python3": [f'exec {environment.INTERPRETER} "$@"'],  # of the same version as the wheels
        "gcloud": ['test "$*" = "auth application-default login"', f"install -D -m 600 ~/key.json ~/{credential}"],
        "editor": ['cat ~/vaulted > "$1"'],
    }.items():
        (programs / name).write_text("\n".join(["#!/bin/sh -e", *script, ""]))
        (programs / name).chmod(0o755)
    path = [folder for folder in os.environ["PATH"].split(":") if not pathlib.Path(folder).is_relative_to(CACHE)]
    return {
        **{name: os.environ[name] for name in _KEPT if name in os.environ},
        "HOME": str(home),
        "PATH": ":".join([str(programs), *path]),
        "LANG": "C.UTF-8",
        "EDITOR": str(programs / "editor"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(environment.wheels()),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "ANSIBLE_GALAXY_SERVER": f"{galaxy}/api/",
        "ANSIBLE_NOCOLOR": "1",
    }


def fill_in(group: pathlib.Path, ca: pathlib.Path) -> None:
    """Edit the copy of the example inventory as its comments say, and add what only the sandbox needs in a second file.

    :param group: the folder of the group's variables.
    :param ca: the CA of the proxy in front of Google.
    """
    text = (group / "main.yml").read_text()
    for old, new in _FILLED_IN.items():
        assert old in text, f"main.yml has no {old}"
        text = text.replace(old, new)
    (group / "main.yml").write_text(text)
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    needed = {
        "registry_cache_ca_bundle": str(ca),
        "registry_cache_image_insecure": True,  # the registry has no TLS
        # The sandbox makes base images for this machine, and builds with their modules.
        "registry_cache_image_platforms": [f"linux/{architecture}"],
        "registry_cache_image_build_network": "host",
        "registry_cache_image_build_proxy": {},
    }
    (group / "sandbox.yml").write_text(yaml.safe_dump(needed))
