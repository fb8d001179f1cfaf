# SPDX-License-Identifier: GPL-3.0-or-later
"""Known vulnerabilities of the programs, found by govulncheck with a pinned Go vulnerability database."""

from __future__ import annotations

import pathlib

import pytest

from sandbox.from_source import tools
from tools.vulnerabilities.__main__ import check


@pytest.mark.parametrize("program", ["registry", "docker-credential-gcr"])
def test_the_programs_have_no_known_vulnerability(binaries: dict[tuple[str, str], dict[str, pathlib.Path]], program: str) -> None:
    result = check(binaries["docker", "linux/amd64"][program])
    assert result.returncode == 0, result.stdout + result.stderr
    assert "No vulnerabilities found." in result.stdout


def test_known_vulnerabilities_are_found() -> None:
    """The sandbox's etcd is pinned to the version of Kubernetes, so it has known vulnerabilities."""
    result = check(tools.build("etcd") / "server")
    assert result.returncode == 3 and "Vulnerability #1" in result.stdout
