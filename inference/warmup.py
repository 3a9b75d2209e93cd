r"""Window adaptation, one step at a time: step size by dual averaging, diagonal metric by Welford's recursion.

Stan's schedule: a fast buffer in which only the step size adapts; slow windows that double in length, over each of
which the variances of the position are estimated, regularised towards a small constant, and become the inverse mass
matrix; a last fast buffer. The step size $\epsilon$ follows Nesterov's dual averaging of the error $\delta - \alpha_t$
between the wanted and the reached acceptance,

$$ \log\epsilon_{t+1} = \mu - \frac{\sqrt{t}}{\gamma} \bar h_t, \qquad
   \bar h_t = \Big(1 - \frac{1}{t + t_0}\Big) \bar h_{t-1} + \frac{\delta - \alpha_t}{t + t_0}, \qquad
   \overline{\log\epsilon}_t = t^{-\kappa} \log\epsilon_t + (1 - t^{-\kappa}) \overline{\log\epsilon}_{t-1}, $$

and starts anew, from a step size found by doubling or halving, when the metric changes. All of it is arrays in the
kernel's State, so a run stopped inside warm-up goes on to the same bits.

References:
    Hoffman and Gelman (2014), The No-U-Turn sampler, algorithms 4 and 5, https://jmlr.org/papers/v15/hoffman14a.html.
    Carpenter et al. (2017), Stan: a probabilistic programming language, https://doi.org/10.18637/jss.v076.i01.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.mcmc import integrators, metrics
from jax import Array
from jaxtyping import Float, Int, PRNGKeyArray

# Stan's defaults: lengths of the buffers and of the first window; dual averaging's constants.
_FIRST_BUFFER, _LAST_BUFFER, _FIRST_WINDOW = 75, 50, 25
_GAMMA, _T0, _KAPPA = 0.05, 10.0, 0.75
# Fewer steps than this adapt the step size alone: no variance can be had from them.
_SHORTEST_WITH_METRIC = 20
# A step size is doubled or halved at most so often: beyond it float32 has no room.
_MAX_DOUBLINGS = 60


class Point(NamedTuple):
    """A flat position with what the integrator needs there: BlackJAX's `HMCState`, typed."""

    position: Float[Array, " dim"]
    logdensity: Float[Array, ""]
    logdensity_grad: Float[Array, " dim"]


class DualAveraging(NamedTuple):
    """State of the step size's search: the equation of the module's docstring, term by term."""

    log_step: Float[Array, ""]
    log_step_mean: Float[Array, ""]
    error_mean: Float[Array, ""]
    num_steps: Float[Array, ""]
    centre: Float[Array, ""]


class Welford(NamedTuple):
    """Running mean and sum of squared deviations; the plain sum of squares fails in float32."""

    mean: Float[Array, " dim"]
    sum_squares: Float[Array, " dim"]
    num_positions: Float[Array, ""]


class Adaptation(NamedTuple):
    """What warm-up changes: the two settings in force, and the sums they come from."""

    step_size: Float[Array, ""]
    inverse_mass_matrix: Float[Array, " dim"]
    averaging: DualAveraging
    moments: Welford


class Schedule(NamedTuple):
    """When warm-up does what.

    Attributes:
        num_warmup: number of adapting steps.
        first: the first step of the slow windows.
        ends: the last step of each slow window.
    """

    num_warmup: int
    first: int
    ends: tuple[int, ...]

    @property
    def searches(self) -> tuple[int, ...]:
        """The steps that begin with a search for the step size: the first, and the one after each window."""
        return (0, *(end + 1 for end in self.ends))


def window_schedule(num_warmup: int) -> Schedule:
    """Stan's windows for a warm-up of any length.

    Args:
        num_warmup: number of adapting steps.

    Returns:
        The schedule; below 20 steps it has no window.

    Example:
        >>> window_schedule(500)
        Schedule(num_warmup=500, first=75, ends=(99, 149, 249, 449))
    """
    first, last, size = _FIRST_BUFFER, _LAST_BUFFER, _FIRST_WINDOW
    if num_warmup < _SHORTEST_WITH_METRIC:
        return Schedule(num_warmup, num_warmup, ())
    if num_warmup < first + last + size:
        first, last = int(0.15 * num_warmup), int(0.1 * num_warmup)
        size = num_warmup - first - last
    stop = num_warmup - last
    ends, begin = [], first
    while begin < stop:
        # A window swallows what is left where the next one, twice as long, would not fit.
        begin = stop if begin + 3 * size > stop else begin + size
        ends.append(begin - 1)
        size *= 2
    return Schedule(num_warmup, first, tuple(ends))


def start_adaptation(position: Float[Array, " dim"], step_size: float) -> Adaptation:
    """Adaptation before the first step: the given step size and the unit metric.

    Args:
        position: flat position; only its shape and dtype count.
        step_size: first step size.

    Returns:
        The adaptation.
    """
    first = jnp.asarray(step_size, position.dtype)
    return Adaptation(first, jnp.ones_like(position), _start_averaging(first), _start_moments(position))


