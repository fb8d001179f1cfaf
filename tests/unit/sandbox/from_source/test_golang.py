# SPDX-License-Identifier: GPL-3.0-or-later
"""Go builds say what they compile; a fake Go command lists and names packages."""

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
    assert progress() == "6 of 6 packages, compiling the last or linking"  # the fake keeps no build cache
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["list"] * 3 + ["build"] * 3
    assert calls[0].startswith("list -deps -trimpath -ldflags=-s -f {{if .Stale}}")
    assert calls[-1] == f"build -v -trimpath -ldflags=-s -o {output} example.org/a"


def test_downloads_and_packages_are_in_the_log(log: steps.Log, go: str, tmp_path: pathlib.Path) -> None:
    golang.run(log, golang.Build("install", "tool", tmp_path, {}, go=go))
    lines = log.path.read_text().splitlines()
    assert "go: downloading example.org/a v1.0.0" in lines
    assert lines[-3:] == [f"$ {go} install -v tool", "fmt", "example.org/a"]


def test_with_a_package_in_the_build_cache_the_number_is_a_bound(
    log: steps.Log, go: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(log, "count", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(log, "uncount", calls.append)
    golang.run(log, golang.Build("install", "tool", tmp_path, {"ALSO": "cached\\n"}, go=go))
    (total, progress, at_most), done = calls
    assert (total, at_most, done) == (2, True, 2)
    assert progress().startswith("2 of at most 2 packages, ")


def test_a_list_that_fails_fails_the_step(log: steps.Log, go: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(steps.StepFailed, match="list' ended with 1"):
        golang.run(log, golang.Build("install", "tool", tmp_path, {"GOARCH": "broken"}, go=go))
    assert "go: no such module" in log.tail()


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("", "0 of 1,003 packages, starting"),
        ("fmt\n", "1 of 1,003 packages, fmt"),
        ("fmt\n# example.org/a\na warning\n", "1 of 1,003 packages, fmt"),
        ("fmt\ngo: downloading example.org/a v1.0.0\n", "go: downloading example.org/a v1.0.0"),
        ("go: downloading example.org/a v1.0.0\nfmt\nexample.org/a\n", "2 of 1,003 packages, example.org/a"),
        ("fmt\n" * 1003, "1,003 of 1,003 packages, compiling the last or linking"),
    ],
)
def test_progress_counts_the_packages_that_were_begun(tmp_path: pathlib.Path, output: str, text: str) -> None:
    file = tmp_path / "a.log"
    file.write_text("fmt\nof an earlier command\n")
    progress = golang.Progress(file, {"fmt", "example.org/a"}, 1003)
    with file.open("a") as log:
        log.write(output)
    assert progress() == text


def test_what_the_build_cache_has_is_only_linked(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.log").touch()
    assert golang.Progress(tmp_path / "a.log", set(), 0)() == "nothing to compile, linking"
