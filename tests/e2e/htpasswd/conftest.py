# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the collection importable under its name."""

from __future__ import annotations

from tests import collection

collection.install()
