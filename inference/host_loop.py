"""Whether steps should be called one by one from the host, or many at once inside a compiled loop.

On XLA:CPU a convolution inside a compiled loop takes longer than in a step that is compiled by itself. This is a rule
by platform and primitives: a timing would decide differently from run to run, and change the draws' rounding.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax

from .kernel import Target


def prefers_host_loop(target: Target, position: Mapping[str, Any]) -> bool:
    """Whether a step of this target is better compiled by itself than within a loop over steps.

    Args:
        target: its log density is traced, not evaluated.
        position: one position, or its shapes and dtypes.

    Returns:
        True on a CPU, if the log density has a convolution.
    """
    if jax.default_backend() != "cpu":
        return False
    traced = jax.make_jaxpr(lambda target, position: target.logdensity(position))(target, position)
    return "conv_general_dilated" in _primitives(traced.jaxpr)


def _primitives(jaxpr: Any) -> Iterator[str]:
    """Names of the primitives of a jaxpr and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for parameter in jax.tree.leaves(equation.params, is_leaf=_has_equations):
            if _has_equations(parameter):
                yield from _primitives(parameter)


def _has_equations(value: Any) -> bool:
    """Whether it is a jaxpr, closed or open."""
    return hasattr(value, "eqns")
