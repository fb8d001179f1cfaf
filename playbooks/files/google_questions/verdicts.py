# SPDX-License-Identifier: GPL-3.0-or-later
"""The assumptions, whether an answer is as assumed, and texts without names of a run and without secrets."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import yaml

ASSUMPTIONS: dict[str, dict[str, Any]] = yaml.safe_load(
    pathlib.Path(__file__).parents[1].joinpath("assumptions.yml").read_text(encoding="utf-8")
)
SAME, DIFFERENT, NOT_ASKED = "same", "different", "not asked"
SECRETS = re.compile(r"ya29\.[\w.-]+|eyJ[\w.-]{20,}|[\w-]{60,}", re.ASCII)


def holds(expected: Any, answered: Any) -> bool:
    """Whether an answer is as expected; assumptions.yml says how."""
    if isinstance(expected, dict):
        if expected.keys() == {"min", "max"}:
            return isinstance(answered, (int, float)) and expected["min"] <= answered <= expected["max"]
        return isinstance(answered, dict) and all(
            key in answered and holds(value, answered[key]) for key, value in expected.items()
        )
    if isinstance(expected, str) and expected.endswith("…"):
        return isinstance(answered, str) and answered.startswith(expected.removesuffix("…"))
    return type(expected) is type(answered) and expected == answered


def judged(answers: dict[str, Any], reasons: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Every assumption with its verdict and answer. reasons: why one was not asked."""
    result = {}
    for name, assumption in ASSUMPTIONS.items():
        if name in answers:
            verdict = SAME if holds(assumption["expected"], answers[name]) else DIFFERENT
            result[name] = {**assumption, "verdict": verdict, "answered": answers[name]}
        else:
            result[name] = {**assumption, "verdict": NOT_ASKED, "reason": reasons.get(name, "the run ended before")}
    return result


def table(result: dict[str, dict[str, Any]]) -> list[str]:
    """One line for each assumption, with the answer where it differs."""
    lines = []
    for name, one in result.items():
        more = {
            SAME: "",
            DIFFERENT: f": {one['asked']}: expected {_short(one['expected'])}, answered {_short(one.get('answered'))}",
            NOT_ASKED: f": {one.get('reason')}",
        }
        lines.append(f"{one['verdict']:9}  {name}{more[one['verdict']]}")
    return lines


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


class Words:
    """Makes answers comparable between runs, and free of secrets."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def name(self, value: str, placeholder: str) -> None:
        """What stands for a value of this run from now on."""
        if value:
            self._names[value] = placeholder

    def plain(self, value: Any) -> Any:
        """A copy with placeholders, and TOKEN for whatever looks like one."""
        if isinstance(value, dict):
            return {key: self.plain(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.plain(item) for item in value]
        if not isinstance(value, str):
            return value
        for name in sorted(self._names, key=len, reverse=True):
            value = re.sub(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])", self._names[name], value)
        return SECRETS.sub("TOKEN", value)
