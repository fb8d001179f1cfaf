# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs programs as in the cache's pod: as an ordinary user, also where the caller is root."""

from __future__ import annotations

import os
import pathlib

_UID = 65532


def command(*argv: str) -> list[str]:
    """The command line that runs a program as that user; unchanged unless the caller is root."""
    if os.geteuid():
        return list(argv)
    return ["setpriv", f"--reuid={_UID}", f"--regid={_UID}", "--clear-groups", *argv]


def lend(folder: pathlib.Path) -> None:
    """Give a folder and what is in it to that user."""
    if not os.geteuid():
        for path in (folder, *folder.rglob("*")):
            os.chown(path, _UID, _UID, follow_symlinks=False)
