# SPDX-License-Identifier: GPL-3.0-or-later
"""README.md is short, complete and works on Galaxy; every link of every page leads somewhere."""

from __future__ import annotations

import pathlib
import re
import xml.etree.ElementTree as ElementTree

import pytest
import yaml

from sandbox.settings import ROOT

README = (ROOT / "README.md").read_text()
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("roles/*/README.md"), *ROOT.glob("*/README.md")})
MOST_WORDS, MOST_LINES = 700, 8
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
# A file of this repository, as GitHub shows it.
_OURS = re.compile(r"https://github\.com/pullthrough/registry_cache/(?:blob|raw|tree)/main/(.*)")
_SVG = "{http://www.w3.org/2000/svg}"


def headings(page: pathlib.Path) -> set[str]:
    """Returns the anchors that GitHub and Galaxy make from headings."""
    found = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def links(page: pathlib.Path) -> list[tuple[str, str]]:
    """The links and pictures of a page outside of code blocks: target and anchor."""
    return _LINK.findall(re.sub(r"(?s)```.*?```", "", page.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: pathlib.Path) -> None:
    for target, anchor in links(page):
        ours = _OURS.fullmatch(target)
        if not ours and target.startswith(("http://", "https://")):
            continue
        file = ROOT / ours[1] if ours else (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page}: {target}"
        assert not anchor or anchor in headings(file), f"{page}: {target}#{anchor}"


def test_a_dead_full_link_is_found(tmp_path: pathlib.Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[dead](https://github.com/pullthrough/registry_cache/blob/main/docs/no-such-page.md)")
    with pytest.raises(AssertionError, match="no-such-page"):
        test_links_lead_somewhere(page)


def test_the_links_of_the_readme_work_on_galaxy() -> None:
    assert not [target for target, _anchor in links(ROOT / "README.md") if not target.startswith("https://")]


@pytest.mark.parametrize("folder", ["usage", "development"])
def test_the_index_of_a_folder_names_every_page(folder: str) -> None:
    index = ROOT / "docs" / folder / "README.md"
    named = {(index.parent / target).resolve() for target, _anchor in links(index)}
    assert {page for page in index.parent.glob("*.md") if page != index} <= named


def test_the_readme_is_short() -> None:
    """A word is whatever `wc -w` counts, code and tables included, outside of HTML comments."""
    words = re.sub(r"(?s)<!--.*?-->", "", README).split()
    assert len(words) <= MOST_WORDS


def test_the_readme_has_one_picture_which_needs_no_network() -> None:
    (target,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    ours = _OURS.fullmatch(target)
    assert ours and ours[1].endswith(".svg")


@pytest.mark.parametrize("file", sorted(ROOT.glob("docs/**/*.svg")), ids=lambda file: file.name)
def test_a_picture_is_for_everybody(file: pathlib.Path) -> None:
    """It is described for screen readers, has colours for light and dark, and loads nothing."""
    picture = ElementTree.parse(file).getroot()
    described = {element.get("id"): (element.text or "").strip() for element in picture if element.tag in (f"{_SVG}title", f"{_SVG}desc")}
    assert picture.get("role") == "img" and picture.get("aria-labelledby", "").split() == list(described)
    assert all(described.values())
    text = file.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"https?://|@import|<script|<image|href=", text)


def test_the_quick_start_is_whole() -> None:
    block = README.partition("## Quick start")[2].partition("```sh\n")[2].partition("```")[0]
    assert 0 < len(block.splitlines()) <= MOST_LINES
    for name in re.findall(r"(?:-r |cp -r |mine )(\S+\.(?:txt|yml)|inventory/example)", block):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"inventory/mine/(\S+/main\.yml)", block):
        assert (ROOT / "inventory" / "example" / name).exists(), name
    dependencies = yaml.safe_load((ROOT / "galaxy.yml").read_text())["dependencies"]
    assert dict(re.findall(r"'([a-z]+\.[a-z]+):([^']+)'", block)) == dependencies
    # docs/usage/install.md explains the same commands.
    commands = [line.partition(" #")[0].rstrip() for line in block.splitlines()]
    page = (ROOT / "docs" / "usage" / "install.md").read_text()
    assert not [command for command in commands if command not in page]
