# SPDX-License-Identifier: GPL-3.0-or-later
"""Records how long named steps took, and estimates the next run from this machine's record or the committed reference.

Names are free text. Record only steps that succeeded and did the work themselves. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os

from .settings import CACHE, SANDBOX

RECORDED = CACHE / "durations.json"  # of this machine
REFERENCE = SANDBOX / "durations.json"  # committed; the file says where it was measured


def record(name: str, seconds: float) -> None:
    """Record a duration for all processes that share this cache directory.

    If the file cannot be written, nothing is recorded: a missing estimate must not fail a step.
    """
    with contextlib.suppress(OSError):
        RECORDED.parent.mkdir(parents=True, exist_ok=True)
        # A separate lock file: the record itself is replaced, so readers need no lock.
        with RECORDED.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            changed = {**_read(RECORDED), name: round(seconds, 3)}
            new = RECORDED.with_suffix(".new")
            new.write_text(json.dumps({"seconds": changed}, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
            os.replace(new, RECORDED)


def last(name: str) -> float | None:
    """Returns the seconds of the last run on this machine; None before the first."""
    return _read(RECORDED).get(name)


def known(name: str) -> float | None:
    """Returns the seconds of the last run, else of the reference; None if neither has the name."""
    seconds = last(name)
    return _read(REFERENCE).get(name) if seconds is None else seconds


def _read(path: os.PathLike[str]) -> dict[str, float]:
    """Returns the valid durations of a file; none if it is missing or broken."""
    try:
        with open(path, encoding="utf-8") as file:
            entries = json.load(file)["seconds"].items()
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    return {name: float(value) for name, value in entries if _is_duration(value)}


def _is_duration(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def spoken(seconds: float) -> str:
    """Returns a duration as text, such as `45 s`, `2 min 30 s` or `1 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h" + (f" {minutes} min" if minutes else "")
    if minutes:
        return f"{minutes} min" + (f" {rest} s" if rest else "")
    return f"{rest} s"


def rounded(seconds: float) -> str:
    """Returns an estimate as text, rounded to five seconds below two minutes, else to the minute."""
    grain = 5 if seconds < 117.5 else 60
    return spoken(max(grain, round(seconds / grain) * grain))
