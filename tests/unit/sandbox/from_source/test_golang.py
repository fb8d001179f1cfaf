# SPDX-License-Identifier: GPL-3.0-or-later
"""Go builds report the packages they compile. A fake Go command lists and logs packages."""

from __future__ import annotations

import pathlib

import pytest

from sandbox import durations, steps
from sandbox.from_source import golang

GO = """\
#!/bin/sh
echo "$@" >> "$CALLS"
case "$1 $GOARCH" in
"list broken") echo "go: no such module" >&2; exit 1 ;;
"list "*) echo "go: downloading example.org/a v1.0.0" >&2; printf "stale fmt\\nstale example.org/a v1.0.0\\n$ALSO" ;;
*) printf 'fmt\\nexample.org/a\\n' >&2 ;;
esac
"""


@pytest.fixture
def log(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> steps.Log:
    monkeypatch.setattr(durations, "RECORDED", tmp_path / "durations.json")
    monkeypatch.setattr(durations, "REFERENCE", tmp_path / "reference.json")
    return steps.Log(tmp_path / "a.log", "build")


@pytest.fixture
def go(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    program = tmp_path / "go"
    program.write_text(GO)
    program.chmod(0o755)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return str(program)


def test_packages_are_listed_before_they_are_built(
    log: steps.Log, go: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    monkeypatch.setattr(log, "count", lambda *arguments: counted.append(arguments))
    flags, output = ("-trimpath", "-ldflags=-s"), tmp_path / "program"
    builds = [
        golang.Build("build", "example.org/a", tmp_path, {"GOARCH": name}, flags, output, go)
        for name in ("amd64", "arm64", "arm64")
    ]
    golang.run(log, *builds)
    ((total, progress, at_most),) = counted
    assert not at_most
    assert total == 4  # two packages for two architectures, however many builds ask for them
    assert progress() == "6 of 6 packages, compiling the last package or linking"  # the fake keeps no build cache
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["list"] * 3 + ["build"] * 3
    assert calls[0].startswith("list -deps -trimpath -ldflags=-s -f {{if .Stale}}")
    assert calls[-1] == f"build -v -trimpath -ldflags=-s -o {output} example.org/a"


def test_a_failed_list_fails_the_step(log: steps.Log, go: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(steps.StepFailed, match="list' failed with exit code 1"):
        golang.run(log, golang.Build("install", "tool", tmp_path, {"GOARCH": "broken"}, go=go))
    assert "go: no such module" in log.tail()
