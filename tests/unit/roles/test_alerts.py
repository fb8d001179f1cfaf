# SPDX-License-Identifier: GPL-3.0-or-later
"""Alerts use only metrics and labels of docs/usage/metrics.md, which a Go test of the package cache compares with the program."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from sandbox.settings import ROOT

RULES: list[dict[str, Any]] = yaml.safe_load((ROOT / "roles/cache/files/alerts.yml").read_text())["groups"][0]["rules"]
DOCS = (ROOT / "docs/usage/metrics.md").read_text()
_ROW = re.compile(r"(?m)^\| `(registry_cache_\w+)` \| \w+ \|([^|]*)\|")
# Labels that a scrape adds.
_SCRAPE_LABELS = {"namespace", "pod"}


def metrics() -> dict[str, set[str]]:
    """Returns the labels of each metric on the page."""
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in _ROW.findall(DOCS)}


def test_the_page_lists_all_metrics_of_the_code() -> None:
    files = [file for file in (ROOT / "docker/registry/internal").glob("*/*.go") if not file.name.endswith("_test.go")]
    defined = set(re.findall(r'"(registry_cache_\w+)"', "".join(file.read_text() for file in files)))
    assert len(defined) > 20 and defined == metrics().keys()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_uses_existing_metrics_and_labels(rule: dict[str, Any]) -> None:
    asked = set(re.findall(r"registry_cache_\w+", rule["expr"]))
    assert asked and asked <= metrics().keys()
    for name, selectors in re.findall(r"(registry_cache_\w+)\{(.*?)\}", rule["expr"]):
        assert set(re.findall(r"(\w+)[!=]", selectors)) <= metrics()[name]
    for labels, metric in re.findall(r"by \(([\w, ]+)\)[^_]*?(registry_cache_\w+)", rule["expr"]):
        assert set(labels.split(", ")) <= metrics()[metric] | _SCRAPE_LABELS


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_is_documented_and_annotated(rule: dict[str, Any]) -> None:
    assert f"\n| `{rule['alert']}` |" in DOCS
    assert rule["annotations"].keys() == {"summary", "description"} and rule["labels"].keys() == {"severity"}


def test_the_page_lists_exactly_the_alerts() -> None:
    assert set(re.findall(r"`(RegistryCache\w+)`", DOCS)) == {rule["alert"] for rule in RULES}
