# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the collection importable for all unit tests, and provides the Google emulator in memory."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from tests import collection
from tests.unit.sandbox.google.harness import Google, Keys

collection.install()


@pytest.fixture(scope="session")
def keys() -> Keys:
    return Keys()


@pytest.fixture
def google(tmp_path: pathlib.Path, keys: Keys) -> Iterator[Google]:
    emulator = Google(tmp_path, keys)
    yield emulator
    emulator.close()
