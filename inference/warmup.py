r"""Warm-up of the Hamiltonian kernels, one step at a time: step size and metric over windows of growing length.

At first only the step size adapts; then come windows, each half as long again as the one before it: over each the
metric is estimated, and the next begins with it; in a last buffer the step size settles at the last metric. The step
size's averaging starts anew with each metric, from a step size found by doubling or halving where the metric first
leaves unity, and later from the one that was reached. All of it is arrays in the kernel's State, so a run stopped
inside warm-up goes on to the same bits.

References:
    Carpenter et al. (2017), Stan: a probabilistic programming language, https://doi.org/10.18637/jss.v076.i01.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from .metrics import Sums, accumulate, estimate, identity, start_sums
from .step_size import Averaging, Point, average, search_step_size, start_averaging

# Lengths of the first buffer and window, growth of the windows, and the last buffer's share with its bounds.
_FIRST_BUFFER, _FIRST_WINDOW, _GROWTH = 20, 30, 1.5
_LAST_SHARE, _LAST_SHORTEST, _LAST_LONGEST = 0.15, 5, 75
# Fewer steps than this adapt the step size alone: no variance can be had from them.
_SHORTEST_WITH_METRIC = 20


class Adaptation(NamedTuple):
    """What warm-up changes: the two settings in force, and the sums they come from."""

    step_size: Float[Array, ""]
    inverse_mass_matrix: Any
    averaging: Averaging
    sums: Sums


class Schedule(NamedTuple):
    """When warm-up does what.

    Attributes:
        num_warmup: number of adapting steps.
        first: the first step of the windows.
        ends: the last step of each window.
    """

    num_warmup: int
    first: int
    ends: tuple[int, ...]

    @property
    def searches(self) -> tuple[int, ...]:
        """The steps that begin with a search for the step size: the first, and the one after the first window."""
        return (0, *(end + 1 for end in self.ends[:1]))

    @property
    def settled(self) -> int:
        """The first step of the last buffer."""
        return self.ends[-1] + 1 if self.ends else self.num_warmup

    def ends_window(self, t: Int[Array, ""]) -> Bool[Array, ""]:
        """Whether step `t` is the last of a window."""
        return jnp.isin(t, jnp.asarray(self.ends, jnp.int32))


def window_schedule(num_warmup: int) -> Schedule:
    """The windows of a warm-up of any length.

    Args:
        num_warmup: number of adapting steps.

    Returns:
        The schedule; below 20 steps it has no window.

    Example:
        >>> window_schedule(500)
        Schedule(num_warmup=500, first=20, ends=(49, 94, 161, 262, 424))
    """
    if num_warmup < _SHORTEST_WITH_METRIC:
        return Schedule(num_warmup, num_warmup, ())
    stop = num_warmup - min(max(int(_LAST_SHARE * num_warmup), _LAST_SHORTEST), _LAST_LONGEST)
    begin = first = min(_FIRST_BUFFER, num_warmup // 5)
    size, ends = float(_FIRST_WINDOW), []
    while begin < stop:
        # A window swallows what is left where the next one, half as long again, would not fit.
        begin = stop if begin + (1 + _GROWTH) * size > stop else begin + int(size)
        ends.append(begin - 1)
        size *= _GROWTH
    return Schedule(num_warmup, first, tuple(ends))


def start_adaptation(position: Float[Array, " dim"], step_size: float, metric: str) -> Adaptation:
    """Adaptation before the first step: the given step size and the unit metric.

    Args:
        position: flat position; only its shape and dtype count.
        step_size: first step size.
        metric: its kind, one of `metrics.METRICS`.

    Returns:
        The adaptation.
    """
    first = jnp.asarray(step_size, position.dtype)
    return Adaptation(first, identity(metric, position), start_averaging(first), start_sums(metric, position))


def search(
    rng_key: PRNGKeyArray, adaptation: Adaptation, point: Point, logdensity: Callable[[Array], Array]
) -> Adaptation:
    """The adaptation with a step size found by doubling or halving, from which the averaging starts.

    Args:
        rng_key: key of the search.
        adaptation: step size to begin with, and the metric.
        point: flat position with its log density and gradient.
        logdensity: log density of a flat position.

    Returns:
        The adaptation with the found step size.
    """
    found = search_step_size(rng_key, adaptation.step_size, adaptation.inverse_mass_matrix, point, logdensity)
    return adaptation._replace(step_size=found, averaging=start_averaging(found))


def adapt(
    adaptation: Adaptation,
    schedule: Schedule,
    t: Int[Array, ""],
    point: Point,
    error: Float[Array, ""],
    metric: str,
    add: Callable[..., Sums] = accumulate,
) -> Adaptation:
    """One adapting step, after the transition.

    Args:
        adaptation: before the step.
        schedule: the windows.
        t: the step's number, below `schedule.num_warmup`.
        point: where the transition ended.
        error: wanted less reached acceptance rate.
        metric: its kind, one of `metrics.METRICS`.
        add: adds position and gradient to the metric's sums.

    Returns:
        The adaptation; at the last step its step size is the averaged one.
    """
    averaging = average(adaptation.averaging, error)
    is_slow = (t >= schedule.first) & (t < (schedule.ends[-1] + 1 if schedule.ends else 0))
    sums = _select(is_slow, add(adaptation.sums, point.position, point.logdensity_grad), adaptation.sums)
    ends_window = schedule.ends_window(t)
    inverse_mass_matrix = jax.lax.cond(
        ends_window,
        lambda: estimate(metric, sums, adaptation.inverse_mass_matrix),
        lambda: adaptation.inverse_mass_matrix,
    )
    sums = _select(ends_window, start_sums(metric, point.position), sums)
    averaging = _select(ends_window, start_averaging(jnp.exp(averaging.log_step_mean)), averaging)
    log_step = jnp.where(t == schedule.num_warmup - 1, averaging.log_step_mean, averaging.log_step)
    return Adaptation(jnp.exp(log_step), inverse_mass_matrix, averaging, sums)


def _select[Tree](condition: Array, yes: Tree, no: Tree) -> Tree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
