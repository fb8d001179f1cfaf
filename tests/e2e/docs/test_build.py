# SPDX-License-Identifier: GPL-3.0-or-later
"""The site that `make docs` builds: what is in it, and what makes the build fail."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from sandbox.settings import ROOT
from tools import docs


def test_every_page_and_plugin_is_in_the_site(site: pathlib.Path) -> None:
    files = {"module": "plugins/modules/[a-z]*", "filter": "plugins/filter/[a-z]*", "lookup": "plugins/lookup/[a-z]*", "role": "roles/*"}
    wanted = {f"plugins/{path.stem}_{kind}.html" for kind, pattern in files.items() for path in ROOT.glob(pattern)}
    wanted |= {f"reference/{path.name}.html" for path in ROOT.glob("roles/*")}
    wanted |= {f"{path.parent.name}/{path.stem}.html".replace("README", "index") for path in ROOT.glob("docs/[du]*/*.md")}
    found = {str(path.relative_to(site)) for path in site.rglob("*.html")}
    assert found >= {"index.html", "plugins/index.html", *wanted}


def test_the_theme_has_the_only_list_of_sections(site: pathlib.Path) -> None:
    """It shows an error beside another one."""
    assert [page.name for page in site.rglob("*.html") if 'class="contents' in page.read_text()] == []


@pytest.mark.parametrize(
    "text",
    ["[x](other.md#nowhere)", "[x](#nowhere)", "[x](missing.md)", "![x](missing.svg)", "```{nonsense}\n```"],
    ids=["anchor of a page", "anchor", "page", "picture", "directive"],
)
def test_a_page_with_a_fault_is_refused(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str], text: str) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "index.md").write_text(f"# Start\n\n{text}\n\n```{{toctree}}\nother\n```\n")
    (sources / "other.md").write_text("# Other\n\n## Here\n")
    with pytest.raises(subprocess.CalledProcessError):
        docs.render(sources, tmp_path / "site")
    assert "index.md:3: WARNING" in capfd.readouterr().err


def test_a_page_without_a_fault_is_not(tmp_path: pathlib.Path) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "index.md").write_text("# Start\n\n[x](other.md#here)\n\n```{toctree}\nother\n```\n")
    (sources / "other.md").write_text("# Other\n\n## Here\n")
    docs.render(sources, tmp_path / "site")
    assert 'href="other.html#here"' in (tmp_path / "site" / "index.html").read_text()
