"""Symmetry groups as text and as JSON.

The JSON form holds every field of the group, so a stored run carries its group and is read without its model.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .factor import Certificate, Factor, Pin, Shift, Slot

if TYPE_CHECKING:
    from .group import SymmetryGroup

_INDENT = "    "
_LARGEST_PRINTED_ORDER = 10**15
_LETTERS = {"permutation": "S", "sign": "Z_2", "scale": "R_+", "linear": "GL", "orthogonal": "O"}


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
            "factors": factors_of(document["factors"]),
            "pinned": tuple(Pin(**item) for item in document["pinned"]),
            "axes": {site: tuple(names) for site, names in document["axes"].items()},
            "shifts": tuple(map(_shift, document.get("shifts", ()))),
        }
    except (KeyError, TypeError) as error:
        raise ValueError(f"the JSON is not one that a symmetry group wrote: {error}") from error


def factors_of(documents: list[dict[str, Any]]) -> tuple[Factor, ...]:
    """Factors from their JSON objects."""
    return tuple(map(_factor, documents))


def describe_factor(factor: Factor, sites: Mapping[str, tuple[int, ...]]) -> str:
    """One line: what the factor is, where it acts, and over which fibre."""
    over = f", one for each {' and '.join(factor.fibre)}" if factor.fibre else ""
    places = ", ".join(_place(slot, sites[slot.site]) for slot in factor.slots)
    return f"{factor.name}: {_symbol(factor)} on {places}{over}"


def describe(group: SymmetryGroup) -> str:
    """Factors by axis class with members and certificates, pinned axes with reasons, and the order."""
    lines: list[str] = []
    for axis in dict.fromkeys(factor.axis for factor in group.factors):
        of_axis = [factor for factor in group.factors if factor.axis == axis]
        lines.append(f"{' x '.join(map(_symbol, of_axis))} on {axis}")
        for factor in of_axis:
            lines.append(f"{_INDENT}{describe_factor(factor, group.sites)}")
            lines.append(f"{_INDENT * 2}{_evidence(factor.certificate)}")
    if not group.factors:
        lines.append("the trivial group")
    if group.shifts:
        lines.append("shifts, by any numbers")
        lines += [f"{_INDENT}{shift.site}{_tied(shift)}: R^{shift.dimension}" for shift in group.shifts]
    if group.pinned:
        lines.append("pinned")
        lines += [f"{_INDENT}{pin.site}[{_dimension(pin.axis)}]: {pin.reason}" for pin in group.pinned]
    lines.append(f"order of the finite part: {_order(group)}")
    if group.dimension:
        lines.append(f"dimension of the continuous part: {group.dimension}")
    return "\n".join(lines)


def _symbol(factor: Factor) -> str:
    """``S_3``, ``Z_2^3``, ``R_+^3``, ``GL(3)``; coloured permutations are ``(S_3 x S_2)``, fibred ones ``(S_3)^4``."""
    letter = _LETTERS[factor.kind]
    if factor.kind in ("sign", "scale"):
        number = factor.size * factor.num_copies
        return letter if number == 1 else f"{letter}^{number}"
    if factor.kind == "permutation":
        parts = [f"{letter}_{size}" for size in factor.colour_sizes if size > 1] or [f"{letter}_1"]
    else:
        parts = [f"{letter}({factor.size})"]
    one = parts[0] if len(parts) == 1 and not factor.fibre else f"({' x '.join(parts)})"
    return f"{one}^{factor.num_copies}" if factor.fibre else one


def _place(slot: Slot, shape: tuple[int, ...]) -> str:
    """``kernel[axis 1]``, ``kernel[axis 1, 4:8, stride 2]^-1`` and the like."""
    parts = [_dimension(slot.axis)]
    if slot.axis is not None and (slot.length < shape[slot.axis] or slot.outer > 1 or slot.stride > 1):
        parts.append(f"{slot.offset}:{slot.offset + slot.length}")
    if slot.stride > 1:
        parts.append(f"stride {slot.stride}")
    power = "" if slot.exponent == 1 else f"^{slot.exponent}"
    return f"{slot.site}[{', '.join(parts)}]{power}"


def _tied(shift: Shift) -> str:
    if not shift.along:
        return ""
    return f", the same along axis {' and '.join(map(str, shift.along))}"


def _dimension(axis: int | None) -> str:
    return "all" if axis is None else f"axis {axis}"


def _evidence(certificate: Certificate | None) -> str:
    if certificate is None:
        return "not certified"
    return (
        f"certified: relative error {certificate.error:.1e} under {certificate.num_elements} random elements, "
        f"{certificate.control:.1e} when one member is left out"
    )


def _order(group: SymmetryGroup) -> str:
    log10 = f"10^{group.log_order / math.log(10):.2f}"
    return f"{group.order} = {log10}" if group.log_order <= math.log(_LARGEST_PRINTED_ORDER) else log10


def _factor(document: dict[str, Any]) -> Factor:
    certificate, colours = document["certificate"], document["colours"]
    return Factor(
        **{
            **document,
            "slots": tuple(map(_slot, document["slots"])),
            "colours": None if colours is None else tuple(colours),
            "certificate": None if certificate is None else Certificate(**certificate),
            "fibre": tuple(document.get("fibre", ())),
            "fibre_shape": tuple(document.get("fibre_shape", ())),
        }
    )


def _shift(document: dict[str, Any]) -> Shift:
    return Shift(document["site"], tuple(document["along"]), tuple(document["shape"]))


def _slot(document: dict[str, Any]) -> Slot:
    return Slot(**{**document, "fibre": tuple(map(_slot, document.get("fibre", ())))})
