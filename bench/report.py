# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes results as a table (.md), as data (.json) and as a plot (.svg)."""

from __future__ import annotations

import html
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
# The command for each page of results.
_COMMANDS = {"latest": "make bench", "kind": "make bench-kind"}


@dataclass(frozen=True)
class Goal:
    """A bound. `on`: `ours` (the value itself) or `ratio` (our value divided by the peer's)."""

    on: str
    sign: str  # "<=" or ">="
    bound: float

    def __str__(self) -> str:
        return f"{self.on} {self.sign} {number(self.bound)}"


@dataclass(frozen=True)
class Result:
    """One measurement compared with one peer. None: not measured, for the reason in `note`."""

    measure: str
    unit: str
    against: str
    ours: float | None
    peer: float | None
    goal: Goal | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        if self.ours is None or not self.peer or not math.isfinite(self.ours + self.peer):
            return None
        return self.ours / self.peer

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal, and False if the value was not measured."""
        if self.goal is None:
            return None
        value = self.ours if self.goal.on == "ours" else self.ratio
        if value is None:
            return False
        return value <= self.goal.bound if self.goal.sign == "<=" else value >= self.goal.bound

    @property
    def name(self) -> str:
        unit = f" [{self.unit}]" if self.unit else ""
        return f"{self.measure}{unit}, against {self.against}" if self.against else f"{self.measure}{unit}"

    def data(self) -> dict[str, object]:
        goal = str(self.goal) if self.goal else None
        values = {key: _rounded(getattr(self, key)) for key in ("ours", "peer", "ratio")}
        return {"measure": self.name, **values, "goal": goal, "met": self.met}


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def number(value: float | None) -> str:
    """Returns a number with four significant digits."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "never"
    short = f"{value:.4g}"
    return f"{float(short):,.0f}" if "e" in short or abs(value) >= 1000 else short


def table(results: Sequence[Result]) -> str:
    """Returns the results as a Markdown table."""
    lines = ["| measure | against | ours | peer | ratio | goal | met |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for result in results:
        unit = f" [{result.unit}]" if result.unit else ""
        met = {True: "yes", False: "**no**", None: ""}[result.met]
        cells = [result.measure + unit, result.against, number(result.ours), number(result.peer), number(result.ratio)]
        goal = str(result.goal) if result.goal else ""
        lines.append(f"| {' | '.join([*cells, goal, met])} |")
    return "\n".join(lines)


def markdown(results: Sequence[Result], facts: Mapping[str, str], stem: str) -> str:
    """Returns the whole page: the environment, the table, and notes about single rows."""
    (other,) = set(_COMMANDS) - {stem}
    notes = [f"- {result.name}: {result.note}" for result in results if result.note]
    return "\n".join(
        [
            f"# {_COMMANDS[stem]}",
            "",
            *(f"- {name}: {text}" for name, text in facts.items()),
            "",
            table(results),
            "",
            *([*notes, ""] if notes else []),
            f"`{_COMMANDS[other]}` has the other rows: `{other}.md`.",
            "",
        ]
    )


_WIDTH, _LABELS, _ROW = 1000, 560, 22


def svg(results: Sequence[Result]) -> str:
    """Returns a plot of our value divided by the peer's on a log scale. A tick marks a goal for the ratio."""
    rows = [result for result in results if result.ratio]
    exponents = [math.log10(result.ratio or 1) for result in rows]
    exponents += [math.log10(r.goal.bound) for r in rows if r.goal and r.goal.on == "ratio"]
    low, high = math.floor(min(exponents, default=-1)), math.ceil(max(exponents, default=1))
    low, high = min(low, -1), max(high, 1)

    def x(exponent: float) -> float:
        return _LABELS + (exponent - low) / (high - low) * (_WIDTH - _LABELS - 20)

    height = _ROW * (len(rows) + 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        '<text x="8" y="15">ours / peer, log scale; a black tick is the goal</text>',
    ]
    for exponent in range(low, high + 1):
        colour = "#555" if exponent == 0 else "#ddd"
        parts.append(f'<line x1="{x(exponent):.1f}" x2="{x(exponent):.1f}" y1="20" y2="{height - 4}" stroke="{colour}"/>')
        parts.append(f'<text x="{x(exponent):.1f}" y="15" text-anchor="middle">{10.0**exponent:g}</text>')
    for n, (result, exponent) in enumerate(zip(rows, exponents, strict=False)):
        top, left, right = 26 + n * _ROW, min(x(exponent), x(0)), max(x(exponent), x(0))
        colour = {True: "#2a7f3f", False: "#b3261e", None: "#7a8793"}[result.met]
        parts.append(f'<text x="8" y="{top + 11}">{html.escape(result.name)}: {number(result.ratio)}</text>')
        parts.append(f'<rect x="{left:.1f}" y="{top}" width="{max(right - left, 1):.1f}" height="14" fill="{colour}"/>')
        if result.goal and result.goal.on == "ratio":
            at = x(math.log10(result.goal.bound))
            place = f'x1="{at:.1f}" x2="{at:.1f}" y1="{top - 2}" y2="{top + 16}"'
            parts.append(f'<line {place} stroke="black" stroke-width="2"/>')
    return "\n".join([*parts, "</svg>", ""])


def write(results: Sequence[Result], facts: Mapping[str, str], stem: str = "latest", folder: pathlib.Path = RESULTS) -> None:
    """Writes all three files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.md").write_text(markdown(results, facts, stem))
    (folder / f"{stem}.json").write_text(json.dumps([result.data() for result in results], indent=1) + "\n")
    (folder / f"{stem}.svg").write_text(svg(results))
