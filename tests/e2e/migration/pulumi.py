# SPDX-License-Identifier: GPL-3.0-or-later
"""A pull-through registry as a Pulumi program deploys it: the objects of the cluster, and those of Google."""

from __future__ import annotations

import base64
import json
from typing import Any

import bcrypt
import httpx

from sandbox.client import NAMESPACE, USER, Cluster, Google
from sandbox.settings import NODE_PORT, PROJECT, PROJECT_NUMBER, REGISTRY_IMAGE, UPSTREAM_HOST, Sandbox
from tests.e2e.replicas import wait

IAM = "iam.googleapis.com"
DEPLOYMENT, SERVICE, ACCOUNT = "cncf-gar-proxy", "cncf-registry-service", "gar-proxy"
HTPASSWD, CONFIG = "registry-htpasswd", "registry-config"
REPLICAS = 2
POOL_ID, PROVIDER_ID = "registry-cache-pool", "registry-cache-k8s-provider"
POOLS = f"projects/{PROJECT_NUMBER}/locations/global/workloadIdentityPools"
POOL = f"{POOLS}/{POOL_ID}"
PROVIDER = f"{POOL}/providers/{PROVIDER_ID}"
ACCOUNTS = f"projects/{PROJECT}/serviceAccounts"
EMAIL = f"registry-cache-reader@{PROJECT}.iam.gserviceaccount.com"
SUBJECT = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
MEMBER = f"principal://iam.googleapis.com/{POOL}/subject/{SUBJECT}"
_LABELS = {"app": DEPLOYMENT}
_CONFIG_FOLDER, _HELPER_FOLDER = "/etc/gar-proxy", "/opt/helper"
_HELPER = "/usr/local/bin/docker-credential-gcr"
_AUDIENCE = f"https://iam.googleapis.com/{PROVIDER}"


def htpasswd(password: str) -> str:
    """The config registryHtpasswd: one user, with a bcrypt hash."""
    return f"{USER}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(5)).decode()}\n"


def _registry_config() -> str:
    """Of registry:3; JSON is YAML too."""
    return json.dumps(
        {
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": "/var/lib/registry"}, "delete": {"enabled": True}},
            "http": {"addr": ":5000"},
            "auth": {"htpasswd": {"realm": "registry", "path": f"{_CONFIG_FOLDER}/auth/htpasswd"}},
            "proxy": {
                "remoteurl": f"https://{UPSTREAM_HOST}",
                "exec": {"command": f"{_HELPER_FOLDER}/docker-credential-gcr", "lifetime": "5m"},
            },
        }
    )


def _credential() -> str:
    """What docker-credential-gcr reads: the token of the pod is exchanged, and acts as the service account."""
    return json.dumps(
        {
            "type": "external_account",
            "audience": f"//iam.googleapis.com/{PROVIDER}",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": "https://sts.googleapis.com/v1/token",
            "credential_source": {"file": "/var/run/secrets/gar/token"},
            "service_account_impersonation_url": (
                f"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{EMAIL}:generateAccessToken"
            ),
        }
    )


def _pod(helper_image: str) -> dict[str, Any]:
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    helper = {
        "name": "helper",
        "image": helper_image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["cp", _HELPER, f"{_HELPER_FOLDER}/docker-credential-gcr"],
        "securityContext": security,
        "volumeMounts": [{"name": "helper", "mountPath": _HELPER_FOLDER}],
    }
    registry = {
        "name": "registry",
        "image": REGISTRY_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["registry", "serve", f"{_CONFIG_FOLDER}/config.yml"],
        "env": [
            {"name": "GOOGLE_APPLICATION_CREDENTIALS", "value": f"{_CONFIG_FOLDER}/credential.json"},
            {"name": "SSL_CERT_DIR", "value": f"{_CONFIG_FOLDER}/ca"},
            {"name": "OTEL_TRACES_EXPORTER", "value": "none"},
        ],
        "ports": [{"containerPort": 5000}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 5000}, "periodSeconds": 1},
        "securityContext": security,
        "volumeMounts": [
            {"name": "config", "mountPath": _CONFIG_FOLDER, "readOnly": True},
            {"name": "token", "mountPath": "/var/run/secrets/gar", "readOnly": True},
            {"name": "helper", "mountPath": _HELPER_FOLDER, "readOnly": True},
            {"name": "store", "mountPath": "/var/lib/registry"},
        ],
    }
    files = [
        {"key": "config.yml", "path": "config.yml"},
        {"key": "credential.json", "path": "credential.json"},
        {"key": "ca.pem", "path": "ca/ca.pem"},
    ]
    config = [
        {"configMap": {"name": CONFIG, "items": files}},
        {"secret": {"name": HTPASSWD, "items": [{"key": "htpasswd", "path": "auth/htpasswd"}]}},
    ]
    token = {"path": "token", "audience": _AUDIENCE, "expirationSeconds": 3600}
    return {
        "serviceAccountName": ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [helper],
        "containers": [registry],
        "volumes": [
            {"name": "config", "projected": {"sources": config}},
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}},
            {"name": "helper", "emptyDir": {}},
            {"name": "store", "emptyDir": {}},
        ],
    }


