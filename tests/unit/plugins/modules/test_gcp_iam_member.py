# SPDX-License-Identifier: GPL-3.0-or-later
"""Module gcp_iam_member against the Google emulator."""

from __future__ import annotations

import heapq
import itertools
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google import client as gcp
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google import iam_policy

from tests.module_runner import NULL
from tests.unit.plugins.google_wire import Wire
from tests.unit.sandbox.google.harness import AR, IAM, MEMBER, POOLS, READER, REPOSITORY

GET, SET = f"{AR}/{REPOSITORY}:getIamPolicy", f"{AR}/{REPOSITORY}:setIamPolicy"
WRITER = "roles/artifactregistry.writer"
OTHER = "user:other@example.com"
CONDITION = {"title": "Until 2030", "expression": "request.time < timestamp('2030-01-01T00:00:00Z')"}
EMAIL = "reader@demo.iam.gserviceaccount.com"
ACCOUNT = f"projects/demo/serviceAccounts/{EMAIL}"
USER = "roles/iam.workloadIdentityUser"
PROJECT = "https://cloudresourcemanager.googleapis.com/v1/projects/demo"
UNKNOWN = {"error": {"code": 400, "message": f"Service account {EMAIL} does not exist."}}
CONFLICT = {"error": {"code": 409, "status": "ABORTED", "message": "There were concurrent policy changes."}}


@pytest.fixture(autouse=True)
def _repository(wire: Wire) -> None:
    wire.google.federate()
    wire.google.create_repository()


def members(wire: Wire, *resources: str, **arguments: Any) -> dict[str, Any]:
    return wire.run("gcp_iam_member", **{"resources": list(resources), "role": READER, "member": MEMBER, **arguments})


def member(wire: Wire, *, resource: str = REPOSITORY, **arguments: Any) -> dict[str, Any]:
    """Return the result for one resource, with its binding and diff."""
    result = members(wire, resource, **arguments)
    if "bindings" in result:
        assert result["bindings"].keys() == {resource} and bool(result["diff"]) == result["changed"]
        result["binding"] = result["bindings"][resource]
        for one in result["diff"]:
            assert one.pop("before_header") == one.pop("after_header") == resource
            result["diff"] = one
    return result


def bindings(wire: Wire) -> list[dict[str, Any]]:
    policy = wire.google.call("GET", GET, params={"options.requestedPolicyVersion": 3}).json()
    # The order does not matter.
    return sorted(policy.get("bindings", []), key=lambda binding: (binding["role"], "condition" not in binding))


def account(wire: Wire, name: str = "reader") -> None:
    body = {"accountId": name, "serviceAccount": {}}
    assert wire.google.call("POST", f"{IAM}/projects/demo/serviceAccounts", json=body).is_success


def test_story(wire: Wire) -> None:
    binding = {"role": READER, "members": [MEMBER]}
    check = member(wire, check=True)
    assert check["changed"] and check["binding"] == binding and wire.sent() == [("GET", GET)]
    assert bindings(wire) == []

    change = member(wire)
    assert change["changed"] and change["binding"] == binding
    assert change["diff"] == {"before": {}, "after": binding}
    read, write = wire.requests
    assert (read.method, read.url, read.query) == ("GET", GET, {"options.requestedPolicyVersion": "3"})
    assert (write.method, write.url, write.query) == ("POST", SET, {})
    assert write.body["policy"].pop("etag")
    assert write.body["policy"]["bindings"] == [binding]

    for check_mode in (False, True):
        repeat = member(wire, check=check_mode)
        assert not repeat["changed"] and repeat["binding"] == binding and wire.sent() == [("GET", GET)]
    assert bindings(wire) == [binding]


