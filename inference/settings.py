"""A kernel's settings: refused where they are impossible, told to the manifest, and read back from it.

Settings are plain values, tuples of them, or frozen dataclasses of settings in their turn, such as a schedule or the
kernel inside another one. What has `to_json` and `from_json`, as a symmetry group has, is stored as that text.
"""

import dataclasses
import importlib
import json
import math
import numbers
from typing import Any

from .kernel import Kernel

# Where a name in a manifest may come from: a manifest is data and decides about no import.
_HOMES = ("inference", "symmetry")


def check_integer(name: str, value: Any, smallest: int, largest: int | float = math.inf) -> None:
    """Refuses what is no whole number between two limits, both allowed.

    Args:
        name: of the setting.
        value: of the setting.
        smallest: lower limit.
        largest: upper limit.

    Raises:
        ValueError: the value is none.

    Example:
        >>> check_integer("num_warmup", -1, 0)
        Traceback (most recent call last):
        ValueError: num_warmup must be a whole number of at least 0, got -1.
    """
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or not smallest <= int(value) <= largest:
        limits = f"of at least {smallest}" if largest == math.inf else f"between {smallest} and {largest}"
        raise ValueError(f"{name} must be a whole number {limits}, got {value!r}.")


def check_between(name: str, value: Any, low: float, high: float) -> None:
    """Refuses what is no number strictly between two limits.

    Args:
        name: of the setting.
        value: of the setting.
        low: lower limit.
        high: upper limit.

    Raises:
        ValueError: the value is none.

    Example:
        >>> check_between("step_size", 0.0, 0.0, math.inf)
        Traceback (most recent call last):
        ValueError: step_size must be a number strictly between 0.0 and inf, got 0.0.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not low < float(value) < high:
        raise ValueError(f"{name} must be a number strictly between {low} and {high}, got {value!r}.")


def describe_kernel(kernel: Any) -> dict[str, Any]:
    """A kernel's name and settings as JSON can hold them.

    Args:
        kernel: the kernel.

    Returns:
        ``name`` and ``settings``.

    Example:
        >>> from inference import NUTS
        >>> describe_kernel(NUTS())["settings"]["max_tree_depth"]
        10
    """
    return _describe(kernel)


def kernel_from(description: dict[str, Any]) -> Kernel:
    """The kernel that `describe_kernel` described.

    Args:
        description: ``name`` and ``settings``.

    Returns:
        The kernel.

    Raises:
        ValueError: this version has no such kernel, or not these settings.

    Example:
        >>> from inference import NUTS
        >>> kernel_from(describe_kernel(NUTS(num_warmup=7))) == NUTS(num_warmup=7)
        True
    """
    return _restore(description)


def _describe(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return {"name": type(value).__name__, "json": json.loads(value.to_json())}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        settings = {field.name: _describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"name": type(value).__name__, "settings": settings}
    if isinstance(value, tuple):
        return [_describe(one) for one in value]
    return value


def _restore(description: Any) -> Any:
    if isinstance(description, list):
        return tuple(_restore(one) for one in description)
    if not isinstance(description, dict):
        return description
    if "json" in description:
        return _class(description["name"]).from_json(json.dumps(description["json"]))
    settings = {name: _restore(value) for name, value in description["settings"].items()}
    try:
        return _class(description["name"])(**settings)
    except TypeError as error:
        raise ValueError(
            f"This version's {description['name']} does not take the settings {sorted(settings)}: {error}; "
            "resume the run with the version that wrote it."
        ) from error


def _class(name: str) -> Any:
    for home in _HOMES:
        found = getattr(importlib.import_module(home), name, None)
        if isinstance(found, type):
            return found
    raise ValueError(f"This version has no {name}; give the kernel itself, or resume with the version that wrote it.")
