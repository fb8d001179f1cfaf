# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Google answers: the object, the words of a refusal, and the time until an answer is a good one.

Private to this collection. An answer is a requests.Response.
"""

from __future__ import annotations

import time
import typing as t

from ..client import error_of

LAG_SECONDS = 300
_PAUSE = 0.5


def content(answer: t.Any) -> dict[str, t.Any]:
    """The JSON object of an answer; empty if there is none."""
    try:
        value = answer.json()
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def outcome(answer: t.Any) -> dict[str, t.Any]:
    """The status, and what a refusal says in one of the three forms: google.rpc.Status, OAuth, distribution."""
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
    """The object of an answer that must have one of these statuses, 200 unless given. Raises GcpError."""
    if answer.status_code in (statuses or (200,)):
        return content(answer)
    raise error_of(answer, f"{answer.request.method} {(answer.request.url or '').partition('?')[0]}")


def until(act: t.Callable[[], t.Any], good: t.Callable[[t.Any], bool], seconds: float = LAG_SECONDS) -> tuple[t.Any, float | str]:
    """The first good result of `act`, and after how many seconds it came; the last one, and words, if none did."""
    started = time.monotonic()
    while True:
        result, passed = act(), time.monotonic() - started
        if good(result):
            return result, round(passed, 1)
        if passed > seconds:
            return result, f"not within {seconds} s"
        time.sleep(_PAUSE)


def status_is(*statuses: int) -> t.Callable[[t.Any], bool]:
    """Whether an answer has one of these statuses, as a function of it."""
    return lambda answer: answer.status_code in statuses