def test_several_resources(wire: Wire) -> None:
    """Check, change, repeat and check. Each resource has its own binding and diff."""
    every, ours = [f"{REPOSITORY}-b", REPOSITORY, "projects/demo"], {"role": READER, "members": [MEMBER]}
    url, _, name = every[0].rpartition("/")
    wire.google.done(wire.google.call("POST", f"{AR}/{url}", params={"repositoryId": name}, json={"format": "DOCKER"}))
    member(wire)
    differ = [{"before_header": one, "after_header": one, "before": {}, "after": ours} for one in every if one != REPOSITORY]
    check = members(wire, *every, check=True)
    assert check["changed"] and check["bindings"] == dict.fromkeys(every, ours) and check["diff"] == differ
    assert [method for method, url in wire.sent() if "setIamPolicy" in url] == []
    change = members(wire, *every)
    assert change["changed"] and change["bindings"] == dict.fromkeys(every, ours) and change["diff"] == differ
    for again in (members(wire, *every), members(wire, *every, check=True)):
        assert not again["changed"] and again["bindings"] == dict.fromkeys(every, ours) and again["diff"] == []
    gone = members(wire, *every, state="absent")
    assert gone["changed"] and gone["bindings"] == {one: {} for one in every}
    assert [one["after_header"] for one in gone["diff"]] == every
    none = members(wire)
    assert not none["changed"] and none["bindings"] == {} and not wire.requests


def test_a_resource_that_fails_after_another_was_changed(wire: Wire) -> None:
    missing = f"{REPOSITORY}-other"
    result = members(wire, REPOSITORY, missing)
    assert result["failed"] and result["changed"] and result["bindings"].keys() == {REPOSITORY}
    assert result["msg"].startswith(f"resources: '{missing}' does not exist") and result["msg"].endswith(f"Changed before: {REPOSITORY}.")
    assert [one["after_header"] for one in result["diff"]] == [REPOSITORY]
    again = members(wire, REPOSITORY, missing)
    assert again["failed"] and "changed" not in again and "Changed before" not in again["msg"]
    wire.requests.clear()
    refused = members(wire, REPOSITORY, "demo", state="absent")
    assert refused["msg"].startswith("resources: 'demo' must be") and not wire.requests


def test_absent(wire: Wire) -> None:
    assert not member(wire, state="absent")["changed"]
    member(wire)
    member(wire, member=OTHER)
    assert member(wire, state="absent", check=True)["binding"] == {"role": READER, "members": [OTHER]}
    assert not wire.writes()

    assert member(wire, state="absent")["binding"] == {"role": READER, "members": [OTHER]}
    assert not member(wire, state="absent")["changed"] and not wire.writes()

    last = member(wire, state="absent", member=OTHER)
    assert last["changed"] and last["binding"] == {} and last["diff"]["after"] == {}
    assert bindings(wire) == []


def test_other_bindings_are_kept(wire: Wire) -> None:
    conditional = {"role": READER, "members": [OTHER], "condition": CONDITION}
    writers = {"role": WRITER, "members": [OTHER]}
    assert wire.google.set_policy(writers, conditional, version=3).status_code == 200
    member(wire)
    assert bindings(wire) == [conditional, {"role": READER, "members": [MEMBER]}, writers]
    member(wire, state="absent")
    assert bindings(wire) == [conditional, writers]


def test_another_condition_is_another_grant(wire: Wire) -> None:
    member(wire)
    conditional = member(wire, condition=CONDITION)
    assert conditional["changed"] and conditional["binding"]["condition"] == CONDITION
    assert wire.writes()[0].body["policy"]["version"] == 3
    assert not member(wire, condition={**CONDITION, "description": ""})["changed"]
    assert member(wire, condition={**CONDITION, "title": "Another"}, check=True)["changed"]
    assert not member(wire, condition={**CONDITION, "title": "Another"}, state="absent")["changed"]

    assert member(wire, condition=CONDITION, state="absent")["changed"]
    assert bindings(wire) == [{"role": READER, "members": [MEMBER]}]


