r"""Step-size schedules of stochastic-gradient kernels: factors of the step size by gradient step.

A schedule counts gradient steps $k = 0, 1, \dots$ from the end of warm-up, in which the step size is the kernel's own.
`Constant` keeps it; `Polynomial` lets it decay so that the bias vanishes in the limit; `Cyclical` restarts it again and
again: at the head of a cycle the steps are large and without noise and *explore*, in its tail they *sample*.

References:
    Welling and Teh (2011), Bayesian learning via stochastic gradient Langevin dynamics,
    https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf.
    Zhang et al. (2020), Cyclical stochastic gradient MCMC for Bayesian deep learning, https://arxiv.org/abs/1902.03932.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from .settings import check_between, check_integer


class Phase(NamedTuple):
    """Where a schedule stands.

    Attributes:
        factor: of the kernel's step size.
        is_sampling: whether the step has the noise of the kernel; without it, it explores.
        cycle: number of the cycle, from 0.
    """

    factor: Float[Array, ""]
    is_sampling: Bool[Array, ""]
    cycle: Int[Array, ""]


@runtime_checkable
class Schedule(Protocol):
    """A rule for step sizes; frozen and static, as kernels are."""

    def phase(self, k: Int[Array, ""]) -> Phase:
        """Where gradient step `k` after warm-up stands."""
        ...


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class Constant:
    """The same step size for ever: a stationary chain, with a bias that depends on the step size.

    Example:
        >>> float(Constant().phase(1000).factor)
        1.0
    """

    def phase(self, k: Int[Array, ""]) -> Phase:
        """Factor 1, always sampling."""
        return Phase(jnp.ones(()), jnp.ones((), bool), jnp.zeros_like(jnp.asarray(k)))


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class Polynomial:
    r"""A step size that decays as $(1 + k / b)^{-\gamma}$.

    With $1/2 < \gamma \le 1$ the steps add up to infinity and their squares do not: averages *weighted by the step
    size* converge to those of the posterior.

    Args:
        power: $\gamma$.
        num_steps: $b$, gradient steps after which the step size is $2^{-\gamma}$ of the first.

    Raises:
        ValueError: the power is not in (1/2, 1], or the number of steps not positive.

    Example:
        >>> float(Polynomial(power=1.0, num_steps=100).phase(100).factor)
        0.5
    """

    power: float = 0.55
    num_steps: int = 1000

    def __post_init__(self) -> None:
        if not isinstance(self.power, float | int) or not 0.5 < self.power <= 1:
            raise ValueError(
                f"Polynomial needs 1/2 < power <= 1, got {self.power!r}; others end too early or too large."
            )
        check_integer("num_steps", self.num_steps, 1)

    def phase(self, k: Int[Array, ""]) -> Phase:
        """The factor of the equation, always sampling."""
        k = jnp.asarray(k)
        return Phase((1 + k / self.num_steps) ** -self.power, jnp.ones((), bool), jnp.zeros_like(k))


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class Cyclical:
    r"""Cosine cycles of $K$ gradient steps, $\tfrac12 (1 + \cos(\pi (k \bmod K) / K))$ times the step size.

    The first part of a cycle explores: its steps have no noise, and its draws are none of the posterior. They are kept
    and told apart by ``is_sampling_stage`` in the statistics; ``cycle`` says which cycle a draw is from.

    Args:
        num_steps: gradient steps of a cycle, $K$.
        exploration: the share of a cycle that explores.

    Raises:
        ValueError: a cycle of less than two steps, or a share that is not in [0, 1).

    Example:
        >>> phase = Cyclical(num_steps=100, exploration=0.5).phase(150)
        >>> int(phase.cycle), round(float(phase.factor), 3), bool(phase.is_sampling)
        (1, 0.5, True)
    """

    num_steps: int = 5000
    exploration: float = 0.8

    def __post_init__(self) -> None:
        check_integer("num_steps", self.num_steps, 2)
        if self.exploration != 0:
            check_between("exploration", self.exploration, 0.0, 1.0)

    def phase(self, k: Int[Array, ""]) -> Phase:
        """The factor of the equation; sampling in the tail of the cycle."""
        k = jnp.asarray(k)
        done = k % self.num_steps / self.num_steps
        return Phase(0.5 * (1 + jnp.cos(math.pi * done)), done >= self.exploration, k // self.num_steps)
