r"""What the Hamiltonian kernels share: settings of the warm-up, the start, and a step around the transition.

All draw a momentum $p \sim N(0, M)$ and follow the flow of $H(q, p) = -\log\pi(q) + \tfrac12 p^\top M^{-1} p$ by
leapfrog steps; the transitions are BlackJAX's, the adaptation of step size and of $M^{-1}$ is `warmup`'s. Inside a
transition the position is one flat vector: a leapfrog is then three fused vector operations and one gradient, whatever
the number of sites.

References:
    Neal (2011), MCMC using Hamiltonian dynamics, https://arxiv.org/abs/1206.1901.
"""

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.mcmc import hmc
from blackjax.mcmc import metrics as euclidean
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, Int, PRNGKeyArray

from .kernel import Info, Position, Target, arviz_info
from .metrics import METRICS
from .settings import check_between, check_integer
from .step_size import Point
from .warmup import Adaptation, adapt, search, start_adaptation, window_schedule

LogDensity = Callable[[Array], Array]


class HamiltonianState(NamedTuple):
    """Where a chain stands, and its adaptation.

    Attributes:
        position: unconstrained values by site.
        logdensity: the target's log density there.
        gradient: its gradient, flat, in the order of `ravel_pytree(position)`.
        adaptation: step size, metric and the sums they come from.
        memory: what else the kernel carries from step to step; empty for most.
    """

    position: Position
    logdensity: Float[Array, ""]
    gradient: Float[Array, " dim"]
    adaptation: Adaptation
    memory: Any


@dataclass(frozen=True, kw_only=True)
class AbstractHamiltonian(abc.ABC):
    """Settings of the warm-up, the start, and a step around `_transition`."""

    num_warmup: int = 1000
    target_acceptance_rate: float = 0.8
    step_size: float = 1.0
    divergence_threshold: float = 1000.0
    metric: str = "gradient"

    def __post_init__(self) -> None:
        check_integer("num_warmup", self.num_warmup, 0)
        check_between("target_acceptance_rate", self.target_acceptance_rate, 0.0, 1.0)
        check_between("step_size", self.step_size, 0.0, math.inf)
        check_between("divergence_threshold", self.divergence_threshold, 0.0, math.inf)
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {METRICS}, got {self.metric!r}.")

    def init(self, rng_key: PRNGKeyArray, position: Position, target: Target) -> HamiltonianState:
        """State at a position; evaluates the density and its gradient once.

        Args:
            rng_key: for what the kernel carries besides the position, if it is random.
            position: unconstrained values by site.
            target: what is sampled.

        Returns:
            The state before step 0.
        """
        flat, logdensity = flatten(position, target)
        value, gradient = jax.value_and_grad(logdensity)(flat)
        adaptation = start_adaptation(flat, self.step_size, self.metric)
        return HamiltonianState(position, value, gradient, adaptation, self._remember(rng_key, flat))

    def step(
        self, rng_key: PRNGKeyArray, state: HamiltonianState, target: Target, t: Int[Array, ""]
    ) -> tuple[HamiltonianState, Info]:
        """One transition; adapts where `t < num_warmup`.

        Args:
            rng_key: the step's key.
            state: before the step.
            target: what is sampled.
            t: the step's number, counted from the start of warm-up.

        Returns:
            The state after the step, and its statistics.
        """
        key_transition, key_search = jax.random.split(rng_key)
        flat, logdensity = flatten(state.position, target)
        point = Point(flat, state.logdensity, state.gradient)
        adaptation = self._before(key_search, state.adaptation, point, logdensity, t)
        point, memory, info = self._transition(key_transition, point, logdensity, adaptation, state.memory, t)
        adaptation = self._after(adaptation, point, info["acceptance_rate"], t)
        _, unravel = ravel_pytree(state.position)
        position = unravel(point.position)
        return HamiltonianState(position, point.logdensity, point.logdensity_grad, adaptation, memory), info

    @abc.abstractmethod
    def _transition(
        self,
        rng_key: PRNGKeyArray,
        point: Point,
        logdensity: LogDensity,
        adaptation: Adaptation,
        memory: Any,
        t: Int[Array, ""],
    ) -> tuple[Point, Any, Info]:
        """One transition at the adaptation's step size and metric: where it ends, what is carried, its statistics."""

    def _remember(self, rng_key: PRNGKeyArray, position: Float[Array, " dim"]) -> Any:
        """What is carried from step to step besides the position, before the first step."""
        del rng_key, position
        return ()

    def _before(
        self, rng_key: PRNGKeyArray, adaptation: Adaptation, point: Point, logdensity: LogDensity, t: Int[Array, ""]
    ) -> Adaptation:
        if self.num_warmup == 0:
            return adaptation
        begins = jnp.isin(t, jnp.asarray(window_schedule(self.num_warmup).searches, jnp.int32))
        begins &= t < self.num_warmup
        return jax.lax.cond(begins, lambda: search(rng_key, adaptation, point, logdensity), lambda: adaptation)

    def _after(
        self, adaptation: Adaptation, point: Point, acceptance_rate: Float[Array, ""], t: Int[Array, ""]
    ) -> Adaptation:
        if self.num_warmup == 0:
            return adaptation
        schedule = window_schedule(self.num_warmup)
        error = self.target_acceptance_rate - acceptance_rate
        return jax.lax.cond(
            t < self.num_warmup,
            lambda: adapt(adaptation, schedule, t, point, error, self.metric),
            lambda: adaptation,
        )


def flatten(position: Position, target: Target) -> tuple[Float[Array, " dim"], LogDensity]:
    """The flat position, and the log density of flat positions.

    Args:
        position: unconstrained values by site.
        target: has their log density.

    Returns:
        Both.
    """
    flat, unravel = ravel_pytree(position)
    return flat, lambda vector: target.logdensity(unravel(vector))


def integrate(
    rng_key: PRNGKeyArray,
    point: Point,
    logdensity: LogDensity,
    adaptation: Adaptation,
    num_integration_steps: int | Int[Array, ""],
    divergence_threshold: float,
    build_proposal: Callable[..., Any] = hmc.hmc_proposal,
) -> tuple[Point, Info, Any]:
    """BlackJAX's HMC transition: a trajectory of fresh momentum, and its end accepted or not.

    Args:
        rng_key: of momentum and acceptance.
        point: where it begins.
        logdensity: of flat positions.
        adaptation: step size and metric.
        num_integration_steps: leapfrogs of the trajectory.
        divergence_threshold: rise of the energy above which it counts as divergent.
        build_proposal: as of `blackjax.mcmc.hmc.build_kernel`; its Info may be BlackJAX's with something else.

    Returns:
        Where the chain is left, statistics, and what the proposal's Info came with.
    """
    transition: Callable[..., Any] = hmc.build_kernel(
        divergence_threshold=divergence_threshold, build_proposal=build_proposal
    )
    step_size, inverse_mass_matrix, *_ = adaptation
    end, info = transition(rng_key, point, logdensity, step_size, inverse_mass_matrix, num_integration_steps)
    info, more = (info, None) if isinstance(info, hmc.HMCInfo) else info
    # BlackJAX reports the proposal's energy; diagnostics of the energy want that of the state the chain is left in.
    kinetic_energy = euclidean.default_metric(inverse_mass_matrix).kinetic_energy
    energy = jnp.where(info.is_accepted, info.energy, kinetic_energy(info.momentum) - point.logdensity)
    known = {"logdensity": end.logdensity, "step_size": step_size, "energy": energy}
    return Point(*end), arviz_info(info._asdict() | known), more
