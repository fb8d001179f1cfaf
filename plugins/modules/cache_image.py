#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cache_image
short_description: Build and publish the cache's image with docker or podman
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Builds C(docker/) of this collection with the command line of docker or podman, once for each platform. The tag is a hash of all
    inputs. An image that exists is not built again.
  - Runs of one user with the same engine wait for each other and share the result, so that the hosts of a play build an image once.
  - With O(publish=push) the module asks the registry first, and needs no engine if the registry has the tag. It pushes all images before
    the index that names them, so that an interrupted push leaves nothing under the final tag.
  - The engine's output is shown while it runs. An error message has the engine's last lines.
  - Runs on the host of the engine. The sources are those of this collection on the control node; hosts that Ansible reaches by SSH get
    a copy.
options:
  name:
    description: The repository, without a tag, such as C(ghcr.io/acme/registry-cache).
    type: str
    required: true
  publish:
    description:
      - V(none) leaves the image in the engine.
      - V(push) pushes an index of all platforms to the registry of O(name).
      - V(archive) saves a file for each platform, as C(docker load), C(podman load) and C(ctr images import) read it.
    type: str
    choices: [none, push, archive]
    default: none
  engine:
    description: What builds. V(auto) takes the one that answers, docker first.
    type: str
    choices: [auto, docker, podman]
    default: auto
  platforms:
    description: The platforms, all compiled without emulation; the engine's own if empty.
    type: list
    elements: str
    choices: [linux/amd64, linux/arm64]
    default: []
  base:
    description: The registry image that it is built from.
    type: str
    required: true
  builder:
    description: The Go image that compiles.
    type: str
    required: true
  build_network:
    description: Network of the build; the engine's default if empty.
    type: str
  build_proxy:
    description: Proxies of the build, instead of those that the environment of the module names.
    type: dict
    suboptions:
      http_proxy:
        description: Proxy for C(http://).
        type: str
      https_proxy:
        description: Proxy for C(https://).
        type: str
      no_proxy:
        description: What is reached without a proxy.
        type: str
  goproxy:
    description: E(GOPROXY) of the build; Go's own default if empty.
    type: str
  ca_path:
    description: More CA certificates (PEM) to trust, while compiling and for the registry.
    type: path
  auth_file:
    description:
      - A file of credentials as C(docker login) and C(podman login) write it; it may name credential helpers.
      - Without it and O(username) those of podman and docker are searched.
    type: path
  username:
    description: User name for the registry.
    type: str
  password:
    description: That user's password. It is on no command line.
    type: str
  password_from:
    description:
      - The name of a variable that holds the password, instead of O(password). So no task argument holds it. An empty variable sets
        none.
    type: str
  insecure:
    description:
      - Whether the registry's certificate is not checked, and plain HTTP serves where it has no HTTPS.
      - A docker daemon must itself be configured so, except for C(127.0.0.0/8).
    type: bool
    default: false
  retries:
    description: How often a push that broke is tried again.
    type: int
    default: 3
  anonymous_pull:
    description: Whether it is an error when the registry asks for a credential to pull what was pushed.
    type: bool
    default: false
  archive_path:
    description: The folder for archives, with O(publish=archive).
    type: path
  sbom_path:
    description: A folder for a CycloneDX SBOM of each program, made from the program's own build information. It is made if missing.
    type: path
  context:
    description: The folder of the sources; the action plugin of this name sets it where this host sees the collection.
    type: path
  sources:
    description: An archive of the sources; the action plugin of this name sets it elsewhere.
    type: path
  labels:
    description: Labels version and revision of the sources; the action plugin of this name sets them.
    type: dict
    default: {}
  log_path:
    description: A file for the output as it comes; the action plugin of this name sets it.
    type: path
requirements:
  - docker or podman
  - requests
attributes:
  check_mode:
    description: Reports what would be built, pushed or saved, and the problems that would prevent it. Asks the registry.
    support: full
  diff_mode:
    description: An image has no diff.
    support: none
  action:
    description: An action plugin of the same name reads the variable of O(password_from), and shows the output as it comes.
    support: full
"""

EXAMPLES = r"""
- name: Build for two platforms and push
  pullthrough.registry_cache.cache_image:
    name: ghcr.io/acme/registry-cache
    publish: push
    platforms: [linux/amd64, linux/arm64]
    base: docker.io/library/registry:3.1.2
    builder: docker.io/library/golang:1.26.10-alpine
  register: image

- name: Show what the cluster will pull
  ansible.builtin.debug:
    var: image.reference
"""

RETURN = r"""
reference:
  description: What the cluster pulls, by digest once it was pushed, else by tag.
  returned: success
  type: str
  sample: ghcr.io/acme/registry-cache@sha256:b5b2b2c507a0944348e0303114d8d93aaaa081732b86451d9bce1f432a537bc7
tag:
  description: The tag, a hash of all that goes into the image.
  returned: success
  type: str
  sample: b-5b0c9bb32ee7
digest:
  description: The digest of the index.
  returned: success, with O(publish=push), once it is there
  type: str
engine:
  description: What builds; empty if nothing was asked of it.
  returned: success
  type: str
  sample: docker
built:
  description: The platforms for which an image was built, or in check mode would be.
  returned: success
  type: list
  elements: str
complete:
  description: Whether all was there already, so that nothing was done, or in check mode would be.
  returned: success
  type: bool
archives:
  description: The archive of each platform.
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
    """What is not there yet: the images and the SBOMs of platforms, and whether something is to be published."""

    images: list[str]
    sboms: list[str]
    publish: bool


def look(build: Build, publishing: Keep) -> Missing:
    """What is missing. What was published needs no engine."""
    publishing.look()
    sboms = build.without_sbom()
    return Missing(build.missing(sorted({*publishing.needed(), *sboms})), sboms, publishing.is_missing())


def bring(params: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Build and publish the image; returns the result of the module. Raises ImageError and OSError."""
    engine = EngineChoice(params["engine"], Log(params["log_path"]))
    ca = pathlib.Path(params["ca_path"]).read_bytes() if params["ca_path"] else b""
    with inputs.context(params["context"], params["sources"]) as context:
        where = split(params["name"])
        platforms = sorted(set(params["platforms"])) or [engine.get().platform]
        image = Image(where, context, platforms, params["base"], params["builder"])
        build, publishing = Build(params, image, engine, ca), WAYS[params["publish"]](params, image, engine, ca)
        missing = look(build, publishing)
        if any(missing) and not check_mode:
            with engine.get().alone():
                # Several hosts of a play want the same image: the first one brings it, and the others find it.
                missing = look(build, publishing)
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
        result = bring(module.params, module.check_mode)
    except ImageError as error:
        module.fail_json(msg=f"{error}\n{error.output}".strip())
    except OSError as error:
        module.fail_json(msg=f"{error.filename or 'a file'}: {error.strerror}.")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
