# SPDX-License-Identifier: GPL-3.0-or-later
"""The defaults, argument specs, variable names and tasks of roles, and the example inventory, are consistent."""

from __future__ import annotations

import functools
import pathlib
import re
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

ROOT = pathlib.Path(__file__).resolve().parents[3]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
# Facts that one role sets for another.
EXPORTED = {"registry_cache_image_reference", "registry_cache_credential_config", "registry_cache_token_audience"}


def load(*parts: str) -> Any:
    return yaml.safe_load(ROOT.joinpath(*parts).read_text()) or {}


def options(role: str) -> dict[str, Any]:
    return load("roles", role, "meta", "argument_specs.yml")["argument_specs"]["main"]["options"]


def test_the_roles_are_found() -> None:
    assert {"cache", "image", "pull_secret", "wif"} <= set(ROLES)


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_argument_specs_agree(role: str) -> None:
    defaults, specs = load("roles", role, "defaults", "main.yml"), options(role)
    for name, option in specs.items():
        assert option.get("description"), name
        if option.get("required"):
            assert name not in defaults, f"{name} is required and has a default"
        elif defaults.get(name) is not None and not (str(defaults[name]).startswith("{{") and option["type"] != "str"):
            assert option.get("default") == defaults[name], name
        else:
            # None, or a template whose value is not a string: the description explains the default.
            assert "default" not in option, f"{name} has a default that defaults/main.yml lacks"
    assert {name for name, option in specs.items() if not option.get("required")} - defaults.keys() == set()
    assert defaults.keys() - specs.keys() == set()


@pytest.mark.parametrize("role", ROLES)
def test_the_defaults_are_valid(role: str) -> None:
    """An empty default is None, which is not a valid choice in ansible-core."""
    defaults, specs = load("roles", role, "defaults", "main.yml"), options(role)
    plain = {name: value for name, value in defaults.items() if name in specs and "{{" not in str(value)}
    result = ArgumentSpecValidator({name: specs[name] for name in plain}).validate(plain)
    assert result.error_messages == []


@pytest.mark.parametrize("role", ROLES)
def test_every_default_has_a_comment(role: str) -> None:
    commented = False
    for line in (ROOT / "roles" / role / "defaults" / "main.yml").read_text().splitlines():
        if re.match(r"registry_cache_", line):
            assert commented, f"no comment above {line}"
        elif not line.strip():
            commented = False
        commented = commented or line.startswith("#")


@pytest.mark.parametrize("role", ROLES)
def test_options_have_the_prefix_of_the_collection(role: str) -> None:
    assert all(name.startswith("registry_cache_") for name in options(role))


def prefix(owner: str) -> str:
    """Returns the prefix of the internal variables of a role or a playbook."""
    return "_registry_cache_" if owner == "cache" else f"_registry_cache_{owner}_"


# The owners of the internal variables in each folder or file. Playbooks share those of tasks/preflight.yml.
OWNERS = {f"roles/{role}": (role,) for role in ROLES} | {
    str(file.relative_to(ROOT)): (file.stem, "playbook")
    for file in (ROOT / "playbooks").glob("**/*.yml")
    if "collections" not in file.parts and "files" not in file.parts
}
_SET_FACT = ("set_fact", "ansible.builtin.set_fact")


def defined(node: Any) -> set[str]:
    """Returns the variables that tasks set: registered results, facts, vars of tasks and includes, and loop variables."""
    if isinstance(node, list):
        return set().union(*map(defined, node))
    if not isinstance(node, dict):
        return set()
    found = set().union(*map(defined, node.values()))
    for key in ("vars", *_SET_FACT):
        found |= set(node[key]) if isinstance(node.get(key), dict) else set()
    found |= {node["register"]} if isinstance(node.get("register"), str) else set()
    control = node.get("loop_control")
    return found | {control[key] for key in ("loop_var", "index_var") if isinstance(control, dict) and key in control}


def texts(owner: str) -> dict[pathlib.Path, str]:
    path = ROOT / owner
    return {file: file.read_text() for file in ([path] if path.is_file() else path.rglob("*")) if file.suffix in (".yml", ".j2")}


