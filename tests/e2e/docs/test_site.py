# SPDX-License-Identifier: GPL-3.0-or-later
"""The site in headless Chromium: every page, link and picture, and nothing from elsewhere."""

from __future__ import annotations

import functools
import http.server
import pathlib
import threading
import urllib.parse
from collections.abc import Iterator

import pytest

from . import chromium
from .chromium import Page


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: pathlib.Path) -> Iterator[str]:
    """Where the site is served, on loopback."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def pages(address: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    """All pages that links lead to from the start page, by address."""
    found: dict[str, Page] = {}
    left = [f"{address}index.html"]
    with chromium.started(tmp_path_factory.mktemp("chromium")) as browser:
        while left:
            url = left.pop()
            found[url] = browser.open(url)
            linked = {urllib.parse.urldefrag(link).url for link in found[url].links}
            left += sorted(link for link in linked - found.keys() - set(left) if link.startswith(address))
    return found


def test_links_lead_to_every_page(site: pathlib.Path, address: str, pages: dict[str, Page]) -> None:
    files = {f"{address}{path.relative_to(site)}" for path in site.rglob("*.html")}
    # The search form leads to its page.
    assert files - {f"{address}search.html"} == pages.keys()


def test_no_page_has_an_error(pages: dict[str, Page]) -> None:
    assert {url: page.errors for url, page in pages.items() if page.errors} == {}


def test_links_lead_to_anchors_that_there_are(pages: dict[str, Page]) -> None:
    dead = []
    for url, page in pages.items():
        for link in page.links:
            target, anchor = urllib.parse.urldefrag(link)
            if target in pages and urllib.parse.unquote(anchor) not in {"", *pages[target].anchors}:
                dead.append(f"{url} -> {link}")
    assert dead == []


def test_no_request_leaves_the_site(address: str, pages: dict[str, Page]) -> None:
    elsewhere = {request for page in pages.values() for request in page.requests if not request.startswith((address, "data:"))}
    assert elsewhere == set()


def test_every_picture_is_shown(address: str, pages: dict[str, Page]) -> None:
    assert [picture for page in pages.values() for picture, width in page.pictures.items() if not width] == []
    assert any("architecture" in picture for picture in pages[f"{address}index.html"].pictures)
