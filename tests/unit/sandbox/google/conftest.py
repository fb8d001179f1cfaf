# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the Google emulator."""

from __future__ import annotations

import pytest

from tests.unit.sandbox.google.harness import Google


@pytest.fixture
def docker(google: Google) -> Google:
    """The emulator with a repository that the cache's service account can read."""
    google.federate()
    google.create_repository()
    google.grant()
    return google
