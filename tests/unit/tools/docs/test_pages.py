# SPDX-License-Identifier: GPL-3.0-or-later
"""Links of the repository's pages in the site."""

from __future__ import annotations

import pathlib

import pytest

from tools.docs.pages import DeadLink, Pages

GITHUB = "https://github.com/pullthrough/registry_cache"


@pytest.fixture
def repository(tmp_path: pathlib.Path) -> pathlib.Path:
    """A small repository with each kind of page."""
    root = tmp_path / "repository"
    for name in ("docs/usage/install.md", "docs/usage/awx.md", "docs/development/tests.md", "roles/cache/README.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"# {name}\n")
    (root / "docs" / "images").mkdir()
    (root / "docs" / "images" / "cache.svg").write_text("<svg/>")
    (root / "tools").mkdir()
    (root / "tools" / "run.py").touch()
    (root / "docs" / "usage" / "README.md").write_text("# Usage\n\n[install](install.md)\n")
    (root / "README.md").write_text("# Start\n")
    return root


def written(root: pathlib.Path, page: str) -> str:
    """The text that the site has for a page."""
    target = root.with_name("site")
    Pages(root).write(target)
    return (target / page).read_text()


@pytest.mark.parametrize(
    ("link", "there"),
    [
        ("awx.md", "awx.md"),
        ("awx.md#templates", "awx.md#templates"),
        ("#below", "#below"),
        ("../development/tests.md", "../development/tests.md"),
        ("../../README.md", "../index.md"),
        ("README.md", "index.md"),
        ("../usage/", "index.md"),
        ("../../roles/cache/README.md#names", "../reference/cache.md#names"),
        ("../../roles/cache/", "../reference/cache.md"),
        ("../images/cache.svg", "../images/cache.svg"),
        ("../../tools/run.py", f"{GITHUB}/blob/main/tools/run.py"),
        ("../../tools", f"{GITHUB}/tree/main/tools"),
        (f"{GITHUB}/blob/main/docs/usage/awx.md#jobs", "awx.md#jobs"),
        (f"{GITHUB}/tree/main/tools", f"{GITHUB}/tree/main/tools"),
        ("https://raw.githubusercontent.com/pullthrough/registry_cache/main/docs/images/cache.svg", "../images/cache.svg"),
        (f"{GITHUB}/issues", f"{GITHUB}/issues"),
        ("https://kubernetes.io/docs/", "https://kubernetes.io/docs/"),
        ("mailto:somebody@example.org", "mailto:somebody@example.org"),
    ],
)
def test_a_link_leads_to_the_same_place(repository: pathlib.Path, link: str, there: str) -> None:
    text = '[words](LINK "title") ![picture](LINK) <img alt="" src="LINK"> <a href="LINK">\n'
    (repository / "docs" / "usage" / "install.md").write_text(text.replace("LINK", link))
    assert written(repository, "usage/install.md") == text.replace("LINK", there)


def test_a_picture_comes_with_the_page(repository: pathlib.Path) -> None:
    (repository / "docs" / "development" / "tests.svg").write_text("<svg/>")
    (repository / "docs" / "development" / "tests.md").write_text("![tests](tests.svg)\n")
    assert written(repository, "development/tests.md") == "![tests](../images/tests.svg)\n"
    assert (repository.with_name("site") / "images" / "tests.svg").read_text() == "<svg/>"


@pytest.mark.parametrize(
    "code",
    ["`[x](missing)`", "`[x]\n(missing)`", "``[`x`](missing)``", "```sh\n[x](missing)\n```", "1. a\n\n   ```sh\n   [x](missing)\n   ```"],
)
def test_code_has_no_links(repository: pathlib.Path, code: str) -> None:
    (repository / "docs" / "usage" / "install.md").write_text(f"{code}\n")
    assert written(repository, "usage/install.md") == f"{code}\n"


def test_all_dead_links_are_reported_at_once(repository: pathlib.Path) -> None:
    (repository / "docs" / "usage" / "install.md").write_text("[x](one.md) and [y](../two.md)\n")
    (repository / "roles" / "cache" / "README.md").write_text(f"[z]({GITHUB}/blob/main/three.md)\n")
    with pytest.raises(DeadLink) as error:
        written(repository, "index.md")
    page = "docs/usage/install.md"
    expected = [f"{page}: one.md", f"{page}: ../two.md", f"roles/cache/README.md: {GITHUB}/blob/main/three.md"]
    assert [line.removesuffix(" leads to no file") for line in str(error.value).splitlines()] == expected


def test_the_start_page_has_the_navigation(repository: pathlib.Path) -> None:
    """In each section the folder's README comes first, then what it links to in its order, then the rest."""
    lines = written(repository, "index.md").splitlines()
    assert [line.removeprefix(":caption: ") for line in lines if line.startswith(":caption:")] == ["Usage", "Reference", "Development"]
    assert [line.rpartition("<")[2].rstrip(">") for line in lines if "/" in line] == [
        *("usage/index", "usage/install", "usage/awx"),
        *("plugins/index", "plugins/environment_variables", "reference/cache"),
        "development/tests",
    ]


def test_the_pages_of_this_repository_have_no_dead_link(tmp_path: pathlib.Path) -> None:
    Pages().write(tmp_path / "site")
