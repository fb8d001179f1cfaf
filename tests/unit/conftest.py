# SPDX-License-Identifier: GPL-3.0-or-later
"""For all unit tests: the collection under its name."""

from __future__ import annotations

from tests import collection

collection.install()