def search_step_size(
    rng_key: PRNGKeyArray, adaptation: Adaptation, point: Point, logdensity: Callable[[Array], Array]
) -> Adaptation:
    r"""Doubles or halves the step size until one leapfrog's acceptance crosses 0.8; dual averaging starts from there.

    Hoffman and Gelman's algorithm 4, with Stan's 0.8. It costs one gradient a doubling.

    Args:
        rng_key: key of the one momentum that is used.
        adaptation: step size to begin with, and the metric.
        point: flat position with its log density and gradient.
        logdensity: log density of a flat position.

    Returns:
        The adaptation with the found step size.
    """
    metric = metrics.gaussian_euclidean(adaptation.inverse_mass_matrix)
    leapfrog: Callable[..., Any] = integrators.velocity_verlet(logdensity, metric.kinetic_energy)
    momentum: Any = metric.sample_momentum(rng_key, point.position)
    logdensity_at_point: Any = point.logdensity
    begin = integrators.IntegratorState(point.position, momentum, logdensity_at_point, point.logdensity_grad)
    energy = metric.kinetic_energy(momentum) - point.logdensity

    def is_small(step_size: Array) -> Array:
        end = leapfrog(begin, step_size)
        # False for a NaN: a step into one is too large.
        return energy - (metric.kinetic_energy(end.momentum) - end.logdensity) > np.log(0.8)

    def keeps_going(carry: tuple[Array, ...]) -> Array:
        _, was_small, small, count = carry
        return ((count < 2) | (was_small == small)) & (count < _MAX_DOUBLINGS)

    def double_or_halve(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        step_size, _, small, count = carry
        # The first round only finds the direction, so that the loop holds the one copy of the gradient.
        step_size = jnp.where(count == 0, step_size, jnp.where(small, 2.0 * step_size, 0.5 * step_size))
        return step_size, small, is_small(step_size), count + 1

    unknown = jnp.zeros((), bool)
    begin_loop = (adaptation.step_size, unknown, unknown, jnp.int32(0))
    step_size, *_ = jax.lax.while_loop(keeps_going, double_or_halve, begin_loop)
    return adaptation._replace(step_size=step_size, averaging=_start_averaging(step_size))


def adapt(
    adaptation: Adaptation,
    schedule: Schedule,
    t: Int[Array, ""],
    position: Float[Array, " dim"],
    error: Float[Array, ""],
) -> Adaptation:
    """One adapting step, after the transition.

    Args:
        adaptation: before the step.
        schedule: the windows.
        t: the step's number, below `schedule.num_warmup`.
        position: where the transition ended.
        error: wanted less reached acceptance rate.

    Returns:
        The adaptation; at the last step its step size is the averaged one.
    """
    averaging = _average(adaptation.averaging, error)
    is_slow = (t >= schedule.first) & (t <= max(schedule.ends, default=-1))
    moments = _select(is_slow, _accumulate(adaptation.moments, position), adaptation.moments)
    ends_window = jnp.isin(t, jnp.asarray(schedule.ends, jnp.int32))
    metric = jnp.where(ends_window, _regularised_variance(moments), adaptation.inverse_mass_matrix)
    log_step = jnp.where(t == schedule.num_warmup - 1, averaging.log_step_mean, averaging.log_step)
    return Adaptation(jnp.exp(log_step), metric, averaging, _select(ends_window, _start_moments(position), moments))


def _start_averaging(step_size: Float[Array, ""]) -> DualAveraging:
    log_step, zero = jnp.log(step_size), jnp.zeros_like(step_size)
    return DualAveraging(log_step, log_step, zero, zero, log_step + np.log(10.0))


def _average(averaging: DualAveraging, error: Float[Array, ""]) -> DualAveraging:
    count = averaging.num_steps + 1
    share = 1 / (count + _T0)
    error_mean = (1 - share) * averaging.error_mean + share * error
    log_step = averaging.centre - jnp.sqrt(count) / _GAMMA * error_mean
    weight = count**-_KAPPA
    log_step_mean = weight * log_step + (1 - weight) * averaging.log_step_mean
    return DualAveraging(log_step, log_step_mean, error_mean, count, averaging.centre)


def _start_moments(position: Float[Array, " dim"]) -> Welford:
    return Welford(jnp.zeros_like(position), jnp.zeros_like(position), jnp.zeros((), position.dtype))


def _accumulate(moments: Welford, position: Float[Array, " dim"]) -> Welford:
    count = moments.num_positions + 1
    deviation = position - moments.mean
    mean = moments.mean + deviation / count
    return Welford(mean, moments.sum_squares + deviation * (position - mean), count)


def _regularised_variance(moments: Welford) -> Float[Array, " dim"]:
    """Stan's shrinkage of the variances towards 1e-3, as if by five more draws."""
    count = moments.num_positions
    variance = moments.sum_squares / jnp.maximum(count - 1, 1)
    return count / (count + 5) * variance + 1e-3 * 5 / (count + 5)


def _select(condition: Array, yes: Welford, no: Welford) -> Welford:
    return Welford(*(jnp.where(condition, a, b) for a, b in zip(yes, no, strict=True)))
