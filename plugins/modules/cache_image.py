#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cache_image
short_description: Build and publish the image of the cache with docker or podman
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Builds the directory C(docker/) of this collection with the docker or podman command, once for each platform. The tag is a hash of
    all inputs. An image that already exists is not built again.
  - Runs of one user with the same engine wait for each other and share the result, so the hosts of a play build an image only once.
  - With O(publish=push), the module first asks the registry. If the registry has the tag, no engine is needed. The module pushes all
    images before the index that names them, so an interrupted push leaves nothing under the final tag.
  - The output of the engine is shown while it runs. An error message contains the last lines of the output.
  - Run it on the host of the engine. The sources are in this collection on the control node. A host with a connection other than
    C(local) gets a copy.
options:
  name:
    description: Repository for the image, without a tag, such as V(ghcr.io/acme/registry-cache).
    type: str
    required: true
  publish:
    description:
      - V(none) leaves the image in the engine.
      - V(push) pushes an index of all platforms to the registry in O(name).
      - V(archive) saves one file for each platform, for C(docker load), C(podman load) or C(ctr images import).
    type: str
    choices: [none, push, archive]
    default: none
  engine:
    description: Engine that builds the image. V(auto) uses the first one that answers, docker before podman.
    type: str
    choices: [auto, docker, podman]
    default: auto
  platforms:
    description: Platforms to build for. All of them are compiled without emulation. If empty, the platform of the engine.
    type: list
    elements: str
    choices: [linux/amd64, linux/arm64]
    default: []
  base:
    description: Registry image to use as the base, such as V(docker.io/library/registry:3.1.2).
    type: str
    required: true
  builder:
    description: Go image for the compilation, such as V(docker.io/library/golang:1.26.10-alpine).
    type: str
    required: true
  build_network:
    description: Network of the build. If not set, the default of the engine.
    type: str
  build_proxy:
    description: Proxies for the build. If not set, the proxies in the environment of the module.
    type: dict
    suboptions:
      http_proxy:
        description: Proxy for HTTP.
        type: str
      https_proxy:
        description: Proxy for HTTPS.
        type: str
      no_proxy:
        description: Hosts to reach without a proxy, separated by commas.
        type: str
  goproxy:
    description: Go module proxy of the build, as in E(GOPROXY). If not set, the default of Go.
    type: str
  ca_path:
    description: Path of additional CA certificates in PEM format, to trust during the build and for the registry.
    type: path
  auth_file:
    description:
      - Path of a credential file as written by C(docker login) and C(podman login). It may name credential helpers.
      - If neither this nor O(username) is set, the module searches the credential files of podman and docker.
    type: path
  username:
    description: User name for the registry.
    type: str
  password:
    description: Password of O(username). It never appears on a command line.
    type: str
  password_from:
    description:
      - Name of the variable that holds the password. Use it instead of O(password) to keep the password out of the task arguments.
      - If the variable is empty, O(password) is not set.
    type: str
  insecure:
    description:
      - Whether to skip the check of the registry's certificate, and to use HTTP if the registry does not serve HTTPS.
      - The docker daemon needs its own setting for this, except for C(127.0.0.0/8).
    type: bool
    default: false
  retries:
    description: How many times to retry an interrupted push.
    type: int
    default: 3
  anonymous_pull:
    description: Whether to fail if the registry requires a credential to pull the pushed image.
    type: bool
    default: false
  archive_path:
    description: Directory for the archives. Required with O(publish=archive).
    type: path
  sbom_path:
    description: Directory for a CycloneDX SBOM of each program, created from the program's build information. It is created if missing.
    type: path
  context:
    description: Directory of the sources. Set by the action plugin for the connection C(local).
    type: path
  sources:
    description: Archive of the sources. Set by the action plugin for other connections.
    type: path
  labels:
    description: Labels C(version) and C(revision) of the sources. Set by the action plugin.
    type: dict
    default: {}
  log_path:
    description: File to which the output is written as it arrives. Set by the action plugin.
    type: path
requirements:
  - docker or podman
  - requests
attributes:
  check_mode:
    description: Asks the registry. Reports what would be built, pushed or saved, and the problems that would prevent it.
    support: full
  diff_mode:
    description: Images have no diff.
    support: none
  action:
    description: An action plugin of the same name reads the variable named by O(password_from), and shows the output as it arrives.
    support: full
"""

EXAMPLES = r"""
- name: Build an image for two platforms and push it
  pullthrough.registry_cache.cache_image:
    name: ghcr.io/acme/registry-cache
    publish: push
    platforms: [linux/amd64, linux/arm64]
    base: docker.io/library/registry:3.1.2
    builder: docker.io/library/golang:1.26.10-alpine
  register: image

- name: Show the image reference for the cluster
  ansible.builtin.debug:
    var: image.reference
