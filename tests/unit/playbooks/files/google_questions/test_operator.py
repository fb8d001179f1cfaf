# SPDX-License-Identifier: GPL-3.0-or-later
"""Who the questions are asked as."""

from __future__ import annotations

from playbooks.files.google_questions.operator import Operator
from playbooks.files.google_questions.settings import Settings


def test_acts_as_the_account_and_counts_to_the_project_that_are_named() -> None:
    names = ("project", "location", "name", "kubeconfig", "context", "service_account_file")
    plain = {**dict.fromkeys(names, ""), "auth_kind": "accesstoken", "access_token": "secret"}
    account = {"impersonate_service_account": "deployer@demo.iam.gserviceaccount.com", "quota_project": "billing"}
    credentials = Operator(Settings(**plain, **account))._session.credentials
    assert credentials.service_account_email == account["impersonate_service_account"]
    assert credentials.quota_project_id == "billing"
    assert Operator(Settings(**plain))._session.credentials.token == "secret"
