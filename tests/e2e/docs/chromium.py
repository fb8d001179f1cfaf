# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's Chromium without a window, driven by the DevTools protocol."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import requests
import websocket

from sandbox import debian
from sandbox.steps import wait

_SECONDS = 30
_OPTIONS = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    # A name is never looked up; requests to it are seen all the same.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)


@dataclass
class Page:
    """What a page has asked for, has logged and shows."""

    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    pictures: dict[str, int] = field(default_factory=dict)


# The links as the browser resolves them, the anchors, and the width in which each picture was decoded.
_LOOK = """({
  links: [...document.querySelectorAll('a[href]')].map(link => link.href),
  anchors: [...document.querySelectorAll('[id]')].map(element => element.id),
  pictures: Object.fromEntries([...document.images].map(image => [image.src, image.naturalWidth])),
})"""


class Browser:
    """One tab.

    :param socket: its DevTools.
    """

    def __init__(self, socket: websocket.WebSocket) -> None:
        self._socket = socket
        self._number = 0
        self._events: list[dict[str, Any]] = []
        for domain in ("Page", "Network", "Log", "Runtime"):
            self._call(f"{domain}.enable")

    def open(self, url: str) -> Page:
        """Load a page and wait for all that it loads."""
        before = len(self._events)
        self._call("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self._events[before:]):
            self._receive()
        # Pictures further down are loaded only when they are scrolled to, unless asked for.
        decode = "Promise.allSettled([...document.images].map(image => { image.loading = 'eager'; return image.decode(); }))"
        self._evaluate(decode)
        page = Page(**self._evaluate(_LOOK))
        page.anchors = set(page.anchors)
        for event in self._events:
            match event["method"], event["params"]:
                case "Network.requestWillBeSent", {"request": {"url": str(address)}}:
                    page.requests.append(address)
                case "Network.loadingFailed", {"errorText": str(words)}:
                    page.errors.append(words)
                case "Network.responseReceived", {"response": {"status": int(status), "url": str(address)}} if status >= 400:
                    page.errors.append(f"{status} {address}")
                case "Log.entryAdded", {"entry": {"level": "error", "text": str(words)}}:
                    page.errors.append(words)
                case "Runtime.exceptionThrown", {"exceptionDetails": details}:
                    page.errors.append(str(details))
        self._events.clear()
        return page

    def _evaluate(self, expression: str) -> Any:
        result = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            if (message := self._receive()).get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    def _receive(self) -> dict[str, Any]:
        message = json.loads(self._socket.recv())
        if "method" in message:
            self._events.append(message)
        return message


@contextlib.contextmanager
def started(folder: pathlib.Path) -> Iterator[Browser]:
    """A browser with its profile in a folder; it ends with the context."""
    debian.ensure({"chromium": "chromium"})
    # Chromium has no sandbox of its own for root.
    options = [*_OPTIONS, *([] if os.geteuid() else ["--no-sandbox"]), f"--user-data-dir={folder / 'profile'}"]
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(["chromium", *options, "about:blank"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        port = folder / "profile" / "DevToolsActivePort"
        wait(lambda: port.exists() and bool(port.read_text()), _SECONDS, "Chromium's DevTools")
        tabs = requests.get(f"http://127.0.0.1:{port.read_text().split()[0]}/json/list", proxies={"http": ""}, timeout=_SECONDS).json()
        (address,) = (tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        # DevTools refuse web pages, which have an origin.
        with contextlib.closing(websocket.create_connection(address, timeout=_SECONDS, suppress_origin=True)) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        process.wait(_SECONDS)
