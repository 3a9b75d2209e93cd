r"""Hamiltonian Monte Carlo: `HMC` with trajectories of a given length, `NUTS` with the no-U-turn rule.

Both draw a momentum $p \sim N(0, M)$ and follow the flow of $H(q, p) = -\log\pi(q) + \tfrac12 p^\top M^{-1} p$ by
leapfrog steps; the transitions are BlackJAX's, the adaptation of step size and of the diagonal $M^{-1}$ is `warmup`'s.
Inside a transition the position is one flat vector: a leapfrog is then three fused vector operations and one gradient,
whatever the number of sites.

References:
    Neal (2011), MCMC using Hamiltonian dynamics, https://arxiv.org/abs/1206.1901.
    Hoffman and Gelman (2014), The No-U-Turn sampler, https://jmlr.org/papers/v15/hoffman14a.html.
    Betancourt (2017), A conceptual introduction to Hamiltonian Monte Carlo, https://arxiv.org/abs/1701.02434.
"""

import abc
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.mcmc import hmc, metrics, nuts
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, Int, PRNGKeyArray

from .kernel import Info, Position, Target, arviz_info
from .warmup import Adaptation, Point, adapt, search_step_size, start_adaptation, window_schedule

# The largest tree has 2**20 leapfrogs; deeper ones overflow no integer but nobody's patience.
_DEEPEST_TREE = 20


class HamiltonianState(NamedTuple):
    """Where a chain stands, and its adaptation.

    Attributes:
        position: unconstrained values by site.
        logdensity: the target's log density there.
        gradient: its gradient, flat, in the order of `ravel_pytree(position)`.
        adaptation: step size, metric and the sums they come from.
    """

    position: Position
    logdensity: Float[Array, ""]
    gradient: Float[Array, " dim"]
    adaptation: Adaptation


