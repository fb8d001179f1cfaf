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
  - Builds C(docker/) of this collection by the command line of docker or podman, for each platform, under a tag that is a
    hash of all that goes into it. What is there is not built again.
  - Runs of one user that build with the same engine wait for each other, and use what the other one made. Hosts of a play that want the
    same image so build it once.
  - With O(publish=push) the registry is asked first; what it has under that tag needs no engine. All images are pushed before
    the index that names them, so that a push that breaks leaves nothing under the final tag.
  - The engine's output is shown as it comes. A failure is told in a sentence, with the engine's last lines.
  - Runs where the engine is. The sources are those of this collection on the control node; a host that is reached by SSH gets them.
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
    description: Says what would be built, pushed or saved, and finds what is in the way of it. The registry is asked.
    support: full
  diff_mode:
    description: An image has no diff.
    support: none
  action:
    description: An action plugin of the same name shows the output as it comes.
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

import hashlib
import os
import pathlib
import re
import tempfile
import time
import traceback
import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import engine as _engine
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import inputs, registry
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import reference as image_reference

try:
    import requests
except ImportError:
    IMPORT_ERROR: str | None = traceback.format_exc()
else:
    IMPORT_ERROR = None

# What an engine's last lines mean, and the way out. The first that is found is told.
_REASONS = (
    (
        r"no space left on device|disk quota exceeded",
        "The disk is full. Make room, for instance by '{engine} system prune', and run again.",
    ),
    (
        r"ca-certificates\.crt[\"']?: (file does not exist|no such file|not found)|no CA certificates in the base",
        "registry_cache_image_base '{base}' has no CA certificates in /etc/ssl/certs/ca-certificates.crt, without which the "
        "registry trusts no upstream. Example: registry_cache_image_base: docker.io/library/registry:3.1.2",
    ),
    (
        r"certificate signed by unknown authority|failed to verify certificate",
        "A certificate is signed by a CA that the build does not know. Name your company's CA certificates. "
        "Example: registry_cache_ca_bundle: /etc/ssl/certs/company-ca.pem",
    ),
    (
        r"unknown revision|invalid version|missing go\.sum entry|(404|410) (Not Found|Gone)",
        "A go.mod of docker/ pins a version that does not exist, that its go.sum does not know, or that the Go module proxy lacks. "
        "'make pin' in a clone sets one that exists.",
    ),
    (
        r"proxyconnect|dial tcp: lookup|[Tt]emporary failure in name resolution|no such host|network is unreachable",
        "The build does not reach the Go module proxy. Name one that it reaches, or the proxy that leads there. "
        "Example: registry_cache_image_goproxy: https://goproxy.example.com",
    ),
)
_NO_RETRY = re.compile(
    r"unauthorized|authentication required|access.* denied|denied:|forbidden|no space left|insufficient_scope", re.I
)
_CREDENTIAL = (
    "Set registry_cache_image_username and registry_cache_image_password, registry_cache_image_auth_file, or log in with "
    "docker or podman as the user who runs this playbook."
)


_sleep = time.sleep


class ImageError(Exception):
    """A sentence for the user; C(output) holds the engine's last lines."""

    def __init__(self, text: str, output: str = "") -> None:
        super().__init__(text)
        self.output = output


class Lacking(t.NamedTuple):
    """What is not there yet: images of platforms, their SBOMs and archives, the index in the registry; C(digest) is that index's."""

    images: list[str]
    sboms: list[str]
    archives: list[str]
    push: bool
    digest: str | None

    @property
    def anything(self) -> bool:
        return bool(self.images or self.sboms or self.archives or self.push)


