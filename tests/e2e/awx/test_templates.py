# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/awx.yml: its definitions, and the objects that it creates in AWX."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from sandbox.settings import ROOT

from .conftest import BIN
from .recorder import Recorder

OPTIONS = {
    name: option
    for file in ROOT.glob("roles/*/meta/argument_specs.yml")
    for name, option in yaml.safe_load(file.read_text())["argument_specs"]["main"]["options"].items()
}
PLAYBOOKS = {f"playbooks/{path.name}" for path in (ROOT / "playbooks").glob("*.yml")}
# The types of survey answers for types of role options.
ANSWERS = {"text": {"str", "path"}, "password": {"str"}, "textarea": {"str"}, "multiplechoice": {"str"}, "integer": {"int"}}
EXECUTION_ENVIRONMENT = "registry.example/ee:1"


class _Unsafe(yaml.SafeLoader):
    """Reads Ansible's !unsafe as text."""


_Unsafe.add_constructor("!unsafe", lambda loader, node: loader.construct_scalar(node))
SAID = yaml.load((ROOT / "playbooks/vars/awx.yml").read_text(), _Unsafe)
TEMPLATES = SAID["_registry_cache_awx_templates"]


def test_every_playbook_has_a_template() -> None:
    assert sorted(template["playbook"] for template in TEMPLATES) == sorted(PLAYBOOKS)
    assert len({template["name"] for template in TEMPLATES}) == len(TEMPLATES)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: pathlib.Path(template["playbook"]).stem)
def test_surveys_ask_only_for_variables_of_the_roles_or_the_playbook(template: dict[str, Any]) -> None:
    text = (ROOT / template["playbook"]).read_text()
    extra = template["extra_vars"] if isinstance(template["extra_vars"], dict) else {}
    assert template["survey"]
    for question in template["survey"]:
        name = question["variable"]
        option = OPTIONS.get(name)
        if option is None:
            assert re.search(rf"\b{name}\b", text), f"{name} is known to no role, and not to {template['playbook']}"
            continue
        assert option["type"] in ANSWERS[question["type"]], name
        assert question.get("choices") == option.get("choices"), name
        assert question.get("default") == option.get("default"), name
        assert (question["type"] == "password") == option.get("no_log", False), name
        assert name not in extra, f"{name} is asked for, and the template sets it"
    for name, value in extra.items():
        assert name in OPTIONS and value in OPTIONS[name].get("choices", [value]), name


def test_the_template_of_the_cache_needs_no_engine() -> None:
    (site,) = (template for template in TEMPLATES if template["playbook"] == "playbooks/site.yml")
    assert site["extra_vars"]["registry_cache_image_mode"] == "published"
    (image,) = (template for template in TEMPLATES if template["playbook"] == "playbooks/image.yml")
    assert "registry_cache_image_mode" not in image["extra_vars"]


def test_the_page_lists_every_template_and_credential_type() -> None:
    page = (ROOT / "docs/usage/awx.md").read_text()
    assert not [entry["name"] for entry in [*TEMPLATES, *SAID["_registry_cache_awx_credential_types"]] if entry["name"] not in page]
    assert not [name for template in TEMPLATES for name in template["credentials"] if name not in page]
    # The variables of the playbook.
    known = set(re.findall(r"\bregistry_cache_awx_\w+", (ROOT / "playbooks/awx.yml").read_text()))
    assert known and not [name for name in known if f"`{name}`" not in page]


def run(project: pathlib.Path, recorder: Recorder | None, *arguments: str, **variables: Any) -> str:
    """Run the playbook. Returns its output, with the exit status as the last line."""
    bare = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(project.parent), "LANG": "C.UTF-8", "ANSIBLE_NOCOLOR": "1"}
    if recorder:
        bare |= {"CONTROLLER_HOST": recorder.url, "CONTROLLER_OAUTH_TOKEN": recorder.token}
    command = ["ansible-playbook", "-i", "localhost,", "playbooks/awx.yml", "--extra-vars", json.dumps(variables), *arguments]
    result = subprocess.run(command, cwd=project, env=bare, check=False, capture_output=True, text=True)
    return re.sub(r"\s+", " ", f"{result.stdout} {result.stderr} rc={result.returncode}")


WANTED = {
    "registry_cache_awx_execution_environment": EXECUTION_ENVIRONMENT,
    "registry_cache_awx_clusters": {"my-cluster": {"registry_cache_wif_project": "my-project"}},
    "registry_cache_awx_credentials": ["my Google key", "my cluster"],
}


@pytest.fixture(scope="module")
def recorder(module_options: dict[str, dict[str, Any]]) -> Iterator[Recorder]:
    made = Recorder(module_options, PLAYBOOKS)
    for name, kind in (("my Google key", "Google Compute Engine"), ("my cluster", "OpenShift or Kubernetes API Bearer Token")):
        made.add("credentials", name=name, summary_fields={"credential_type": {"name": kind}})
    yield made
    made.close()


