"""Shapes and types of the arguments and results of every function, checked while the tests run."""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def outermost(function: Callable[..., Any]) -> Callable[..., Any]:
    """Beartype, but for functions inside functions: a checker would be written anew each time that one is defined."""
    return function if "<locals>" in getattr(function, "__qualname__", "") else beartype(function)