@dataclass(frozen=True, kw_only=True)
class AbstractHamiltonian(abc.ABC):
    """What `HMC` and `NUTS` share: settings of the adaptation, the start, and a step around the transition."""

    num_warmup: int = 1000
    target_acceptance_rate: float = 0.8
    step_size: float = 1.0
    divergence_threshold: float = 1000.0

    def __post_init__(self) -> None:
        _check_integer("num_warmup", self.num_warmup, 0, math.inf)
        _check_between("target_acceptance_rate", self.target_acceptance_rate, 0.0, 1.0)
        _check_between("step_size", self.step_size, 0.0, math.inf)
        _check_between("divergence_threshold", self.divergence_threshold, 0.0, math.inf)

    def init(self, rng_key: PRNGKeyArray, position: Position, target: Target) -> HamiltonianState:
        """State at a position; evaluates the density and its gradient once.

        Args:
            rng_key: not used: the start is the position.
            position: unconstrained values by site.
            target: what is sampled.

        Returns:
            The state before step 0.
        """
        del rng_key
        flat, logdensity = _flatten(position, target)
        value, gradient = jax.value_and_grad(logdensity)(flat)
        return HamiltonianState(position, value, gradient, start_adaptation(flat, self.step_size))

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
        flat, logdensity = _flatten(state.position, target)
        point = Point(flat, state.logdensity, state.gradient)
        adaptation = self._before(key_search, state.adaptation, point, logdensity, t)
        point, info = self._transition(key_transition, point, logdensity, adaptation)
        error = self.target_acceptance_rate - info["acceptance_rate"]
        adaptation = self._after(adaptation, point.position, error, t)
        _, unravel = ravel_pytree(state.position)
        return HamiltonianState(unravel(point.position), point.logdensity, point.logdensity_grad, adaptation), info

    @abc.abstractmethod
    def _transition(
        self,
        rng_key: PRNGKeyArray,
        point: Point,
        logdensity: Callable[[Array], Array],
        adaptation: Adaptation,
    ) -> tuple[Point, Info]:
        """One transition at the adaptation's step size and metric."""

    def _before(
        self,
        rng_key: PRNGKeyArray,
        adaptation: Adaptation,
        point: Point,
        logdensity: Callable[[Array], Array],
        t: Int[Array, ""],
    ) -> Adaptation:
        if self.num_warmup == 0:
            return adaptation
        begins = jnp.isin(t, jnp.asarray(window_schedule(self.num_warmup).searches, jnp.int32))
        return jax.lax.cond(
            begins, lambda: search_step_size(rng_key, adaptation, point, logdensity), lambda: adaptation
        )

    def _after(
        self, adaptation: Adaptation, position: Float[Array, " dim"], error: Float[Array, ""], t: Int[Array, ""]
    ) -> Adaptation:
        if self.num_warmup == 0:
            return adaptation
        schedule = window_schedule(self.num_warmup)
        return jax.lax.cond(
            t < self.num_warmup, lambda: adapt(adaptation, schedule, t, position, error), lambda: adaptation
        )


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class HMC(AbstractHamiltonian):
    r"""Hamiltonian Monte Carlo with trajectories of about `num_integration_steps` leapfrogs.

    Each trajectory's number of leapfrogs is uniform on $(1 \pm \text{jitter}) L$: one of fixed length can hit a period
    of the flow and then never leaves its orbit.

    Args:
        num_integration_steps: mean number $L$ of leapfrogs a trajectory.
        jitter: half-width of the lengths' range relative to $L$; 0 makes every trajectory $L$ leapfrogs long.
        num_warmup: number of adapting steps; with 0 the step size and the unit metric stay as they are.
        target_acceptance_rate: what the step size is adapted to.
        step_size: where the search for the step size begins.
        divergence_threshold: rise of the energy above which a transition counts as divergent.

    Raises:
        ValueError: a setting is out of its range.

    Example:
        >>> HMC(num_integration_steps=32).lengths
        (20, 44)

    References:
        Neal (2011), section 5.3.2 for the length of a trajectory and why it should vary.
    """

    num_integration_steps: int = 32
    jitter: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_integer("num_integration_steps", self.num_integration_steps, 1, math.inf)
        if not 0 <= self.jitter < 1:
            raise ValueError(f"HMC needs 0 <= jitter < 1, got {self.jitter!r}; 0.4 is a good choice.")

    @property
    def lengths(self) -> tuple[int, int]:
        """Smallest and largest number of leapfrogs; they lie symmetrically around `num_integration_steps`."""
        spread = int(self.jitter * self.num_integration_steps)
        return self.num_integration_steps - spread, self.num_integration_steps + spread

    def _transition(
        self,
        rng_key: PRNGKeyArray,
        point: Point,
        logdensity: Callable[[Array], Array],
        adaptation: Adaptation,
    ) -> tuple[Point, Info]:
        key_length, key_transition = jax.random.split(rng_key)
        shortest, longest = self.lengths
        length = jax.random.randint(key_length, (), shortest, longest + 1, jnp.int32)
        transition: Callable[..., Any] = hmc.build_kernel(divergence_threshold=self.divergence_threshold)
        step_size, inverse_mass_matrix, *_ = adaptation
        end, info = transition(key_transition, point, logdensity, step_size, inverse_mass_matrix, length)
        # BlackJAX reports the proposal's energy; diagnostics of the energy want that of the state the chain is left in.
        kinetic_energy = metrics.gaussian_euclidean(inverse_mass_matrix).kinetic_energy
        energy = jnp.where(info.is_accepted, info.energy, kinetic_energy(info.momentum) - point.logdensity)
        more = {"logdensity": end.logdensity, "step_size": step_size, "energy": energy}
        return Point(*end), arviz_info(info._asdict() | more)


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class NUTS(AbstractHamiltonian):
    """The no-U-turn sampler, with multinomial sampling along the trajectory.

    Args:
        max_tree_depth: a trajectory has at most `2**max_tree_depth - 1` leapfrogs.
        num_warmup: number of adapting steps; with 0 the step size and the unit metric stay as they are.
        target_acceptance_rate: what the step size is adapted to.
        step_size: where the search for the step size begins.
        divergence_threshold: rise of the energy above which a transition counts as divergent.

    Raises:
        ValueError: a setting is out of its range.

    Example:
        >>> NUTS(num_warmup=500)
        NUTS(num_warmup=500, target_acceptance_rate=0.8, step_size=1.0, divergence_threshold=1000.0, max_tree_depth=10)
    """

    max_tree_depth: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_integer("max_tree_depth", self.max_tree_depth, 1, _DEEPEST_TREE)

    def _transition(
        self,
        rng_key: PRNGKeyArray,
        point: Point,
        logdensity: Callable[[Array], Array],
        adaptation: Adaptation,
    ) -> tuple[Point, Info]:
        build: Callable[..., Any] = nuts.build_kernel
        transition = build(divergence_threshold=self.divergence_threshold)
        step_size, inverse_mass_matrix, *_ = adaptation
        end, info = transition(rng_key, point, logdensity, step_size, inverse_mass_matrix, self.max_tree_depth)
        statistics = arviz_info(info._asdict() | {"logdensity": end.logdensity, "step_size": step_size})
        # Only the limit stopped it: a tree that also turned or diverged at its full depth was not cut short.
        is_cut = (info.num_trajectory_expansions >= self.max_tree_depth) & ~(info.is_turning | info.is_divergent)
        return Point(*end), statistics | {"reached_max_treedepth": is_cut}


def _flatten(position: Position, target: Target) -> tuple[Float[Array, " dim"], Callable[[Array], Array]]:
    """The flat position, and the log density of flat positions."""
    flat, unravel = ravel_pytree(position)
    return flat, lambda vector: target.logdensity(unravel(vector))


def _check_integer(name: str, value: Any, smallest: int, largest: int | float) -> None:
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or not smallest <= int(value) <= largest:
        limits = f"of at least {smallest}" if largest == math.inf else f"between {smallest} and {largest}"
        raise ValueError(f"{name} must be a whole number {limits}, got {value!r}.")


def _check_between(name: str, value: Any, low: float, high: float) -> None:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not low < float(value) < high:
        raise ValueError(f"{name} must be a number strictly between {low} and {high}, got {value!r}.")
