# SPDX-License-Identifier: GPL-3.0-or-later
"""What ends `make try` with one sentence."""

from __future__ import annotations


class Refused(Exception):
    """It cannot go on; the text names what is wrong and the fix."""
