# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the stages of `make test`: the seconds of each, what passed, failed and was skipped, and why."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUDGET_SECONDS = 65 * 60
_TOOL = ("python3", "-m", "sandbox", "tool", "--")
_PYTEST = ("python", "-m", "pytest", "-q", "-rs")
_SANDBOX = ("python3", "-m", "sandbox", "--name", "test")
_MOLECULE = (*_SANDBOX, "run", "--", "molecule")

# In this order: what is cheap and fails often comes first.
STAGES: dict[str, Sequence[str]] = {
    "lint": (*_TOOL, "sh", "tests/lint.sh"),
    "unit": (*_TOOL, *_PYTEST, "--numprocesses=2", "--dist=loadfile", "tests/unit"),
    "go": ("sh", "-c", "cd docker/registry && go test ./..."),
    "galaxy": (*_TOOL, *_PYTEST, "tests/galaxy"),
    "environment": (*_TOOL, *_PYTEST, "tests/environment"),
    "awx": (*_TOOL, *_PYTEST, "tests/awx"),
    "sanity": (*_TOOL, "python", "-m", "tests.sanity"),
    "sandbox": (*_SANDBOX, "up"),  # molecule's `default` would do it too, but without showing its steps
    "molecule-site": (*_MOLECULE, "test", "--scenario-name", "site", "--destroy", "never"),
    "molecule-front": (*_MOLECULE, "test", "--scenario-name", "front", "--destroy", "never"),
    "molecule-faults": (*_MOLECULE, "test", "--scenario-name", "faults", "--destroy", "never"),
    "image": (*_TOOL, "python", "-m", "pytest", "-q", "-rs", "--durations=12", "tests/image"),
    "molecule-default": (*_MOLECULE, "destroy", "--scenario-name", "default"),
}
_MORE = 15  # lines after Ansible's first one of a failure
_FAILURE = re.compile(r"(FAILED|ERROR) tests/.*|(fatal|failed): \[.*")
_CLOSING = re.compile(r"(\d+) (passed|failed|skipped|errors?)\b")


@dataclass
class Result:
    """What a stage came to."""

    name: str
    seconds: float
    ok: bool
    counts: dict[str, int] = field(default_factory=dict)
    skips: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def run(name: str) -> Result:
    """Run one stage, its output shown as it comes."""
    print(f"\n════ {name}", flush=True)
    result, started, more = Result(name, 0, False), time.monotonic(), 0
    with subprocess.Popen(
        STAGES[name], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            text = re.sub(r"\x1b\[[0-9;]*m", "", line).strip()
            if text.startswith("SKIPPED"):
                result.skips.append(text.removeprefix("SKIPPED").strip())
            elif failed := _FAILURE.search(text):
                result.failures.append(failed[0][:400])
                more = _MORE if failed[0].startswith("fatal") else 0
            elif re.search(r"\bin [0-9.]+s", text):  # pytest's closing line
                for number, word in _CLOSING.findall(text):
                    word = "failed" if word.startswith("error") else word
                    result.counts[word] = result.counts.get(word, 0) + int(number)
            elif more:  # molecule breaks lines, and what Ansible says of a failure has several
                result.failures.append(text[:400])
                more -= 1
    result.seconds, result.ok = time.monotonic() - started, process.returncode == 0
    result.counts = result.counts or {"passed" if result.ok else "failed": 1}
    return result


def main() -> None:
    chosen = sys.argv[1:] or list(STAGES)
    if unknown := [name for name in chosen if name not in STAGES]:
        sys.exit(f"no stage {', '.join(unknown)}; there are {', '.join(STAGES)}")
    if any(name == "image" or name.startswith("molecule-") for name in chosen) and "sandbox" not in chosen:
        chosen.insert(0, "sandbox")
    results: list[Result] = []
    for name in chosen:
        if name.startswith("molecule-") and any(result.name == "sandbox" and not result.ok for result in results):
            results.append(Result(name, 0, False, {"skipped": 1}, ["no cluster to run on"]))
        else:
            results.append(run(name))

    total: dict[str, int] = {"passed": 0, "failed": 0, "skipped": 0}
    print("\n════ summary")
    for result in results:
        counts = ", ".join(f"{number} {word}" for word, number in result.counts.items())
        print(f"{'ok' if result.ok else 'FAILED':7}{result.name:18}{result.seconds:7.1f} s   {counts}")
        for reason in result.skips:
            print(f"       skipped: {reason}")
        for failure in [] if result.ok else result.failures[:60]:
            print(f"       {failure}")
        for word, number in result.counts.items():
            total[word] += number
    seconds = sum(result.seconds for result in results)
    if seconds > BUDGET_SECONDS:
        print(f"OVER BUDGET: {seconds:.0f} s of {BUDGET_SECONDS} s", flush=True)
    print(f"total {seconds:.0f} s of a budget of {BUDGET_SECONDS} s")
    print(", ".join(f"{number} {word}" for word, number in total.items()), flush=True)
    sys.exit(any(not result.ok for result in results))


if __name__ == "__main__":
    main()
