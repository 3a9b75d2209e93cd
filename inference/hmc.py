r"""Hamiltonian Monte Carlo: `HMC` with trajectories of a given or a found length, `NUTS` with the no-U-turn rule.

References:
    Hoffman and Gelman (2014), The No-U-Turn sampler, https://jmlr.org/papers/v15/hoffman14a.html.
    Betancourt (2017), A conceptual introduction to Hamiltonian Monte Carlo, https://arxiv.org/abs/1701.02434.
    Beskos et al. (2013), Optimal tuning of the hybrid Monte Carlo algorithm, https://arxiv.org/abs/1001.4460.
    Bou-Rabee and Sanz-Serna (2017), Randomized Hamiltonian Monte Carlo, https://arxiv.org/abs/1511.09382.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from blackjax.mcmc import metrics as euclidean
from blackjax.mcmc import nuts
from jax import Array
from jaxtyping import Float, Int, PRNGKeyArray

from .hamiltonian import AbstractHamiltonian, LogDensity, integrate
from .kernel import Info, arviz_info
from .settings import check_integer
from .step_size import Point
from .trajectory import (
    Trajectory,
    adapt_trajectory,
    curve_lengths,
    jittered_length,
    recorded_proposal,
    start_trajectory,
)
from .warmup import Adaptation, window_schedule

# The largest tree has 2**20 leapfrogs; deeper ones overflow no integer but nobody's patience.
_DEEPEST_TREE = 20
# Mean length where it is not given and warm-up is too short to find it.
_UNFOUND_LENGTH = 32
# A geometric length is cut at so many times its mean.
_LONGEST_GEOMETRIC = 8


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class HMC(AbstractHamiltonian):
    r"""Hamiltonian Monte Carlo that finds its own settings: the recommended kernel.

    * *Length*: warm-up's trajectories record how far, in the metric and weighted with their acceptance, every shorter
      one would have jumped; a little less than half of the length of largest jumps is kept, at which functions of many
      weights are least like what they were (`trajectory` says why).
    * *Step size*: by stochastic approximation towards an acceptance of 0.75. The optimum in many dimensions is 0.65
      (Beskos et al.); a step size too large costs more than one too small, so it is aimed at from above.
    * *Metric*: diagonal, the root of the ratio of the variances of position and gradient, over windows of growing
      length.

    All of it is a chain's own: its draws depend on its key alone. Each trajectory's number of leapfrogs is random: one
    of fixed length can hit a period of the flow and then never leaves its orbit.

    Args:
        num_integration_steps: mean number $L$ of leapfrogs a trajectory; None: it is found in warm-up.
        jitter: lengths are uniform on $(1 \pm \text{jitter}) L$; 0 makes every trajectory $L$ leapfrogs long.
        lengths: ``"uniform"``, or ``"geometric"`` of mean $L$ and cut at $8 L$, so that no period is missed (dynamic
            or randomised HMC); `jitter` then has no effect.
        longest: most leapfrogs of a trajectory while its length is sought.
        num_warmup: number of adapting steps; with 0 the step size and the unit metric stay as they are, and a length
            that is not given is 32.
        target_acceptance_rate: what the step size is adapted to.
        step_size: where the search for the step size begins.
        divergence_threshold: rise of the energy above which a transition counts as divergent.
        metric: ``"gradient"``, ``"diagonal"``, ``"dense"`` or ``"low_rank"``; `metrics` has their formulae.

    Raises:
        ValueError: a setting is out of its range.

    Example:
        >>> HMC(num_warmup=500).num_integration_steps is None
        True
        >>> HMC(num_integration_steps=32).length_range
        (20, 44)
    """

    num_integration_steps: int | None = None
    jitter: float = 0.4
    lengths: str = "uniform"
    longest: int = 1024
    target_acceptance_rate: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_integration_steps is not None:
            check_integer("num_integration_steps", self.num_integration_steps, 1)
        check_integer("longest", self.longest, 1)
        if not 0 <= self.jitter < 1:
            raise ValueError(f"HMC needs 0 <= jitter < 1, got {self.jitter!r}; 0.4 is a good choice.")
        if self.lengths not in ("uniform", "geometric"):
            raise ValueError(f"lengths must be 'uniform' or 'geometric', got {self.lengths!r}.")

    @property
    def length_range(self) -> tuple[int, int]:
        """Smallest and largest given number of leapfrogs; they lie symmetrically around `num_integration_steps`."""
        middle = self.num_integration_steps or _UNFOUND_LENGTH
        spread = int(self.jitter * middle)
        return middle - spread, middle + spread

    @property
    def _finds_length(self) -> bool:
        return self.num_integration_steps is None and bool(window_schedule(self.num_warmup).ends)

    def _remember(self, rng_key: PRNGKeyArray, position: Float[Array, " dim"]) -> Trajectory | tuple[()]:
        del rng_key
        return start_trajectory(self.longest, position.dtype) if self._finds_length else ()

    def _transition(
        self,
        rng_key: PRNGKeyArray,
        point: Point,
        logdensity: LogDensity,
        adaptation: Adaptation,
        memory: Any,
        t: Int[Array, ""],
    ) -> tuple[Point, Any, Info]:
        key_length, key_trajectory = jax.random.split(rng_key)
        if self._finds_length:
            return self._sought(key_length, key_trajectory, point, logdensity, adaptation, memory, t)
        if self.lengths == "geometric":
            mean = jnp.asarray(self.num_integration_steps or _UNFOUND_LENGTH, point.position.dtype)
            length = _geometric_length(key_length, mean)
        else:
            shortest, longest = self.length_range
            length = jax.random.randint(key_length, (), shortest, longest + 1, jnp.int32)
        point, info, _ = integrate(key_trajectory, point, logdensity, adaptation, length, self.divergence_threshold)
        return point, memory, info

    def _sought(
        self,
        key_length: PRNGKeyArray,
        key_trajectory: PRNGKeyArray,
        point: Point,
        logdensity: LogDensity,
        adaptation: Adaptation,
        trajectory: Trajectory,
        t: Int[Array, ""],
    ) -> tuple[Point, Trajectory, Info]:
        schedule = window_schedule(self.num_warmup)
        is_settled = t >= schedule.settled
        length = jittered_length(key_length, trajectory, self.jitter, self.longest, is_settled)
        if self.lengths == "geometric":
            length = jnp.where(is_settled, _geometric_length(key_length, trajectory.length), length)
        scale: Callable[..., Any] = euclidean.default_metric(adaptation.inverse_mass_matrix).scale

        def distance(jump: Array) -> Array:
            return jnp.sum(jnp.square(scale(jump, jump, inv=False, trans=True)))

        build = recorded_proposal(curve_lengths(self.longest), distance, ~is_settled)
        point, info, curve = integrate(
            key_trajectory, point, logdensity, adaptation, length, self.divergence_threshold, build
        )
        trajectory = jax.lax.cond(
            is_settled,
            lambda: trajectory,
            lambda: adapt_trajectory(
                trajectory,
                curve,
                self.jitter,
                self.longest,
                schedule.ends_window(t) | (t == schedule.first - 1),
                t == schedule.settled - 1,
            ),
        )
        return point, trajectory, info


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
        metric: ``"gradient"``, ``"diagonal"``, ``"dense"`` or ``"low_rank"``; `metrics` has their formulae.

    Raises:
        ValueError: a setting is out of its range.

    Example:
        >>> NUTS(num_warmup=500).max_tree_depth
        10
    """

    max_tree_depth: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("max_tree_depth", self.max_tree_depth, 1, _DEEPEST_TREE)

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
        build: Callable[..., Any] = nuts.build_kernel
        transition = build(divergence_threshold=self.divergence_threshold)
        step_size, inverse_mass_matrix, *_ = adaptation
        end, info = transition(rng_key, point, logdensity, step_size, inverse_mass_matrix, self.max_tree_depth)
        statistics = arviz_info(info._asdict() | {"logdensity": end.logdensity, "step_size": step_size})
        # Only the limit stopped it: a tree that also turned or diverged at its full depth was not cut short.
        is_cut = (info.num_trajectory_expansions >= self.max_tree_depth) & ~(info.is_turning | info.is_divergent)
        return Point(*end), memory, statistics | {"reached_max_treedepth": is_cut}


def _geometric_length(rng_key: PRNGKeyArray, mean: Float[Array, ""]) -> Int[Array, ""]:
    """A geometric number of leapfrogs of at least one, by inversion."""
    uniform = jax.random.uniform(rng_key, (), mean.dtype, jnp.finfo(mean.dtype).tiny)
    number = jnp.ceil(jnp.log(uniform) / jnp.log1p(-1 / jnp.maximum(mean, 1.001)))
    return jnp.clip(number, 1, jnp.ceil(_LONGEST_GEOMETRIC * mean)).astype(jnp.int32)
