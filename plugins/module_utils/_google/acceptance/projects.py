# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions about the project: its APIs and its policy.

Private to this collection.
"""

from __future__ import annotations

from .answers import outcome
from .run import Run

USAGE = "https://serviceusage.googleapis.com/v1"
CRM = "https://cloudresourcemanager.googleapis.com/v1"


def ask_services(run: Run) -> None:
    """Ask what happens when an API is enabled that is already enabled."""
    service = f"{USAGE}/projects/{run.project}/services/artifactregistry.googleapis.com"
    answer = run.take("POST", f"{service}:enable", {})
    run.answer("noop_operation", {"name": answer.get("name"), "done": answer.get("done")})
    if answer.get("name", "").startswith("operations/noop"):
        run.answer("noop_poll", outcome(run.call("GET", f"{USAGE}/{answer['name']}")))


def ask_project(run: Run) -> None:
    """Ask about the policy of the project."""
    url = f"{CRM}/projects/{run.project}:getIamPolicy"
    run.take("POST", url, {})
    run.answer("project_policy_is_post", {"status": 200})