def test_the_case_matters_for_principals_but_not_for_addresses(wire: Wire) -> None:
    member(wire, member=OTHER)
    assert not member(wire, member="user:Other@Example.com")["changed"]
    assert member(wire, member=MEMBER.upper().replace("PRINCIPAL:", "principal:"), check=True)["changed"]
    assert member(wire, member="user:Other@Example.com", state="absent")["changed"]
    assert bindings(wire) == []


def test_concurrent_change_is_kept(wire: Wire) -> None:
    wire.before("POST", ":setIamPolicy", lambda: wire.google.set_policy({"role": WRITER, "members": [OTHER]}))
    result = member(wire)
    assert result["changed"] and wire.sent() == [("GET", GET), ("POST", SET)] * 2
    assert bindings(wire) == [{"role": READER, "members": [MEMBER]}, {"role": WRITER, "members": [OTHER]}]


def test_a_concurrent_grant(wire: Wire) -> None:
    wire.before("POST", ":setIamPolicy", wire.google.grant)
    result = member(wire)
    assert not result["changed"] and wire.sent() == [("GET", GET), ("POST", SET), ("GET", GET)]


def test_conflicts_are_retried_until_the_timeout(wire: Wire) -> None:
    wire.answer("POST", ":setIamPolicy", 409, CONFLICT, times=1000)
    result = member(wire, wait_timeout=90)
    assert result["failed"] and len(wire.writes()) >= 6 and sum(wire.clock.pauses) == pytest.approx(90)
    assert max(wire.clock.pauses) <= 32
    assert f"{REPOSITORY}: HTTP 409: There were concurrent policy changes." in result["msg"]
    assert bindings(wire) == []


class Turns:
    """A clock for threads of which only one runs at a time. It advances when all of them sleep."""

    def __init__(self, threads: int) -> None:
        self.now, self._active, self._next = 0.0, threads, (0.0, -1)
        self._sleeping: list[tuple[float, int]] = []
        self._numbers, self._changed = itertools.count(), threading.Condition()

    def monotonic(self) -> float:
        return self.now

    time = monotonic

    def sleep(self, seconds: float) -> None:
        with self._changed:
            own = (self.now + seconds, next(self._numbers))
            heapq.heappush(self._sleeping, own)
            self._leave()
            assert self._changed.wait_for(lambda: self._next == own, 60)

    def end(self) -> None:
        with self._changed:
            self._leave()

    def _leave(self) -> None:
        self._active -= 1
        if not self._active and self._sleeping:
            self._next = heapq.heappop(self._sleeping)
            self.now, self._active = self._next[0], 1
            self._changed.notify_all()


