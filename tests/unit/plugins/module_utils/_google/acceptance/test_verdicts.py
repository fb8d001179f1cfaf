# SPDX-License-Identifier: GPL-3.0-or-later
"""How Google's answers are compared with the assumptions, and shown."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.acceptance import verdicts

from sandbox.settings import ROOT

ASSUMPTIONS = yaml.safe_load((ROOT / "playbooks" / "files" / "assumptions.yml").read_text())


@pytest.mark.parametrize(
    ("expected", "answered", "same"),
    [
        (43200, 43200, True),
        (43200, "43200", False),
        (False, 0, False),
        (None, None, True),
        (["etag"], ["etag"], True),
        (["etag"], ["etag", "version"], False),
        ("a b …", "a b c", True),
        ("a b …", "a c", False),
        ("a", "a b", False),
        ({"status": 400}, {"status": 400, "message": "any"}, True),
        ({"status": 400, "error": "X"}, {"status": 400}, False),
        ({"challenge": None}, {}, False),
        ({"status": 400}, "no object", False),
        ({"min": 0, "max": 30}, 30, True),
        ({"min": 0, "max": 30}, 30.1, False),
        ({"min": 0, "max": 30}, "not within 300 s", False),
        ({"min": 0, "max": 30}, None, False),
    ],
)
def test_the_comparison(expected: Any, answered: Any, same: bool) -> None:
    assert verdicts.holds(expected, answered) is same


def test_every_assumption_gets_one_verdict_and_one_line() -> None:
    answers = {"operation_not_done_at_once": False, "empty_policy": ["etag", "version"]}
    result = verdicts.with_verdicts(ASSUMPTIONS, answers, {"noop_poll": "HTTP 403: no"})
    assert list(result) == list(ASSUMPTIONS)
    lines = dict(zip(result, verdicts.table(result), strict=True))
    assert lines["operation_not_done_at_once"] == "same       operation_not_done_at_once"
    assert lines["empty_policy"].startswith("different  empty_policy: ")
    assert lines["empty_policy"].endswith('expected ["etag"], answered ["etag", "version"]')
    assert lines["noop_poll"] == "not asked  noop_poll: HTTP 403: no"
    assert lines["missing_pool"] == "not asked  missing_pool: the run ended before this question"


def test_no_secret_and_no_name_of_a_run_is_in_an_answer() -> None:
    words = verdicts.Words()
    for value, placeholder in {"rc-one": "NAME", "my-project": "PROJECT", "42": "NUMBER", "": "ISSUER"}.items():
        words.name(value, placeholder)
    secret = "ya29." + "c" * 30, "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.e30.sig", "AbC-_9" * 12
    told = {"message": f"projects/42 of my-project: rc-one, rc-one-none, 142 {' '.join(secret)}", "keys": ["my-project", 42]}
    assert words.plain(told) == {
        "message": "projects/NUMBER of PROJECT: NAME, NAME-none, 142 TOKEN TOKEN TOKEN",
        "keys": ["PROJECT", 42],
    }


def test_the_google_page_names_each_assumption() -> None:
    rows = (ROOT / "docs" / "usage" / "google.md").read_text().partition("| asked as |\n| --- | --- | --- |\n")[2].splitlines()
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[3])]
    assert sorted(named) == sorted(ASSUMPTIONS)
