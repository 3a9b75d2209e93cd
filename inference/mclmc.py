r"""Microcanonical Langevin Monte Carlo: `MCLMC`, and `AdjustedMCLMC` with a Metropolis test.

The position moves with a velocity of constant length in the metric, whose direction $u$ the gradient turns and noise
forgets over a length $L$:

$$ dx = M^{-1/2} u \, ds, \qquad
   du = (1 - u u^\top) \big( M^{-1/2} \nabla \log \pi / (d - 1) \, ds + \eta \, dW \big). $$

The integrator is BlackJAX's two-gradient McLachlan splitting. Without a Metropolis test the draws have a bias, which
the wanted variance of the energy error a dimension sets, ``desired_energy_variance``. `AdjustedMCLMC` has none.

References:
    Robnik et al. (2023), Microcanonical Hamiltonian Monte Carlo, https://arxiv.org/abs/2212.08549.
    Robnik and Seljak (2024), Fluctuation without dissipation: microcanonical Langevin Monte Carlo,
    https://arxiv.org/abs/2303.18221.
    Robnik, Cohn-Gordon and Seljak (2025), Metropolis adjusted microcanonical Hamiltonian Monte Carlo,
    https://arxiv.org/abs/2503.01707.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.mcmc import adjusted_mclmc, integrators
from blackjax.util import generate_unit_vector
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from .hamiltonian import AbstractHamiltonian, LogDensity, flatten
from .kernel import Info, Position, Target, arviz_info
from .mclmc_tuning import Outcome, Tuning, smallest_step_size, start_tuning, tune
from .settings import check_between, check_integer
from .step_size import Point
from .warmup import Adaptation

# Energy errors within so many roundings of the log density are no errors.
_ROUNDINGS = 4.0


class MicrocanonicalState(NamedTuple):
    """Where a chain stands.

    Attributes:
        position: unconstrained values by site.
        logdensity: the target's log density there.
        gradient: its gradient, flat.
        momentum: the direction, flat, of length 1.
        tuning: step size, L, metric and the sums they come from.
    """

    position: Position
    logdensity: Float[Array, ""]
    gradient: Float[Array, " dim"]
    momentum: Float[Array, " dim"]
    tuning: Tuning


class _Moving(NamedTuple):
    """A chain between integrator steps: BlackJAX's state, the tuning, and sums over a step's integrator steps."""

    point: Any
    tuning: Tuning
    squared_error: Float[Array, ""]
    diverged: Bool[Array, ""]


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class MCLMC:
    """Microcanonical Langevin Monte Carlo without a Metropolis test: cheap in many dimensions, slightly biased.

    Its statistics say how it went: ``diverging``, whether a step in it was undone, or the step size has collapsed;
    ``energy_error_variance``, a dimension, to be compared with the wanted one; ``L`` and ``step_size``. Warm-up tunes,
    and a divergence in it reduces the step size; after it nothing changes, and divergences are undone and counted.

    Args:
        num_warmup: number of adapting steps; with 0 step size, unit metric and L stay as they are.
        num_integration_steps: integrator steps a draw, of two gradients each, in warm-up as after it.
        desired_energy_variance: variance of the energy error a dimension that the step size is tuned to.
        step_size: where its search begins, a length in the metric; None: a quarter of the root of the dimension.
        divergence_threshold: energy error of one integrator step above which it counts as divergent.

    Raises:
        ValueError: a setting is out of its range.

    Example:
        >>> MCLMC(num_warmup=500).num_integration_steps
        10
    """

    num_warmup: int = 1000
    num_integration_steps: int = 10
    desired_energy_variance: float = 5e-4
    step_size: float | None = None
    divergence_threshold: float = 1000.0

    def __post_init__(self) -> None:
        check_integer("num_warmup", self.num_warmup, 0)
        check_integer("num_integration_steps", self.num_integration_steps, 1)
        check_between("desired_energy_variance", self.desired_energy_variance, 0.0, math.inf)
        check_between("divergence_threshold", self.divergence_threshold, 0.0, math.inf)
        if self.step_size is not None:
            check_between("step_size", self.step_size, 0.0, math.inf)

    def check(self, posterior: Any) -> None:
        """Refuses a posterior of one dimension, in which there is no direction to turn.

        Args:
            posterior: what is to be sampled.

        Raises:
            ValueError: it has fewer than two dimensions.
        """
        _check_dimension(sum(math.prod(shape) for shape in posterior.sites.values()), type(self).__name__)

    def init(self, rng_key: PRNGKeyArray, position: Position, target: Target) -> MicrocanonicalState:
        """State at a position; evaluates the density and its gradient once.

        Args:
            rng_key: of the first direction.
            position: unconstrained values by site.
            target: what is sampled.

        Returns:
            The state before step 0.
        """
        flat, logdensity = flatten(position, target)
        value, gradient = jax.value_and_grad(logdensity)(flat)
        direction = jnp.asarray(generate_unit_vector(rng_key, flat))
        return MicrocanonicalState(position, value, gradient, direction, start_tuning(flat, self.step_size))

    def step(
        self, rng_key: PRNGKeyArray, state: MicrocanonicalState, target: Target, t: Int[Array, ""]
    ) -> tuple[MicrocanonicalState, Info]:
        """`num_integration_steps` integrator steps; they tune where `t < num_warmup`.

        Args:
            rng_key: the step's key.
            state: before the step.
            target: what is sampled.
            t: the step's number, counted from the start of warm-up.

        Returns:
            The state after the step, and its statistics.
        """
        flat, logdensity = flatten(state.position, target)
        _, unravel = ravel_pytree(state.position)
        count = self.num_integration_steps

        def advance(i: Array, moving: _Moving) -> _Moving:
            return self._advance(jax.random.fold_in(rng_key, i), moving, logdensity, t * count + i)

        value: Any = state.logdensity
        point = integrators.IntegratorState(flat, state.momentum, value, state.gradient)
        begin = _Moving(point, state.tuning, jnp.zeros((), flat.dtype), jnp.zeros((), bool))
        (flat, momentum, value, gradient), tuning, squared, diverged = jax.lax.fori_loop(0, count, advance, begin)
        info = {
            "lp": value,
            "step_size": tuning.step_size,
            "L": tuning.L,
            "n_steps": jnp.int32(count),
            "diverging": diverged | (tuning.step_size <= smallest_step_size(flat, tuning.inverse_mass_matrix)),
            "energy_error_variance": squared / (count * flat.size),
        }
        return MicrocanonicalState(unravel(flat), value, gradient, momentum, tuning), info

    def _advance(self, rng_key: PRNGKeyArray, moving: _Moving, logdensity: LogDensity, k: Int[Array, ""]) -> _Moving:
        """One integrator step, undone where it diverges."""
        point, tuning, squared_error, diverged = moving
        key_step, key_restart = jax.random.split(rng_key)
        build: Callable[..., Any] = integrators.isokinetic_mclachlan
        integrate = integrators.with_isokinetic_maruyama(
            build(logdensity_fn=logdensity, inverse_mass_matrix=tuning.inverse_mass_matrix)
        )
        end, kinetic = integrate(point, tuning.step_size, tuning.L, key_step)
        error = kinetic - end.logdensity + point.logdensity
        size = jnp.abs(point.logdensity) + jnp.abs(end.logdensity) + point.position.size
        rounding = _ROUNDINGS * jnp.finfo(size.dtype).eps * size
        is_finite = jnp.stack([jnp.isfinite(x).all() for x in (*end, error)]).all()
        diverges = ~is_finite | (jnp.abs(error) > self.divergence_threshold + rounding)
        undone = point._replace(momentum=generate_unit_vector(key_restart, point.position))
        logdensity_before = point.logdensity
        point = jax.tree.map(lambda a, b: jnp.where(diverges, a, b), undone, end)
        error, rise = jnp.where(diverges, 0, error), end.logdensity - logdensity_before
        if self.num_warmup:
            outcome = Outcome(point.position, error, rise, rounding, diverges)
            num_steps = self.num_warmup * self.num_integration_steps
            tuning = jax.lax.cond(
                k < num_steps,
                lambda: tune(tuning, outcome, k, num_steps, self.desired_energy_variance),
                lambda: tuning,
            )
        return _Moving(point, tuning, squared_error + error**2, diverged | diverges)


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class AdjustedMCLMC(AbstractHamiltonian):
    r"""Microcanonical trajectories with a Metropolis test at their end: no bias.

    Each has a new direction and a length uniform on $(1 \pm 0.4)\, \tau \sqrt d$ in the metric; $\sqrt d$ is there the
    root of the trace of the variances. Step size and metric are tuned as those of `HMC` are; a velocity of length 1
    takes $\sqrt d$ times the step size to go as far, so that step sizes mean the same.

    Args:
        trajectory_length: $\tau$.
        longest: most integrator steps of a trajectory, of two gradients each.
        num_warmup: number of adapting steps; with 0 the step size and the unit metric stay as they are.
        target_acceptance_rate: what the step size is adapted to.
        step_size: where its search begins.
        divergence_threshold: rise of the energy above which a transition counts as divergent.
        metric: ``"gradient"``, ``"diagonal"`` or ``"low_rank"``; `metrics` has their formulae.

    Raises:
        ValueError: a setting is out of its range.

    Example:
        >>> AdjustedMCLMC(num_warmup=500).target_acceptance_rate
        0.9
    """

    trajectory_length: float = 1.5
    longest: int = 1024
    target_acceptance_rate: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("trajectory_length", self.trajectory_length, 0.0, math.inf)
        check_integer("longest", self.longest, 1)
        if self.metric == "dense":
            raise ValueError("AdjustedMCLMC has no dense metric; use 'gradient', 'diagonal' or 'low_rank'.")

    def check(self, posterior: Any) -> None:
        """Refuses a posterior of one dimension, in which there is no direction to turn.

        Args:
            posterior: what is to be sampled.

        Raises:
            ValueError: it has fewer than two dimensions.
        """
        _check_dimension(sum(math.prod(shape) for shape in posterior.sites.values()), type(self).__name__)

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
        key_length, key_transition = jax.random.split(rng_key)
        step_size, inverse_mass_matrix, *_ = adaptation
        length = self.trajectory_length * jax.random.uniform(key_length, (), step_size.dtype, 0.6, 1.4)
        count = jnp.clip(jnp.round(length / step_size), 1, self.longest).astype(jnp.int32)
        transition: Callable[..., Any] = adjusted_mclmc.build_kernel(divergence_threshold=self.divergence_threshold)
        root = np.sqrt(point.position.size).astype(point.position.dtype)
        end, info = transition(key_transition, point, logdensity, root * step_size, (count,), inverse_mass_matrix)
        statistics = arviz_info(info._asdict() | {"logdensity": end.logdensity, "step_size": step_size})
        # The energy of a microcanonical trajectory is no energy of the density's.
        statistics.pop("energy")
        return Point(*end), memory, statistics


def _check_dimension(dimension: int, name: str) -> None:
    if dimension < 2:
        raise ValueError(
            f"{name} needs a posterior of at least two dimensions, got {dimension}: its velocity has a direction only; "
            "use HMC or NUTS."
        )
