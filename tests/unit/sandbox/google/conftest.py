# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the Google emulator."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from tests.unit.sandbox.google.harness import Google, Keys


@pytest.fixture(scope="session")
def keys() -> Keys:
    return Keys()


@pytest.fixture
def google(tmp_path: pathlib.Path, keys: Keys) -> Iterator[Google]:
    emulator = Google(tmp_path, keys)
    yield emulator
    emulator.close()


@pytest.fixture
def docker(google: Google) -> Google:
    """The emulator with a repository that the cache's service account may read."""
    google.federate()
    google.create_repository()
    google.grant()
    return google
