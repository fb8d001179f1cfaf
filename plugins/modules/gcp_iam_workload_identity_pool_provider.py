#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_iam_workload_identity_pool_provider
short_description: Manage an OIDC provider of a Google workload identity pool
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Creates, updates, undeletes and deletes a provider, which says whose tokens Google exchanges and for which principal.
  - Fields are compared and written whole, so that a key left out of O(attribute_mapping) is removed.
  - Of C(oidc) only the fields that are options here are compared and written; others, such as C(discoveryUri), stay as they are.
  - A provider that was deleted within the last 30 days is undeleted.
  - Providers for AWS, SAML and X.509 are not supported, and a provider of such a kind is refused.
options:
  provider_id:
    description: The provider's id, 4 to 32 of C(a-z), C(0-9) and C(-), not beginning with C(gcp-).
    type: str
    required: true
  attribute_mapping:
    description:
      - CEL expressions that make a principal's attributes out of a token's claims. C(google.subject) is required.
      - At most 50 custom attributes (C(attribute.NAME)) are allowed.
      - Required with O(state=present).
    type: dict
  attribute_condition:
    description:
      - A CEL expression that a token must fulfil, of at most 4096 characters. An empty text admits every token.
      - Left as it is if unset.
    type: str
  subject:
    description:
      - A value of the claim C(sub) that the provider admits, besides those that it admits already.
      - The provider's condition is then a list of subjects, C(assertion.sub in ['…', '…']), which this module keeps sorted.
        Another condition is refused.
      - Needs O(description), which says whose the provider is. A provider with another description is refused.
      - A provider that was deleted starts with an empty list.
      - M(pullthrough.registry_cache.gcp_iam_cluster_principals) removes a subject.
    type: str
  oidc:
    description:
      - Whose tokens these are.
      - Required with O(state=present).
    type: dict
    suboptions:
      issuer_uri:
        description: The tokens' issuer, beginning with C(https://).
        type: str
        required: true
      allowed_audiences:
        description:
          - Audiences that a token may name, at most 10.
          - If empty, the provider's own full name, after C(https://iam.googleapis.com/) or C(//iam.googleapis.com/).
        type: list
        elements: str
        default: []
      jwks:
        description:
          - The issuer's public keys (RFC 7517), for an issuer that Google cannot reach. Each is RSA or EC P-256, and has a C(kid).
          - If unset, Google fetches them from the issuer, and keys that were uploaded before are removed.
          - Compared by content, so that the order of keys and the spelling of JSON change nothing.
          - Members that Google does not take, such as C(x5c) and C(x5t), are left out.
        type: dict
extends_documentation_fragment:
  - pullthrough.registry_cache.gcp
  - pullthrough.registry_cache.gcp.state
  - pullthrough.registry_cache.workload_identity
  - pullthrough.registry_cache.attributes
attributes:
  diff_mode:
    description: Returns the provider before and after.
    support: full
seealso:
  - module: pullthrough.registry_cache.gcp_iam_workload_identity_pool
  - module: pullthrough.registry_cache.gcp_iam_workload_identity_pool_provider_info
  - module: pullthrough.registry_cache.cluster_oidc_info
"""

EXAMPLES = r"""
- name: Read the cluster's keys
  pullthrough.registry_cache.cluster_oidc_info:
  register: cluster

- name: Admit one service account of that cluster
  pullthrough.registry_cache.gcp_iam_workload_identity_pool_provider:
    project: my-project
    pool_id: registry-cache
    provider_id: my-cluster
    attribute_mapping:
      google.subject: assertion.sub
    attribute_condition: assertion.sub == 'system:serviceaccount:registry-cache:registry-cache'
    oidc:
      issuer_uri: "{{ cluster.issuer }}"
      jwks: "{{ cluster.jwks }}"

