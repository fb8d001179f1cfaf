# SPDX-License-Identifier: GPL-3.0-or-later
"""The load client's plan and report."""

from __future__ import annotations

import json
import pathlib
import re

import pytest

from bench import load_client
from bench.content import MANIFEST
from bench.endpoint import Endpoint
from bench.load_client import Group
from sandbox.settings import ROOT
from sandbox.steps import StepFailed

TIMES = {"p50": 1.0, "p90": 2.0, "p99": 3.0, "max": 4.0}
SEEN = {
    "requests": 3,
    "failed": 0,
    "errors": {},
    "statuses": {"200": 3},
    "bytes": 300,
    "hashed": 3,
    "counted": 0,
    "wall": 1.5,
    "latency": TIMES,
    "first_byte": TIMES,
    "end": TIMES,
}


@pytest.fixture
def program(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A fake of the load client. It records its plan, environment and arguments, and prints the file `report`."""
    file = tmp_path / "load"
    file.write_text(
        f'#!/bin/sh\ncat > {tmp_path}/plan\nenv > {tmp_path}/env\necho "$@" > {tmp_path}/arguments\n'
        f"cat {tmp_path}/report || {{ echo load: it is broken >&2; exit 1; }}\n"
    )
    file.chmod(0o755)
    monkeypatch.setattr(load_client, "binary", lambda: str(file))
    return tmp_path


def report(program: pathlib.Path, *groups: dict[str, object]) -> None:
    (program / "report").write_text(json.dumps({"groups": groups, "wall": 2.0, "cpu": 0.5}))


def test_a_password_is_only_in_the_environment(program: pathlib.Path) -> None:
    report(program, {"name": "a", **SEEN}, {"name": "b", **SEEN}, {"name": "c", **SEEN})
    target = [{"path": "/v2/"}]
    load_client.run(
        Group(Endpoint(5000, "nodes", "the-secret"), target, 2, options={"each": 3}),
        Group(Endpoint(5001, "nodes", "another-secret"), target, 1, credential=False, options={"user": "nodes", "guess": "password"}),
        Group(Endpoint(5002), target, 1),
    )
    plan = (program / "plan").read_text()
    assert "secret" not in plan + (program / "arguments").read_text()
    first, second, third = json.loads(plan)["groups"]
    assert f"\n{first['password_env']}=the-secret\n" in (program / "env").read_text()
    assert (first["user"], first["endpoints"], first["clients"], first["each"]) == ("nodes", ["127.0.0.1:5000"], 2, 3)
    assert first["accept"] == MANIFEST
    assert (second["user"], second["guess"], "password_env" in second) == ("nodes", "password", False)
    assert not {"user", "password_env"} & set(third)


def test_the_report_is_read(program: pathlib.Path) -> None:
    report(program, {"name": "clients", **SEEN}, {"name": "slow", **SEEN, "connections": 9, "closed": 7})
    group = Group(Endpoint(5000), [{"path": "/v2/"}], 1)
    found = load_client.run(group, group)
    assert (found.wall, found.cpu, found.groups[0].rate, found.groups[0].first_byte["p99"]) == (2.0, 0.5, 200, 3.0)
    assert (found.groups[1].connections, found.groups[1].closed) == (9, 7)


@pytest.mark.parametrize("wrong", [{"failed": 1, "errors": {"wrong digest": 1}}, {"requests": 0}])
def test_wrong_content_is_not_measured(program: pathlib.Path, wrong: dict[str, object]) -> None:
    report(program, {"name": "clients", **SEEN, **wrong})
    group = Group(Endpoint(5000), [{"path": "/v2/"}], 1)
    assert load_client.run(group).groups[0].requests == wrong.get("requests", 3)
    with pytest.raises(StepFailed, match="wrong digest" if "errors" in wrong else "0 of 0"):
        load_client.one(group)


def test_a_client_that_fails(program: pathlib.Path) -> None:
    with pytest.raises(StepFailed, match="it is broken"):
        load_client.run(Group(Endpoint(5000), [{"path": "/v2/"}], 1))


def test_the_load_client_knows_every_option_that_rows_give() -> None:
    known = set(re.findall(r'json:"([a-z_]+)"', (ROOT / "bench" / "load" / "plan.go").read_text()))
    rows = "".join(file.read_text() for file in (ROOT / "bench" / "rows").glob("*.py"))
    given = {name for options in re.findall(r"(?:options|one|paced)\w*[ =]+\{(.*?)\}", rows) for name in re.findall(r'"(\w+)":', options)}
    assert given and not given - known
    assert set(Group(Endpoint(1, "nodes"), [], 1).plan("X")) <= known
