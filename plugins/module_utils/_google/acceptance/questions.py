# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All questions in order, and the removal of the objects that they created.

Private to this collection.
"""

from __future__ import annotations

import typing as t

from ..artifact_registry import API as AR
from ..client import GcpClient, GcpError
from ..resource import Resource
from ..service_account import ServiceAccount
from ..workload_identity import WorkloadIdentityObject, pools_of
from . import accounts, exchange, images, pools, projects
from .run import Run


def ask(run: Run) -> None:
    """Ask all questions, in an order in which each finds the objects that it needs.

    Raise GcpError and ClusterError. Earlier answers are kept.
    """
    pools.ask_pool(run)
    pools.ask_providers(run)
    images.ask_repository(run)
    exchange.ask_exchange(run)
    images.ask_challenges(run)
    images.ask_images(run)
    of_accounts = [name for name in run.assumptions if name.startswith(("account_", "impersonation_"))]
    run.if_allowed(of_accounts, accounts.ask_account)
    pools.ask_ends(run)
    pools.ask_deleted(run)
    run.if_allowed(["noop_operation", "noop_poll"], projects.ask_services)
    run.if_allowed(["project_policy_is_post"], projects.ask_project)


def clean(client: GcpClient, project: str, location: str, name: str, kinds: t.Collection[str]) -> tuple[bool, list[str]]:
    """Remove the objects of a run that still exist. Google keeps the ID of a deleted pool for 30 days.

    :param kinds: kinds to remove: account, repository or pool.
    :return: whether anything was removed, and a message for each object that could not be removed.
    """
    resources = {
        "account": ServiceAccount(client, project, name),
        "repository": Resource(client, AR, f"projects/{project}/locations/{location}/repositories/{name}"),
        "pool": WorkloadIdentityObject(client, pools_of(project), "", name),
    }
    changed, failures = False, []
    for kind, resource in resources.items():
        if kind not in kinds:
            continue
        client.budget.renew()
        try:
            removed, _before, _after = resource.ensure(False, {}, False)
            changed = changed or removed
        except GcpError as error:
            failures.append(f"The {kind} {name} may still exist: {error}")
    return changed, failures
