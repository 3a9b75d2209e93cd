r"""The Metropolis-adjusted Langevin algorithm: one leapfrog a draw.

A leapfrog of step $\epsilon$ from a fresh momentum is the proposal

$$ q' = q + \tfrac{\epsilon^2}{2} M^{-1} \nabla\log\pi(q) + \epsilon M^{-1/2} \xi, \qquad \xi \sim N(0, I), $$

and its change of energy is the logarithm of the ratio of Metropolis and Hastings: MALA *is* Hamiltonian Monte Carlo of
one leapfrog, and takes metric and step size from the same warm-up.

References:
    Roberts and Tweedie (1996), Exponential convergence of Langevin distributions, https://doi.org/10.2307/3318418.
    Roberts and Rosenthal (1998), Optimal scaling of discrete approximations to Langevin diffusions,
    https://doi.org/10.1111/1467-9868.00123: the acceptance of 0.574.
"""

from dataclasses import dataclass
from typing import Any

import jax
from jax import Array
from jaxtyping import Int, PRNGKeyArray

from .hamiltonian import AbstractHamiltonian, LogDensity, integrate
from .kernel import Info
from .step_size import Point
from .warmup import Adaptation


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class MALA(AbstractHamiltonian):
    r"""The Metropolis-adjusted Langevin algorithm, preconditioned.

    Args:
        num_warmup: number of adapting steps; with 0 the step size and the unit metric stay as they are.
        target_acceptance_rate: what the step size is adapted to.
        step_size: the $\epsilon$ of the module's equation, where its search begins.
        divergence_threshold: rise of the energy above which a transition counts as divergent.
        metric: ``"gradient"``, ``"diagonal"``, ``"dense"`` or ``"low_rank"``; `metrics` has their formulae.

    Raises:
        ValueError: a setting is out of its range.

    Example:
        >>> MALA().target_acceptance_rate
        0.574
    """

    target_acceptance_rate: float = 0.574

    def _transition(
        self,
        rng_key: PRNGKeyArray,
        point: Point,
        logdensity: LogDensity,
        adaptation: Adaptation,
        memory: Any,
        t: Int[Array, ""],
    ) -> tuple[Point, Any, Info]:
        del t
        point, info, _ = integrate(rng_key, point, logdensity, adaptation, 1, self.divergence_threshold)
        return point, memory, info
