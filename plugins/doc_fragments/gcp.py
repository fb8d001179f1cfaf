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
  access_token_from:
    description:
      - The name of a variable that holds the token, instead of O(access_token). So no task argument holds it. An empty variable sets
        none.
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
  impersonate_service_account:
    description:
      - The address of a service account to act as. The credential of O(auth_kind) needs
        C(roles/iam.serviceAccountTokenCreator) on it.
      - A comma-separated list is a chain of delegates, of which the last is the account.
      - Falls back to E(GCP_IMPERSONATE_SERVICE_ACCOUNT), E(CLOUDSDK_AUTH_IMPERSONATE_SERVICE_ACCOUNT) and
        E(GOOGLE_IMPERSONATE_SERVICE_ACCOUNT).
    type: str
  quota_project:
    description:
      - The project to which requests are counted and billed (header C(x-goog-user-project)).
      - The credential needs C(serviceusage.services.use) on it. A user's credential or access token may need it.
      - Falls back to E(GCP_QUOTA_PROJECT) and E(GOOGLE_CLOUD_QUOTA_PROJECT).
    type: str
  universe_domain:
    description:
      - The domain of Google's APIs. Another universe, such as a sovereign cloud, has the same hosts under its own domain.
      - It must be the one of the credential. An access token does not say where it is from, and is taken for one of this domain.
      - Another universe than Google's own needs google-auth 2.38 or later.
      - Falls back to E(GCP_UNIVERSE_DOMAIN), E(GOOGLE_CLOUD_UNIVERSE_DOMAIN) and E(CLOUDSDK_CORE_UNIVERSE_DOMAIN).
    type: str
    default: googleapis.com
  apis_just_enabled:
    description:
      - Set to true where a task before has just enabled an API. For some minutes it may refuse requests as disabled, or for want
        of a permission. Both are then retried until O(wait_timeout) is over. Ignored in check mode.
      - Without it, an API that refuses as disabled is retried only if Service Usage lists it as enabled. An API that is really
        disabled, or whose state cannot be read, is reported at once.
    type: bool
    default: false
  wait_timeout:
    description:
      - How many seconds to wait for Google, in all.
      - Requests that fail by a quota (HTTP 429), an error of Google (HTTP 500, 502, 503, 504) or a lost connection are repeated
        with growing, random pauses. C(Retry-After) is honoured. Operations are waited for. Quotas are per minute.
      - A connection that cannot be made is reported after some 10 seconds.
    type: int
    default: 300
attributes:
  action:
    description: An action plugin of the same name reads the variable of O(access_token_from).
    support: full
requirements:
  - requests
  - google-auth
  - the collection google.cloud, version 1.4.1 to 1.15
notes:
  - Options of another O(auth_kind) are ignored, so that credentials injected by AWX do not disturb.
  - Requests go through E(HTTPS_PROXY) and trust E(REQUESTS_CA_BUNDLE) where these are set.
"""

    # Of modules that make and delete an object.
    STATE = r"""
options:
  state:
    description: Whether it exists.
    type: str
    choices: [present, absent]
    default: present
"""
