# SPDX-License-Identifier: GPL-3.0-or-later
"""Totals of metrics in Prometheus's text format."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.metrics import total

TEXT = """# HELP sent_bytes_total bytes
sent_bytes_total{kind="blob",result="hit"} 1000
sent_bytes_total{kind="blob",result="miss"} 2e+03
sent_bytes_total{kind="tag",result="hit"} 1
sent_bytes_total_created 5
up 1
"""


@pytest.mark.parametrize(
    ("labels", "expected"),
    [({}, 3001), ({"kind": "blob"}, 3000), ({"result": "hit"}, 1001), ({"kind": "tag", "result": "miss"}, 0), ({"kind": "blo"}, 0)],
)
def test_samples_with_the_labels_are_added(labels: dict[str, Any], expected: float) -> None:
    assert total(TEXT, "sent_bytes_total", **labels) == expected


def test_a_metric_without_labels_or_samples() -> None:
    assert total(TEXT, "up") == 1
    assert total(TEXT, "down") == 0
