"""Symmetry groups as text and as JSON.

The JSON form holds every field of the group, so a stored run carries its group and is read without its model.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from .action import Certificate, Factor, Pin, Slot

_INDENT = "    "
_LARGEST_PRINTED_ORDER = 10**15
_LETTERS = {"permutation": "S", "sign": "Z_2", "scale": "R_+"}


def dump(value: Any) -> str:
    """A dataclass of this package as JSON."""
    return json.dumps(dataclasses.asdict(value))


def parse(text: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: If the text is no JSON object.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the JSON of a symmetry group was expected, got text that is no JSON ({error})") from error
    if not isinstance(document, dict):
        raise ValueError(f"a JSON object was expected for a symmetry group, got a {type(document).__name__}")
    return document


def group_fields(document: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `SymmetryGroup` from the JSON object of one.

    Raises:
        ValueError: If a field is missing or unknown.
    """
    try:
        return {
            "sites": {site: tuple(shape) for site, shape in document["sites"].items()},
            "factors": tuple(_factor(item) for item in document["factors"]),
            "pinned": tuple(Pin(**item) for item in document["pinned"]),
            "axes": {site: tuple(names) for site, names in document["axes"].items()},
        }
    except (KeyError, TypeError) as error:
        raise ValueError(f"the JSON is not one that a symmetry group wrote: {error}") from error


def describe(factors: tuple[Factor, ...], pinned: tuple[Pin, ...], order: int) -> str:
    """Factors by axis class with members and certificates, pinned axes with reasons, and the order."""
    lines: list[str] = []
    for axis in dict.fromkeys(factor.axis for factor in factors):
        of_axis = [factor for factor in factors if factor.axis == axis]
        lines.append(f"{' x '.join(map(_symbol, of_axis))} on {axis}")
        for factor in of_axis:
            lines.append(f"{_INDENT}{factor.name}: {_symbol(factor)} on {', '.join(map(_place, factor.slots))}")
            lines.append(f"{_INDENT * 2}{_evidence(factor.certificate)}")
    if not factors:
        lines.append("the trivial group")
    if pinned:
        lines.append("pinned")
        lines += [f"{_INDENT}{pin.site}[{_dimension(pin.axis)}]: {pin.reason}" for pin in pinned]
    lines.append(f"order of the finite part: {_order(order)}")
    dimension = sum(factor.size for factor in factors if factor.kind == "scale")
    if dimension:
        lines.append(f"dimension of the continuous part: {dimension}")
    return "\n".join(lines)


def _symbol(factor: Factor) -> str:
    """``S_3``, ``Z_2^3``, ``R_+^3``; coloured permutations are a product, ``(S_3 x S_2)``."""
    letter = _LETTERS[factor.kind]
    if factor.kind != "permutation":
        return letter if factor.size == 1 else f"{letter}^{factor.size}"
    parts = [f"{letter}_{size}" for size in factor.colour_sizes if size > 1] or [f"{letter}_1"]
    return parts[0] if len(parts) == 1 else f"({' x '.join(parts)})"


def _place(slot: Slot) -> str:
    """``kernel[axis 1]``, ``kernel[axis 1, 4:8, stride 2]^-1`` and the like."""
    parts = [_dimension(slot.axis)]
    if slot.offset or slot.outer > 1 or slot.stride > 1:
        parts.append(f"{slot.offset}:{slot.offset + slot.length}")
    if slot.stride > 1:
        parts.append(f"stride {slot.stride}")
    power = "" if slot.exponent == 1 else f"^{slot.exponent}"
    return f"{slot.site}[{', '.join(parts)}]{power}"


def _dimension(axis: int | None) -> str:
    return "all" if axis is None else f"axis {axis}"


def _evidence(certificate: Certificate | None) -> str:
    if certificate is None:
        return "not certified"
    return (
        f"certified: relative error {certificate.error:.1e} under {certificate.num_elements} random elements, "
        f"{certificate.control:.1e} when one member is left out"
    )


def _order(order: int) -> str:
    log10 = f"10^{math.log10(order):.2f}"
    return f"{order} = {log10}" if order <= _LARGEST_PRINTED_ORDER else log10


def _factor(document: dict[str, Any]) -> Factor:
    certificate, colours = document["certificate"], document["colours"]
    return Factor(
        **{
            **document,
            "slots": tuple(Slot(**slot) for slot in document["slots"]),
            "colours": None if colours is None else tuple(colours),
            "certificate": None if certificate is None else Certificate(**certificate),
        }
    )
