# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs programs as an ordinary user, like the cache's pod does, even if the caller is root."""

from __future__ import annotations

import os
import pathlib

_UID = 65532


def command(*argv: str) -> list[str]:
    """Returns the command line that runs a program as that user; unchanged unless the caller is root."""
    if os.geteuid():
        return list(argv)
    return ["setpriv", f"--reuid={_UID}", f"--regid={_UID}", "--clear-groups", *argv]


def lend(folder: pathlib.Path) -> None:
    """Make that user the owner of a folder and its contents."""
    if not os.geteuid():
        for path in (folder, *folder.rglob("*")):
            os.chown(path, _UID, _UID, follow_symlinks=False)
