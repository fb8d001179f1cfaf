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
  - Creates, updates, undeletes and deletes a provider. A provider defines whose tokens Google exchanges, and for which principal.
  - Options replace the fields of an existing provider completely. For example, a key that is not in O(attribute_mapping) is removed.
  - In C(oidc), only the fields that are options of this module are changed. Others, such as C(discoveryUri), are kept.
  - Undeletes a provider that was deleted in the last 30 days.
  - Providers for AWS, SAML and X.509 are not supported. The module refuses to change such a provider.
options:
  provider_id:
    description: ID of the provider. It has 4 to 32 characters (C(a-z), C(0-9), C(-)), and must not start with C(gcp-).
    type: str
    required: true
  attribute_mapping:
    description:
      - CEL expressions that map a token's claims to attributes of a principal. C(google.subject) is required.
      - At most 50 custom attributes (C(attribute.NAME)) are allowed.
      - Required with O(state=present).
    type: dict
  attribute_condition:
    description:
      - CEL expression that a token must satisfy, with at most 4096 characters. An empty string accepts every token.
      - If not set, the existing condition is kept.
    type: str
  subject:
    description:
      - Value of the claim C(sub) that the provider must admit, in addition to those that it already admits.
      - The module keeps the condition of the provider as a sorted list of subjects, C(assertion.sub in ['…', '…']). It refuses to
        change any other condition.
      - Requires O(description), which identifies the owner of the provider. A provider with another description is refused.
      - If the provider was deleted, the list starts empty.
      - To remove a subject, use M(pullthrough.registry_cache.gcp_iam_cluster_principals).
    type: str
  oidc:
    description:
      - Issuer of the tokens, and how to verify them.
      - Required with O(state=present).
    type: dict
    suboptions:
      issuer_uri:
        description: Issuer of the tokens. It begins with C(https://).
        type: str
        required: true
      allowed_audiences:
        description:
          - Audiences to accept in a token, at most 10.
          - If empty, the audience must be the provider's full name after C(https://iam.googleapis.com/) or C(//iam.googleapis.com/).
        type: list
        elements: str
        default: []
      jwks:
        description:
          - Public keys of the issuer (RFC 7517), if Google cannot reach the issuer. Each key is RSA or EC P-256, and has a C(kid).
          - If not set, Google gets the keys from the issuer, and uploaded keys are removed.
          - Keys are compared by content. Their order and the JSON format do not matter.
          - Members of a key that Google does not accept, such as C(x5c) and C(x5t), are left out.
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
- name: Get the public keys of the cluster
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
    - Provider as the API returns it. Its name contains the project's number.
    - In check mode, the expected result. Its name contains O(project).
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
# Fields of oidc that are options of this module.
_OIDC_FIELDS = ("allowedAudiences", "issuerUri", "jwksJson")
# Members of a key that Google documents. It allows no others.
_KEY_MEMBERS = ("alg", "crv", "e", "kid", "kty", "n", "use", "x", "y")
_OTHER_KINDS = ("aws", "saml", "x509")
# Members of a private or symmetric key (RFC 7518, sections 6.2.2, 6.3.2 and 6.4.1).
_SECRET = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}
# Required members of a public key, by kty and crv, for the kinds of keys that Google supports.
_PUBLIC = {("RSA", None): {"kid", "n", "e"}, ("EC", "P-256"): {"kid", "x", "y"}}
_KEYS_FIX = 'Pass the public keys that module cluster_oidc_info returns. Example: jwks: "{{ cluster.jwks }}"'
# Words in Google's message about an invalid argument, with the option that they are about.
_OPTION_OF_WORDS = {
    "condition": "attribute_condition",
    "mapp": "attribute_mapping",
    "jwks": "oidc.jwks",
    "issuer": "oidc.issuer_uri",
    "audience": "oidc.allowed_audiences",
}


