# SPDX-License-Identifier: GPL-3.0-or-later
"""tests/tiers.toml: every stage and promise exists, and the page for contributors is up to date."""

from __future__ import annotations

import ast
import functools
import re

import pytest

from tools import promises, run, tiers
from tools.tiers import ROOT, Promise, Stage

STAGES = tiers.stages()
PROMISES = tiers.promises()


@functools.cache
def functions(file: str) -> set[str]:
    """Returns the tests of a file as node ids without parameters."""
    found = set()
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(f"{file}::{node.name}")
        elif isinstance(node, ast.ClassDef):
            found |= {f"{file}::{node.name}::{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
    return found


@functools.cache
def page(name: str) -> str:
    """Returns the words of a page in lower case, without markup."""
    return re.sub(r"[*`\s]+", " ", (ROOT / name).read_text()).lower()


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_stage_has_a_tier_and_one_way_to_run(stage: Stage) -> None:
    assert stage.tier in tiers.NAMES and stage.proves
    assert bool(stage.run) != bool(stage.tests)
    assert not stage.tests or list((ROOT / stage.tests).glob("test_*.py"))
    assert not stage.scenario or (ROOT / "molecule" / stage.scenario / "molecule.yml").exists()
    assert run.command(stage)


def test_every_folder_of_tests_is_a_stage() -> None:
    folders = {str(file.parent.relative_to(ROOT)) for file in (ROOT / "tests" / "e2e").glob("*/test_*.py")}
    assert folders == {stage.tests for stage in STAGES.values() if stage.tests}


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.about)
def test_a_promise_is_on_its_page_and_names_existing_tests(promise: Promise) -> None:
    assert promise.about.lower() in page(promise.page), f"{promise.page} says nothing of {promise.about}"
    assert promise.tests
    for test in promise.tests:
        file, _colons, name = test.partition("::")
        assert (ROOT / file).is_file(), test
        assert not name or test.partition("[")[0] in functions(file), test


def test_every_bold_sentence_of_what_you_can_rely_on_is_a_promise() -> None:
    page = "docs/usage/behaviour.md"
    relied_on = (ROOT / page).read_text().partition("## What you can rely on")[2].partition("\n## ")[0]
    bold = re.findall(r"(?m)^- \*\*(.+?)\*\*", relied_on)
    made = {promise.about for promise in PROMISES if promise.page == page}
    assert bold and not [words for words in bold if words.strip(".").replace("`", "").removeprefix("playbooks/") not in made]


def test_every_topic_of_make_test_proves_a_promise() -> None:
    named = [test for promise in PROMISES for test in promise.tests]
    for stage in STAGES.values():
        if stage.tier == "test" and stage.tests:
            assert any(test.startswith(f"{stage.tests}/") for test in named), stage.name


def test_the_page_has_the_current_table() -> None:
    assert promises.PAGE.read_text() == promises.written(), "run 'make promises'"


def test_a_test_belongs_to_the_tier_of_its_stage() -> None:
    assert tiers.tier("tests/unit/plugins/modules/test_htpasswd.py") == "check"
    assert tiers.tier("tests/e2e/site/test_tokens.py") == tiers.tier("molecule/site/converge.yml") == "test"
    assert tiers.tier("tests/e2e/ownership/test_two_caches.py") == tiers.tier("tools/fresh/__main__.py") == "e2e"


def test_only_tests_of_promises_are_selected() -> None:
    chosen = tiers.Selection()
    assert "tests/e2e/faults/test_faults.py::test_upstream_out[hangs]" in chosen
    assert "tests/e2e/faults/test_faults.py::test_upstream_out[429]" not in chosen
    assert "tests/e2e/site/test_tokens.py::test_expired" in chosen
    assert "tests/e2e/site/test_site.py::test_no_engine" not in chosen


def test_an_unknown_parameter_of_a_promised_test_is_reported() -> None:
    file = "tests/e2e/faults/test_faults.py"
    named = [test for promise in PROMISES for test in promise.tests if test.startswith(file)]
    assert tiers.Selection().missing(named) == []
    assert tiers.Selection().missing(named[1:]) == named[:1]
    assert tiers.Selection().missing([]) == []
