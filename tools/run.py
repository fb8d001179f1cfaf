# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a tier of tests/tiers.toml: shows the seconds and results of each stage, and repeats all failures at the end.

python3 -m tools.run TIER [STAGE ...]
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from sandbox import durations

from . import tiers
from .tiers import ROOT, Stage

RESULTS = ROOT / "tests" / "e2e" / "results.md"
_SANDBOX = ("python3", "-m", "sandbox", "--name", "test")
_TOOL = ("python3", "-m", "sandbox", "tool", "--")
_PYTEST = ("python", "-m", "pytest", "-q", "-rfEs", "--tb=short")
_MORE = 15  # lines to keep after the first one of an Ansible or Go failure, or at the end of a stage that names no test
_FAILURE = re.compile(r"(FAILED|ERROR) tests/.*|(fatal|failed): \[.*|--- FAIL: .*|panic: .*|FAIL\t.*")
_LONG = ("fatal", "---", "panic")  # failures whose reason follows in more lines
_CLOSING = re.compile(r"(\d+) (passed|failed|skipped|errors?)\b")


@dataclass
class Result:
    """The result of a stage."""

    name: str
    proves: str
    seconds: float = 0
    ok: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    skips: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def total(self) -> str:
        return ", ".join(f"{number} {word}" for word, number in self.counts.items())


def command(stage: Stage) -> tuple[str, ...]:
    """Returns the command line of a stage."""
    if stage.scenario:
        return (*_SANDBOX, "run", "--", "molecule", "test", "--scenario-name", stage.scenario, "--destroy", "never")
    if stage.tests:
        return (*_TOOL, *_PYTEST, stage.tests)
    return stage.run


@contextlib.contextmanager
def _shown(path: pathlib.Path, failures: list[str]) -> Iterator[None]:
    """Print the lines of a file as they are written, and collect failures. Molecule shows output only when a command ends."""
    path.touch()
    ended = threading.Event()

    def follow() -> None:
        with path.open() as file:
            while True:
                last = ended.is_set()
                for line in file:
                    print(line, end="", flush=True)
                    if _FAILURE.match(line):
                        failures.append(line.strip())
                if last:
                    return
                ended.wait(0.5)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def run(stage: Stage, tier: str) -> Result:
    """Run a stage, and show its output while it runs."""
    known = durations.known(f"{tier}: {stage.name}")
    print(f"\n════ {stage.name}: {stage.proves}" + (f" (last run: {durations.spoken(known)})" if known else ""), flush=True)
    result, started, more, tail = Result(stage.name, stage.proves), time.monotonic(), 0, deque[str](maxlen=_MORE)
    environment, shown = {**os.environ, "TEST_TIER": tier}, list[str]()
    with contextlib.ExitStack() as stack:
        if stage.scenario:
            progress = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())) / "progress"
            environment["TEST_PROGRESS"] = str(progress)
            stack.enter_context(_shown(progress, shown))
        process = stack.enter_context(
            subprocess.Popen(
                command(stage),
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        )
        for line in process.stdout or ():
            print(line, end="", flush=True)
            text = re.sub(r"\x1b\[[0-9;]*m", "", line).strip()
            if text:
                tail.append(text[:400])
            if text.startswith("SKIPPED"):
                result.skips.append(text.removeprefix("SKIPPED").strip())
            elif failed := _FAILURE.search(text):
                result.failures.append(failed[0][:400])
                more = _MORE if failed[0].startswith(_LONG) else 0
            elif re.search(r"\bin [0-9.]+s", text):  # pytest's closing line
                for number, word in _CLOSING.findall(text):
                    word = "failed" if word.startswith("error") else word
                    result.counts[word] = result.counts.get(word, 0) + int(number)
            elif more:  # Ansible's message of a failure has several lines, and molecule wraps them
                result.failures.append(text[:400])
                more -= 1
        process.wait()
    result.seconds, result.ok = time.monotonic() - started, process.returncode == 0
    result.counts = result.counts or {"passed" if result.ok else "failed": 1}
    if result.ok:
        durations.record(f"{tier}: {stage.name}", result.seconds)
    else:
        # Each test once, preferably with pytest's own message instead of the one that molecule wrapped.
        result.failures = list({_of(text): text for text in reversed(shown or result.failures or tail)}.values())[::-1]
    return result


def _of(failure: str) -> str:
    """Returns the test that a line names, or else the line."""
    return failure.partition(" - ")[0] if _FAILURE.match(failure) else failure


# Run before and after the stages that need the cluster.
_UP = Stage("sandbox", "test", "the cluster starts", run=(*_SANDBOX, "up"))
_DESTROY = ("molecule", "destroy", "--scenario-name", "default")
_DOWN = Stage("removal", "test", "the cluster is removed completely", run=(*_SANDBOX, "run", "--", *_DESTROY))


def _cluster(results: list[Result]) -> bool:
    """Start the sandbox `test` at the first call. Returns whether it is running."""
    if not any(result.name == _UP.name for result in results):
        results.append(run(_UP, "test"))
    return all(result.ok for result in results if result.name == _UP.name)


def chosen(tier: str, names: list[str]) -> list[Stage]:
    """Returns the stages to run.

    :raises SystemExit: the tier does not have one of the names.
    """
    there = {
        "check": lambda stage: stage.tier == "check",
        "test": lambda stage: stage.tier in ("check", "test"),
        "e2e": lambda stage: stage.topic,
    }[tier]
    known = {name: stage for name, stage in tiers.stages().items() if there(stage)}
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"Tier {tier} has no stage {', '.join(unknown)}. Choose from: {', '.join(known)}.")
    return [stage for name, stage in known.items() if name in (names or known)]