@pytest.mark.parametrize("owner", OWNERS)
def test_internal_variables_have_the_prefix_of_their_role(owner: str) -> None:
    """So that no two roles share a variable by accident."""
    others = [prefix(role) for role in (*ROLES, "playbook") if role not in OWNERS[owner] and role != "cache"]
    for file, text in texts(owner).items():
        for name in re.findall(r"\b_registry_cache_\w+", text):
            assert name.startswith(tuple(map(prefix, OWNERS[owner]))) and not name.startswith(tuple(others)), (file, name)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_sets_every_internal_variable_that_it_reads(role: str) -> None:
    """It uses none of another role or a playbook. Its argument specs list everything that it accepts."""
    made = set(load("roles", role, "vars", "main.yml"))
    used: set[str] = set()
    for file, text in texts(f"roles/{role}").items():
        used |= set(re.findall(r"\b_registry_cache_\w+", text))
        if file.parent.name == "tasks":
            made |= defined(yaml.safe_load(text))
    assert used - made == set()
    internal = {name for name in made if not name.startswith("ansible_")} - EXPORTED
    assert all(name.startswith(prefix(role)) for name in internal), internal


def test_no_task_replaces_a_variable_of_a_role() -> None:
    """A registered result or a fact has precedence over the defaults and vars of all roles that run after it."""
    roles = ROOT / "roles"
    fixed = {name for folder in ("defaults", "vars") for path in roles.glob(f"*/{folder}/*.yml") for name in load(str(path))}
    made = set()
    for file in roles.glob("*/tasks/*.yml"):
        text = file.read_text()
        made |= set(re.findall(r"^\s*register: (\S+)", text, re.MULTILINE))
        for fact in re.findall(r"set_fact:\n((?:\s{4,}.*\n)+)", text):
            made |= set(re.findall(r"^ +(\w*registry_cache_\w+):", fact, re.MULTILINE))
    assert made & fixed == EXPORTED


@pytest.mark.parametrize("role", ROLES)
def test_the_example_inventory_is_valid(role: str) -> None:
    example = load("inventory", "example", "group_vars", "registry_cache_clusters", "main.yml")
    specs = {name: option for name, option in options(role).items() if name not in EXPORTED}
    given = {name: value for name, value in example.items() if name in specs}
    result = ArgumentSpecValidator(specs).validate(given)
    assert result.error_messages == []


def test_the_example_inventory_has_all_required_variables_and_no_unknown_ones() -> None:
    example = load("inventory", "example", "group_vars", "registry_cache_clusters", "main.yml")
    known = {name for role in ROLES for name in options(role)}
    required = {name for role in ROLES for name, option in options(role).items() if option.get("required")} - EXPORTED
    assert example.keys() - known == set()
    assert required - example.keys() == set()


# Keywords whose values Ansible never shows. It may show all others: arguments, items of loops, labels.
_NOT_SHOWN = ("vars", "when", "changed_when", "failed_when", "until")
_PARTS = ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers")
# Options that contain a secret, in modules of any collection.
_SECRET_OPTION = re.compile(r"(\w*_)?(password|passwd|passphrase|hash|api_key|access_token|private_key|(file|service_account)_contents)")
TASK_FILES = [
    *(file for folder in ("tasks", "handlers") for file in (ROOT / "roles").glob(f"*/{folder}/*.yml")),
    *(ROOT / "playbooks").glob("*.yml"),
    *(ROOT / "playbooks" / "tasks").glob("*.yml"),
]


