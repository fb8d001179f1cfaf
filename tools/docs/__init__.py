# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation as one site: pages of the repository, and the reference of modules, roles, filters and lookups."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import tempfile

from sandbox import environment
from sandbox.settings import ROOT

from .pages import Pages

SITE = ROOT / "build" / "docs"
_COLLECTION = "pullthrough.registry_cache"
_HERE = pathlib.Path(__file__).parent


def build(target: pathlib.Path = SITE) -> None:
    """Make the site in a folder, which is replaced.

    :raises DeadLink: if a page links to a file that there is not.
    :raises subprocess.CalledProcessError: for a warning of antsibull-docs or Sphinx, which they have printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        sources, site = pathlib.Path(folder, "sources"), pathlib.Path(folder, "site")
        Pages().write(sources)
        reference(sources / "plugins")
        render(sources, site)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(site, target)


def reference(target: pathlib.Path) -> None:
    """Write a page for each module, role, filter and lookup, and an index, after antsibull-docs has checked their markup."""
    target.mkdir(mode=0o700)  # antsibull-docs refuses a folder that others can write to
    checks = ["--plugin-docs", "--skip-rstcheck", "--validate-collection-refs=dependent"]
    _run("antsibull-docs", "lint-collection-docs", *checks, ROOT)
    options = ["--use-current", "--squash-hierarchy", "--fail-on-error", "--dest-dir", target]
    _run("antsibull-docs", "collection", *options, _COLLECTION)
    for page in target.glob("*.rst"):
        # The theme shows the sections of a page beside it, and has little room for titles in the navigation.
        text = re.sub(r"(?m)^\.\. contents::\n(?: +:.*\n)+", "", page.read_text())
        page.write_text(re.sub(r"(?m)^    (\w+)_(filter|lookup|module|role)$", r"    \1 <\1_\2>", text))


def render(sources: pathlib.Path, target: pathlib.Path) -> None:
    """Make HTML of Markdown and reStructuredText. A warning is an error, and a link inside that leads nowhere is a warning."""
    options = ["--fail-on-warning", "--keep-going", "--quiet", "--builder", "html", "--conf-dir", _HERE]
    _run("sphinx-build", *options, "--doctree-dir", target.with_name("doctrees"), sources, target)
    (target / ".buildinfo").unlink()


def tools() -> pathlib.Path:
    """The environment of antsibull-docs and Sphinx, made unless it is there."""
    return environment.further("docs", [_HERE / "requirements.txt"])


def _run(*command: str | pathlib.Path) -> None:
    # ansible-doc, which antsibull-docs calls, is in the environment of tests and demo.
    path = f"{tools()}/bin:{environment.VENV}/bin:{os.environ['PATH']}"
    variables = {"PATH": path, "ANSIBLE_COLLECTIONS_PATH": f"{ROOT}/playbooks/collections"}
    subprocess.run(command, env={**os.environ, **variables}, cwd=ROOT, check=True)
