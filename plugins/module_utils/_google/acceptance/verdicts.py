# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares answers with assumptions, and removes names of a run and secrets from texts.

Private to this collection.
"""

from __future__ import annotations

import json
import re
import typing as t

SAME, DIFFERENT, NOT_ASKED = "same", "different", "not asked"
_SECRETS = re.compile(r"ya29\.[\w.-]+|eyJ[\w.-]{20,}|[\w-]{60,}", re.ASCII)


def holds(expected: t.Any, answered: t.Any) -> bool:
    """Return whether an answer is as expected. Option assumptions documents the rules."""
    if isinstance(expected, dict):
        if expected.keys() == {"min", "max"}:
            return isinstance(answered, (int, float)) and expected["min"] <= answered <= expected["max"]
        return isinstance(answered, dict) and all(
            key in answered and holds(value, answered[key]) for key, value in expected.items()
        )
    if isinstance(expected, str) and expected.endswith("…"):
        return isinstance(answered, str) and answered.startswith(expected.removesuffix("…"))
    return type(expected) is type(answered) and expected == answered


def with_verdicts(
    assumptions: dict[str, dict[str, t.Any]], answers: dict[str, t.Any], reasons: dict[str, str]
) -> dict[str, dict[str, t.Any]]:
    """Return each assumption with its verdict and answer. reasons: why a question was not asked."""
    result = {}
    for name, assumption in assumptions.items():
        if name in answers:
            verdict = SAME if holds(assumption["expected"], answers[name]) else DIFFERENT
            result[name] = {**assumption, "verdict": verdict, "answered": answers[name]}
        else:
            result[name] = {**assumption, "verdict": NOT_ASKED, "reason": reasons.get(name, "the run ended before this question")}
    return result


def table(result: dict[str, dict[str, t.Any]]) -> list[str]:
    """Return one line for each assumption, with the answer if it differs."""
    lines = []
    for name, one in result.items():
        more = {
            SAME: "",
            DIFFERENT: f": {one['asked']}: expected {_short(one['expected'])}, answered {_short(one.get('answered'))}",
            NOT_ASKED: f": {one.get('reason')}",
        }
        lines.append(f"{one['verdict']:9}  {name}{more[one['verdict']]}")
    return lines


def without_secrets(text: str) -> str:
    """Return a text with TOKEN in place of anything that looks like a token."""
    return _SECRETS.sub("TOKEN", text)


def _short(value: t.Any) -> str:
    return json.dumps(value, ensure_ascii=False)


class Words:
    """Makes answers comparable between runs, and removes secrets."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def name(self, value: str, placeholder: str) -> None:
        """Set the placeholder for a value of this run."""
        if value:
            self._names[value] = placeholder

    def plain(self, value: t.Any) -> t.Any:
        """Return a copy with placeholders, and TOKEN in place of anything that looks like a token."""
        if isinstance(value, dict):
            return {key: self.plain(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.plain(item) for item in value]
        if not isinstance(value, str):
            return value
        for name in sorted(self._names, key=len, reverse=True):
            value = re.sub(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])", self._names[name], value)
        return without_secrets(value)
