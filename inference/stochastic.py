r"""What stochastic-gradient kernels share: batches, schedules, preconditioning, and diagnostics of their own.

Each gradient step moves the position and evaluates one gradient there, of the log density or of its estimate from a
batch of rows. There is no accept step, hence no acceptance rate, and the
draws have a bias that shrinks with the step size $\epsilon$. What tells of it:

* ``gradient_noise_scale``: the variance that batches add to a step over the variance that the kernel adds by itself
  (for `SGD`, which adds none, over what Langevin dynamics would add). At 0.1 the draws are up to a tenth too hot;
* ``kinetic_temperature``: mean square of the momentum, overall and by site. It should be the temperature; a site
  where it is not is simulated badly (Wenzel et al. 2020);
* ``diverging``: a step that ended at values that are not finite. It is undone, with a new momentum; in warm-up it
  halves the step size.

With batches the log density is known as an estimate alone, and is called ``lp_estimate``; ``lp`` is exact.

References:
    Ma, Chen and Fox (2015), A complete recipe for stochastic gradient MCMC, https://arxiv.org/abs/1506.04696.
    Wenzel et al. (2020), How good is the Bayes posterior in deep neural networks really?,
    https://arxiv.org/abs/2002.02405: the diagnostics.
"""

import abc
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from .kernel import Info, MinibatchTarget, Position, Target
from .preconditioning import Preconditioning, RMSprop, start_preconditioning
from .schedules import Constant, Cyclical, Phase, Schedule
from .settings import check_between, check_integer

# The variance of the gradient costs one gradient more, and is measured once in so many gradient steps.
_STEPS_A_MEASUREMENT = 50


class Motion(NamedTuple):
    """What moves beside the position; entries that a kernel has no use for are empty.

    Attributes:
        momentum: flat, in preconditioned coordinates, where its distribution is N(0, temperature).
        thermostat: friction in force.
    """

    momentum: Float[Array, " ..."]
    thermostat: Float[Array, " ..."]


class StochasticState(NamedTuple):
    """Where a chain stands.

    Attributes:
        position: unconstrained values by site.
        logdensity: the log density there, or its estimate.
        gradient: its gradient from the same rows, flat.
        motion: momentum and thermostat.
        step_factor: what divergences in warm-up left of the step size.
        preconditioning: G and the sums it comes from.
        gradient_variance: mean of G times the variance of the gradient's estimate, when last measured.
    """

    position: Position
    logdensity: Float[Array, ""]
    gradient: Float[Array, " dim"]
    motion: Motion
    step_factor: Float[Array, ""]
    preconditioning: Preconditioning
    gradient_variance: Float[Array, ""]


class Drift(NamedTuple):
    """What one gradient step is made with.

    Attributes:
        step_size: in force.
        temperature: of the noise.
        root: square roots of the diagonal of G.
    """

    step_size: Float[Array, ""]
    temperature: Float[Array, ""]
    root: Float[Array, " dim"]


