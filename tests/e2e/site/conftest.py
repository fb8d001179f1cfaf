# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of the tests of scenario `site`."""

from __future__ import annotations

import pytest

# Those that leave another cache than they found, in this order, after all that share one.
LAST = ("test_impersonation", "test_uninstall")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return LAST.index(item.path.stem) if item.path.stem in LAST else -1

    items.sort(key=place)
