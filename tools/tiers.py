# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the test tiers of tests/tiers.toml. Standard library only, since the runner starts before any environment exists."""

from __future__ import annotations

import pathlib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILE = ROOT / "tests" / "tiers.toml"
NAMES = ("check", "test", "e2e")


@dataclass(frozen=True)
class Tier:
    """A tier, and how many minutes it may take: with an existing and with a new sandbox (None: no limit)."""

    name: str
    minutes: float | None = None
    cold_minutes: float | None = None


@dataclass(frozen=True)
class Stage:
    """A step of a tier.

    :param tier: the lowest tier that runs it; e2e runs no stage of `check`.
    :param proves: what it proves, in a few words.
    :param run: its command, unless it is a folder of tests.
    :param tests: a folder below tests/e2e; in tier `test` only its tests of promises run.
    :param scenario: the molecule scenario that runs them.
    :param cluster: whether it needs the sandbox `test`.
    """

    name: str
    tier: str
    proves: str
    run: tuple[str, ...] = ()
    tests: str = ""
    scenario: str = ""
    cluster: bool = False

    @property
    def topic(self) -> bool:
        """Whether `make e2e TOPIC=name` runs it."""
        return self.tier == "e2e" or bool(self.tests)


@dataclass(frozen=True)
class Promise:
    """A promise of the documentation with the tests that prove it.

    :param page: the page that makes it.
    :param about: words on the page, by which a reader finds it.
    :param tests: node ids of pytest (all parameters, unless given), files of tests, or other files.
    """

    page: str
    about: str
    promise: str
    tests: tuple[str, ...]


def _read() -> dict[str, dict[str, dict[str, object]]]:
    return tomllib.loads(FILE.read_text())


def tiers() -> dict[str, Tier]:
    return {name: Tier(name, **fields) for name, fields in _read()["tiers"].items()}  # type: ignore[arg-type]


def stages() -> dict[str, Stage]:
    """Returns the stages by name, in the order in which they run."""
    found = {}
    for name, fields in _read()["stages"].items():
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        found[name] = Stage(name, **fields)  # type: ignore[arg-type]
    return found


def promises() -> list[Promise]:
    return [
        Promise(page, about, str(fields["promise"]), tuple(fields["tests"]))  # type: ignore[arg-type]
        for page, entries in _read()["promises"].items()
        for about, fields in entries.items()
    ]


def tier(test: str) -> str:
    """Returns the lowest tier that runs a test of a promise."""
    if test.startswith("tests/unit/"):
        return "check"
    for stage in stages().values():
        if stage.tests and test.startswith(f"{stage.tests}/"):
            return stage.tier
    return "test" if test.startswith("molecule/") else "e2e"


class Selection:
    """The tests below tests/e2e that tier `test` runs: those that a promise names."""

    def __init__(self) -> None:
        self._named = {test for promise in promises() for test in promise.tests}

    def __contains__(self, node: str) -> bool:
        return not self._named.isdisjoint(_names(node))

    def missing(self, nodes: Iterable[str]) -> list[str]:
        """Returns the names in promises that belong to the files of these tests, but to no test."""
        found = {name for node in nodes for name in _names(node)}
        files = {name.partition("::")[0] for name in found}
        return sorted(name for name in self._named if name.partition("::")[0] in files and name not in found)


def _names(node: str) -> set[str]:
    """Returns the names by which a promise may refer to a test."""
    return {node, node.partition("[")[0], node.partition("::")[0]}
