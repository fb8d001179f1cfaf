# SPDX-License-Identifier: GPL-3.0-or-later
"""The error that ends `make try` with a message."""

from __future__ import annotations


class Refused(Exception):
    """`make try` cannot continue. The text names the problem and the fix."""
