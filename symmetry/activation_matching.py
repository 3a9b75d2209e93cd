r"""Activation matching: which unit of one network does what a unit of another does.

Of an axis class whose units have the activations ``Z`` at some inputs, and ``Z'`` in a reference network,

    min_sigma,s  sum_j || s_j Z[:, sigma(j)] - Z'[:, j] ||^2

is one signed linear assignment problem for each layer, however many there are. Weight matching (`align.align_to`) looks
at the weights instead, and may start from what activations say.

References:
    Ainsworth, Hayase and Srinivasa, Git Re-Basin: merging models modulo permutation symmetries, ICLR 2023.
    Li, Yosinski, Clune, Lipson and Hopcroft, Convergent learning: do different neural networks learn the same
    representations?, ICLR 2016.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from .action import AnyArray
from .assignment import AxisClass, axis_classes, solve_assignment
from .group import SymmetryGroup


def match_activations(
    group: SymmetryGroup, activations: Mapping[str, AnyArray], reference: Mapping[str, AnyArray]
) -> dict[str, np.ndarray]:
    """The permutations and signs that bring the units of one network to those of another that do the same.

    Args:
        group: The group of both; its permutations and signs are used.
        activations: Axis class to the activations of its units, ``(input, unit)``, at some inputs.
        reference: The same of the network to be matched, at the same inputs.

    Returns:
        The permutation (int32) and sign (int8) parts of an element for the classes that were given.

    Raises:
        ValueError: If a class is not one whose units are permuted or have signs, or has no plain list of units, or the
            activations do not fit it.

    Example:
        >>> from symmetry import Factor, Slot, SymmetryGroup
        >>> slots = Slot("kernel", 1, 3), Slot("head", 0, 3)
        >>> factor = Factor("units", "permutation", "hidden", 3, slots)
        >>> group = SymmetryGroup({"kernel": (2, 3), "head": (3, 1)}, (factor,))
        >>> theirs = np.random.default_rng(0).normal(size=(20, 3))
        >>> match_activations(group, {"hidden": theirs[:, [2, 0, 1]]}, {"hidden": theirs})["units"]
        array([1, 2, 0], dtype=int32)
    """
    classes = {axis_class.name: axis_class for axis_class in axis_classes(group) if axis_class.matrix is None}
    element: dict[str, np.ndarray] = {}
    for name, ours in activations.items():
        if name not in classes:
            raise ValueError(f"activations of classes among {', '.join(classes) or 'none'} were expected, got {name!r}")
        score = _inner_products(classes[name], ours, reference.get(name))
        part, _ = solve_assignment(classes[name], {(1,) * len(classes[name].signs): score[None]})
        element |= {factor: values[0] for factor, values in part.items()}
    return element


def _inner_products(
    axis_class: AxisClass, ours: AnyArray, theirs: AnyArray | None
) -> Float[np.ndarray, "unit other_unit"]:
    """``<Z'_j, Z_i>`` over the inputs."""
    size = axis_class.size
    if axis_class.num_copies > 1:
        raise ValueError(
            f"the units of {axis_class.name!r} vary over another class, and activations cannot say how; use align_to"
        )
    shapes = [np.shape(array) for array in (ours, theirs) if array is not None]
    if len(shapes) < 2 or shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][1] != size:
        raise ValueError(
            f"activations of {axis_class.name!r} of shape (input, {size}) were expected from both networks at the same "
            f"inputs, got {' and '.join(map(str, shapes))}"
        )
    return np.asarray(theirs, float).T @ np.asarray(ours, float)
