r"""Which classes are only ever used linearly: all invertible matrices act on them.

If a class g has one scale factor, ``w'[j] = lambda_j^e w[j]`` with e = 1 or -1 at each of its places, and every value
that varies along g changes by exactly one power of lambda as well, then no equation has compared, multiplied or bent
its entries member by member. What remains are sums ``sum_j l[j] r[j]`` of one that changes with lambda and one that
changes with 1 / lambda, and these are the same for ``M l`` and ``M^-T r``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from .activations import UNARY
from .program import CARRY, ELEMENT, STACK, STEP, Equation
from .rules.linalg import WHITEN
from .sightings import Scene, Sighting

# Linear, or linear in each operand. A quotient is, in its numerator.
LINEAR = frozenset(
    {
        *(CARRY, ELEMENT, STACK, STEP),
        *("add", "add_any", "sub", "neg", "mul", "div", "dot_general", "select_n"),
        *("broadcast_in_dim", "concatenate", "copy", "convert_element_type", "expand_dims", "gather", "pad", "reshape"),
        *("dynamic_slice", "reduce_sum", "reduce_window_sum", "rev", "slice", "squeeze", "stack", "transpose"),
        *("conv_general_dilated", "cumsum", "stop_gradient", "tile", "device_put", "optimization_barrier", WHITEN),
        *("complex", "conj", "real", "imag", "fft", "dynamic_update_slice", "scatter", "scatter-add", "scatter-sub"),
    }
)


def is_linear(scenes: Sequence[Scene], exponent: Callable[[Sighting], Fraction]) -> bool:
    """Whether all invertible matrices may act on a class.

    Args:
        scenes: All equations in which the class is seen.
        exponent: The power of the class's one scale by which the value of a sighting changes along the class.
    """
    return all(
        _bends_nothing(scene.equation)
        and all(abs(exponent(sighting)) == 1 for sighting in scene.sightings if sighting.varies)
        and not _divides_by_it(scene)
        for scene in scenes
    )


def may_rotate(scenes: Sequence[Scene]) -> bool:
    """Whether a class passes through nothing but sums, products and squares, as it does in ``sum_j z[j]^2``.

    Only where this holds are rotations tried: numbers alone could not tell a function from one that bends far away.

    Args:
        scenes: All equations in which the class is seen.
    """
    return all(
        _multiplies(scene) or _squares(scene.equation)
        for scene in scenes
        if any(sighting.varies for sighting in scene.sightings)
    )


def _multiplies(scene: Scene) -> bool:
    """Whether an equation is a polynomial in what varies along the class."""
    chooses = scene.equation.primitive == "select_n" and _reads(scene, 0)
    return _bends_nothing(scene.equation) and not chooses and not _divides_by_it(scene)


def _squares(equation: Equation) -> bool:
    return equation.primitive == UNARY and equation.params["quadratic"]


def _bends_nothing(equation: Equation) -> bool:
    if equation.primitive == UNARY:
        return equation.params["parity"] == "odd" and equation.params["degree"] == 1
    return equation.primitive in LINEAR


def _divides_by_it(scene: Scene) -> bool:
    return scene.equation.primitive == "div" and _reads(scene, 1)


def _reads(scene: Scene, operand: int) -> bool:
    """Whether an operand of the equation varies along the class."""
    return any(sighting.varies and sighting.value is scene.equation.inputs[operand] for sighting in scene.sightings)
