# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  project:
    description:
      - The id or number of the Google Cloud project.
      - Falls back to the environment variables E(GCP_PROJECT) and E(GCE_PROJECT).
    type: str
  auth_kind:
    description:
      - The kind of credential that this module uses for Google's APIs.
      - Falls back to E(GCP_AUTH_KIND).
    type: str
    choices: [accesstoken, application, machineaccount, serviceaccount]
    default: application
  service_account_file:
    description:
      - Path of a service account's JSON key, with O(auth_kind=serviceaccount).
      - Falls back to E(GCP_SERVICE_ACCOUNT_FILE) and E(GCE_CREDENTIALS_FILE_PATH).
    type: path
  service_account_contents:
    description:
      - A service account's JSON key itself, with O(auth_kind=serviceaccount).
      - Falls back to E(GCP_SERVICE_ACCOUNT_CONTENTS).
    type: jsonarg
  service_account_email:
    description:
      - The account of the machine, with O(auth_kind=machineaccount); its default account if unset.
      - Falls back to E(GCP_SERVICE_ACCOUNT_EMAIL) and E(GCE_EMAIL).
    type: str
  access_token:
    description:
      - An OAuth 2.0 access token, with O(auth_kind=accesstoken).
      - Falls back to E(GCP_ACCESS_TOKEN).
    type: str
  scopes:
    description:
      - OAuth 2.0 scopes to ask for; C(cloud-platform) if unset.
      - Falls back to E(GCP_SCOPES).
    type: list
    elements: str
  env_type:
    description:
      - Named in the user agent of requests.
      - Falls back to E(GCP_ENV_TYPE).
    type: str
requirements:
  - requests
  - google-auth
  - the collection google.cloud
notes:
  - Options of another O(auth_kind) are ignored, so that credentials injected by AWX do not disturb.
  - Requests go through E(HTTPS_PROXY) and trust E(REQUESTS_CA_BUNDLE) where these are set.
"""
