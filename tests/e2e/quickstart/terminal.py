# SPDX-License-Identifier: GPL-3.0-or-later
"""A shell in a terminal, which answers the prompts of its programs like a user."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import pexpect

# Activating a Python environment writes its name before this.
_PROMPT, _DONE = "[done $?] ", r"\[done (\d+)\] $"


@dataclass(frozen=True)
class Result:
    """The exit status of a line, and what the terminal showed."""

    status: int
    output: str


class Terminal:
    """An interactive bash.

    :param variables: its environment.
    :param answers: regular expressions of prompts, and what the user types.
    """

    def __init__(self, folder: pathlib.Path, variables: Mapping[str, str], answers: Mapping[str, str]) -> None:
        self._patterns, self._answers = [_DONE, *(f"{prompt}$" for prompt in answers)], [*answers.values()]
        self._bash = pexpect.spawn(
            "/bin/bash",
            ["--norc", "--noprofile", "--noediting", "-i"],
            cwd=str(folder),
            env={**variables, "PS1": _PROMPT, "TERM": "dumb"},
            dimensions=(50, 400),
            encoding="utf-8",
            codec_errors="replace",
            echo=False,
        )
        self._bash.expect(_DONE, timeout=20)

    def run(self, line: str, seconds: float = 900) -> Result:
        """Type a line, and answer prompts until it has ended.

        :raises AssertionError: no prompt appears for `seconds`. The terminal is closed, since the next line would go to that program.
        """
        self._bash.sendline(line)
        output = ""
        try:
            while found := self._bash.expect(self._patterns, timeout=seconds):
                output += self._bash.before + self._bash.after
                self._bash.sendline(self._answers[found - 1])
        except (pexpect.TIMEOUT, pexpect.EOF):
            shown = output + self._bash.before
            self.close()
            raise AssertionError(f"'{line}' did not end within {seconds:.0f} s:\n{shown}") from None
        return Result(int(self._bash.match[1]), re.sub(r"\r+\n", "\n", output + self._bash.before))

    def close(self) -> None:
        self._bash.close(force=True)
