# SPDX-License-Identifier: GPL-3.0-or-later
"""What Google answers: the object, the words of a refusal, and the time until an answer is a good one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import requests

TIMEOUT = (10, 60)
LAG_SECONDS = 300
_PAUSE = 0.5


class Unanswered(Exception):
    """A question that could not be asked; the text is a sentence for the user."""


class NotAllowed(Unanswered):
    """What the operator may not do."""


def content(answer: requests.Response) -> dict[str, Any]:
    """The JSON object of an answer; empty if there is none."""
    try:
        value = answer.json()
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def told(answer: requests.Response) -> dict[str, Any]:
    """The status, and what a refusal says in one of the three forms: google.rpc.Status, OAuth, distribution."""
    body = content(answer)
    status: dict[str, Any] = {"status": answer.status_code}
    if isinstance(body.get("error"), dict):
        return {**status, "error": body["error"].get("status"), "message": body["error"].get("message")}
    if isinstance(body.get("error"), str):
        return {**status, "error": body["error"], "error_description": body.get("error_description")}
    if isinstance(body.get("errors"), list) and body["errors"]:
        return {**status, "code": body["errors"][0].get("code"), "message": body["errors"][0].get("message")}
    return {**status, "text": answer.text[:200]} if answer.status_code >= 400 else status


def required(answer: requests.Response, *statuses: int) -> dict[str, Any]:
    """The object of an answer that must have one of these statuses, 200 unless told. Raises Unanswered."""
    if answer.status_code in (statuses or (200,)):
        return content(answer)
    request, words = answer.request, told(answer)
    said = words.get("message") or words.get("error_description") or words.get("text")
    text = f"{request.method} {(request.url or '').partition('?')[0]}: HTTP {answer.status_code}: {said}"
    if answer.status_code == 401:
        raise Unanswered(f"{text} Check registry_cache_gcp_auth_kind and its credential.")
    if answer.status_code == 403:
        raise NotAllowed(f"{text} Check registry_cache_wif_project; docs/google.md lists the permissions.")
    raise Unanswered(text)


def until(act: Callable[[], Any], good: Callable[[Any], bool], seconds: float = LAG_SECONDS) -> tuple[Any, float | str]:
    """The first good result of `act`, and after how many seconds it came; the last one, and words, if none did."""
    started = time.monotonic()
    while True:
        result, passed = act(), time.monotonic() - started
        if good(result):
            return result, round(passed, 1)
        if passed > seconds:
            return result, f"not within {seconds} s"
        time.sleep(_PAUSE)


def status_is(*statuses: int) -> Callable[[requests.Response], bool]:
    return lambda answer: answer.status_code in statuses
