# SPDX-License-Identifier: GPL-3.0-or-later
"""The wire between a module and the Google emulator: notes every request, and answers out of turn when told."""

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
    """The short names of what an info module lists."""
    assert not result["changed"]
    return [one["name"].rpartition("/")[2] for one in result[key]]


@dataclass
class Request:
    """One request as it left the module."""

    method: str
    url: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]
    timeout: Any
    host: str


class Clock:
    """Time that passes only by sleeping; the emulator's operations go by it."""

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
    """Stands where the session's HTTPS adapter would be."""

    def __init__(self, google: Google, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.google, self.clock = google, Clock(google)
        self.requests: list[Request] = []
        self.sessions = 0
        # Its hosts stand for Google's own.
        self.universe = "googleapis.com"
        # Whether each request must be one that Google's discovery documents describe.
        self.well_formed = True
        self._faults: list[tuple[str, str, Callable[[], tuple[Any, ...] | None]]] = []
        monkeypatch.setattr(gcp, "HTTPAdapter", self._adapter)
        monkeypatch.setattr(gcp, "time", self.clock)

    def _adapter(self, max_retries: Any) -> Wire:
        self.sessions += 1
        return self

    def run(self, name: str, /, *, check: bool = False, **arguments: Any) -> dict[str, Any]:
        """A module as the operator, whose requests alone are then in C(requests)."""
        self.requests.clear()
        credential = {"auth_kind": "accesstoken", "access_token": self.google.operator}
        return run(name, check=check, **{**credential, **arguments})

    def answer(
        self, method: str, url_part: str, status: int, body: Any, *, times: int = 1, headers: dict[str, str] | None = None
    ) -> None:
        """Answer the next such requests so, without the emulator."""
        self._faults += [(method, url_part, lambda: (status, body, headers or {}))] * times

    def outage(self, method: str, url_part: str, status: int, *, times: int = 1, **headers: str) -> None:
        """Answer the next such requests as Google does when it is overloaded or broken."""
        self.answer(method, url_part, status, {"error": {"code": status, "message": "Try again"}}, times=times, headers=headers)

    def before(self, method: str, url_part: str, act: Callable[[], Any]) -> None:
        """Do something just before the emulator gets the next such request."""

        def fault() -> None:
            act()

        self._faults.append((method, url_part, fault))

    def sent(self) -> list[tuple[str, str]]:
        """Verb and URL of each request, the query left out."""
        return [(request.method, request.url) for request in self.requests]

    def writes(self) -> list[Request]:
        return [request for request in self.requests if request.method != "GET"]

    def removal(self, run: Callable[..., dict[str, Any]], key: str, before: dict[str, Any], url: str) -> None:
        """Runs a module with state absent: a check writes nothing, a run deletes, a repeat and a check only read.

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
        # Answers are checked where the emulator gives them.
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
    """What a request says: JSON, a form with its names as JSON has them, or bytes."""
    kind = request.headers.get("Content-Type", "")
    if kind == "application/x-www-form-urlencoded":
        return {re.sub("_(.)", lambda match: match[1].upper(), name): value for name, value in parse_qsl(request.body)}
    return json.loads(request.body) if request.body and kind == "application/json" else request.body
