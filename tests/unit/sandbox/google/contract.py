# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks requests and answers against Google's discovery documents, which google-api-python-client includes.

What makes a parameter or field required is `required` or a description that begins so; a field is missed in what is
created (POST) only, for a patch names what it changes.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any
from urllib.parse import unquote, urlsplit

Document = dict[str, Any]

_APIS = (
    "artifactregistry.v1",
    "cloudresourcemanager.v1",
    "cloudresourcemanager.v3",
    "iam.v1",
    "iamcredentials.v1",
    "serviceusage.v1",
    "sts.v1",
)
_REQUIRED = re.compile(r"required[.:]", re.IGNORECASE)
_NUMBERS = {"int32", "uint32", "int64", "uint64"}
# The errors of the token endpoints follow RFC 6749 section 5.2.
_OAUTH_HOSTS = ("sts.googleapis.com",)


@dataclass(frozen=True)
class Method:
    """A method of an API: its description, its document, and the pattern of its path."""

    description: Document
    document: Document
    path: re.Pattern[str]
    literal: int  # number of path characters outside of parameters


def check(
    method: str, url: str, query: Iterable[tuple[str, str]], request_body: Any, status: int, answer_body: Any
) -> None:
    """Check a request and its answer; bodies are parsed JSON or None. Raises AssertionError with the problem and its place."""
    check_request(method, url, query, request_body)
    check_answer(method, url, status, answer_body)


def check_request(method: str, url: str, query: Iterable[tuple[str, str]], body: Any) -> None:
    """Check path, method, query parameters and body. Raises AssertionError."""
    found = find(method, url)
    assert found is not None, f"{method} {url}: no such method in the discovery documents"
    where = found.description["id"]
    _check_query(found, list(query), where)
    schema = found.description.get("request")
    if schema is None:
        assert not body, f"{where}: takes no body"
        return
    _check(found.document, schema, {} if body is None else body, where, complete=method == "POST")


def check_answer(method: str, url: str, status: int, body: Any) -> None:
    """Check an answer of a known method. Raises AssertionError."""
    found = find(method, url)
    assert found is not None, f"{method} {url}: no such method in the discovery documents"
    where = f"answer of {found.description['id']}"
    if status < 400:
        _check(found.document, found.description["response"], body, where)
    elif urlsplit(url).hostname in _OAUTH_HOSTS and isinstance(body, dict) and "error_description" in body:
        assert body.keys() == {"error", "error_description"}, f"{where}: not an OAuth error: {body}"
    else:
        _check_error(found.document, status, body, where)


def find(method: str, url: str) -> Method | None:
    """Returns the method for a URL; of several, the one with the most specific path."""
    parts = urlsplit(url)
    fitting = [one for one in _methods(parts.hostname or "", method) if one.path.fullmatch(unquote(parts.path))]
    return max(fitting, key=lambda one: one.literal, default=None)


@functools.cache
def _documents() -> list[Document]:
    folder = resources.files("googleapiclient") / "discovery_cache" / "documents"
    return [json.loads((folder / f"{api}.json").read_text()) for api in _APIS]


@functools.cache
def _methods(host: str, verb: str) -> list[Method]:
    return [
        Method(description, document, *_pattern(document, description))
        for document in _documents()
        if urlsplit(document["rootUrl"]).hostname == host
        for description in _flat(document)
        if description["httpMethod"] == verb
    ]


def _flat(folder: Document) -> Iterator[Document]:
    yield from folder.get("methods", {}).values()
    for inner in folder.get("resources", {}).values():
        yield from _flat(inner)


def _pattern(document: Document, description: Document) -> tuple[re.Pattern[str], int]:
    text, literal = "/", 1
    for part in re.split(r"(\{\+?\w+\})", document["servicePath"] + description["path"]):
        if part.startswith("{"):
            parameter = description["parameters"][part.strip("{+}")]
            text += f"(?:{parameter['pattern'].strip('^$')})" if "pattern" in parameter else "[^/]+"
            literal += len(re.sub(r"\[[^]]*\]\+?|[\\^$.*]", "", parameter.get("pattern", "")))
        else:
            text += re.escape(part)
            literal += len(part)
    return re.compile(text), literal


