"""The two passes of the rules over a program: first the axes, then, with the final trees, the characters."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from .axes import Axis, atom, pin, refine, unify
from .characters import INVARIANT, WILDCARD, Character, Kind, System
from .exchange import joint_labels
from .numeric import MAX_SIZE, is_uniform
from .program import Equation, Program, Value
from .rules import AXIS_RULES, CHARACTER_RULES
from .rules.registry import Dims


def identify_axes(program: Program) -> dict[Value, Dims]:
    """The axis trees of every value: which dimensions of which arrays are one and the same axis.

    Args:
        program: Equations in order, dead code removed.

    Returns:
        Value to one axis per dimension. Data and outputs are pinned: they must stay as they are.
    """
    axes: dict[Value, Dims] = {value: _fresh(value) for value in program.leaves.values()}
    for description, value in program.data:
        axes[value] = tuple(pin(axis, description) for axis in _fresh(value))
    for equation in program.equations:
        operands = [_operand_axes(axes, value) for value in equation.inputs]
        rule = AXIS_RULES.get(equation.primitive)
        results = _opaque(equation, operands) if rule is None else rule(equation, *operands)
        axes.update(zip(equation.outputs, results, strict=True))
    for value in program.outputs:
        for axis in _operand_axes(axes, value):
            pin(axis, "position in the output")
    return axes


def find_characters(
    program: Program,
    axes: Mapping[Value, Dims],
    kind: Kind,
    fixed: Collection[str] = (),
) -> System:
    """The linear system whose solutions are the scale or sign symmetries of the program.

    Args:
        program: The program that gave the axes.
        axes: From `identify_axes`.
        kind: Which symmetries.
        fixed: Sites that may not be multiplied, for their support forbids it.

    Returns:
        The system, with an unknown for each site and each of its axis slots.
    """
    every = dict(axes)
    for equation in program.equations:
        for value in equation.inputs:
            every.setdefault(value, _fresh(value))
    system = System(kind, every)
    characters: dict[Value, Character] = {value: INVARIANT for _, value in program.data}
    for site, value in program.leaves.items():
        characters[value] = system.leaf(site, value)
        if site in fixed:
            system.zero(characters[value])
    num_unknowns = len(system.names)
    for equation in program.equations:
        operands = [
            characters.get(value, INVARIANT) if value.constant is None else _constant_character(value, kind)
            for value in equation.inputs
        ]
        # A character rule relies on what the axis rule of its primitive has unified.
        rule = CHARACTER_RULES.get(equation.primitive) if equation.primitive in AXIS_RULES else None
        results = _rigid(equation, system, operands) if rule is None else rule(equation, system, *operands)
        characters.update(zip(equation.outputs, results, strict=True))
    for value in program.outputs:
        if value.constant is None:
            system.zero(characters.get(value, INVARIANT))
    system.hide(num_unknowns)
    system.characters = characters
    return system


def _operand_axes(axes: dict[Value, Dims], value: Value) -> Dims:
    if value.constant is not None:
        return _constant_axes(value.constant)
    if value not in axes:  # an array of the program's own that holds no numbers
        axes[value] = tuple(pin(axis, "random key") for axis in _fresh(value))
    return axes[value]


def _constant_axes(constant: np.ndarray) -> Dims:
    """Axes of known numbers: positions with equal slices are exchangeable."""
    axes = tuple(atom(size) for size in constant.shape)
    if is_uniform(constant):
        return axes
    if constant.size > MAX_SIZE:
        return tuple(pin(axis, "large constant") for axis in axes)
    joint = joint_labels(constant)
    for dim, axis in enumerate(axes):
        if joint is None or dim not in joint[0]:
            rows = np.moveaxis(constant, dim, 0)
            refine(axis, [row.tobytes() for row in rows], "unequal constants")
    if joint is not None:
        (first, second), labels = joint
        refine(unify(axes[first], axes[second]), labels, "unequal constants")
    return axes


def _constant_character(value: Value, kind: Kind) -> Character:
    """Zero may have any exponent, for positive scales an infinity too."""
    constant = value.constant
    if constant is None or not is_uniform(constant) or constant.dtype.kind not in "fiuc":
        return INVARIANT
    number = constant.flat[0]
    return WILDCARD if number == 0 or (kind == "scale" and np.isinf(number)) else INVARIANT


def _opaque(equation: Equation, operands: list[Dims]) -> list[Dims]:
    """A primitive without a rule: it may do anything to its operands."""
    reason = f"unsupported primitive {equation.primitive}"
    for axis in (axis for dims in operands for axis in dims):
        pin(axis, reason)
    return [tuple(pin(axis, reason) for axis in _fresh(value)) for value in equation.outputs]


def _rigid(equation: Equation, system: System, operands: list[Character]) -> list[Character]:
    """A primitive without a rule: only what does not change goes in."""
    for operand in operands:
        system.zero(operand)
    return [INVARIANT for _ in equation.outputs]


def _fresh(value: Value) -> tuple[Axis, ...]:
    return tuple(atom(size) for size in value.shape)
