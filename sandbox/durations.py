# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a named thing took the last time: on this machine, else by the committed reference.

A name is free text. Only what succeeded and did its real work belongs here. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os

from .settings import CACHE, SANDBOX

RECORDED = CACHE / "durations.json"  # of this machine
REFERENCE = SANDBOX / "durations.json"  # committed; says itself where its seconds come from


def record(name: str, seconds: float) -> None:
    """Keep what a thing took, for all processes that share this cache directory.

    A file that cannot be written is no error: an estimate is not worth the failure of what it is for.
    """
    with contextlib.suppress(OSError):
        RECORDED.parent.mkdir(parents=True, exist_ok=True)
        # A lock of its own: the file itself is replaced, so that readers need none.
        with RECORDED.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            changed = {**_read(RECORDED), name: round(seconds, 3)}
            new = RECORDED.with_suffix(".new")
            new.write_text(json.dumps({"seconds": changed}, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
            os.replace(new, RECORDED)


def last(name: str) -> float | None:
    """The seconds that a thing took the last time on this machine; None before the first time."""
    return _read(RECORDED).get(name)


def known(name: str) -> float | None:
    """The seconds of the last time, else those of the reference; None where neither has the name."""
    seconds = last(name)
    return _read(REFERENCE).get(name) if seconds is None else seconds


def _read(path: os.PathLike[str]) -> dict[str, float]:
    """The seconds in a file, without what is none; nothing where the file is missing or broken."""
    try:
        with open(path, encoding="utf-8") as file:
            entries = json.load(file)["seconds"].items()
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    return {name: float(value) for name, value in entries if _is_duration(value)}


def _is_duration(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def spoken(seconds: float) -> str:
    """A duration for a reader, to the second: `45 s`, `2 min 30 s`, `1 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h" + (f" {minutes} min" if minutes else "")
    if minutes:
        return f"{minutes} min" + (f" {rest} s" if rest else "")
    return f"{rest} s"


def rounded(seconds: float) -> str:
    """An estimate, no more exact than it is: to five seconds below two minutes, else to the minute."""
    grain = 5 if seconds < 117.5 else 60
    return spoken(max(grain, round(seconds / grain) * grain))
