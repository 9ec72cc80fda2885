"""The type checker of the tests: beartype on every function of raybd, shapes included."""

from collections.abc import Callable
from typing import Any, Self, get_args

from beartype import beartype


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check `function`'s types at each call.

    jaxtyping hands over methods one by one, and beartype knows what `Self` means only when it sees the class.
    """
    hints = getattr(function, "__annotations__", {}).values()
    says_self = any(hint is Self or Self in get_args(hint) for hint in hints)
    return function if says_self else beartype(function)
