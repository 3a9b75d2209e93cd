"""From a Python file to a function of parameters and inputs: ``apply``, ``params`` or ``init``, and ``x``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any


def function_of(module: ModuleType, path: Path, arrays: Mapping[str, Any]) -> tuple[Callable[..., Any], Any, Any]:
    """Return ``apply``, its parameters and its inputs.

    Args:
        module: The executed file.
        path: Where it lies.
        arrays: Those after --data: ``x``, or none.

    Returns:
        The function, its parameters (shapes where the file gives ``init``) and its inputs.

    Raises:
        ValueError: If one of them is missing or comes twice.
    """
    if not callable(module.apply):
        raise ValueError(f"expected `apply` in {path} to be a function apply(params, x); it is {_kind(module.apply)}")
    x = _one(path, "x", "the inputs of `apply`, arrays or shapes", module, arrays)
    if hasattr(module, "params") and hasattr(module, "init"):
        raise ValueError(f"expected {path} to define either `params` or `init`; it defines both")
    if not hasattr(module, "init"):
        return module.apply, _one(path, "params", "the parameters of `apply`, or `init`", module, {}), x
    return module.apply, _shapes(module.init, path, x), x


def _one(path: Path, name: str, what: str, module: ModuleType, arrays: Mapping[str, Any]) -> Any:
    """Return what the file or the data call ``name``."""
    unknown = [array for array in arrays if array != name]
    if unknown:
        raise ValueError(f"expected the data of `apply` to be its inputs x alone; they hold {', '.join(unknown)}")
    if hasattr(module, name) and name in arrays:
        raise ValueError(f"expected `{name}` in {path} or after --data; it is in both")
    if not hasattr(module, name) and name not in arrays:
        raise ValueError(f"expected {path} to define `{name}`, {what}; it does not")
    return arrays[name] if name in arrays else getattr(module, name)


def _shapes(init: Any, path: Path, x: Any) -> Any:
    """Return the shapes of the parameters that ``init`` would make of a random key and the inputs."""
    import jax

    if not callable(init):
        raise ValueError(f"expected `init` in {path} to be a function that returns the parameters; it is {_kind(init)}")
    arguments = (jax.random.key(0), x)[: _num_arguments(init)]
    try:
        return jax.eval_shape(init, *arguments)
    except Exception as error:
        said = str(error).partition("\n")[0]
        raise ValueError(
            f"expected `init` in {path} to return the parameters, a pytree of arrays, given "
            f"{('nothing', 'a random key', 'a random key and x')[len(arguments)]}; it raised {type(error).__name__}: "
            f"{said}"
        ) from error


def _num_arguments(function: Callable[..., Any]) -> int:
    """How many of a random key and the inputs a function wants."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 2
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return min(2, sum(p.kind in positional and p.default is p.empty for p in parameters))


def _kind(value: object) -> str:
    return f"of type {type(value).__name__}"
