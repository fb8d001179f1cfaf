# SPDX-License-Identifier: GPL-3.0-or-later
"""README.md names all roles, playbooks and plugins, and links of all pages work."""

from __future__ import annotations

import pathlib
import re

import pytest
import yaml

from sandbox.settings import ROOT

README = (ROOT / "README.md").read_text()
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("roles/*/README.md"), *ROOT.glob("*/README.md")})
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")


def headings(page: pathlib.Path) -> set[str]:
    """Returns the anchors that GitHub and Galaxy make from headings."""
    found = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_every_role_and_playbook_is_in_one_table() -> None:
    table = README.split("| playbook or role |")[1].split("\n\n")[0]
    rows = re.findall(r"(?m)^\| \[`([\w.]+)`\]\(([\w./]+)\) \| (.+) \|$", table)
    playbooks = {path.name: f"playbooks/{path.name}" for path in ROOT.glob("playbooks/*.yml")}
    roles = {path.name: f"roles/{path.name}/README.md" for path in (ROOT / "roles").iterdir()}
    assert {name: link for name, link, _ in rows} == playbooks | roles


@pytest.mark.parametrize("kind", ["modules", "filter", "lookup"])
def test_every_plugin_is_named(kind: str) -> None:
    names = {path.stem for path in (ROOT / "plugins" / kind).glob("[a-z]*.py")}
    # "`NAME`, each with `_info`" names both.
    named = set(re.findall(r"`(\w+)`", README))
    assert names and {name for name in names if name not in named and name.removesuffix("_info") not in named} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_work(page: pathlib.Path) -> None:
    text = re.sub(r"(?s)```.*?```", "", page.read_text())
    for target, anchor in _LINK.findall(text):
        if target.startswith(("http://", "https://")):
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page}: {target}"
        assert not anchor or anchor in headings(file), f"{page}: {target}#{anchor}"


def test_the_commands_of_the_quick_start_name_existing_files() -> None:
    block = README.split("## Use it on your cluster")[1].split("```sh")[1].split("```")[0]
    for name in re.findall(r"(?:-r |cp -r |mine )(\S+\.(?:txt|yml)|inventory/example)", block):
        assert (ROOT / name).exists(), name
    dependencies = yaml.safe_load((ROOT / "galaxy.yml").read_text())["dependencies"]
    assert dict(re.findall(r"'([a-z]+\.[a-z]+):([^']+)'", block)) == dependencies
    for page in sorted((ROOT / "docs").glob("**/*.md")):
        assert any(page.name in other.read_text() for other in PAGES if other != page), f"no page leads to {page.name}"