def record(result: Result) -> None:
    """Write the result of a topic into tests/e2e/results.md, one line per topic."""
    changes = _git("status", "--porcelain", "--", ".", f":!{RESULTS.relative_to(ROOT)}")  # this run changes the results
    commit = _git("rev-parse", "--short", "HEAD") + (" with changes" if changes else "")
    date = datetime.datetime.now(tz=datetime.timezone.utc).strftime("%Y-%m-%d")
    cells = [result.name, date, commit, "passed" if result.ok else "**failed**", result.total, f"{result.seconds / 60:.0f}"]
    rows = [line for line in RESULTS.read_text().splitlines() if line.startswith("| ")] if RESULTS.exists() else []
    kept = {row.split(" | ")[0].removeprefix("| "): row for row in rows[2:]}
    kept[result.name] = f"| {' | '.join(cells)} |"
    head = ["| topic | date | commit | result | tests | minutes |", "| --- | --- | --- | --- | --- | --- |"]
    text = ["# The last run of each topic", "", "Written by `make e2e`.", "", *head, *(kept[name] for name in sorted(kept)), ""]
    RESULTS.write_text("\n".join(text))


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def summary(results: list[Result], tier: tiers.Tier) -> None:
    """Print the time and purpose of each stage, every failure with its reason, and the totals."""
    print("\n════ summary")
    total = {"passed": 0, "failed": 0, "skipped": 0}
    for result in results:
        print(f"{'ok' if result.ok else 'FAILED':7}{result.name:13}{result.seconds:7.1f} s   {result.total:28} {result.proves}")
        for word, number in result.counts.items():
            total[word] += number
    for result in results:
        for reason in result.skips:
            print(f"{result.name}: skipped: {reason}")
        for failure in [] if result.ok else result.failures[:60]:
            print(f"{result.name}: {failure}")
    seconds = sum(result.seconds for result in results)
    if tier.minutes and seconds > 60 * tier.minutes:
        cold = f" ({tier.cold_minutes} min with a new sandbox)" if tier.cold_minutes else ""
        print(f"TOO SLOW: the limit of {tier.name} is {tier.minutes} min{cold}")
    print(f"{tier.name}: {seconds / 60:.1f} min" + (f" (limit: {tier.minutes} min)" if tier.minutes else ""))
    print(", ".join(f"{number} {word}" for word, number in total.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m tools.run", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("tier", choices=tiers.NAMES)
    parser.add_argument("stage", nargs="*", help="run only these stages (default: all of the tier)")
    arguments = parser.parse_args()
    results: list[Result] = []
    for stage in chosen(arguments.tier, arguments.stage):
        if (stage.cluster or stage.scenario) and not _cluster(results):
            results.append(Result(stage.name, stage.proves, counts={"skipped": 1}, skips=["the cluster did not start"]))
            continue
        results.append(run(stage, arguments.tier))
        if arguments.tier == "e2e":
            record(results[-1])
    # If stages were chosen, the cluster stays for debugging and the next run.
    if not arguments.stage and any(result.name == _UP.name for result in results):
        results.append(run(_DOWN, "test"))
    summary(results, tiers.tiers()[arguments.tier])
    sys.exit(any(not result.ok for result in results))


if __name__ == "__main__":
    main()
