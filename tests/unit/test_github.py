# SPDX-License-Identifier: GPL-3.0-or-later
"""CI and forms on GitHub. actionlint, in `make lint`, checks the workflows' syntax."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
import yaml

from sandbox.settings import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted({*(ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")} - {ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml"})
_USES = re.compile(r"(?m)^ *- uses: (.+)$")


def jobs(workflow: pathlib.Path) -> dict[str, Any]:
    return yaml.safe_load(workflow.read_text())["jobs"]


def steps(workflow: pathlib.Path) -> list[dict[str, Any]]:
    return [step for job in jobs(workflow).values() for step in job["steps"]]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_can_only_read(workflow: pathlib.Path) -> None:
    assert yaml.safe_load(workflow.read_text())["permissions"] == {"contents": "read"}
    for job in jobs(workflow).values():
        assert "permissions" not in job and job["timeout-minutes"]
    assert "secrets." not in workflow.read_text()
    for step in steps(workflow):
        assert not step.get("uses", "").startswith("actions/checkout@") or step["with"]["persist-credentials"] is False


def test_an_action_is_github_s_own_and_pinned_by_its_commit() -> None:
    pins: dict[str, set[str]] = {}
    for pin in _USES.findall("\n".join(workflow.read_text() for workflow in WORKFLOWS)):
        found = re.fullmatch(r"(actions/[a-z-]+)@([0-9a-f]{40} # v\d+\.\d+\.\d+)", pin)
        assert found, pin
        pins.setdefault(found[1], set()).add(found[2])
    assert pins and {name for name, versions in pins.items() if len(versions) > 1} == set()


def test_ci_runs_the_commands_of_the_makefile() -> None:
    targets = set(re.findall(r"(?m)^([a-z0-9-]+):", (ROOT / "Makefile").read_text()))
    commands = [step["run"] for workflow in WORKFLOWS for step in steps(workflow) if "run" in step]
    called = {command.rpartition("make ")[2] for command in commands}
    assert {"check", "docs", "matrix", "test", "vulncheck"} == called <= targets


def test_the_matrix_has_its_pythons() -> None:
    rows = yaml.safe_load((ROOT / "tools" / "matrix.yml").read_text())["cores"]
    (setup,) = (step for step in steps(ROOT / ".github/workflows/weekly.yml") if step.get("uses", "").startswith("actions/setup-python@"))
    assert set(setup["with"]["python-version"].split()) == {version for row in rows for version in row["pythons"]}


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_a_form_is_whole(form: pathlib.Path) -> None:
    content = yaml.safe_load(form.read_text())
    assert content["name"] and content["description"]
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    assert fields and {field["type"] for field in fields} <= {"textarea", "input", "dropdown", "checkboxes"}
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields)
