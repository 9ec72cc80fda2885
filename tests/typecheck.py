"""The type checker of the tests: beartype on every function of raybd, shapes included."""

from collections.abc import Callable
from typing import Any, Self, get_args

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep3119Exception

_checker = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as for mypy


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check `function`'s types at each call, where Python can."""
    hints = getattr(function, "__annotations__", {}).values()
    if any(hint is Self or Self in get_args(hint) for hint in hints):
        return function  # jaxtyping hands over methods one by one; beartype reads Self only in a whole class
    try:
        return _checker(function)
    except BeartypeDecorHintPep3119Exception:
        return function  # a protocol that isinstance cannot check, such as pydantic's