def _check_query(method: Method, query: list[tuple[str, str]], where: str) -> None:
    known = {
        name: parameter
        for name, parameter in {**method.document["parameters"], **method.description.get("parameters", {})}.items()
        if parameter["location"] == "query"
    }
    names = [name for name, _ in query]
    for name, value in query:
        assert name in known, f"{where}: unknown query parameter {name}"
        assert known[name].get("repeated") or names.count(name) == 1, f"{where}: query parameter {name} is not repeated"
        _check_text(known[name], value, f"{where}: query parameter {name}")
    for name, parameter in known.items():
        assert name in names or not _required(parameter), f"{where}: query parameter {name} is missing"


def _check_text(parameter: Document, value: str, where: str) -> None:
    kind = parameter["type"]
    if kind == "boolean":
        assert value in ("true", "false"), f"{where}: {value!r} is no boolean"
    elif kind in ("integer", "number"):
        assert re.fullmatch(r"-?\d+", value), f"{where}: {value!r} is no number"
    else:
        _check_string(parameter, value, where)


def _required(description: Document) -> bool:
    return bool(description.get("required") or _REQUIRED.match(description.get("description", "")))


def _check(document: Document, schema: Document, value: Any, where: str, complete: bool = False) -> None:
    """complete: whether required fields must exist."""
    if "$ref" in schema:
        schema = document["schemas"][schema["$ref"]]
    kind = schema["type"]
    if kind == "object":
        assert isinstance(value, dict), f"{where}: {value!r} is no object"
        _check_object(document, schema, value, where, complete)
    elif kind == "array":
        assert isinstance(value, list), f"{where}: {value!r} is no array"
        for index, item in enumerate(value):
            _check(document, schema["items"], item, f"{where}[{index}]", complete)
    elif kind == "string":
        assert isinstance(value, str), f"{where}: {value!r} is no string"
        _check_string(schema, value, where)
    elif kind == "boolean":
        assert isinstance(value, bool), f"{where}: {value!r} is no boolean"
    elif kind in ("integer", "number"):
        numbers = int if kind == "integer" else (int, float)
        assert isinstance(value, numbers) and not isinstance(value, bool), f"{where}: {value!r} is no {kind}"
    else:
        assert kind == "any", f"{where}: type {kind}"


def _check_object(document: Document, schema: Document, value: Mapping[str, Any], where: str, complete: bool) -> None:
    properties, others = schema.get("properties", {}), schema.get("additionalProperties")
    # An Any contains its type, for an operation's metadata and response.
    if named := document["schemas"].get(str(value.get("@type", "")).rpartition(".")[2]):
        _check(document, named, {name: item for name, item in value.items() if name != "@type"}, where)
        return
    for name, item in value.items():
        assert name in properties or others, f"{where}: unknown field {name}"
        if item is not None or others:  # null means omitted, except in a map
            _check(document, properties.get(name) or others, item, f"{where}.{name}", complete)
    for name, description in properties.items():
        missing = complete and value.get(name) is None and _required(description)
        assert not missing, f"{where}: field {name} is missing"


def _check_string(schema: Document, value: str, where: str) -> None:
    form = schema.get("format")
    if "enum" in schema:
        assert value in schema["enum"], f"{where}: {value!r} is none of {', '.join(schema['enum'])}"
    if form in _NUMBERS:
        assert re.fullmatch(r"-?\d+", value), f"{where}: {value!r} is no {form}"
    elif form == "google-datetime":
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", value), f"{where}: {value!r} is no timestamp"
    elif form == "google-duration":
        assert re.fullmatch(r"-?\d+(\.\d+)?s", value), f"{where}: {value!r} is no duration"
    elif form == "byte":
        try:
            base64.b64decode(value.replace("-", "+").replace("_", "/"), validate=True)
        except binascii.Error:
            raise AssertionError(f"{where}: {value!r} is no base64") from None


def _check_error(document: Document, status: int, body: Any, where: str) -> None:
    """Check google.rpc.Status as in HTTP (google.aip.dev/193)."""
    assert isinstance(body, dict) and body.keys() == {"error"}, f"{where}: no error object: {body!r}"
    error = body["error"]
    assert isinstance(error, dict), f"{where}: no error object: {body!r}"
    assert {"code", "message", "status"} <= error.keys() <= {"code", "message", "status", "details"}, f"{where}: {error}"
    assert error["code"] == status, f"{where}: HTTP {status} says code {error['code']}"
    _check(document, document["schemas"].get("Status", {"type": "any"}), _as_status(error), where)


def _as_status(error: Mapping[str, Any]) -> dict[str, Any]:
    """Returns google.rpc.Status without the status name, which exists only in HTTP."""
    return {name: value for name, value in error.items() if name != "status"}
