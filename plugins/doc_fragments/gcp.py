# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  project:
    description:
      - ID or number of the Google Cloud project, such as V(my-project).
      - If not set, the environment variables E(GCP_PROJECT) and E(GCE_PROJECT) are used.
    type: str
  auth_kind:
    description:
      - Kind of credential to use for Google APIs.
      - V(application) uses Application Default Credentials.
      - If not set, the environment variable E(GCP_AUTH_KIND) is used.
    type: str
    choices: [accesstoken, application, machineaccount, serviceaccount]
    default: application
  service_account_file:
    description:
      - Path of the JSON key file of a service account. Used only with O(auth_kind=serviceaccount).
      - If not set, the environment variables E(GCP_SERVICE_ACCOUNT_FILE) and E(GCE_CREDENTIALS_FILE_PATH) are used.
    type: path
  service_account_contents:
    description:
      - Content of the JSON key file of a service account. Used only with O(auth_kind=serviceaccount).
      - If not set, the environment variable E(GCP_SERVICE_ACCOUNT_CONTENTS) is used.
    type: jsonarg
  service_account_email:
    description:
      - Email address of a service account of the machine. Used only with O(auth_kind=machineaccount).
      - If not set, the environment variables E(GCP_SERVICE_ACCOUNT_EMAIL) and E(GCE_EMAIL) are used. The default is the machine's
        default service account.
    type: str
  access_token:
    description:
      - OAuth 2.0 access token. Used only with O(auth_kind=accesstoken).
      - If not set, the environment variable E(GCP_ACCESS_TOKEN) is used.
    type: str
  access_token_from:
    description:
      - Name of the variable that holds the access token. Use it instead of O(access_token) to keep the token out of the task arguments.
      - If the variable is empty, O(access_token) is not set.
    type: str
  scopes:
    description:
      - OAuth 2.0 scopes to request. The default is V(https://www.googleapis.com/auth/cloud-platform).
      - If not set, the environment variable E(GCP_SCOPES) is used.
    type: list
    elements: str
  env_type:
    description:
      - Text to add to the user agent of requests.
      - If not set, the environment variable E(GCP_ENV_TYPE) is used.
    type: str
  impersonate_service_account:
    description:
      - Email address of the service account to impersonate. The credential of O(auth_kind) needs the role
        C(roles/iam.serviceAccountTokenCreator) on it.
      - A comma-separated list is a delegation chain. The last account is the one to impersonate.
      - If not set, the environment variables E(GCP_IMPERSONATE_SERVICE_ACCOUNT), E(CLOUDSDK_AUTH_IMPERSONATE_SERVICE_ACCOUNT) and
        E(GOOGLE_IMPERSONATE_SERVICE_ACCOUNT) are used.
    type: str
  quota_project:
    description:
      - Project that Google charges for quota and billing (header C(x-goog-user-project)). The default is the quota project of the
        credential, if it has one.
      - The credential needs the permission C(serviceusage.services.use) on this project. User credentials and access tokens may
        require a quota project.
      - If not set, the environment variables E(GCP_QUOTA_PROJECT) and E(GOOGLE_CLOUD_QUOTA_PROJECT) are used.
    type: str
  universe_domain:
    description:
      - Domain of the Google APIs. Another universe, such as a sovereign cloud, has the same hosts below its own domain.
      - It must be the universe domain of the credential. An access token does not name its universe, so the module assumes this one.
      - A domain other than V(googleapis.com) needs google-auth 2.38 or later.
      - If not set, the environment variables E(GCP_UNIVERSE_DOMAIN), E(GOOGLE_CLOUD_UNIVERSE_DOMAIN) and
        E(CLOUDSDK_CORE_UNIVERSE_DOMAIN) are used.
    type: str
    default: googleapis.com
  apis_just_enabled:
    description:
      - Set to V(true) if an earlier task has just enabled an API. For a few minutes, the API may report that it is disabled or that a
        permission is missing. The module retries both errors until O(wait_timeout) has passed. Ignored in check mode.
      - If V(false), the module retries the first error only if Service Usage lists the API as enabled. It reports an API that is
        disabled, or whose state it cannot read, at once.
    type: bool
    default: false
  wait_timeout:
    description:
      - Maximum time to wait for Google, in seconds, for all requests together.
      - The module retries requests that fail because of a quota (HTTP 429), a server error (HTTP 500, 502, 503, 504) or a lost connection,
        with growing random pauses. It respects C(Retry-After), and waits for long-running operations. Quotas are per minute.
      - If the module cannot connect, it fails after about 10 seconds.
    type: int
    default: 300
attributes:
  action:
    description: An action plugin of the same name reads the variable named by O(access_token_from).
    support: full
requirements:
  - requests
  - google-auth
  - the collection google.cloud, version 1.4.1 to 1.15
notes:
      - The module ignores options of another O(auth_kind), so that credentials injected by AWX do not interfere.
      - Requests use the proxy in E(HTTPS_PROXY) and trust the CA certificates in E(REQUESTS_CA_BUNDLE), if set.
"""

    # For modules that create and delete an object.
    STATE = r"""
options:
  state:
    description: Whether the object must exist.
    type: str
    choices: [present, absent]
    default: present
"""