class TestAwx:
    """Tests in this order: each continues with the state that the previous one left."""

    def test_check_mode_on_an_awx_without_it(self, project: pathlib.Path, recorder: Recorder) -> None:
        said = run(project, recorder, "--check", **WANTED)
        assert said.endswith("rc=0") and "would be created" in said and re.search(r"changed=[1-9]", said), said
        assert not recorder.writes

    def test_everything_is_created(self, project: pathlib.Path, recorder: Recorder) -> None:
        said = run(project, recorder, **WANTED)
        assert said.endswith("rc=0") and not recorder.refused, (said, recorder.refused)
        assert "[WARNING]" not in said
        templates = recorder.named("job_templates")
        assert {item["playbook"] for item in templates.values()} == PLAYBOOKS
        (made,) = recorder.named("projects").values()
        for item in templates.values():
            assert (item["project"], item["ask_variables_on_launch"], item["survey_enabled"]) == (made["id"], True, True)
            assert recorder.surveys[item["id"]]["spec"]
        site = templates["Registry cache"]
        assert json.loads(site["extra_vars"]) == {"registry_cache_image_mode": "published"}
        attached = {recorder.objects["credentials"][one]["name"] for one in recorder.associated["job_templates", site["id"], "credentials"]}
        assert attached == {"my Google key", "my cluster"}
        # Each template has credentials of its types.
        image = templates["Registry cache image"]
        assert not recorder.associated.get(("job_templates", image["id"], "credentials"))
        assert recorder.named("execution_environments").popitem()[1]["image"] == EXECUTION_ENVIRONMENT
        types = recorder.named("credential_types")
        assert types["Registry cache password"]["injectors"] == {"extra_vars": {"vault_registry_cache_password": "{{ password }}"}}
        (host,) = recorder.named("hosts").values()
        (group,) = recorder.named("groups").values()
        assert recorder.associated["groups", group["id"], "hosts"] == [host["id"]]
        assert json.loads(group["variables"])["ansible_python_interpreter"] == "{{ ansible_playbook_python }}"
        # The template of this playbook has the variables of this run.
        again = json.loads(templates["Registry cache in AWX"]["extra_vars"])
        assert again["registry_cache_awx_clusters"] == WANTED["registry_cache_awx_clusters"]

    def test_check_mode_finds_nothing_to_change(self, project: pathlib.Path, recorder: Recorder) -> None:
        recorder.writes.clear()
        said = run(project, recorder, "--check", **WANTED)
        assert said.endswith("rc=0") and "changed=0" in said, said
        assert not recorder.writes

    def test_only_manual_changes_are_reverted(self, project: pathlib.Path, recorder: Recorder) -> None:
        site = recorder.named("job_templates")["Registry cache"]
        site["playbook"] = "playbooks/acceptance.yml"
        recorder.surveys[site["id"]]["spec"].pop()
        wanted = {**WANTED, "registry_cache_awx_credentials": []}
        said = run(project, recorder, **wanted)
        assert re.search(r"changed=1\b", said), said
        assert site["playbook"] == "playbooks/site.yml" and len(recorder.surveys[site["id"]]["spec"]) == len(TEMPLATES[0]["survey"])
        # Existing credentials stay if none is named.
        assert len(recorder.associated["job_templates", site["id"], "credentials"]) == 2
        # The template of this playbook has the variables of this run.
        own = recorder.named("job_templates")["Registry cache in AWX"]
        assert {urlsplit(path).path for _method, path in recorder.writes} == {site["url"], site["related"]["survey_spec"], own["url"]}

    def test_bad_input(self, project: pathlib.Path) -> None:
        bad = {"registry_cache_awx_execution_environment": "", "registry_cache_awx_clusters": ["a"], "registry_cache_awx_credentials": "a"}
        said = run(project, None, **bad)
        assert all(f"{name} must " in said for name in bad), said
        assert "changed=0" in said and said.endswith("rc=2"), said
        said = run(project, None, registry_cache_awx_projekt="a", **WANTED)
        assert "registry_cache_awx_projekt is not a variable of this collection. Example: registry_cache_awx_project" in said, said
        assert "changed=0" in said and said.endswith("rc=2"), said

    def test_no_awx(self, project: pathlib.Path) -> None:
        said = run(project, None, **WANTED)
        assert "AWX does not answer" in said and "CONTROLLER_HOST" in said and "changed=0" in said, said

    def test_a_missing_credential(self, project: pathlib.Path, recorder: Recorder) -> None:
        said = run(project, recorder, **{**WANTED, "registry_cache_awx_credentials": ["my Google key", "nobody's"]})
        assert "AWX has no credential nobody's." in said and "changed=0" in said, said
