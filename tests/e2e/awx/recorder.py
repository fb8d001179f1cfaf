# SPDX-License-Identifier: GPL-3.0-or-later
"""A minimal API of AWX for the modules of awx.awx. It stores objects, and refuses what AWX would refuse.

The possible fields of an object are taken from the documentation of its module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.http_server import HttpServer, QuietHandler

Object = dict[str, Any]

# The module for each kind of object.
KINDS = {
    "organizations": "organization",
    "execution_environments": "execution_environment",
    "projects": "project",
    "credential_types": "credential_type",
    "credentials": "credential",
    "inventories": "inventory",
    "hosts": "host",
    "groups": "group",
    "job_templates": "job_template",
}
# Fields with the id of another object.
_REFERENCES = {
    "organization": "organizations",
    "project": "projects",
    "inventory": "inventories",
    "execution_environment": "execution_environments",
    "default_environment": "execution_environments",
    "credential_type": "credential_types",
}
# Fields that a module adds.
_SENT = {"credential_types": {"managed": {"type": "bool"}}}
# Default fields of an object.
_DEFAULTS: dict[str, Object] = {
    "projects": {"scm_revision": "0" * 40, "scm_branch": ""},
    "inventories": {"kind": "", "host_filter": None},
}
_ASSOCIATIONS = {"job_templates": {"credentials": "credentials"}, "groups": {"hosts": "hosts"}}
_QUESTION = {"question_name", "question_description", "variable", "type", "required", "default", "choices", "min", "max"}
_TYPES = {"text", "textarea", "password", "multiplechoice", "multiselect", "integer", "float"}


class Refusal(Exception):
    def __init__(self, status: int, **body: Any) -> None:
        super().__init__(f"{status} {body}")
        self.status, self.body = status, body


class Recorder(HttpServer):
    """Objects by kind and id.

    :param options: the options of each module by its name, as ansible-doc shows them.
    :param playbooks: the playbooks in the project.
    """

    token = "of-the-recorder"

    def __init__(self, options: Mapping[str, Mapping[str, Any]], playbooks: set[str]) -> None:
        self.objects: dict[str, dict[int, Object]] = {kind: {} for kind in KINDS}
        self.associated: dict[tuple[str, int, str], list[int]] = {}
        self.surveys: dict[int, Object] = {}
        self.writes: list[tuple[str, str]] = []
        self.refused: list[str] = []
        self._options, self._playbooks, self._next = options, playbooks, 0
        self.add("organizations", name="Default")
        recorder = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(size)) if size else {}
                try:
                    if self.headers.get("Authorization") != f"Bearer {recorder.token}":
                        raise Refusal(401, detail="Authentication credentials were not provided.")
                    status, answer = recorder.handle(self.command, self.path, body)
                except Refusal as refusal:
                    status, answer = refusal.status, refusal.body
                    recorder.refused.append(f"{self.command} {self.path}: {refusal}")
                except (LookupError, TypeError, ValueError) as error:
                    status, answer = 500, {"detail": repr(error)}
                    recorder.refused.append(f"{self.command} {self.path}: {error!r}")
                text = json.dumps(answer).encode() if status != 204 else b""
                self.send_response(status)
                self.send_header("X-API-Product-Name", "AWX")
                self.send_header("X-API-Product-Version", "24.6.1")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PATCH = do_DELETE = _answer

        super().__init__(Handler)

    def add(self, kind: str, /, **fields: Any) -> Object:
        self._next += 1
        url = f"/api/v2/{kind}/{self._next}/"
        related = {name: f"{url}{name}/" for name in (*_ASSOCIATIONS.get(kind, {}), "survey_spec")}
        made = {"id": self._next, "type": KINDS[kind], "url": url, "related": related, "summary_fields": {}}
        self.objects[kind][self._next] = made | _DEFAULTS.get(kind, {}) | fields
        return self.objects[kind][self._next]

    def named(self, kind: str) -> dict[str, Object]:
        return {item["name"]: item for item in self.objects[kind].values()}

    def handle(self, method: str, path: str, body: Object) -> tuple[int, Any]:
        address = urlsplit(path)
        query = dict(parse_qsl(address.query, keep_blank_values=True))
        parts = address.path.removeprefix("/api/v2/").strip("/").split("/")
        if method != "GET":
            self.writes.append((method, path))
        if parts == ["me"]:
            return 200, _page([{"id": 1, "type": "user", "username": "operator"}])
        if parts[0] == "project_updates":
            return 200, {"id": int(parts[1]), "status": "successful", "finished": "now", "failed": False}
        if parts[0] not in KINDS:
            raise Refusal(404, detail="Not found.")
        kind, rest = parts[0], parts[1:]
        if not rest:
            return self._create(kind, body) if method == "POST" else (200, _page(self._found(kind, query)))
        item = self.objects[kind].get(int(rest[0]))
        if item is None:
            raise Refusal(404, detail="Not found.")
        if len(rest) == 1:
            return self._change(kind, item, body) if method == "PATCH" else (200, item)
        if rest[1] == "survey_spec":
            return self._survey(method, item["id"], body)
        return self._associate(method, kind, item["id"], rest[1], body)

    def _found(self, kind: str, query: dict[str, str]) -> list[Object]:
        def fits(item: Object) -> bool:
            for field, value in query.items():
                name, _, lookup = field.removeprefix("or__").partition("__")
                if lookup == "name":  # of a referenced object
                    name, value = name, str(next((i for n, i in self._ids(_REFERENCES[name]) if n == value), -1))
                has = str(item.get(name))
                if has not in (value.split(",") if lookup == "in" else [value]):
                    return False
            return True

        return [item for item in self.objects[kind].values() if fits(item)]

    def _ids(self, kind: str) -> list[tuple[str, int]]:
        return [(item["name"], item["id"]) for item in self.objects[kind].values()]

    def _check(self, kind: str, fields: Object) -> None:
        known = {**self._options[KINDS[kind]], **_SENT.get(kind, {})}
        for field, value in fields.items():
            if field not in known or known[field].get("type") == "list":
                raise Refusal(400, **{field: ["no such field"]})
            # References are ids, and some modules send mappings as JSON.
            if field in _REFERENCES:
                if value not in self.objects[_REFERENCES[field]]:
                    raise Refusal(400, **{field: [f'Invalid pk "{value}" - object does not exist.']})
            elif known[field]["type"] == "dict":
                if not isinstance(value if isinstance(value, dict) else json.loads(value), dict):
                    raise Refusal(400, **{field: ["Not a valid dictionary."]})
            elif type(value).__name__ != known[field]["type"] and value is not None:
                raise Refusal(400, **{field: [f"Not a valid {known[field]['type']}."]})
            elif value and value not in known[field].get("choices", [value]):
                raise Refusal(400, **{field: [f'"{value}" is not a valid choice.']})
        if kind == "job_templates" and fields.get("playbook") not in self._playbooks:
            raise Refusal(400, playbook=["Playbook not found for project."])
        if kind == "credential_types":
            _check_type(fields["inputs"], fields["injectors"])

    def _create(self, kind: str, body: Object) -> tuple[int, Any]:
        if not body.get("name"):
            raise Refusal(400, name=["This field is required."])
        self._check(kind, body)
        made = self.add(kind, **body)
        # AWX fetches a new project at once.
        updating = {"summary_fields": {"current_update": {"id": 1}}} if kind == "projects" else {}
        return 201, made | updating

    def _change(self, kind: str, item: Object, body: Object) -> tuple[int, Any]:
        self._check(kind, body)
        item.update(body)
        return 200, item

    def _survey(self, method: str, template: int, body: Object) -> tuple[int, Any]:
        if method == "GET":
            return 200, self.surveys.get(template, {})
        if body.keys() != {"name", "description", "spec"} or not body["spec"]:
            raise Refusal(400, error="'name', 'description' and 'spec' are required.")
        for question in body["spec"]:
            if not {"question_name", "variable", "type", "required"} <= question.keys() <= _QUESTION or question["type"] not in _TYPES:
                raise Refusal(400, error=f"malformed question {question}")
            if ("choices" in question) != (question["type"] in ("multiplechoice", "multiselect")):
                raise Refusal(400, error=f"choices are for choices alone: {question}")
        variables = [question["variable"] for question in body["spec"]]
        if len(set(variables)) < len(variables):
            raise Refusal(400, error=f"'variable' is duplicated in {variables}")
        self.surveys[template] = body
        return 200, {}

    def _associate(self, method: str, kind: str, number: int, name: str, body: Object) -> tuple[int, Any]:
        other = _ASSOCIATIONS.get(kind, {}).get(name)
        if other is None:
            raise Refusal(404, detail="Not found.")
        have = self.associated.setdefault((kind, number, name), [])
        if method == "GET":
            return 200, _page([self.objects[other][one] for one in have])
        if body["id"] not in self.objects[other]:
            raise Refusal(400, detail="no such object")
        if body.get("disassociate"):
            have.remove(body["id"])
        else:
            have.append(body["id"])
        return 204, None


def _page(items: list[Object]) -> Object:
    return {"count": len(items), "next": None, "previous": None, "results": items}


def _check_type(inputs: Object, injectors: Object) -> None:
    """Returns what AWX's schema and its test rendering would refuse in a credential type."""
    if not inputs.keys() <= {"fields", "required"} or not injectors.keys() <= {"file", "env", "extra_vars"}:
        raise Refusal(400, inputs=["additional properties"])
    fields = {field["id"] for field in inputs["fields"]}
    allowed = {"id", "label", "type", "secret", "multiline", "help_text"}
    if not all({"id", "label"} <= field.keys() <= allowed for field in inputs["fields"]):
        raise Refusal(400, inputs=["malformed field"])
    files = {f"tower.filename.{name.removeprefix('template.')}" for name in injectors.get("file", {})}
    for injected in injectors.values():
        for value in injected.values():
            for name in re.findall(r"{{\s*([\w.]+)\s*}}", value):
                if name not in fields | files:
                    raise Refusal(400, injectors=[f"{name} is undefined"])
    if not set(inputs.get("required", [])) <= fields:
        raise Refusal(400, inputs=["required names no field"])