"""

RETURN = r"""
reference:
  description: Image reference for the cluster. It contains the digest if the image was pushed, otherwise the tag.
  returned: success
  type: str
  sample: ghcr.io/acme/registry-cache@sha256:b5b2b2c507a0944348e0303114d8d93aaaa081732b86451d9bce1f432a537bc7
tag:
  description: Tag of the image. It is a hash of all inputs.
  returned: success
  type: str
  sample: b-5b0c9bb32ee7
digest:
  description: Digest of the index.
  returned: success, with O(publish=push), if the registry has the image
  type: str
engine:
  description: Engine that was used. Empty if none was needed.
  returned: success
  type: str
  sample: docker
built:
  description: Platforms for which an image was built, or would be built in check mode.
  returned: success
  type: list
  elements: str
complete:
  description: Whether everything already existed, so that nothing was done.
  returned: success
  type: bool
archives:
  description: Path of the archive for each platform.
  returned: success, with O(publish=archive)
  type: dict
  sample:
    linux/amd64: /srv/images/registry-cache-3d0b97a1_b-5b0c9bb32ee7_linux-amd64.tar
"""

import pathlib
import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import inputs, upstream
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image.build import Build
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image.engine import EngineChoice, Log
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image.errors import ImageError
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image.image import Image, split
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image.publish import WAYS, Keep


class Missing(t.NamedTuple):
    """What does not exist yet: images and SBOMs by platform, and whether there is something to publish."""

    images: list[str]
    sboms: list[str]
    publish: bool


def find_missing(build: Build, publishing: Keep) -> Missing:
    """Return what is missing. A published image needs no engine."""
    publishing.inspect()
    sboms = build.without_sbom()
    return Missing(build.missing(sorted({*publishing.needed(), *sboms})), sboms, publishing.is_missing())


def build_and_publish(params: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Build and publish the image; return the result of the module. Raise ImageError and OSError."""
    engine = EngineChoice(params["engine"], Log(params["log_path"]))
    ca = pathlib.Path(params["ca_path"]).read_bytes() if params["ca_path"] else b""
    with inputs.context(params["context"], params["sources"]) as context:
        where = split(params["name"])
        platforms = sorted(set(params["platforms"])) or [engine.get().platform]
        image = Image(where, context, platforms, params["base"], params["builder"])
        build, publishing = Build(params, image, engine, ca), WAYS[params["publish"]](params, image, engine, ca)
        missing = find_missing(build, publishing)
        if any(missing) and not check_mode:
            with engine.get().lock():
                # Several hosts of a play need the same image. The first one builds it while the others wait, and then they find it.
                missing = find_missing(build, publishing)
                build.make(missing.images, missing.sboms)
                publishing.publish()
        return {
            "changed": any(missing),
            "complete": not any(missing),
            "tag": image.tag,
            "built": missing.images,
            "engine": engine.name,
            **publishing.result(),
        }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "publish": {"type": "str", "choices": ["none", "push", "archive"], "default": "none"},
            "engine": {"type": "str", "choices": ["auto", "docker", "podman"], "default": "auto"},
            "platforms": {"type": "list", "elements": "str", "choices": ["linux/amd64", "linux/arm64"], "default": []},
            "base": {"type": "str", "required": True},
            "builder": {"type": "str", "required": True},
            "build_network": {"type": "str"},
            "build_proxy": {
                "type": "dict",
                "options": {
                    "http_proxy": {"type": "str"},
                    "https_proxy": {"type": "str"},
                    "no_proxy": {"type": "str"},
                },
            },
            "goproxy": {"type": "str"},
            "ca_path": {"type": "path"},
            "auth_file": {"type": "path"},
            "username": {"type": "str"},
            "password": {"type": "str", "no_log": True},
            "password_from": {"type": "str", "no_log": False},  # the name of a variable
            "insecure": {"type": "bool", "default": False},
            "retries": {"type": "int", "default": 3},
            "anonymous_pull": {"type": "bool", "default": False},
            "archive_path": {"type": "path"},
            "sbom_path": {"type": "path"},
            "context": {"type": "path"},
            "sources": {"type": "path"},
            "labels": {"type": "dict", "default": {}},
            "log_path": {"type": "path"},
        },
        required_together=[("username", "password")],
        mutually_exclusive=[("username", "auth_file"), ("context", "sources")],
        required_one_of=[("context", "sources")],
        required_if=[("publish", "archive", ["archive_path"])],
        supports_check_mode=True,
    )
    if upstream.IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("requests"), exception=upstream.IMPORT_ERROR)
    try:
        result = build_and_publish(module.params, module.check_mode)
    except ImageError as error:
        module.fail_json(msg=f"{error}\n{error.output}".strip())
    except OSError as error:
        module.fail_json(msg=f"{error.filename or 'a file'} cannot be used: {error.strerror}. Check its path and its permissions.")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
