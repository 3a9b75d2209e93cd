r"""ChEES-HMC: chains that find trajectory length, step size and metric together.

The length $T$ climbs the change in the estimator of the expected square, estimated over the chains $c$ by

$$ \frac{\partial}{\partial T}\, \tfrac14 \mathbb{E}\big[(\|q' - \bar q'\|^2 - \|q - \bar q\|^2)^2\big] \approx
   \frac{\sum_c \alpha_c h (\|q'_c - \bar q'\|^2 - \|q_c - \bar q\|^2) (q'_c - \bar q')^\top v'_c}{\sum_c \alpha_c}, $$

with norms in the metric, $v'$ the velocity at the trajectory's end, and $h$ a Halton number by which $T$ is jittered;
Adam takes the steps, in $\log T$. The step size follows the harmonic mean of the chains' acceptance, the metric their
pooled variances. Means over chains are collective operations over `mesh.CHAIN` and `mesh.LOCAL`: all chains advance
together.

References:
    Hoffman, Radul and Sountsov (2021), An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian Monte
    Carlo, https://proceedings.mlr.press/v130/hoffman21a.html.
    Chan, Golub and LeVeque (1983), Algorithms for computing the sample variance,
    https://doi.org/10.1080/00031305.1983.10483115: pooled variances.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from blackjax.mcmc import hmc
from blackjax.mcmc import metrics as euclidean
from jax import Array
from jaxtyping import Float, Int, PRNGKeyArray

from .hamiltonian import AbstractHamiltonian, LogDensity, integrate
from .kernel import Info
from .mesh import CHAIN, LOCAL
from .metrics import Sums, Welford
from .settings import check_between, check_integer
from .step_size import Point, start_averaging
from .warmup import Adaptation, adapt, window_schedule

# The first trajectories are of about half as many leapfrogs.
_FIRST_LENGTH = 16.0
_HALTON_DIGITS = 24


class Climb(NamedTuple):
    """The search for the length.

    Attributes:
        log_length: logarithm of $T$.
        log_length_mean: its running mean, in force after warm-up.
        adam: the optimiser's moments.
    """

    log_length: Float[Array, ""]
    log_length_mean: Float[Array, ""]
    adam: Any


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class ChEES(AbstractHamiltonian):
    """Hamiltonian Monte Carlo whose chains find their settings together.

    It needs several chains, better many: with one there is no mean to deviate from, and the length stays short. Draws
    depend on all chains of the run.

    Args:
        learning_rate: of Adam, in the logarithm of the length.
        longest: most leapfrogs of a trajectory.
        num_warmup: number of adapting steps; with 0 the step size, the unit metric and 16 leapfrogs stay.
        target_acceptance_rate: what the harmonic mean of the chains' acceptance is adapted to.
        step_size: where the search for the step size begins.
        divergence_threshold: rise of the energy above which a transition counts as divergent.
        metric: ``"gradient"`` or ``"diagonal"``; `metrics` has their formulae.

    Raises:
        ValueError: a setting is out of its range.

    Example:
        >>> ChEES(num_warmup=500).crosses_chains
        True
    """

    learning_rate: float = 0.025
    longest: int = 1024
    target_acceptance_rate: float = 0.651

    crosses_chains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("learning_rate", self.learning_rate, 0.0, 1.0)
        check_integer("longest", self.longest, 1)
        if self.metric not in ("gradient", "diagonal"):
            raise ValueError(f"ChEES needs the metric 'gradient' or 'diagonal', got {self.metric!r}.")

    @property
    def _adam(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate, b1=0.0, b2=0.95)

    def _remember(self, rng_key: PRNGKeyArray, position: Float[Array, " dim"]) -> Climb:
        del rng_key
        log_length = jnp.log(jnp.asarray(_FIRST_LENGTH * self.step_size, position.dtype))
        return Climb(log_length, log_length, self._adam.init(log_length))

    def _transition(
        self,
        rng_key: PRNGKeyArray,
        point: Point,
        logdensity: LogDensity,
        adaptation: Adaptation,
        memory: Climb,
        t: Int[Array, ""],
    ) -> tuple[Point, Climb, Info]:
        is_warmup = t < self.num_warmup
        first = jnp.log(_FIRST_LENGTH * adaptation.step_size)
        begins = is_warmup & (t == 0)
        memory = memory._replace(log_length=jnp.where(begins, first, memory.log_length))
        share = _halton(t).astype(first.dtype)
        length = jnp.exp(jnp.where(is_warmup, memory.log_length, memory.log_length_mean))
        count = jnp.clip(jnp.ceil(share * length / adaptation.step_size), 1, self.longest).astype(jnp.int32)
        threshold = self.divergence_threshold
        end, info, proposal = integrate(rng_key, point, logdensity, adaptation, count, threshold, _watched)
        memory = jax.lax.cond(
            is_warmup,
            lambda: self._climb(memory, point.position, proposal, info, share, adaptation, t),
            lambda: memory,
        )
        return end, memory, info

    def _climb(
        self,
        climb: Climb,
        begin: Array,
        proposal: Any,
        info: Info,
        share: Array,
        adaptation: Adaptation,
        t: Array,
    ) -> Climb:
        """One step of Adam up the criterion."""
        scale: Callable[..., Any] = euclidean.default_metric(adaptation.inverse_mass_matrix).scale
        weight = jnp.where(info["diverging"], 0, info["acceptance_rate"])
        end = jnp.where(weight > 0, proposal.position, begin)
        total = jnp.maximum(_sum(weight), 1e-6)
        before, after = begin - _mean(begin), end - _sum(weight * end) / total
        before, after = (scale(x, x, inv=False, trans=True) for x in (before, after))
        # The proposal's momentum has been turned around.
        velocity = scale(begin, -proposal.momentum, inv=True, trans=True)
        slope = share * (after @ after - before @ before) * (after @ velocity)
        slope = _sum(jnp.where(weight > 0, weight * slope, 0)) / total
        # In the logarithm of T; Adam's sign is a descent's.
        update: Any
        update, adam = self._adam.update(-slope * jnp.exp(climb.log_length), climb.adam)
        log_step = jnp.log(adaptation.step_size)
        log_length = jnp.clip(climb.log_length + update, log_step, log_step + jnp.log(float(self.longest)))
        weight_of_mean = (t + 1.0) ** -0.5
        log_mean = weight_of_mean * log_length + (1 - weight_of_mean) * climb.log_length_mean
        return Climb(log_length, log_mean.astype(log_length.dtype), adam)

    def _before(
        self, rng_key: PRNGKeyArray, adaptation: Adaptation, point: Point, logdensity: LogDensity, t: Int[Array, ""]
    ) -> Adaptation:
        found = super()._before(rng_key, adaptation, point, logdensity, t)
        pooled = jnp.exp(_mean(jnp.log(found.step_size)))
        begins = found.averaging.num_steps == 0
        # The mean of equal numbers is only nearly that number: nothing may drift where no search was made.
        return jax.lax.cond(
            begins & (t < self.num_warmup),
            lambda: found._replace(step_size=pooled, averaging=start_averaging(pooled)),
            lambda: found,
        )

    def _after(
        self, adaptation: Adaptation, point: Point, acceptance_rate: Float[Array, ""], t: Int[Array, ""]
    ) -> Adaptation:
        if self.num_warmup == 0:
            return adaptation
        harmonic = 1 / _mean(1 / jnp.maximum(acceptance_rate, 1e-6))
        error = self.target_acceptance_rate - harmonic
        schedule = window_schedule(self.num_warmup)
        return jax.lax.cond(
            t < self.num_warmup,
            lambda: adapt(adaptation, schedule, t, point, error, self.metric, add=_pooled),
            lambda: adaptation,
        )


def _sum(x: Array) -> Array:
    return jax.lax.psum(x, (CHAIN, LOCAL))


def _mean(x: Array) -> Array:
    return jax.lax.pmean(x, (CHAIN, LOCAL))


def _pooled(sums: Sums, position: Array, gradient: Array) -> Sums:
    """Welford's sums with one more draw of each chain."""
    return tuple(_pool(moments, x) for moments, x in zip(sums, (position, gradient), strict=False))


def _pool(moments: Any, x: Array) -> Welford:
    added, mean = _sum(jnp.ones_like(moments.num_draws)), _mean(x)
    count = moments.num_draws + added
    shift = mean - moments.mean
    between = jnp.square(shift) * moments.num_draws * added / count
    return Welford(
        moments.mean + shift * added / count, moments.sum_squares + _sum(jnp.square(x - mean)) + between, count
    )


def _halton(t: Int[Array, ""]) -> Float[Array, ""]:
    """Van der Corput's sequence in base 2: the digits of t + 1 behind the point, in reverse."""
    powers = jnp.arange(_HALTON_DIGITS)
    digits = (t + 1) >> powers & 1
    return jnp.sum(digits * 2.0 ** -(powers + 1))


def _watched(*arguments: Any) -> Callable[..., Any]:
    """BlackJAX's proposal of HMC, whose Info comes with the trajectory's end."""
    generate = hmc.hmc_proposal(*arguments)

    def watched(rng_key: PRNGKeyArray, state: Any) -> tuple[Any, Any, Any]:
        chosen, info, more = generate(rng_key, state)
        return chosen, (info, info.proposal), more

    return watched
