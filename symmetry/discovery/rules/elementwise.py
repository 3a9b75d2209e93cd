"""Primitives that act entry by entry, on operands that broadcast against each other.

JAX's jaxprs broadcast implicitly: an operand may have rank 0, or length 1 where the output is longer. Neither carries
an axis there, and what is missing constrains nothing.
"""

from __future__ import annotations

from fractions import Fraction

from ..activations import UNARY
from ..axes import atom, pin, unify
from ..characters import INVARIANT, WILDCARD, Character, System
from ..numeric import ELEMENTWISE
from ..program import Equation
from .registry import Dims, axis_rule, character_rule

# Entry by entry too, but without a counterpart in NumPy that would tell a sign or scale: the axes pass, no more.
WITHOUT_VALUES = (
    "clz",
    "complex",
    "conj",
    "imag",
    "igamma_grad_a",
    "mulhi",
    "nextafter",
    "polygamma",
    "population_count",
    "random_gamma_grad",
    "real",
    "shift_left",
    "shift_right_arithmetic",
    "shift_right_logical",
    "zeta",
)


@axis_rule(UNARY, *ELEMENTWISE, *WITHOUT_VALUES)
def broadcasting(equation: Equation, *operands: Dims) -> list[Dims]:
    """``y[i, j] = f(a[i, j], b[i, j], ..)``: unify dimension by dimension."""
    shape = equation.outputs[0].shape
    full = [dims for dims in operands if dims]
    axes = []
    for dim, size in enumerate(shape):
        shared = [dims[dim] for dims in full if dims[dim].size == size]
        axes.append(unify(*shared) if shared else atom(size))
    return [tuple(axes)]


@axis_rule("bitcast_convert_type")
def bits(equation: Equation, x: Dims) -> list[Dims]:
    """``y[i] = bits of x[i]``: i passes; a last dimension for the parts of each number is pinned."""
    (source,), (target,) = equation.inputs, equation.outputs
    for axis in x[len(target.shape) :]:
        pin(axis, "part of a number")
    parts = target.shape[len(source.shape) :]
    return [(*x[: len(target.shape)], *(pin(atom(size), "part of a number") for size in parts))]


# Each output is one operand, elsewhere or later.
SAME = ("device_put", "layout_constraint", "optimization_barrier", "pvary", "reshard", "sharding_constraint")


@axis_rule(*SAME)
def same(equation: Equation, *operands: Dims) -> list[Dims]:
    """``y, z, .. = a, b, ..``: nothing changes."""
    del equation
    return list(operands)


@character_rule(*SAME)
def same_characters(equation: Equation, system: System, *operands: Character) -> list[Character]:
    """``y, z, .. = a, b, ..``: ``e_y = e_a``, ``e_z = e_b``, .."""
    del equation, system
    return list(operands)


@character_rule(UNARY)
def unary(equation: Equation, system: System, x: Character) -> list[Character]:
    """``y = f(x)``: scale ``e_y = degree e_x``, sign ``e_y = e_x`` (odd) or 0 (even); any other f needs ``e_x = 0``."""
    if x is WILDCARD:
        return [INVARIANT]
    if system.kind == "scale" and equation.params["degree"] is not None:
        return [system.power(x, equation.params["degree"])]
    if system.kind == "sign" and equation.params["parity"] is not None:
        return [system.power(x, Fraction(equation.params["parity"] == "odd"))]
    system.zero(x)
    return [INVARIANT]


@character_rule("real", "imag", "conj")
def linear(equation: Equation, system: System, x: Character) -> list[Character]:
    """``y = Re x``: ``e_y = e_x``."""
    del equation, system
    return [x]


@character_rule("add", "add_any", "complex", "sub")
def add(equation: Equation, system: System, *operands: Character) -> list[Character]:
    """``y = a + b``: ``e_a = e_b = e_y``."""
    del equation
    return [system.equal(*operands)]


@character_rule("mul")
def multiply(equation: Equation, system: System, a: Character, b: Character) -> list[Character]:
    """``y = a b``: ``e_y = e_a + e_b``."""
    del equation
    return [system.combine(a, b)]


@character_rule("div")
def divide(equation: Equation, system: System, a: Character, b: Character) -> list[Character]:
    """``y = a / b``: ``e_y = e_a - e_b``; the sign of ``a / 0`` is that of ``a``."""
    del equation
    if b is WILDCARD and system.kind == "sign":
        return [a]
    return [system.combine(a, b, -1)]


@character_rule("max", "min", "clamp")
def extremum(equation: Equation, system: System, *operands: Character) -> list[Character]:
    """``y = max(a, b)``: scale ``e_a = e_b = e_y``; a change of sign turns it into a minimum, so sign ``e = 0``."""
    del equation
    return [_ordered(system, *operands)]


@character_rule("gt", "ge", "lt", "le")
def compare(equation: Equation, system: System, *operands: Character) -> list[Character]:
    """``y = a < b``: scale ``e_a = e_b``, sign ``e_a = e_b = 0``; ``e_y = 0``."""
    del equation
    _ordered(system, *operands)
    return [INVARIANT]


@character_rule("eq", "ne")
def coincide(equation: Equation, system: System, *operands: Character) -> list[Character]:
    """``y = (a == b)``: ``e_a = e_b``; ``e_y = 0``."""
    del equation
    system.equal(*operands)
    return [INVARIANT]


@character_rule("select_n")
def select(equation: Equation, system: System, which: Character, *cases: Character) -> list[Character]:
    """``y = cases[which]``: ``e_which = 0``, all ``e_case = e_y``."""
    del equation
    system.zero(which)
    return [system.equal(*cases)]


def _ordered(system: System, *operands: Character) -> Character:
    """The exponents of operands that are compared with each other."""
    if system.kind == "scale":
        return system.equal(*operands)
    for operand in operands:
        system.zero(operand)
    return INVARIANT
