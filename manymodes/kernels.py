"""Kernels by name, with settings typed as text."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

NAMES = (
    "nuts", "hmc", "mala", "ghmc", "chees", "mclmc", "adjustedmclmc", "sgld", "sghmc", "sgnht", "sgd", "subsampledhmc",
    "paralleltempering",
)  # fmt: skip
"""What --kernel takes: the kernels of `inference` in lower case; orbit moves are a flag, for they need symmetries."""


def add_kernel_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say how to sample."""
    named = parser.add_argument_group("how to sample")
    named.add_argument("--kernel", choices=NAMES, metavar="NAME", help=f"one of {', '.join(NAMES)} (default: nuts)")
    named.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the kernel, such as max_tree_depth=8 or kernel=hmc:num_integration_steps=16; repeatable",
    )
    named.add_argument(
        "--orbit-moves", action="store_true", help="exact moves along the scale symmetries after each step"
    )
    named.add_argument("--steps", type=int, metavar="N", help="short for --set num_integration_steps=N")
    named.add_argument("--max-tree-depth", type=int, metavar="N", help="short for --set max_tree_depth=N")
    named.add_argument("--target", type=float, metavar="RATE", help="short for --set target_acceptance_rate=RATE")
    named.add_argument("--batch-size", type=int, metavar="N", help="short for --set batch_size=N")


def kernel_from(options: argparse.Namespace) -> Any:
    """Return the kernel that the options describe.

    Raises:
        ValueError: If a setting is unknown to the kernel or impossible.
    """
    short = {
        "num_integration_steps": options.steps,
        "max_tree_depth": options.max_tree_depth,
        "target_acceptance_rate": options.target,
        "batch_size": options.batch_size,
    }
    given: dict[str, Any] = {name: value for name, value in short.items() if value is not None}
    for text in options.set:
        name, is_setting, value = text.partition("=")
        if not is_setting:
            raise ValueError(f"expected NAME=VALUE after --set, got {text!r}")
        given[name] = _value(value)
    return build(options.kernel or "nuts", given, num_warmup=options.warmup)


def build(name: str, settings: dict[str, Any], *, num_warmup: int | None = None) -> Any:
    """Return the kernel or other setting of `inference` that goes by a name in lower case.

    Raises:
        ValueError: If there is none of that name, or it lacks a setting.
    """
    import inference

    classes: dict[str, Any] = {n.lower(): c for n, c in vars(inference).items() if dataclasses.is_dataclass(c)}
    if name not in classes:
        raise ValueError(f"expected one of {', '.join(sorted(classes))}, got {name!r}")
    fields = [field.name for field in dataclasses.fields(classes[name])]
    unknown = [key for key in settings if key not in fields]
    if unknown:
        raise ValueError(f"{name} has the settings {', '.join(fields)}; got {unknown[0]!r}")
    if num_warmup is not None and "num_warmup" in fields:
        settings = {"num_warmup": num_warmup, **settings}
    try:
        return classes[name](**settings)
    except TypeError as error:
        raise ValueError(f"{name} cannot be made of {settings}: {error}") from error


def _value(text: str) -> Any:
    """A number, a flag, none, text, or a class of `inference` with settings, as in ``hmc:num_integration_steps=8``."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    name, has_settings, rest = text.partition(":")
    if has_settings or name in NAMES:
        pairs = (part.partition("=") for part in rest.split(",") if part)
        return build(name, {key: _value(value) for key, _, value in pairs})
    return text