class _Provider(WorkloadIdentityObject):
    """An OIDC provider.

    :param subject: subject to admit in addition to the existing ones, or None.
    """

    def __init__(self, *args: t.Any, subject: str | None, **kwargs: t.Any) -> None:
        super().__init__(*args, **kwargs)
        self._subject = subject
        self._current: dict[str, t.Any] = {}

    def ensure(self, present: bool, wanted: dict[str, t.Any], check_mode: bool) -> Outcome:
        """Run the base method. Repeat it after a concurrent change, because Google has no etag for providers. Raise GcpError."""
        outcomes: list[Outcome] = []
        lost = GcpError(f"{self.name}: other runs keep changing attribute_condition. Run again when they have ended.")

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
                f"provider_id: {self.name} is of kind {kind}, but this module only manages OIDC providers. Choose another ID."
                " Example: provider_id: my-cluster"
            )
        if self._subject is None or not current or self.deleted(current):
            return
        if current.get("description", "") != wanted["description"]:
            raise GcpError(
                f"provider_id: {self.name} belongs to somebody else, because its description is '{current.get('description', '')}', not"
                f" '{wanted['description']}'. Choose another ID, or delete the provider if nobody uses it any more."
                " Example: provider_id: my-cluster-2"
            )
        if subjects_of(current.get("attributeCondition")) is None:
            raise GcpError(
                f"subject: the condition of {self.name} must be a list of subjects (got {current['attributeCondition']}). Change it to the"
                f" list of all subjects to admit. Example: attribute_condition: \"{condition_of([self._subject])}\""
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
        """Replace these fields, but in oidc only those that differ. Raise GcpError."""
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
                "subject: it must not be set with state: absent, which deletes the whole provider. Remove the option, or remove only the"
                " subject with module gcp_iam_cluster_principals. Example: gcp_iam_cluster_principals with state: absent"
            )
        return
    # Ansible accepts an explicit null for a required option.
    if "google.subject" not in (params["attribute_mapping"] or {}):
        raise GcpError(
            "attribute_mapping: it must contain google.subject, which identifies the principal."
            " Example: attribute_mapping: {google.subject: assertion.sub}"
        )
    custom = sum(key.startswith("attribute.") for key in params["attribute_mapping"])
    if custom > _MAX_CUSTOM_ATTRIBUTES:
        raise GcpError(
            f"attribute_mapping: at most {_MAX_CUSTOM_ATTRIBUTES} custom attributes are allowed (got {custom})."
            " Remove those that no grant and no condition uses. Example: attribute_mapping: {google.subject: assertion.sub}"
        )
    check_condition(params["attribute_condition"] or "")
    if params["subject"] is not None:
        check_subject(params["subject"])
    for key, expression in params["attribute_mapping"].items():
        if not isinstance(expression, str) or not expression:
            raise GcpError(
                f"attribute_mapping.{key}: must be a CEL expression (got {expression!r}). Remove the key to remove the attribute."
                f" Example: {key}: assertion.sub"
            )
    if params["oidc"] is None:
        raise GcpError("oidc: it is required with state: present. Example: oidc: {issuer_uri: https://issuer.example.com}")
    if not (params["oidc"]["issuer_uri"] or "").startswith("https://"):
        raise GcpError(
            f"oidc.issuer_uri: must begin with https:// (got '{params['oidc']['issuer_uri'] or ''}'). Set the issuer of the cluster in"
            " kube-apiserver. Example: --service-account-issuer=https://kubernetes.default.svc.cluster.local"
        )
    if params["oidc"]["jwks"] is not None:
        _check_keys(params["oidc"]["jwks"].get("keys"))


def _check_keys(keys: t.Any) -> None:
    if not isinstance(keys, list) or not keys or not all(isinstance(key, dict) for key in keys):
        raise GcpError(f"oidc.jwks: it must contain keys. {_KEYS_FIX}")
    if any(_SECRET & key.keys() for key in keys):
        raise GcpError(f"oidc.jwks: it contains a private or symmetric key, which must not leave the cluster. {_KEYS_FIX}")
    for number, key in enumerate(keys, 1):
        kind = tuple(part if isinstance(part, str) else None for part in (key.get("kty"), key.get("crv")))
        if kind not in _PUBLIC:
            raise GcpError(
                f"oidc.jwks: key {number} must be RSA or EC P-256 (got {' '.join(filter(None, kind)) or 'none'}). Use such a signing key in"
                " kube-apiserver. Example: --service-account-signing-key-file=/etc/kubernetes/pki/sa.key"
            )
        if missing := sorted(_PUBLIC[kind] - key.keys()):
            raise GcpError(f"oidc.jwks: key {number} must contain {' and '.join(missing)}. {_KEYS_FIX}")


def _wanted(params: dict[str, t.Any]) -> dict[str, t.Any]:
    mapping = {"attributeMapping": params["attribute_mapping"], "attributeCondition": params["attribute_condition"]}
    oidc = {"issuerUri": params["oidc"]["issuer_uri"], "allowedAudiences": params["oidc"]["allowed_audiences"]}
    if params["oidc"]["jwks"] is not None:
        keys = [{name: key[name] for name in _KEY_MEMBERS if name in key} for key in params["oidc"]["jwks"]["keys"]]
        oidc["jwksJson"] = json.dumps({"keys": keys}, sort_keys=True)
    given = {field: value for field, value in mapping.items() if value is not None}
    return {**described(params), **given, "oidc": stripped(oidc)}


def _named(error: GcpError) -> GcpError:
    """Return the error for an invalid argument, with the name of the option."""
    option = next((option for word, option in _OPTION_OF_WORDS.items() if word in error.words.lower()), None)
    return GcpError(f"{error} (Check {option}.)") if error.status == 400 and option else error


def ensure(module: t.Any) -> dict[str, t.Any]:
    """Bring the provider to its state; return the result of the module. Raise GcpError."""
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
