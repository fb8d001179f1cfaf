# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks Google what assumptions.yml assumes of it. `ask` or `clean`; settings as JSON on stdin, answers as JSON on stdout.

Needs what the modules need: google-auth, requests, kubernetes, PyYAML. No token leaves the process.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import google.auth.exceptions
import requests

from google_questions import accounts, exchange, images, pools, projects
from google_questions.answers import Unanswered, content
from google_questions.operator import IAM
from google_questions.run import AR, Run
from google_questions.settings import Settings
from google_questions.verdicts import ASSUMPTIONS, SECRETS, judged, table


def ask(run: Run) -> None:
    """Every question, in an order in which each finds what it needs.

    Raises Unanswered, or what a connection raises; answers until then are kept.
    """
    pools.ask_pool(run)
    pools.ask_providers(run)
    images.ask_repository(run)
    exchange.ask_exchange(run)
    images.ask_challenges(run)
    images.ask_images(run)
    of_accounts = [name for name in ASSUMPTIONS if name.startswith(("account_", "impersonation_"))]
    run.if_allowed(of_accounts, accounts.ask_account)
    pools.ask_ends(run)
    pools.ask_deleted(run)
    run.if_allowed(["noop_operation", "noop_poll"], projects.ask_services)
    run.if_allowed(["project_policy_is_post"], projects.ask_project)


def clean(run: Run) -> list[str]:
    """Remove what there is; sentences about what could not be removed. A deleted pool's name stays Google's for 30 days."""
    failures = []
    for kind, api, url in (
        ("account", None, f"{run.accounts}/{run.email}"),
        ("repository", AR, run.repository),
        ("pool", IAM, run.pool),
    ):
        if kind not in run.settings.made:
            continue
        try:
            found = run.operator.call("GET", url)
            if found.status_code == 404 or content(found).get("state") == "DELETED":
                continue
            operation = run.operator.take("DELETE", url)
            if api:
                run.operator.finish(api, operation)
        except (Unanswered, requests.RequestException, google.auth.exceptions.GoogleAuthError) as error:
            failures.append(f"The {kind} {run.settings.name} may still be there: {error}")
    return failures


def main() -> None:
    settings, asking = Settings(**json.load(sys.stdin)), sys.argv[1] == "ask"
    run, failures = None, []
    try:
        run = Run(settings)
        if asking:
            ask(run)
        else:
            failures = clean(run)
    except Unanswered as error:
        failures = [str(error)]
    except Exception as error:  # whatever it is: what was answered is shown, and what was made must be removed
        failures = [f"{type(error).__name__}: {error}"]
    report: dict[str, Any] = {"failures": [SECRETS.sub("TOKEN", failure) for failure in failures]}
    if asking and run:
        plain = run.words.plain
        answers = judged(plain(run.answers), plain(run.reasons))
        report |= {"made": run.made, "answers": answers, "table": table(answers)}
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