def manifests(sandbox: Sandbox, users: str, helper_image: str) -> list[dict[str, Any]]:
    """All objects in the cluster.

    :param users: the htpasswd file.
    :param helper_image: an image on every node that holds docker-credential-gcr and cp.
    """

    def item(api_version: str, kind: str, name: str, **fields: Any) -> dict[str, Any]:
        return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, **fields}

    data = {"config.yml": _registry_config(), "credential.json": _credential(), "ca.pem": sandbox.ca.read_text()}
    template = {"metadata": {"labels": _LABELS}, "spec": _pod(helper_image)}
    port = {"name": "http", "port": 5000, "targetPort": 5000, "nodePort": NODE_PORT}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        item("v1", "ServiceAccount", ACCOUNT),
        item("v1", "Secret", HTPASSWD, stringData={"htpasswd": users}),
        item("v1", "ConfigMap", CONFIG, data=data),
        item("apps/v1", "Deployment", DEPLOYMENT, spec={"replicas": REPLICAS, "selector": {"matchLabels": _LABELS}, "template": template}),
        item("v1", "Service", SERVICE, spec={"type": "NodePort", "selector": _LABELS, "ports": [port]}),
    ]


def deploy(cluster: Cluster, sandbox: Sandbox, users: str, helper_image: str) -> None:
    """Make the objects in the cluster, and wait until the registry serves."""
    items = manifests(sandbox, users, helper_image)
    cluster.kubectl("apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    cluster.kubectl("rollout", "status", f"deployment/{DEPLOYMENT}", "--namespace", NAMESPACE, "--timeout=180s")


def pull_secret(name: str, password: str) -> dict[str, Any]:
    """A pull secret that somebody made with the password of the old user."""
    credential = {"username": USER, "password": password, "auth": base64.b64encode(f"{USER}:{password}".encode()).decode()}
    text = json.dumps({"auths": {f"localhost:{NODE_PORT}": credential}})
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": text},
    }


def _bring(google: Google, collection: str, parameter: str, name: str, body: dict[str, Any]) -> None:
    """Create a pool or provider, also one that an earlier run of the tests deleted."""
    path = f"/v1/{collection}/{name}"

    def done(operation: dict[str, Any]) -> None:
        wait(lambda: google.call("GET", IAM, f"/v1/{operation['name']}").get("done"), 30, f"{path} is made")

    try:
        done(google.call("POST", IAM, f"/v1/{collection}", body, **{parameter: name}))
    except httpx.HTTPStatusError as error:
        if error.response.status_code != 409:
            raise
        if google.call("GET", IAM, path)["state"] == "DELETED":
            done(google.call("POST", IAM, f"{path}:undelete", {}))
        done(google.call("PATCH", IAM, path, body, updateMask=",".join(body)))


def deploy_google(cluster: Cluster, google: Google) -> None:
    """Make pool, provider and service account, and let the service account read the repository."""
    issuer = json.loads(cluster.kubectl("get", "--raw", "/.well-known/openid-configuration"))["issuer"]
    keys = cluster.kubectl("get", "--raw", "/openid/v1/jwks")
    _bring(google, POOLS, "workloadIdentityPoolId", POOL_ID, {"description": "Pool of the registry cache"})
    provider = {
        "description": "Kubernetes",
        "attributeMapping": {"google.subject": "assertion.sub"},
        "attributeCondition": f"assertion.sub == '{SUBJECT}'",
        "oidc": {"issuerUri": issuer, "jwksJson": keys},
    }
    _bring(google, f"{POOL}/providers", "workloadIdentityPoolProviderId", PROVIDER_ID, provider)

    try:
        google.call("POST", IAM, f"/v1/{ACCOUNTS}", {"accountId": EMAIL.split("@")[0]})
    except httpx.HTTPStatusError as error:
        if error.response.status_code != 409:
            raise
    policy = {"bindings": [{"role": "roles/iam.workloadIdentityUser", "members": [MEMBER]}]}
    google.call("POST", IAM, f"/v1/{ACCOUNTS}/{EMAIL}:setIamPolicy", {"policy": policy})
    repository = google.policy()
    reader = {"role": "roles/artifactregistry.reader", "members": [f"serviceAccount:{EMAIL}"]}
    google.set_policy({**repository, "bindings": [*repository.get("bindings", []), reader]})


def remove_account(google: Google) -> None:
    """Delete the service account, if there is one."""
    listed = google.call("GET", IAM, f"/v1/{ACCOUNTS}", pageSize="100").get("accounts", [])
    if EMAIL in [account["email"] for account in listed]:
        google.call("DELETE", IAM, f"/v1/{ACCOUNTS}/{EMAIL}")


def account_members(google: Google) -> list[str]:
    """Who may act as the service account."""
    policy = google.call("POST", IAM, f"/v1/{ACCOUNTS}/{EMAIL}:getIamPolicy")
    return [member for binding in policy.get("bindings", []) for member in binding["members"]]


def live_providers(google: Google) -> list[str]:
    """The ids of the pool's providers that are not deleted."""
    listed = google.call("GET", IAM, f"/v1/{POOL}/providers").get("workloadIdentityPoolProviders", [])
    return sorted(one["name"].rpartition("/")[2] for one in listed if one["state"] == "ACTIVE")
