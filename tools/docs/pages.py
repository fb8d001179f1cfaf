# SPDX-License-Identifier: GPL-3.0-or-later
"""The repository's Markdown pages as sources of a Sphinx site."""

from __future__ import annotations

import os
import pathlib
import re
import shutil

import yaml

from sandbox.settings import ROOT

# By caption in the navigation: generated pages, and the repository's own.
SECTIONS = {
    "Usage": ((), "docs/usage/*.md"),
    "Reference": (
        ("Modules, plugins and roles <plugins/index>", "Environment variables <plugins/environment_variables>"),
        "roles/*/README.md",
    ),
    "Development": ((), "docs/development/*.md"),
}
_IMAGES = {".png", ".svg"}

_REPOSITORY = yaml.safe_load((ROOT / "galaxy.yml").read_text())["repository"]
# README is also shown on Galaxy, so it links to files of the repository by their web addresses.
_OURS = (
    f"{_REPOSITORY}/blob/main/",
    f"{_REPOSITORY}/tree/main/",
    f"{_REPOSITORY}/raw/main/",
    _REPOSITORY.replace("//github.com/", "//raw.githubusercontent.com/") + "/main/",
)
_CODE = r"^ *```.*?^ *```$|``.+?``|`[^`]+`"
_LINK = r"(?<=\]\()[^)\s]+|(?<= src=\")[^\"]+|(?<= href=\")[^\"]+"
_CODE_OR_LINK = re.compile(f"(?P<code>{_CODE})|{_LINK}", re.MULTILINE | re.DOTALL)


class DeadLink(Exception):
    """Links to files that the repository does not have, one a line."""


class Pages:
    """The pages of a repository and their places in the site.

    :param root: the repository.
    """

    def __init__(self, root: pathlib.Path = ROOT) -> None:
        self._root = root
        self._start = root / "README.md"
        self._places = {self._start: pathlib.PurePath("index.md")}
        self._images: dict[pathlib.Path, pathlib.PurePath] = {}
        self._navigation: dict[str, list[str]] = {}
        for caption, (generated, pattern) in SECTIONS.items():
            self._navigation[caption] = list(generated)
            for page in sorted(root.glob(pattern), key=_order):
                name = page.stem if page.name != "README.md" else page.parent.name if pattern.endswith(page.name) else "index"
                self._places[page] = pathlib.PurePath(caption.lower(), f"{name}.md")
                self._navigation[caption].append(f"{caption.lower()}/{name}")

    def write(self, target: pathlib.Path) -> None:
        """Write the sources of the site into a folder, with the images that they show.

        :raises DeadLink: if links of any page lead nowhere.
        """
        dead = []
        for page, place in self._places.items():
            try:
                text = self._converted(page)
            except DeadLink as error:
                dead.append(str(error))
                continue
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            (target / place).write_text(text)
        if dead:
            raise DeadLink("\n".join(dead))
        with (target / self._places[self._start]).open("a") as start:
            for caption, entries in self._navigation.items():
                if entries:
                    start.write("\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```", ""]))
        for image, place in self._images.items():
            (target / place).parent.mkdir(exist_ok=True)
            shutil.copy(image, target / place)

    def _converted(self, page: pathlib.Path) -> str:
        """The text of a page, with links that fit the site.

        :raises DeadLink: if links lead nowhere.
        """
        dead: list[str] = []

        def replace(found: re.Match[str]) -> str:
            if found["code"]:
                return found[0]
            try:
                return self._link(found[0], page)
            except DeadLink as error:
                dead.append(str(error))
                return found[0]

        text = _CODE_OR_LINK.sub(replace, page.read_text())
        if dead:
            raise DeadLink("\n".join(dead))
        return text

    def _link(self, link: str, page: pathlib.Path) -> str:
        """The link to a page or an image of the site, or to the file on the repository's web page.

        :raises DeadLink: if there is no such file.
        """
        address, hash_, anchor = link.partition("#")
        if prefix := next((prefix for prefix in _OURS if address.startswith(prefix)), ""):
            file = self._root / address.removeprefix(prefix)
        elif not address or re.match(r"[a-z]+:", address):
            return link
        else:
            file = pathlib.Path(os.path.normpath(page.parent / address))
        if not file.exists():
            raise DeadLink(f"{page.relative_to(self._root)}: {link} leads to no file")
        place = self._places.get(file) or self._places.get(file / "README.md")
        if file.suffix in _IMAGES:
            place = self._images[file] = pathlib.PurePath("images", file.name)
        if place:
            return os.path.relpath(place, self._places[page].parent) + hash_ + anchor
        return f"{_REPOSITORY}/{'tree' if file.is_dir() else 'blob'}/main/{file.relative_to(self._root)}{hash_}{anchor}"


def _order(page: pathlib.Path) -> tuple[bool, int, pathlib.Path]:
    """Sorts a folder's pages: its README, then as that links to them, then by name."""
    guide = page.parent / "README.md"
    text = guide.read_text() if guide.exists() else ""
    found = text.find(f"]({page.name}")
    return (page != guide, found if found >= 0 else len(text), page)
