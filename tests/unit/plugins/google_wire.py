# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection between a module and the Google emulator. It records each request, and can answer in place of the emulator."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google import client as gcp
from requests.adapters import BaseAdapter

from tests.module_runner import run
from tests.unit.sandbox.google import contract
from tests.unit.sandbox.google.harness import Google


def names(result: dict[str, Any], key: str) -> list[str]:
    """Return the short names of the objects that an info module lists."""
    assert not result["changed"]
    return [one["name"].rpartition("/")[2] for one in result[key]]


@dataclass
class Request:
    """A request of the module."""

    method: str
    url: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]
    timeout: Any
    host: str


class Clock:
    """A clock that advances only during sleep. The emulator's operations use it."""

    def __init__(self, google: Google) -> None:
        self._google, self.pauses = google, []

    def monotonic(self) -> float:
        return self._google.steady

    def time(self) -> float:
        return self._google.now + self._google.steady

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._google.steady += seconds


class Wire(BaseAdapter):
    """Replaces the HTTPS adapter of the session."""

    def __init__(self, google: Google, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.google, self.clock = google, Clock(google)
        self.requests: list[Request] = []
        self.sessions = 0
        # The emulator answers for Google's hosts.
        self.universe = "googleapis.com"
        # Whether each request must match Google's discovery documents.
        self.well_formed = True
        self._faults: list[tuple[str, str, Callable[[], tuple[Any, ...] | None]]] = []
        monkeypatch.setattr(gcp, "HTTPAdapter", self._adapter)
        monkeypatch.setattr(gcp, "time", self.clock)

    def _adapter(self, max_retries: Any) -> Wire:
        self.sessions += 1
        return self

    def run(self, name: str, /, *, check: bool = False, **arguments: Any) -> dict[str, Any]:
        """Run a module as the operator; return its result. C(requests) then contains only its requests."""
        self.requests.clear()
        credential = {"auth_kind": "accesstoken", "access_token": self.google.operator}
        return run(name, check=check, **{**credential, **arguments})

    def answer(
        self, method: str, url_part: str, status: int, body: Any, *, times: int = 1, headers: dict[str, str] | None = None
    ) -> None:
        """Answer the next matching requests in place of the emulator."""
        self._faults += [(method, url_part, lambda: (status, body, headers or {}))] * times

    def outage(self, method: str, url_part: str, status: int, *, times: int = 1, **headers: str) -> None:
        """Answer the next matching requests like Google when it is overloaded or fails."""
        self.answer(method, url_part, status, {"error": {"code": status, "message": "Try again"}}, times=times, headers=headers)

    def before(self, method: str, url_part: str, act: Callable[[], Any]) -> None:
        """Call a function just before the emulator gets the next matching request."""

        def fault() -> None:
            act()

        self._faults.append((method, url_part, fault))

    def sent(self) -> list[tuple[str, str]]:
        """The method and URL of each request, without the query."""
        return [(request.method, request.url) for request in self.requests]

    def writes(self) -> list[Request]:
        return [request for request in self.requests if request.method != "GET"]

    def removal(self, run: Callable[..., dict[str, Any]], key: str, before: dict[str, Any], url: str) -> None:
        """Run a module with state absent: check mode writes nothing, a run deletes, and a second run and check only read.

        :param run: the module, which takes its options.
        :param key: of the object in its result.
        """
        assert run(state="absent", check=True)["changed"] and not self.writes()
        gone = run(state="absent")
        assert gone["changed"] and gone[key] == {} and gone["diff"] == {"before": before, "after": {}}
        assert [(write.method, write.url, write.body) for write in self.writes()] == [("DELETE", url, None)]
        for check in (False, True):
            assert not run(state="absent", check=check)["changed"] and self.sent() == [("GET", url)]

    def send(self, request: Any, timeout: Any = None, **_options: Any) -> requests.Response:
        parts = urlsplit(request.url)
        url = f"{parts.scheme}://{parts.netloc}{parts.path}".replace(f".{self.universe}/", ".googleapis.com/", 1)
        body = _body(request)
        # Only the emulator's own answers are checked.
        if self.well_formed and parts.netloc.endswith(f".{self.universe}"):
            contract.check_request(request.method, url, parse_qsl(parts.query, keep_blank_values=True), body)
        self.requests.append(
            Request(request.method, url, dict(parse_qsl(parts.query)), body, dict(request.headers), timeout, parts.netloc)
        )
        for fault in self._faults:
            method, url_part, act = fault
            if method == request.method and url_part in request.url:
                self._faults.remove(fault)
                answer = act()
                if answer is not None:
                    content = answer[1] if isinstance(answer[1], bytes) else json.dumps(answer[1]).encode()
                    return self._response(request, answer[0], content, *answer[2:])
                break
        reply = self.google.call(
            request.method,
            request.url.replace(f".{self.universe}/", ".googleapis.com/", 1),
            token=None,
            headers=dict(request.headers),
            content=request.body,
        )
        return self._response(request, reply.status_code, reply.content, dict(reply.headers))

    def close(self) -> None:
        pass

    @staticmethod
    def _response(
        request: Any, status: int, content: bytes, headers: dict[str, str] | None = None
    ) -> requests.Response:
        response = requests.Response()
        response.headers.update(headers or {})
        response.status_code, response.url, response.request = status, request.url, request
        response.raw = io.BytesIO(content)
        return response


def _body(request: Any) -> Any:
    """Return the body of a request: JSON, a form with the names of the JSON fields, or bytes."""
    kind = request.headers.get("Content-Type", "")
    if kind == "application/x-www-form-urlencoded":
        return {re.sub("_(.)", lambda match: match[1].upper(), name): value for name, value in parse_qsl(request.body)}
    return json.loads(request.body) if request.body and kind == "application/json" else request.body
