# SPDX-License-Identifier: GPL-3.0-or-later
"""For tests of whole roles: the collection under its name."""

from __future__ import annotations

from tests import collection

collection.install()