@dataclass(frozen=True, kw_only=True)
class AbstractStochasticGradient(abc.ABC):
    """The settings that all have, the start, and a step around the kernel's own move."""

    step_size: float
    batch_size: int | None = None
    num_warmup: int = 1000
    num_integration_steps: int = 1
    schedule: Schedule = Constant()
    preconditioner: RMSprop | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_between("step_size", self.step_size, 0.0, math.inf)
        check_integer("num_warmup", self.num_warmup, 0)
        check_integer("num_integration_steps", self.num_integration_steps, 1)
        check_between("temperature", self.temperature, 0.0, math.inf)
        if self.batch_size is not None:
            check_integer("batch_size", self.batch_size, 1)
        if not isinstance(self.schedule, Schedule) or isinstance(self.schedule, type):
            raise ValueError(f"schedule must be Constant(), Polynomial(...) or Cyclical(...), got {self.schedule!r}.")
        if not isinstance(self.preconditioner, RMSprop | None):
            raise ValueError(f"preconditioner must be RMSprop() or None, got {self.preconditioner!r}.")

    @property
    def is_one_gradient(self) -> bool:
        """Whether a step has no loop of its own, so that the host may as well do the looping."""
        return self.num_integration_steps == 1

    def check(self, posterior: Any) -> None:
        """Refuses batches that the posterior cannot give.

        Args:
            posterior: what is to be sampled.

        Raises:
            ValueError: its rows cannot be taken apart, or are fewer than those of a batch.
        """
        check_batches(self.batch_size, posterior)

    def init(self, rng_key: PRNGKeyArray, position: Position, target: Target) -> StochasticState:
        """State at a position; evaluates the density, or its estimate, and its gradient once.

        Args:
            rng_key: key of the first batch and of the momentum.
            position: unconstrained values by site.
            target: what is sampled.

        Returns:
            The state before step 0.
        """
        key_batch, key_motion = jax.random.split(rng_key)
        flat, _ = ravel_pytree(position)
        value, gradient = self._evaluate(key_batch, flat, position, target)
        one, zero = jnp.ones((), flat.dtype), jnp.zeros((), flat.dtype)
        motion = self._start(key_motion, flat)
        return StochasticState(position, value, gradient, motion, one, start_preconditioning(flat), zero)

    def step(
        self, rng_key: PRNGKeyArray, state: StochasticState, target: Target, t: Int[Array, ""]
    ) -> tuple[StochasticState, Info]:
        """`num_integration_steps` gradient steps; those with `t < num_warmup` adapt the preconditioner.

        Args:
            rng_key: the step's key.
            state: before the step.
            target: what is sampled.
            t: the step's number, counted from the start of warm-up.

        Returns:
            The state after the step, and its statistics.
        """
        first, count = t * self.num_integration_steps, self.num_integration_steps

        def advance(i: Array | int, carry: tuple[StochasticState, Array]) -> tuple[StochasticState, Array]:
            state, diverged = carry
            state, diverges = self._advance(jax.random.fold_in(rng_key, i), state, target, first + i)
            return state, diverged | diverges

        carry = (state, jnp.zeros((), bool))
        # A loop of one step would still be a loop to the compiler.
        state, diverged = advance(0, carry) if count == 1 else jax.lax.fori_loop(0, count, advance, carry)
        return state, self._info(state, first + count - 1, diverged)

    @abc.abstractmethod
    def _start(self, rng_key: PRNGKeyArray, flat: Float[Array, " dim"]) -> Motion:
        """Motion at the start, and after a divergence."""

    @abc.abstractmethod
    def _move(
        self, rng_key: PRNGKeyArray, state: StochasticState, flat: Float[Array, " dim"], drift: Drift
    ) -> tuple[Float[Array, " dim"], Motion]:
        """The move to where the next gradient is evaluated."""

    def _arrive(self, motion: Motion, gradient: Float[Array, " dim"], drift: Drift) -> Motion:
        """What the new gradient does to the motion at once."""
        del gradient, drift
        return motion

    def _own_info(self, state: StochasticState) -> Info:
        """Statistics of this kernel alone."""
        del state
        return {}

    @property
    def _noise_rate(self) -> float:
        """Variance of the kernel's own noise, over step size and temperature."""
        return 2.0

    def _advance(
        self, rng_key: PRNGKeyArray, state: StochasticState, target: Target, k: Int[Array, ""]
    ) -> tuple[StochasticState, Bool[Array, ""]]:
        """Gradient step `k`, and whether it diverged."""
        key_move, key_batch, key_measure, key_restart = jax.random.split(rng_key, 4)
        flat, unravel = ravel_pytree(state.position)
        drift, is_warmup = self._drift(state, k)
        moved, motion = self._move(key_move, state, flat, drift)
        value, gradient = self._evaluate(key_batch, moved, state.position, target)
        motion = self._arrive(motion, gradient, drift)
        preconditioning = self._adapt(state.preconditioning, gradient, is_warmup)
        variance = self._measure(key_measure, state, moved, gradient, target, k)
        after = StochasticState(unravel(moved), value, gradient, motion, state.step_factor, preconditioning, variance)
        is_finite = jnp.stack([jnp.isfinite(x).all() for x in (moved, value, gradient, *motion)]).all()
        halved = jnp.where(is_warmup, 0.5, 1.0) * state.step_factor
        undone = state._replace(motion=self._start(key_restart, flat), step_factor=halved)
        return jax.tree.map(lambda a, b: jnp.where(is_finite, a, b), after, undone), ~is_finite

    def _phase(self, k: Int[Array, ""]) -> tuple[Phase, Bool[Array, ""]]:
        """Where the schedule stands, and whether it is still warm-up, which has the full step size and the noise."""
        since = k - self.num_warmup * self.num_integration_steps
        phase = self.schedule.phase(jnp.maximum(since, 0))
        is_warmup = since < 0
        factor = jnp.where(is_warmup, 1.0, phase.factor)
        return Phase(factor, phase.is_sampling | is_warmup, phase.cycle), is_warmup

    def _drift(self, state: StochasticState, k: Int[Array, ""]) -> tuple[Drift, Bool[Array, ""]]:
        phase, is_warmup = self._phase(k)
        step_size = (self.step_size * phase.factor).astype(state.gradient.dtype) * state.step_factor
        temperature = jnp.where(phase.is_sampling, self.temperature, 0.0).astype(state.gradient.dtype)
        return Drift(step_size, temperature, jnp.sqrt(state.preconditioning.scale)), is_warmup

    def _evaluate(
        self, rng_key: PRNGKeyArray, flat: Float[Array, " dim"], like: Position, target: Any
    ) -> tuple[Float[Array, ""], Float[Array, " dim"]]:
        _, unravel = ravel_pytree(like)

        def logdensity(flat: Array) -> Array:
            if self.batch_size is None:
                return target.logdensity(unravel(flat))
            return target.logdensity_estimate(rng_key, unravel(flat), self.batch_size)

        return jax.value_and_grad(logdensity)(flat)

    def _adapt(self, state: Preconditioning, gradient: Array, is_warmup: Array) -> Preconditioning:
        if self.preconditioner is None or self.num_warmup == 0:
            return state
        adapted = self.preconditioner.adapt(state, gradient)
        return jax.tree.map(lambda a, b: jnp.where(is_warmup, a, b), adapted, state)

    def _measure(
        self,
        rng_key: PRNGKeyArray,
        state: StochasticState,
        flat: Float[Array, " dim"],
        gradient: Float[Array, " dim"],
        target: Target,
        k: Int[Array, ""],
    ) -> Float[Array, ""]:
        """Half the mean square difference of two gradients at one position is the variance of one."""
        if self.batch_size is None:
            return state.gradient_variance

        def measure() -> Array:
            _, another = self._evaluate(rng_key, flat, state.position, target)
            return 0.5 * jnp.mean(state.preconditioning.scale * (gradient - another) ** 2)

        variance = jax.lax.cond(k % _STEPS_A_MEASUREMENT == 0, measure, lambda: state.gradient_variance)
        return jnp.where(jnp.isfinite(variance), variance, state.gradient_variance)

    def _info(self, state: StochasticState, k: Int[Array, ""], diverged: Bool[Array, ""]) -> Info:
        phase, _ = self._phase(k)
        step_size = self._drift(state, k)[0].step_size
        info = {"step_size": step_size, "diverging": diverged, "n_steps": jnp.int32(self.num_integration_steps)}
        info["lp" if self.batch_size is None else "lp_estimate"] = state.logdensity
        if self.batch_size is not None:
            noise = step_size * state.gradient_variance / (self._noise_rate * self.temperature)
            info["gradient_noise_scale"] = noise
        if isinstance(self.schedule, Cyclical):
            info |= {"cycle": phase.cycle, "is_sampling_stage": phase.is_sampling}
        return info | self._own_info(state)


def check_batches(batch_size: int | None, posterior: Any) -> None:
    """Refuses batches that a posterior cannot give.

    Args:
        batch_size: rows of a batch; None for all rows, which any posterior can give.
        posterior: what is to be sampled.

    Raises:
        ValueError: its rows cannot be taken apart, or are fewer than those of a batch.
    """
    if batch_size is None:
        return
    if not isinstance(posterior, MinibatchTarget):
        raise ValueError(f"batch_size={batch_size} needs a posterior with rows of data, got {posterior!r}.")
    if batch_size > posterior.num_rows:
        raise ValueError(
            f"batch_size must be at most the {posterior.num_rows} rows of the data, got {batch_size}; give None for "
            "all of them."
        )
