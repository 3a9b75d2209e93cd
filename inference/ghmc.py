r"""Generalised Hamiltonian Monte Carlo: one leapfrog a draw, with a momentum that persists.

Each step refreshes the momentum in part, $p \leftarrow \rho\, p + \sqrt{1 - \rho^2}\, \xi$ with $\xi \sim N(0, M)$,
takes a leapfrog, and turns the momentum around if it is rejected. Rejections undo the motion, so they had better come
in bunches: the uniform variable that decides persists too. With $u$ on $(-1, 1)$ and $\Delta$ the fall of the energy,

$$ u \leftarrow ((u + 1 + \delta) \bmod 2) - 1, \qquad
   \text{accept if } |u| \le e^{\Delta}, \text{ and then } u \leftarrow u\, e^{-\Delta}. $$

References:
    Horowitz (1991), A generalized guided Monte Carlo algorithm, https://doi.org/10.1016/0370-2693(91)90812-5.
    Neal (2020), Non-reversibly updating a uniform [0,1] value for Metropolis accept/reject decisions,
    https://arxiv.org/abs/2001.11950.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.mcmc import integrators
from blackjax.mcmc import metrics as euclidean
from blackjax.mcmc.proposal import safe_energy_diff
from jax import Array
from jaxtyping import Float, Int, PRNGKeyArray

from .hamiltonian import AbstractHamiltonian, LogDensity
from .kernel import Info, arviz_info
from .settings import check_between
from .step_size import Point
from .warmup import Adaptation


class Persistent(NamedTuple):
    """What persists besides the position: the momentum, and the variable that decides."""

    momentum: Float[Array, " dim"]
    uniform: Float[Array, ""]


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class GHMC(AbstractHamiltonian):
    r"""Generalised Hamiltonian Monte Carlo.

    Args:
        persistence: the $\rho$ of the module's equation, per step: the momentum lasts about $1 / (1 - \rho)$ leapfrogs.
        drift: the $\delta$ of the module's equation.
        num_warmup: number of adapting steps; with 0 the step size and the unit metric stay as they are.
        target_acceptance_rate: what the step size is adapted to; high, since each rejection turns the chain around.
        step_size: where the search for the step size begins.
        divergence_threshold: rise of the energy above which a transition counts as divergent.
        metric: ``"gradient"``, ``"diagonal"``, ``"dense"`` or ``"low_rank"``; `metrics` has their formulae.

    Raises:
        ValueError: a setting is out of its range.

    Example:
        >>> GHMC(persistence=0.9).drift
        0.05
    """

    persistence: float = 0.9
    drift: float = 0.05
    target_acceptance_rate: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("drift", self.drift, 0.0, 2.0)
        if not 0 <= self.persistence < 1:
            raise ValueError(f"GHMC needs 0 <= persistence < 1, got {self.persistence!r}; 0.9 is a good choice.")

    def _remember(self, rng_key: PRNGKeyArray, position: Float[Array, " dim"]) -> Persistent:
        key_momentum, key_uniform = jax.random.split(rng_key)
        momentum = jax.random.normal(key_momentum, position.shape, position.dtype)
        return Persistent(momentum, jax.random.uniform(key_uniform, (), position.dtype, -1.0, 1.0))

    def _transition(
        self,
        rng_key: PRNGKeyArray,
        point: Point,
        logdensity: LogDensity,
        adaptation: Adaptation,
        memory: Persistent,
        t: Int[Array, ""],
    ) -> tuple[Point, Persistent, Info]:
        del t
        metric = euclidean.default_metric(adaptation.inverse_mass_matrix)
        leapfrog: Callable[..., Any] = integrators.velocity_verlet(logdensity, metric.kinetic_energy)
        fresh: Any = metric.sample_momentum(rng_key, point.position)
        momentum = self.persistence * memory.momentum + (1 - self.persistence**2) ** 0.5 * fresh
        at_point: Any = point.logdensity
        begin = integrators.IntegratorState(point.position, momentum, at_point, point.logdensity_grad)
        end = leapfrog(begin, adaptation.step_size)

        gain = safe_energy_diff(_energy(metric, begin), _energy(metric, end))
        uniform = (memory.uniform + 1 + self.drift) % 2 - 1
        is_accepted = jnp.log(jnp.abs(uniform)) <= gain
        # Not times exp(-gain) in all cases: that overflows where an energy is infinite, and 0 * inf is no number.
        uniform = uniform * jnp.exp(jnp.where(is_accepted, -gain, 0))
        turned = begin._replace(momentum=-momentum)
        state = jax.tree.map(lambda a, b: jnp.where(is_accepted, a, b), end, turned)
        statistics = {
            "logdensity": state.logdensity,
            "acceptance_rate": jnp.minimum(jnp.exp(gain), 1),
            "step_size": adaptation.step_size,
            "num_integration_steps": jnp.int32(1),
            "is_divergent": -gain > self.divergence_threshold,
            "energy": _energy(metric, state),
        }
        after = Point(state.position, state.logdensity, state.logdensity_grad)
        return after, Persistent(state.momentum, uniform), arviz_info(statistics)


def _energy(metric: euclidean.Metric, state: integrators.IntegratorState) -> Any:
    return metric.kinetic_energy(state.momentum) - state.logdensity