def flat(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns plays and tasks, and those inside of them."""
    found = []
    for task in tasks:
        found.append(task)
        for part in _PARTS:
            found += flat(task.get(part, []))
    return found


def has_no_log(option: dict[str, Any]) -> bool:
    return bool(option.get("no_log")) or any(map(has_no_log, (option.get("options") or {}).values()))


def templates(node: Any) -> list[str]:
    """Returns the expressions of all templates in a value."""
    if isinstance(node, dict):
        return templates([*node, *node.values()])
    if isinstance(node, list):
        return [one for item in node for one in templates(item)]
    return re.findall(r"\{\{.*?\}\}", node, re.S) if isinstance(node, str) else []


def plays(file: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the plays and tasks of a file."""
    return flat(yaml.safe_load(file.read_text().replace("!unsafe ", "")))


def internal_variables() -> dict[str, Any]:
    """Returns the values of all variables that roles and tasks define, by name."""
    nodes = [load(str(file)) for file in (ROOT / "roles").glob("*/vars/*.yml")]
    nodes += [task["vars"] for file in TASK_FILES for task in plays(file) if "vars" in task]
    return {name: value for node in nodes for name, value in node.items()}


@functools.cache
def secret_variables() -> set[str]:
    """Returns the variables with no_log in the argument specs of roles, and the variables that contain these."""
    found = {name for role in ROLES for name, option in options(role).items() if has_no_log(option)}
    internal = internal_variables()
    while True:
        more = {name for name, value in internal.items() if any(mentions(one, found) for one in templates(value))}
        if more <= found:
            return found
        found |= more


def mentions(expression: str, names: set[str]) -> bool:
    return bool(set(re.findall(r"\w+", expression)) & names)


def shown(node: Any) -> Any:
    """Returns the keywords of a play or task that Ansible may show."""
    return {key: value for key, value in node.items() if key not in (*_NOT_SHOWN, *_PARTS)}


def keys(node: Any) -> set[str]:
    if isinstance(node, list):
        return set().union(*map(keys, node))
    return {str(key) for key in node} | keys(list(node.values())) if isinstance(node, dict) else set()


def problems(tasks: list[dict[str, Any]], secret: set[str]) -> list[str]:
    """Returns the parts of tasks that may show a secret."""
    found = []
    for task in tasks:
        found += [f"no_log: {task.get('name')}"] if "no_log" in task else []
        found += [key for key in keys(shown(task)) if _SECRET_OPTION.fullmatch(key)]
        found += [one for one in templates(shown(task)) if mentions(one, secret)]
        found += ["a Secret is read"] if task.get("kubernetes.core.k8s_info", {}).get("kind") == "Secret" else []
    return found


def test_variables_with_a_secret_are_known() -> None:
    """They have no_log in the argument specs, which the next test uses."""
    for role in ROLES:
        for name, option in options(role).items():
            assert has_no_log(option) or not _SECRET_OPTION.fullmatch(name), name
    found = secret_variables()
    assert {"registry_cache_users", "registry_cache_image_password", "registry_cache_gcp_access_token"} <= found
    assert "_registry_cache_acceptance_access_token" in found


@pytest.mark.parametrize("file", TASK_FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_task_has_a_secret(file: pathlib.Path) -> None:
    """Modules get the names of variables, for example in password_from, or read Secrets in the cluster."""
    assert problems(plays(file), secret_variables()) == []


@pytest.mark.parametrize("file", [*(ROOT / "roles").glob("*/vars/*.yml")], ids=lambda file: file.parts[-3])
def test_no_module_defaults_have_a_secret(file: pathlib.Path) -> None:
    """Roles define module defaults in their vars."""
    for name, value in load(str(file)).items():
        assert not any(map(_SECRET_OPTION.fullmatch, keys(value))), name


@pytest.mark.parametrize(
    "task",
    [
        {"ansible.builtin.debug": {"msg": "{{ registry_cache_users }}"}},
        {"ns.coll.module": {"password": "{{ whatever }}"}},
        {"ns.coll.module": {"users": [{"name": "a", "hash": "x"}]}},
        {"block": [{"ns.coll.module": {"header": "Bearer {{ registry_cache_gcp_access_token }}"}}]},
        {"module_defaults": {"group/ns.coll.group": {"access_token": "{{ x }}"}}, "block": []},
        {"ns.coll.module": {"name": "{{ item }}"}, "loop": "{{ [registry_cache_image_password] }}"},
        {"ns.coll.module": {}, "environment": {"TOKEN": "{{ registry_cache_gcp_access_token }}"}},
        {"ns.coll.module": {}, "no_log": True},
    ],
)
def test_a_secret_in_a_task_is_found(task: dict[str, Any]) -> None:
    assert problems(flat([task]), secret_variables())


def test_no_role_has_a_shell_or_a_raw_request() -> None:
    for file in (ROOT / "roles").rglob("tasks/*.yml"):
        assert not re.search(r"(?m)^\s*(ansible\.builtin\.)?(shell|uri|raw):", file.read_text()), file


def test_the_artifact_and_the_clone_have_one_link_only() -> None:
    link = ROOT / "playbooks" / "collections" / "ansible_collections" / "pullthrough" / "registry_cache"
    assert link.is_symlink() and link.resolve() == ROOT