class CacheImage:
    """The image that the parameters describe."""

    def __init__(self, params: dict[str, t.Any], check: bool) -> None:
        self.params = params
        self.check = check
        self.log = _engine.Log(params["log_path"])
        self.engine: t.Any = None
        self.context = self.unpacked(params["sources"]) if params["sources"] else pathlib.Path(params["context"])
        self.ca = pathlib.Path(params["ca_path"]).read_bytes() if params["ca_path"] else b""
        image = image_reference.parse(params["name"])
        if image.tag or image.digest:
            raise ImageError(f"registry_cache_image '{params['name']}' must have no tag, since a build makes its own.")
        self.registry, self.path = image.registry, image.repository
        # As podman and clusters complete a short name; docker takes it as well.
        self.name = f"{image.registry}/{image.repository}"
        self.platforms = sorted(set(params["platforms"])) or [self.find_engine().platform]
        self.inputs = (params["base"], params["builder"], *self.platforms)
        self.tag = inputs.tag(self.context, *self.inputs)
        self.reference = f"{self.name}:{self.tag}"

    def unpacked(self, sources: str) -> pathlib.Path:
        # For as long as this lives.
        self._folder = tempfile.TemporaryDirectory(prefix="registry-cache-")  # pylint: disable=consider-using-with
        inputs.unpack(sources, self._folder.name)
        return pathlib.Path(self._folder.name)

    def find_engine(self) -> t.Any:
        if self.engine is None:
            try:
                self.engine = _engine.find(self.params["engine"], self.log)
            except _engine.EngineError as error:
                raise ImageError(
                    f"No engine answers for registry_cache_image_engine: {self.params['engine']} ({error}). Start docker or "
                    "podman on the host that runs this playbook, or set registry_cache_image_mode: published and "
                    "registry_cache_image to an image that was built elsewhere. "
                    "Example: registry_cache_image: ghcr.io/acme/registry-cache:1.0"
                ) from error
        return self.engine

    def local(self, platform: str) -> str:
        """The name of a platform's image in the engine."""
        return f"{self.reference}-{_engine.architecture(platform)}"

    def beside(self, platform: str) -> str:
        """The first part of the names of files that belong to a platform's image, and to no other image of the same sources."""
        own = hashlib.sha256(self.name.encode()).hexdigest()[:8]
        return f"{self.path.rpartition('/')[2]}-{own}_{self.tag}_{platform.replace('/', '-')}"

    def lacks_sbom(self, platform: str) -> bool:
        folder = self.params["sbom_path"]
        return bool(folder) and not os.path.isdir(os.path.join(folder, self.beside(platform)))

    def archives(self) -> dict[str, str]:
        """The archive of each platform, where archives are wanted."""
        if self.params["publish"] != "archive":
            return {}
        return {platform: os.path.join(self.params["archive_path"], f"{self.beside(platform)}.tar") for platform in self.platforms}

    def lacking(self) -> Lacking:
        """What is not there yet. What was pushed or saved needs no engine."""
        publish = self.params["publish"]
        pushed = self.remote() if publish == "push" else None
        sboms = [platform for platform in self.platforms if self.lacks_sbom(platform)]
        unsaved = [platform for platform, file in self.archives().items() if not os.path.exists(file)]
        needed = self.platforms if publish == "none" or (publish == "push" and pushed is None) else sorted({*unsaved, *sboms})
        images = [platform for platform in needed if self.find_engine().platform_of(self.local(platform)) != platform]
        return Lacking(images, sboms, unsaved, publish == "push" and pushed is None, pushed)

    def bring(self) -> dict[str, t.Any]:
        """Bring the image to where it is wanted; returns what the module does."""
        lacking = self.lacking()
        if lacking.anything and not self.check:
            with self.find_engine().alone():
                # Several hosts of a play want the same image: the first one brings it, and the others find it.
                lacking = self.lacking()
                digest = self.make_up_for(lacking)
        else:
            digest = lacking.digest
        result: dict[str, t.Any] = {
            "changed": lacking.anything,
            "complete": not lacking.anything,
            "tag": self.tag,
            "reference": self.reference,
            "built": lacking.images,
            "engine": self.engine.name if self.engine else "",
        }
        if self.params["publish"] == "archive":
            result["archives"] = self.archives()
        if digest is not None:
            result.update({"digest": digest, "reference": f"{self.name}@{digest}"})
            if self.params["anonymous_pull"]:
                self.require_anonymous_pull(digest)
        return result

    def make_up_for(self, lacking: Lacking) -> str | None:
        """Make what is lacking; returns the digest in the registry, where one is wanted."""
        self.make(lacking.images, lacking.sboms)
        archives = self.archives()
        for platform in lacking.archives:
            self.save(platform, archives[platform])
        return self.push() if lacking.push else lacking.digest

    # Building

    def make(self, missing: list[str], without_sbom: list[str]) -> None:
        if not missing and not without_sbom:
            return
        engine = self.engine
        try:
            with tempfile.TemporaryDirectory(prefix="registry-cache-") as folder:
                image, sbom = pathlib.Path(folder, "image"), pathlib.Path(folder, "sbom")
                inputs.copy(self.context, image, self.ca)
                inputs.copy(self.context / "sbom", sbom, self.ca)
                if inputs.tag(self.context, *self.inputs) != self.tag:
                    raise ImageError(f"The sources in {self.context} changed while this run read them. Run it again.")
                self.pull("builder", engine.platform)
                network = self.params["build_network"]
                for platform in missing:
                    self.pull("base", platform)
                    args = {**self.build_args(), "BASE": self.params["base"]}
                    engine.build(str(image), self.local(platform), platform, args, self.labels(), network)
                    engine.check_platform(self.local(platform), platform)
                for platform in without_sbom:
                    args = {**self.build_args(), "IMAGE": self.local(platform)}
                    engine.build(str(sbom), f"{self.local(platform)}-sbom", platform, args, {}, network)
                    self.write_sbom(platform)
        except _engine.EngineError as error:
            raise self.told("The image was not built", error) from error

    def pull(self, what: str, platform: str) -> None:
        image = self.params[what]
        try:
            self.engine.pull(image, platform)
        except _engine.EngineError as error:
            if re.search(_REASONS[0][0], error.output):
                raise self.told(f"{image} was not pulled", error) from error
            raise ImageError(
                f"registry_cache_image_{what} '{image}' cannot be pulled for {platform}, and {self.engine.name} holds no copy for "
                "that platform. Name an image and a version that exist.",
                error.output,
            ) from error

    def build_args(self) -> dict[str, str]:
        proxies = inputs.proxy_args(self.params["build_proxy"], os.environ)
        goproxy = {"GOPROXY": self.params["goproxy"]} if self.params["goproxy"] else {}
        return {"BUILDER": self.params["builder"], **proxies, **goproxy}

    def labels(self) -> dict[str, str]:
        base = self.params["base"]
        digest = base.partition("@")[2] or self.engine.digest_of(base) or ""
        found = {**self.params["labels"], "base.name": base, "base.digest": digest}
        return {f"org.opencontainers.image.{label}": text for label, text in found.items() if text}

    def write_sbom(self, platform: str) -> None:
        os.makedirs(self.params["sbom_path"], exist_ok=True)
        target = os.path.join(self.params["sbom_path"], self.beside(platform))
        with tempfile.TemporaryDirectory(dir=self.params["sbom_path"]) as folder:
            part = os.path.join(folder, "part")
            os.mkdir(part, 0o755)
            self.engine.copy_out(f"{self.local(platform)}-sbom", part)
            self.engine.run("rmi", f"{self.local(platform)}-sbom")
            os.rename(part, target)

    # Publishing

    def save(self, platform: str, file: str) -> None:
        try:
            os.makedirs(self.params["archive_path"], exist_ok=True)
            self.engine.tag(self.local(platform), self.reference)
            # An archive is there as a whole or not at all. podman refuses to write over a file.
            with tempfile.TemporaryDirectory(dir=self.params["archive_path"]) as folder:
                part = os.path.join(folder, "part")
                self.engine.save(self.reference, part)
                os.rename(part, file)
        except _engine.EngineError as error:
            raise self.told(f"The archive {file} was not written", error) from error

    def credential(self) -> t.Any:
        if self.params["username"]:
            return registry.Credential(self.params["username"], self.params["password"])
        files = [self.params["auth_file"]] if self.params["auth_file"] else registry.auth_files(os.environ)
        return registry.find_credential(self.registry, self.path, files)

    def repository(self, credential: t.Any, actions: str) -> t.Any:
        options = {"ca_bundle": self.trusted(), "insecure": self.params["insecure"]}
        return registry.Repository(self.registry, self.path, credential, actions, **options)

    def trusted(self) -> str | None:
        """The CA certificates for the registry: the environment's with the extra ones."""
        if not self.ca or self.params["insecure"]:
            return None
        own = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or requests.certs.where()
        self._bundle = tempfile.NamedTemporaryFile(suffix=".pem")  # noqa: SIM115  # pylint: disable=consider-using-with
        self._bundle.write(pathlib.Path(own).read_bytes() + b"\n" + self.ca)
        self._bundle.flush()
        return self._bundle.name

    def remote(self) -> str | None:
        """The digest that the registry has under the tag."""
        try:
            return self.repository(self.credential(), "pull,push").digest(self.tag)
        except registry.DeniedError as error:
            raise ImageError(f"{self.registry} refuses the credential for {self.name} ({error}). {_CREDENTIAL}") from error
        except registry.RegistryError as error:
            raise ImageError(f"{self.name} cannot be asked for: {error}. Name a registry that is up, or load the image "
                             "into the nodes (registry_cache_image_publish).") from error

    def push(self) -> str:
        credential = self.credential()
        auth = registry.auth_file(self.registry, credential) if credential else None
        images = [self.local(platform) for platform in self.platforms]
        for attempt in range(self.params["retries"] + 1):
            try:
                self.engine.push(self.reference, images, auth, self.params["insecure"])
                break
            except _engine.EngineError as error:
                hopeless = _NO_RETRY.search(error.output)
                if hopeless or attempt == self.params["retries"]:
                    told = f"{self.reference} was not pushed, and nothing is under that tag"
                    if hopeless and "space" not in hopeless[0]:
                        raise ImageError(f"{told}: {self.registry} refuses the credential. {_CREDENTIAL}", error.output) from error
                    raise self.told(f"{told} (tries: {attempt + 1})", error) from error
                self.log.write(f"The push broke; once more in {2 ** (attempt + 1)} s.\n")
                _sleep(2 ** (attempt + 1))
        digest = self.remote()
        if digest is None:
            raise ImageError(f"{self.registry} took {self.reference}, and then has no such tag.")
        return digest

    def require_anonymous_pull(self, digest: str) -> None:
        try:
            if self.repository(None, "pull").digest(digest) == digest:
                return
            said = "HTTP 404"
        except registry.RegistryError as error:
            said = str(error)
        raise ImageError(
            f"{self.name}@{digest} is there, but {self.registry} lets nobody pull it without a credential ({said}), and the cache "
            "cannot pull itself. Make the repository public, or create a pull secret in the cache's namespace and name it. "
            "Example: registry_cache_image_pull_secrets: [my-pull-secret]"
        )

    def told(self, what: str, error: _engine.EngineError) -> ImageError:
        """An engine's failure with its meaning, where that is known."""
        for pattern, reason in _REASONS:
            if re.search(pattern, error.output):
                reason = reason.format(engine=self.engine.name, base=self.params["base"])
                return ImageError(f"{what}. {reason}", error.output)
        return ImageError(f"{what}: {error}.", error.output)


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
    if IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("requests"), exception=IMPORT_ERROR)
    try:
        module.exit_json(**CacheImage(module.params, module.check_mode).bring())
    except (ImageError, _engine.EngineError, registry.RegistryError, ValueError) as error:
        output = getattr(error, "output", "")
        module.fail_json(msg=f"{error}\n{output}".strip())
    except OSError as error:
        module.fail_json(msg=f"{error.filename or 'a file'}: {error.strerror}.")


if __name__ == "__main__":
    main()