- name: Admit one more service account of that cluster
  pullthrough.registry_cache.gcp_iam_workload_identity_pool_provider:
    project: my-project
    pool_id: registry-cache
    provider_id: my-cluster
    description: Image caches of my-cluster
    attribute_mapping:
      google.subject: assertion.sub
    subject: system:serviceaccount:team-a:registry-cache
    oidc:
      issuer_uri: "{{ cluster.issuer }}"
      jwks: "{{ cluster.jwks }}"
"""

RETURN = r"""
provider:
  description:
    - The provider as the API returns it; its name holds the project's number.
    - In check mode what it would be, with the project as it was given.
  returned: success
  type: dict
  sample:
    name: projects/123456789012/locations/global/workloadIdentityPools/registry-cache/providers/my-cluster
    state: ACTIVE
    attributeMapping:
      google.subject: assertion.sub
"""

import json
import typing as t

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.client import (
    GcpClient,
    GcpError,
    check_lengths,
    check_project,
    same_json,
    stripped,
)
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.resource import Outcome
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.runner import described, gcp_module, result, run
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.workload_identity import (
    LENGTHS,
    OPTIONS,
    WorkloadIdentityObject,
    check_condition,
    check_id,
    check_subject,
    condition_of,
    providers_of,
    subjects_of,
)

_MAX_CUSTOM_ATTRIBUTES = 50
# The fields of oidc that are options here.
_OIDC_FIELDS = ("allowedAudiences", "issuerUri", "jwksJson")
# Members that Google documents for a key; it says that a key must have no other.
_KEY_MEMBERS = ("alg", "crv", "e", "kid", "kty", "n", "use", "x", "y")
_OTHER_KINDS = ("aws", "saml", "x509")
# Members of a private or symmetric key (RFC 7518, sections 6.2.2, 6.3.2 and 6.4.1).
_SECRET = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}
# Members that a public key needs, by kty and crv; the kinds that Google verifies with.
_PUBLIC = {("RSA", None): {"kid", "n", "e"}, ("EC", "P-256"): {"kid", "x", "y"}}
# The option that Google's words about a bad argument are about.
_OPTION_OF_WORDS = {
    "condition": "attribute_condition",
    "mapp": "attribute_mapping",
    "jwks": "oidc.jwks",
    "issuer": "oidc.issuer_uri",
    "audience": "oidc.allowed_audiences",
}


class _Provider(WorkloadIdentityObject):
    """An OIDC provider.

    :param subject: that it must admit besides others, or None.
    """

    def __init__(self, *args: t.Any, subject: str | None, **kwargs: t.Any) -> None:
        super().__init__(*args, **kwargs)
        self._subject = subject
        self._current: dict[str, t.Any] = {}

    def ensure(self, present: bool, wanted: dict[str, t.Any], check_mode: bool) -> Outcome:
        """As that of its base; done again after a concurrent run, since Google has no etag for providers."""
        outcomes: list[Outcome] = []
        lost = GcpError(f"{self.name}: other runs keep changing attribute_condition. Run again when they are done")

        def act() -> Outcome:
            outcomes.append(super(_Provider, self).ensure(present, wanted, check_mode))
            if present and self._subject and self._subject not in (subjects_of(outcomes[-1][2].get("attributeCondition")) or []):
                raise lost
            return outcomes[-1]

        _changed, _before, after = self.client.budget.retry(act, lambda error: error is lost or error.status == 409)
        return outcomes[0][0], outcomes[0][1], after

    def check(self, current: dict[str, t.Any], wanted: dict[str, t.Any]) -> None:
        if kind := next((kind for kind in _OTHER_KINDS if kind in current), None):
            raise GcpError(
                f"provider_id: {self.name} is a provider of kind {kind}, and this module manages kind oidc. Choose another id."
                " Example: provider_id: my-cluster"
            )
        if self._subject is None or not current or self.deleted(current):
            return
        if current.get("description", "") != wanted["description"]:
            raise GcpError(
                f"provider_id: {self.name} has another owner: its description is '{current.get('description', '')}', not"
                f" '{wanted['description']}'. Choose another id, or delete the provider if nobody uses it any more."
                " Example: provider_id: my-cluster"
            )
        if subjects_of(current.get("attributeCondition")) is None:
            raise GcpError(
                f"subject: {self.name} has a condition that is no list of subjects: {current['attributeCondition']}."
                f" Set it to the subjects that it should admit. Example: attribute_condition: \"{condition_of([self._subject])}\""
            )

    def complete(self, current: dict[str, t.Any], wanted: dict[str, t.Any]) -> dict[str, t.Any]:
        self._current = current
        unmanaged = {field: value for field, value in current.get("oidc", {}).items() if field not in _OIDC_FIELDS}
        wanted = {**wanted, "oidc": {**unmanaged, **wanted["oidc"]}}
        if self._subject is not None:
            admitted = [] if self.deleted(current) else subjects_of(current.get("attributeCondition")) or []
            wanted["attributeCondition"] = condition_of([*admitted, self._subject])
            check_condition(wanted["attributeCondition"])
        return wanted

    def update(self, fields: dict[str, t.Any]) -> None:
        """Replace these fields whole, but of oidc only what differs."""
        mask = [field for field in fields if field != "oidc"]
        if "oidc" in fields:
            before, after = stripped(self._current.get("oidc", {})), fields["oidc"]
            changed = [field for field in _OIDC_FIELDS if not _same_in_oidc(field, before.get(field), after.get(field))]
            mask += [f"oidc.{field}" for field in changed]
            fields = {**fields, "oidc": {field: after[field] for field in changed if field in after}}
        self.act("PATCH", self.url, body=fields, params={"updateMask": ",".join(mask)})

    def same(self, field: str, current: t.Any, wanted: t.Any) -> bool:
        if field != "oidc":
            return current == wanted
        current, wanted = stripped(current or {}), stripped(wanted or {})
        return all(_same_in_oidc(field, current.get(field), wanted.get(field)) for field in _OIDC_FIELDS)


def _same_in_oidc(field: str, current: t.Any, wanted: t.Any) -> bool:
    if field == "jwksJson":
        return same_json(current, wanted)
    if field == "allowedAudiences":
        return sorted(current or []) == sorted(wanted or [])
    return current == wanted


def _check(params: dict[str, t.Any]) -> None:
    check_project(params["project"])
    check_id("pool_id", params["pool_id"])
    check_id("provider_id", params["provider_id"])
    check_lengths(params, LENGTHS)
    if params["state"] == "absent":
        if params["subject"] is not None:
            raise GcpError(
                "subject: state absent deletes the whole provider, whatever it admits. Leave subject out, or remove the subject"
                " alone. Example: module gcp_iam_cluster_principals with state: absent"
            )
        return
    # An explicit null passes Ansible's own check of required options.
    if "google.subject" not in (params["attribute_mapping"] or {}):
        raise GcpError(
            "attribute_mapping has no google.subject, which names the principal. Example: google.subject: assertion.sub"
        )
    custom = sum(key.startswith("attribute.") for key in params["attribute_mapping"])
    if custom > _MAX_CUSTOM_ATTRIBUTES:
        raise GcpError(
            f"attribute_mapping: at most {_MAX_CUSTOM_ATTRIBUTES} custom attributes are allowed (got {custom})."
            " Leave out those that no grant and no condition names. Example: attribute_mapping: {google.subject: assertion.sub}"
        )
    check_condition(params["attribute_condition"] or "")
    if params["subject"] is not None:
        check_subject(params["subject"])
    for key, expression in params["attribute_mapping"].items():
        if not isinstance(expression, str) or not expression:
            raise GcpError(
                f"attribute_mapping.{key} is not a CEL expression but {expression!r}; leave the key out to remove it."
                f" Example: {key}: assertion.sub"
            )
    if params["oidc"] is None:
        raise GcpError("oidc is required with state present. Example: oidc: {issuer_uri: https://issuer.example.com}")
    if not (params["oidc"]["issuer_uri"] or "").startswith("https://"):
        raise GcpError(
            f"oidc.issuer_uri '{params['oidc']['issuer_uri'] or ''}' does not begin with https://."
            " The cluster's issuer is set by kube-apiserver's --service-account-issuer"
        )
    if params["oidc"]["jwks"] is not None:
        _check_keys(params["oidc"]["jwks"].get("keys"))


def _check_keys(keys: t.Any) -> None:
    if not isinstance(keys, list) or not keys or not all(isinstance(key, dict) for key in keys):
        raise GcpError("oidc.jwks holds no keys. Pass what cluster_oidc_info returns as jwks")
    if any(_SECRET & key.keys() for key in keys):
        raise GcpError(
            "oidc.jwks holds a private or symmetric key, which must not leave the cluster. Pass public keys only"
        )
    for number, key in enumerate(keys, 1):
        kind = tuple(part if isinstance(part, str) else None for part in (key.get("kty"), key.get("crv")))
        if kind not in _PUBLIC:
            raise GcpError(
                f"oidc.jwks: key {number} is of kind {' '.join(filter(None, kind)) or 'none'}, and Google verifies with RSA and"
                " EC P-256 only. Let kube-apiserver sign with such a key (--service-account-signing-key-file)"
            )
        if missing := sorted(_PUBLIC[kind] - key.keys()):
            raise GcpError(
                f"oidc.jwks: key {number} has no {' and no '.join(missing)}. Pass what cluster_oidc_info returns as jwks"
            )


def _wanted(params: dict[str, t.Any]) -> dict[str, t.Any]:
    mapping = {"attributeMapping": params["attribute_mapping"], "attributeCondition": params["attribute_condition"]}
    oidc = {"issuerUri": params["oidc"]["issuer_uri"], "allowedAudiences": params["oidc"]["allowed_audiences"]}
    if params["oidc"]["jwks"] is not None:
        keys = [{name: key[name] for name in _KEY_MEMBERS if name in key} for key in params["oidc"]["jwks"]["keys"]]
        oidc["jwksJson"] = json.dumps({"keys": keys}, sort_keys=True)
    given = {field: value for field, value in mapping.items() if value is not None}
    return {**described(params), **given, "oidc": stripped(oidc)}


def _named(error: GcpError) -> GcpError:
    """The error of a bad argument, with the option that it is about."""
    option = next((option for word, option in _OPTION_OF_WORDS.items() if word in error.words.lower()), None)
    return GcpError(f"{error} (Check {option}.)") if error.status == 400 and option else error


def ensure(module: t.Any) -> dict[str, t.Any]:
    """The result. Raises GcpError."""
    params, present = module.params, module.params["state"] == "present"
    _check(params)
    provider = _Provider(
        GcpClient(module),
        parent=providers_of(params["project"], params["pool_id"]),
        id_parameter="workloadIdentityPoolProviderId",
        object_id=params["provider_id"],
        subject=params["subject"],
    )
    try:
        return result("provider", provider.ensure(present, _wanted(params) if present else {}, module.check_mode))
    except GcpError as error:
        raise _named(error) from error


def main() -> None:
    oidc = {
        "issuer_uri": {"type": "str", "required": True},
        "allowed_audiences": {"type": "list", "elements": "str", "default": []},
        "jwks": {"type": "dict"},
    }
    spec = {
        "provider_id": {"type": "str", "required": True},
        "attribute_mapping": {"type": "dict"},
        "attribute_condition": {"type": "str"},
        "subject": {"type": "str"},
        "oidc": {"type": "dict", "options": oidc},
    }
    module = gcp_module(
        {**OPTIONS, **spec},
        required_if=[("state", "present", ["attribute_mapping", "oidc"])],
        required_by={"subject": ["description"]},
        mutually_exclusive=[("attribute_condition", "subject")],
    )
    run(module, ensure)


if __name__ == "__main__":
    main()
