# SPDX-License-Identifier: GPL-3.0-or-later
"""The Common Expression Language of attribute mappings and conditions (github.com/google/cel-spec)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import celpy
import lark
from celpy import celtypes

_MACROS = {"all", "exists", "exists_one", "filter", "map"}


class CelError(ValueError):
    """An expression does not compile or has no value for the claims."""


@functools.lru_cache(maxsize=256)
def _program(expression: str) -> tuple[celpy.Runner, frozenset[str]]:
    environment = celpy.Environment()
    try:
        tree = environment.compile(expression)
    except celpy.CELParseError as error:
        raise CelError(f"Syntax error: {error}") from None
    return environment.program(tree), _free_names(tree)


def _free_names(tree: lark.Tree) -> frozenset[str]:
    """Returns the variables of an expression, without those that a macro binds. celpy would find a typo only when it runs."""
    names = {str(node.children[0]) for node in tree.find_data("ident")}
    for call in tree.find_data("member_dot_arg"):
        if str(call.children[1]) in _MACROS and len(call.children) > 2:
            names -= {str(node.children[0]) for node in call.children[2].children[0].find_data("ident")}
    return frozenset(names)


def check(expression: str, variables: set[str]) -> None:
    """Raises CelError if an expression does not compile or uses another variable."""
    _runner, names = _program(expression)
    if unknown := sorted(names - variables):
        raise CelError(f"undeclared reference to '{unknown[0]}' (in container '')")


def evaluate(expression: str, values: Mapping[str, Any]) -> Any:
    """Returns the value as str, bool or list; other types are unchanged. Raises CelError.

    A key of `values` may be dotted: celpy knows a package `google`, which hides a variable of that name.
    """
    try:
        runner, _names = _program(expression)
        result = runner.evaluate({name: celpy.json_to_cel(value) for name, value in values.items()})
    except celpy.CELEvalError as error:
        # The message contains all values, including claims; only its beginning is safe.
        raise CelError(str(error.args[0]).partition(" (in activation")[0]) from None
    return _plain(result)


def _plain(value: Any) -> Any:
    if isinstance(value, celtypes.BoolType):
        return bool(value)
    if isinstance(value, celtypes.StringType):
        return str(value)
    if isinstance(value, celtypes.ListType):
        return [_plain(item) for item in value]
    return value