def test_thirty_concurrent_writers_succeed(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request takes 0.2 s. The writers are like different machines: each has its own client."""
    writers = [f"user:writer-{number}@example.com" for number in range(30)]
    clock, send = Turns(len(writers)), wire.send
    results: dict[str, Any] = {}

    def slow(*arguments: Any, **options: Any) -> Any:
        clock.sleep(0.1)
        answer = send(*arguments, **options)
        clock.sleep(0.1)
        return answer

    monkeypatch.setattr(wire, "send", slow)
    for module in (gcp, iam_policy):
        monkeypatch.setattr(module, "time", clock, raising=False)

    def write(name: str) -> None:
        try:
            clock.sleep(0)
            options = {**dict.fromkeys(gcp.argument_spec()), "auth_kind": "accesstoken", "access_token": wire.google.operator}
            options |= {"wait_timeout": 300, "universe_domain": "googleapis.com"}
            client = gcp.GcpClient(SimpleNamespace(params=options, check_mode=False, fail_json=print))
            policy = iam_policy.Policy(client, REPOSITORY, iam_policy.kind_of(REPOSITORY), print)
            results[name] = policy.ensure(iam_policy.Grant(READER, name, None), True, False)[0]
        except Exception as error:
            results[name] = error
        finally:
            clock.end()

    threads = [threading.Thread(target=write, args=(name,), daemon=True) for name in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert results == dict.fromkeys(writers, True)
    assert bindings(wire) == [{"role": READER, "members": sorted(writers)}]
    assert len(wire.writes()) > len(writers), "they did meet"
    assert clock.now < 300


@pytest.mark.parametrize(
    ("resource", "fix"),
    [
        (f"{REPOSITORY}-other", "Create it with module gcp_artifactregistry_repository. Example: repository_id: my-repository"),
        (ACCOUNT, "Create it with module gcp_iam_service_account. Example: account_id: image-reader"),
    ],
)
def test_a_resource_that_does_not_exist(
    wire: Wire, resource: str, fix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    words = f"resources: '{resource}' does not exist. {fix}"
    for check in (True, False):
        gone = member(wire, resource=resource, check=check, state="absent")
        assert not gone["changed"] and gone["binding"] == {} and len(wire.requests) == 1
        assert words not in str(gone)
    assert member(wire, resource=resource)["msg"] == words and len(wire.requests) == 1
    capfd.readouterr()
    predicted = member(wire, resource=resource, check=True)
    assert predicted["changed"] and predicted["binding"] == {"role": READER, "members": [MEMBER]}
    # If an earlier test has loaded the controller, a warning goes to its display, which wraps it.
    warned = str(predicted.get("warnings")) + capfd.readouterr().err
    assert "".join(words.split()) in "".join(warned.split()) and len(wire.requests) == 1
    assert not wire.clock.pauses


def test_a_project_that_does_not_exist(wire: Wire) -> None:
    wire.answer("POST", ":getIamPolicy", 404, {"error": {"code": 404, "message": "Not found"}})
    assert member(wire, resource="projects/other")["msg"].startswith("resources: 'projects/other' does not exist. ")


def test_an_unknown_pool_changes_nothing(wire: Wire) -> None:
    member(wire, member=OTHER)
    result = member(wire, member=MEMBER.replace("/cache/", "/other/"), wait_timeout=8)
    assert "HTTP 400: Identity Pool does not exist" in result["msg"]
    assert sum(wire.clock.pauses) == pytest.approx(8)
    assert bindings(wire) == [{"role": READER, "members": [OTHER]}]


@pytest.mark.parametrize(
    ("value", "make"),
    [
        (MEMBER.replace("/cache/", "/other/"), lambda wire: wire.google.done(wire.google.create_pool("other"))),
        (f"serviceAccount:{EMAIL}", account),
    ],
)
def test_a_member_that_was_just_created_is_retried(wire: Wire, value: str, make: Any) -> None:
    writes = []

    def late() -> None:
        writes.append(1)
        if len(writes) == 3:
            make(wire)

    for _attempt in range(3):
        wire.before("POST", ":setIamPolicy", late)
    assert member(wire, member=value)["changed"] and len(wire.writes()) == 3
    assert sum(wire.clock.pauses) < 2
    assert bindings(wire) == [{"role": READER, "members": [value]}]


def test_absent_does_not_wait(wire: Wire) -> None:
    member(wire)
    wire.answer("POST", ":setIamPolicy", 400, UNKNOWN)
    assert "does not exist" in member(wire, state="absent")["msg"] and not wire.clock.pauses


def test_another_bad_argument_is_reported_at_once(wire: Wire) -> None:
    wire.answer("POST", ":setIamPolicy", 400, {"error": {"code": 400, "message": "Role roles/x does not exist."}})
    assert "Role roles/x does not exist." in member(wire)["msg"] and not wire.clock.pauses


def test_service_account(wire: Wire) -> None:
    account(wire)
    url, binding = f"{IAM}/{ACCOUNT}", {"role": USER, "members": [MEMBER]}
    options = {"resource": ACCOUNT, "role": USER}
    assert member(wire, check=True, **options)["changed"] and wire.sent() == [("POST", f"{url}:getIamPolicy")]
    change = member(wire, **options)
    assert change["changed"] and change["binding"] == binding
    read, write = wire.requests
    # Its options are in the query, and it has no body (IAM v1 discovery document).
    assert (read.url, read.query, read.body) == (f"{url}:getIamPolicy", {"options.requestedPolicyVersion": "3"}, None)
    assert write.url == f"{url}:setIamPolicy" and write.body["policy"].pop("etag")
    assert write.body == {"policy": {"bindings": [binding]}}
    for check in (False, True):
        repeat = member(wire, check=check, **options)
        assert not repeat["changed"] and repeat["binding"] == binding and len(wire.requests) == 1
    gone = member(wire, state="absent", **options)
    assert gone["changed"] and gone["diff"] == {"before": binding, "after": {}}
    assert not member(wire, state="absent", **options)["changed"]


def test_project(wire: Wire) -> None:
    options = {"resource": "projects/demo", "member": OTHER}
    assert member(wire, check=True, **options)["changed"] and wire.sent() == [("POST", f"{PROJECT}:getIamPolicy")]
    assert member(wire, **options)["binding"] == {"role": READER, "members": [OTHER]}
    read, write = wire.requests
    assert (read.query, read.body) == ({}, {"options": {"requestedPolicyVersion": 3}})
    assert write.url == f"{PROJECT}:setIamPolicy" and write.body["policy"]["etag"]
    assert not member(wire, **options)["changed"] and len(wire.requests) == 1
    assert not member(wire, check=True, **options)["changed"]
    assert member(wire, state="absent", **options)["binding"] == {}


@pytest.mark.parametrize("url", [f"{IAM}/{ACCOUNT}", PROJECT])
def test_other_conditions_are_kept_if_the_policy_is_read_by_post(wire: Wire, url: str) -> None:
    account(wire)
    role = USER if "serviceAccounts" in url else WRITER
    theirs = {"role": role, "members": [OTHER], "condition": CONDITION}
    policy = {"policy": {"version": 3, "bindings": [theirs]}}
    assert wire.google.call("POST", f"{url}:setIamPolicy", json=policy).is_success
    member(wire, resource=url.partition("/v1/")[2], role=role)
    (write,) = wire.writes()[1:]
    assert write.body["policy"]["version"] == 3 and theirs in write.body["policy"]["bindings"]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.parametrize("url_part", [":getIamPolicy", ":setIamPolicy"])
def test_an_outage_is_retried(wire: Wire, status: int, url_part: str) -> None:
    wire.outage("POST", url_part, status, times=6)
    assert member(wire, resource="projects/demo")["changed"]
    wire.outage("POST", url_part, status, times=1000)
    message = member(wire, resource="projects/demo", member=OTHER, wait_timeout=70)["msg"]
    assert f"HTTP {status}: Try again" in message and "wait_timeout is 70 s. " in message


def test_a_write_whose_answer_was_lost_is_a_change(wire: Wire) -> None:
    def lost() -> tuple[int, Any]:
        wire.google.grant()
        return 503, {"error": {"code": 503, "message": "Try again"}}

    wire._faults.append(("POST", ":setIamPolicy", lost))
    result = member(wire)
    assert result["changed"] and result["binding"] == {"role": READER, "members": [MEMBER]}
    # The second write has the same etag as the first, so it cannot overwrite anything.
    assert wire.sent() == [("GET", GET), ("POST", SET), ("POST", SET), ("GET", GET)]


def test_a_deleted_member_can_only_be_removed(wire: Wire) -> None:
    account(wire)
    member(wire, member=f"serviceAccount:{EMAIL}")
    wire.google.call("DELETE", f"{IAM}/{ACCOUNT}")
    ((deleted,),) = (binding["members"] for binding in bindings(wire))
    assert deleted.startswith(f"deleted:serviceAccount:{EMAIL}?uid=")
    message = member(wire, member=deleted)["msg"]
    assert message.startswith(f"member: '{deleted}' ") and message.endswith("Example: state: absent") and not wire.requests
    assert member(wire, member=deleted, state="absent")["changed"] and bindings(wire) == []


def test_a_deleted_pools_member_can_be_removed(wire: Wire) -> None:
    member(wire)
    wire.google.done(wire.google.call("DELETE", f"{POOLS}/cache"))
    assert member(wire, state="absent")["changed"] and bindings(wire) == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("resource", "demo"),
        ("resource", "projects/"),
        ("resource", "organizations/1"),
        ("resource", "projects/demo/serviceAccounts/a"),
        ("resource", "projects/demo/serviceAccounts/a@demo.iam.gserviceaccount.com/keys/1"),
        ("resource", "projects/demo/topics/a"),
        ("resource", f"{REPOSITORY}/packages/hello"),
        ("resource", "projects/demo/locations/us/repositories/other.gcr.io"),
        ("resource", f"{REPOSITORY}?x="),
        ("resource", "projects//locations/us/repositories/r"),
        ("role", "artifactregistry.reader"),
        ("role", "roles/"),
        ("member", "other@example.com"),
        ("member", "user:"),
        ("member", "principal:subject"),
        ("member", "allUsersOf"),
        ("member", "deleted:user:a@example.com"),
        ("member", "user:a b@example.com"),
    ],
)
def test_bad_input_is_refused_before_any_request(wire: Wire, option: str, value: str) -> None:
    message = member(wire, **{option: value})["msg"]
    option = "resources" if option == "resource" else option
    assert message.startswith(f"{option}: ") and f"'{value}'" in message and f"Example: {option}: " in message
    assert not wire.requests


def test_condition_needs_title_and_expression(wire: Wire) -> None:
    assert "expression" in member(wire, condition={"title": "x"})["msg"] and not wire.requests


@pytest.mark.parametrize("title", ["x", "", None])
@pytest.mark.parametrize("expression", ["", None])
@pytest.mark.parametrize("state", ["present", "absent"])
def test_an_empty_condition_never_becomes_none(
    wire: Wire, title: str | None, expression: str | None, state: str
) -> None:
    message = member(wire, state=state, condition={"title": title, "expression": expression})["msg"]
    assert NULL in message or (message.startswith("condition: ") and "Example: condition: {" in message)
    assert not wire.requests


def test_a_condition_without_title_is_refused(wire: Wire) -> None:
    assert member(wire, condition={**CONDITION, "title": ""})["msg"].startswith("condition: it needs a title")
    assert not wire.requests


@pytest.mark.parametrize(
    "value",
    [
        MEMBER.replace("principal:", "principalSet:").rpartition("/subject/")[0] + "/*",
        f"serviceAccount:{EMAIL}",
        "user:other@example.com",
        "group:all@example.com",
        "domain:example.com",
        "allUsers",
        "allAuthenticatedUsers",
    ],
)
def test_every_form_of_a_member_is_granted(wire: Wire, value: str) -> None:
    account(wire)
    assert member(wire, member=value)["binding"] == {"role": READER, "members": [value]}
    assert not member(wire, member=value)["changed"]


@pytest.mark.parametrize("role", ["projects/demo/roles/puller_1.x", "organizations/1/roles/puller"])
def test_a_custom_role(wire: Wire, role: str) -> None:
    assert member(wire, role=role, check=True)["binding"] == {"role": role, "members": [MEMBER]}


def test_pauses_between_conflicts_grow_and_are_random(wire: Wire) -> None:
    wire.answer("POST", ":setIamPolicy", 409, CONFLICT, times=5)
    assert member(wire)["changed"] and wire.sent() == [("GET", GET), ("POST", SET)] * 6
    pauses = wire.clock.pauses
    assert all(0 <= pause <= 2**attempt for attempt, pause in enumerate(pauses)) and len(set(pauses)) == 5
    assert bindings(wire) == [{"role": READER, "members": [MEMBER]}]


@pytest.mark.parametrize("status", [400, 403, 412])
def test_another_error_is_reported_at_once(wire: Wire, status: int) -> None:
    words = 'Permission "artifactregistry.repositories.setIamPolicy" denied'
    wire.answer("POST", ":setIamPolicy", status, {"error": {"code": status, "message": words}})
    message = member(wire)["msg"]
    assert message.startswith(f"IAM policy of {REPOSITORY}: HTTP {status}: {words}")
    assert len(wire.writes()) == 1 and not wire.clock.pauses


def test_no_pause_without_a_conflict(wire: Wire) -> None:
    member(wire)
    member(wire)
    assert not wire.clock.pauses


def test_a_policy_with_conditions_stays_of_version_3(wire: Wire) -> None:
    assert wire.google.set_policy({"role": READER, "members": [OTHER], "condition": CONDITION}, version=3).is_success
    member(wire)
    assert wire.writes()[0].body["policy"]["version"] == 3


@pytest.mark.parametrize("value", [MEMBER, MEMBER.replace("principal:", "principalSet:").replace("/subject/", "/group/")])
def test_the_case_of_a_principal_matters(wire: Wire, value: str) -> None:
    member(wire, member=value)
    other = value[:-1] + value[-1].upper()
    assert member(wire, member=other, check=True)["changed"]
    assert not member(wire, member=other, state="absent")["changed"]


def test_a_role_that_others_have(wire: Wire) -> None:
    wire.google.grant()
    one, both = ({"role": READER, "members": members} for members in ([MEMBER], [MEMBER, OTHER]))
    for state, before, after in (("present", one, both), ("absent", both, one)):
        for check in (True, False):
            assert member(wire, member=OTHER, state=state, check=check)["diff"] == {"before": before, "after": after}
        (write,) = wire.writes()
        # One binding, and the version as it was read, because no condition needs version 3.
        assert write.body["policy"].pop("etag")
        assert write.body == {"policy": {"version": 1, "bindings": [after]}}


def test_no_empty_binding_is_written(wire: Wire) -> None:
    member(wire)
    member(wire, state="absent")
    assert wire.writes()[0].body["policy"]["bindings"] == []


@pytest.mark.parametrize("option", ["resources", "role", "member"])
def test_a_missing_option_is_named(wire: Wire, option: str) -> None:
    options = {"resources": [REPOSITORY], "role": READER, "member": MEMBER}
    del options[option]
    assert wire.run("gcp_iam_member", **options)["msg"] == f"missing required arguments: {option}"


def test_another_state_is_refused(wire: Wire) -> None:
    assert "state must be one of: present, absent" in member(wire, state="gone")["msg"] and not wire.requests


@pytest.mark.parametrize("kind", ["user", "serviceAccount", "group", "domain"])
@pytest.mark.parametrize("deleted", ["", "deleted:"])
def test_the_case_of_an_address_does_not_matter(kind: str, deleted: str) -> None:
    policy = {"bindings": [{"role": READER, "members": [f"{deleted}{kind}:some.one@example.com?uid=1"]}]}
    assert iam_policy.Grant(READER, f"{deleted}{kind}:Some.One@Example.com?uid=1", None).held(policy)


@pytest.mark.parametrize("kind", ["principal", "principalSet"])
@pytest.mark.parametrize("deleted", ["", "deleted:"])
def test_the_case_of_a_deleted_principal_matters(kind: str, deleted: str) -> None:
    policy = {"bindings": [{"role": READER, "members": [f"{deleted}{kind}://iam.googleapis.com/x/subject/foo"]}]}
    assert not iam_policy.Grant(READER, f"{deleted}{kind}://iam.googleapis.com/x/subject/Foo", None).held(policy)
    assert iam_policy.Grant(READER, f"{deleted}{kind}://iam.googleapis.com/x/subject/foo", None).held(policy)


def test_only_the_deleted_principal_that_was_named_is_removed(wire: Wire) -> None:
    upper, lower = (f"deleted:{MEMBER}{letter}" for letter in "Ff")
    assert wire.google.set_policy({"role": READER, "members": [upper, lower]}).is_success
    assert member(wire, member=upper, state="absent")["changed"]
    assert bindings(wire) == [{"role": READER, "members": [lower]}]


@pytest.mark.parametrize("condition", [None, CONDITION])
def test_two_bindings_of_one_role_and_condition_are_one_grant(wire: Wire, condition: dict[str, str] | None) -> None:
    form = {"role": READER, **({"condition": condition} if condition else {})}
    theirs = {"role": READER, "members": [MEMBER, OTHER], **({} if condition else {"condition": CONDITION})}
    two = [{**form, "members": [OTHER]}, theirs, {**form, "members": [MEMBER, "user:third@example.com"]}]
    options = {"condition": condition} if condition else {}

    def answer() -> None:
        etag = wire.google.call("GET", GET).json()["etag"]
        wire.answer("GET", ":getIamPolicy", 200, {"version": 3, "etag": etag, "bindings": two})

    answer()
    held = member(wire, **options)
    assert not held["changed"] and sorted(held["binding"]["members"]) == sorted([OTHER, MEMBER, "user:third@example.com"])
    answer()
    gone = member(wire, state="absent", **options)
    assert gone["changed"] and sorted(gone["binding"]["members"]) == sorted([OTHER, "user:third@example.com"])
    (write,) = wire.writes()
    assert write.body["policy"]["bindings"] == [two[0], theirs, {**form, "members": ["user:third@example.com"]}]


def test_a_member_of_both_of_two_bindings_is_removed_from_both(wire: Wire) -> None:
    two = [{"role": READER, "members": [MEMBER]}, {"role": READER, "members": [OTHER, MEMBER]}]
    wire.answer("GET", ":getIamPolicy", 200, {"version": 1, "etag": "ACAB", "bindings": two})
    assert member(wire, state="absent")["binding"] == {"role": READER, "members": [OTHER]}
    assert bindings(wire) == [{"role": READER, "members": [OTHER]}]


@pytest.mark.parametrize(
    ("name", "location"), [("gcr.io", "us"), ("us.gcr.io", "us"), ("eu.gcr.io", "europe"), ("asia.gcr.io", "asia")]
)
@pytest.mark.parametrize("project", ["demo", "example.com:demo"])
def test_repositories_of_container_registry_hosts(wire: Wire, name: str, location: str, project: str) -> None:
    parent = f"projects/{project}/locations/{location}/repositories"
    wire.google.done(
        wire.google.call("POST", f"{AR}/{parent}", params={"repositoryId": name}, json={"format": "DOCKER"})
    )
    assert member(wire, resource=f"{parent}/{name}")["changed"] and not member(wire, resource=f"{parent}/{name}")["changed"]


def test_a_domain_scoped_project(wire: Wire) -> None:
    resource = "projects/example.com:demo"
    assert member(wire, resource=resource, member=OTHER)["changed"] and not member(wire, resource=resource, member=OTHER)["changed"]
    wire.run("gcp_iam_service_account", project="example.com:demo", account_id="reader")
    email = "reader@demo.example.com.iam.gserviceaccount.com"
    options = {"resource": f"{resource}/serviceAccounts/{email}", "role": USER, "member": f"serviceAccount:{email}"}
    assert member(wire, **options)["changed"] and not member(wire, **options)["changed"]


def test_a_policy_with_conditions_is_written_as_version_3_whatever_it_was_read_as(wire: Wire) -> None:
    theirs = {"role": WRITER, "members": [OTHER], "condition": CONDITION}
    wire.answer("GET", ":getIamPolicy", 200, {"version": 1, "etag": "ACAB", "bindings": [theirs]})
    assert member(wire)["changed"] and wire.writes()[0].body["policy"]["version"] == 3
