# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Evaluates Google's answers: the JSON object, the error message, and the time until an answer is as expected.

Private to this collection. An answer is a requests.Response.
"""

from __future__ import annotations

import time
import typing as t

from ..client import error_of

LAG_SECONDS = 300
_PAUSE = 0.5


def content(answer: t.Any) -> dict[str, t.Any]:
    """Return the JSON object of an answer, or an empty one."""
    try:
        value = answer.json()
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def outcome(answer: t.Any) -> dict[str, t.Any]:
    """Return the HTTP status and the error, which has one of three formats: google.rpc.Status, OAuth, or distribution."""
    body = content(answer)
    status: dict[str, t.Any] = {"status": answer.status_code}
    if isinstance(body.get("error"), dict):
        return {**status, "error": body["error"].get("status"), "message": body["error"].get("message")}
    if isinstance(body.get("error"), str):
        return {**status, "error": body["error"], "error_description": body.get("error_description")}
    if isinstance(body.get("errors"), list) and body["errors"]:
        return {**status, "code": body["errors"][0].get("code"), "message": body["errors"][0].get("message")}
    return {**status, "text": answer.text[:200]} if answer.status_code >= 400 else status


def required(answer: t.Any, *statuses: int) -> dict[str, t.Any]:
    """Return the object of an answer with one of these HTTP statuses, 200 by default. Raise GcpError for any other status."""
    if answer.status_code in (statuses or (200,)):
        return content(answer)
    raise error_of(answer, f"{answer.request.method} {(answer.request.url or '').partition('?')[0]}")


def until(act: t.Callable[[], t.Any], good: t.Callable[[t.Any], bool], seconds: float = LAG_SECONDS) -> tuple[t.Any, float | str]:
    """Repeat `act` until its result is good; return the result and the time in seconds, or the last result and a message."""
    started = time.monotonic()
    while True:
        result, passed = act(), time.monotonic() - started
        if good(result):
            return result, round(passed, 1)
        if passed > seconds:
            return result, f"not within {seconds} s"
        time.sleep(_PAUSE)


def status_is(*statuses: int) -> t.Callable[[t.Any], bool]:
    """Return a function that returns whether an answer has one of these HTTP statuses."""
    return lambda answer: answer.status_code in statuses
