# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands of docs/usage/credentials.md, run exactly as documented."""

from __future__ import annotations

import json
import re
import subprocess

from sandbox.client import NAMESPACE, Cluster
from sandbox.settings import ROOT
from tests.e2e.conftest import Push
from tests.e2e.replicas import Replicas

from .conftest import REPLICAS
from .test_users import decoded

PAGE = ROOT / "docs" / "usage" / "credentials.md"


def documented(first_word: str) -> str:
    """Returns the only shell block that begins with this word."""
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```", PAGE.read_text())
    (block,) = (block for block in blocks if block.startswith(first_word))
    return block


def run(commands: str) -> str:
    """Returns the output of the commands. It is not shown if they fail, because it may contain a secret."""
    result = subprocess.run(["bash", "-euc", commands], capture_output=True, text=True, check=False, timeout=900)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_passwords_in_force(cluster: Cluster) -> None:
    held = json.loads(decoded(cluster, "registry-cache-passwords", NAMESPACE)["users"])
    assert (json.loads(run(documented("kubectl get secret"))) == held) is True


def test_the_secret_of_the_replicas_is_renewed(replicas: Replicas, cluster: Cluster, push: Push) -> None:
    """Afterwards the replicas accept each other with the new secret."""
    before = decoded(cluster, "registry-cache-peers", NAMESPACE)["peer"]
    run(documented("k() {"))
    after = decoded(cluster, "registry-cache-peers", NAMESPACE)["peer"]
    assert len(after) == 64 and (after in before) is False
    # A replica that refused the others would fetch and store everything itself.
    image = push("renewed", [1 << 10] * 24)
    assert set(replicas.owners(image.name, image.layers, 0).values()) == set(range(REPLICAS))
