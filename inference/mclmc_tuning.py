r"""The tuner of `MCLMC`: step size, metric and decoherence length as warm-up steps, with divergences counted.

* *Step size.* The energy error of one integrator step has a variance of order $\epsilon^6$. With
  $\xi = \Delta E^2 / (d\, v)$ for the wanted variance $v$ a dimension, the step size follows
  $\epsilon \leftarrow \epsilon\, \bar\xi^{-1/6}$, where $\bar\xi$ is a mean over the last steps, each brought to the
  present step size by that law and weighted down where it is far from 1. One update changes $\epsilon$ by a factor
  between 1/2 and 1.3. What rounding adds to $\Delta E$ is left out: it does not fall with $\epsilon$, which would
  shrink for ever.
* *Far away.* Before the last two windows, a step that raises the log density by more than chance does at home lets the
  step size grow whatever its error: the way there needs no accuracy, and would take most of warm-up with it.
* *Divergence.* A step that ends at values that are not finite, or with a huge energy error, is undone, and has a new
  direction; it halves the step size and empties the mean. No bound is kept from it: the step size may grow again.
* *Metric.* The variances over windows that double, each smoothed towards their geometric mean.
* *Length.* $L = \sqrt{\operatorname{tr} \Sigma}$ in the metric, that is $\sqrt d$; after the last window
  $0.4\, \epsilon$ times the mean autocorrelation time, from batch means, where warm-up is long enough.

References:
    Robnik et al. (2023), Microcanonical Hamiltonian Monte Carlo, https://arxiv.org/abs/2212.08549, section 4.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

# Where windows end, as shares of warm-up; the metric is estimated over each but the last.
_ENDS = (0.05, 0.1, 0.2, 0.35, 0.6)
_SHORTEST_WINDOW = 10
# Draws that the geometric mean of the variances counts for.
_SMOOTHING = 20.0
# Steps that the mean of the energy errors looks back at, and how many factors of 10 off 1 they may be.
_MEMORY, _TRUST = 150.0, 1.5
_LARGEST_CUT, _LARGEST_GROWTH = 0.5, 1.3
# Batches, their least length, L in autocorrelation times, and bounds of L over the square root of the dimension.
_NUM_BATCHES, _SHORTEST_BATCH, _AUTOCORRELATIONS, _BOUNDS = 20, 20, 0.4, (0.3, 3.0)
# L in step sizes before there is a metric.
_FIRST_LENGTH = 10.0


class Moments(NamedTuple):
    """Running mean and sum of squared deviations of positions, by Welford's recursion."""

    mean: Float[Array, " dim"]
    sum_squares: Float[Array, " dim"]
    num_positions: Float[Array, ""]


class Tuning(NamedTuple):
    r"""What warm-up finds, and the sums it comes from.

    Attributes:
        step_size: of the integrator, $\epsilon$.
        L: length over which the direction is forgotten.
        inverse_mass_matrix: diagonal of the metric.
        error: weighted sum of the $\xi$ at the present step size.
        weight: sum of the weights.
        moments: of the positions in the present window.
        batch: of the positions in the present batch.
        batches: of the means of batches.
    """

    step_size: Float[Array, ""]
    L: Float[Array, ""]
    inverse_mass_matrix: Float[Array, " dim"]
    error: Float[Array, ""]
    weight: Float[Array, ""]
    moments: Moments
    batch: Moments
    batches: Moments


class Outcome(NamedTuple):
    r"""What one integrator step tells the tuner.

    Attributes:
        position: where it ended, or began if it was undone.
        energy_error: $\Delta E$.
        rise: of the log density.
        rounding: what rounding may have added to it.
        diverged: whether it was undone.
    """

    position: Float[Array, " dim"]
    energy_error: Float[Array, ""]
    rise: Float[Array, ""]
    rounding: Float[Array, ""]
    diverged: Bool[Array, ""]


def start_tuning(position: Float[Array, " dim"], step_size: float | None) -> Tuning:
    """Before the first step: the unit metric.

    Args:
        position: only its shape and dtype count.
        step_size: of the first step; None: a quarter of the root of the dimension.

    Returns:
        The tuning.
    """
    root = np.sqrt(position.size)
    first = jnp.asarray(0.25 * root if step_size is None else step_size, position.dtype)
    zero, none = jnp.zeros((), position.dtype), _no_moments(position)
    return Tuning(first, jnp.asarray(root, position.dtype), jnp.ones_like(position), zero, zero, none, none, none)


def tune(tuning: Tuning, outcome: Outcome, k: Int[Array, ""], num_steps: int, desired_variance: float) -> Tuning:
    """One integrator step of warm-up.

    Args:
        tuning: before the step.
        outcome: what it came to.
        k: its number.
        num_steps: integrator steps of warm-up.
        desired_variance: wanted variance of the energy error a dimension.

    Returns:
        The tuning after it.
    """
    ends, last = window_ends(num_steps)
    dim = outcome.position.size
    is_far = (k <= ends[-3]) & (outcome.rise > dim + 3 * np.sqrt(dim)) if len(ends) > 2 else jnp.zeros((), bool)
    tuning = _tune_step_size(tuning, outcome, is_far, desired_variance)
    if ends:
        is_last = k >= last
        length = max((num_steps - last) // _NUM_BATCHES, 1)
        tuning = _accumulate_all(tuning, outcome, is_last, is_last & ((k - last) % length == length - 1))
        first_metric = jnp.where(k >= ends[0], np.sqrt(dim), _FIRST_LENGTH * tuning.step_size)
        tuning = tuning._replace(L=first_metric.astype(tuning.L.dtype))
        is_end = jnp.isin(k, jnp.asarray(ends, jnp.int32))
        tuning = jax.tree.map(lambda a, b: jnp.where(is_end, a, b), _change_metric(tuning), tuning)
        if length >= _SHORTEST_BATCH:
            tuning = tuning._replace(L=jnp.where(k == num_steps - 1, _length(tuning, length), tuning.L))
    return tuning


def window_ends(num_steps: int) -> tuple[tuple[int, ...], int]:
    """The last steps of the windows, and the first step after them.

    Args:
        num_steps: integrator steps of warm-up.

    Returns:
        Both; no window where warm-up is too short for one.

    Example:
        >>> window_ends(1000)
        ((49, 99, 199, 349, 599), 600)
    """
    ends, begin = [], 0
    for share in _ENDS:
        stop = int(share * num_steps)
        if stop - begin >= _SHORTEST_WINDOW:
            ends.append(stop - 1)
            begin = stop
    return tuple(ends), begin


def smallest_step_size(position: Float[Array, " dim"], inverse_mass_matrix: Float[Array, " dim"]) -> Float[Array, ""]:
    """Steps below this are lost in the rounding of the position: a step size that gets there has collapsed.

    Args:
        position: flat position.
        inverse_mass_matrix: diagonal of the metric.

    Returns:
        The step size.
    """
    info = jnp.finfo(position.dtype)
    return jnp.maximum(0.1 * info.eps * jnp.linalg.norm(position / jnp.sqrt(inverse_mass_matrix)), info.tiny**0.5)


def _tune_step_size(tuning: Tuning, outcome: Outcome, is_far: Bool[Array, ""], desired_variance: float) -> Tuning:
    dim = outcome.position.size
    squared = jnp.maximum(outcome.energy_error**2 - outcome.rounding**2, 0)
    xi = squared / (dim * desired_variance) + 1e-8
    # An error below rounding has no law; where nothing else is known it says that the step is too small.
    is_blind = squared <= 0
    weight = jnp.where(is_blind, 0, jnp.exp(-0.5 * (jnp.log(xi) / (6 * _TRUST)) ** 2))
    decay = (_MEMORY - 1) / (_MEMORY + 1)
    error, total = decay * tuning.error + weight * xi, decay * tuning.weight + weight
    factor = jnp.clip((error / jnp.maximum(total, 1e-30)) ** (-1 / 6), _LARGEST_CUT, _LARGEST_GROWTH)
    factor = jnp.where(is_blind & (total < 1), _LARGEST_GROWTH, factor)
    is_usable = ~outcome.diverged & ~is_far & jnp.isfinite(factor)
    factor = jnp.where(is_usable, factor, jnp.where(is_far & ~outcome.diverged, _LARGEST_GROWTH, _LARGEST_CUT))
    step_size = tuning.step_size * factor
    largest = jnp.finfo(step_size.dtype).max ** 0.25
    return tuning._replace(
        step_size=jnp.clip(step_size, smallest_step_size(outcome.position, tuning.inverse_mass_matrix), largest),
        error=jnp.where(is_usable, error * factor**6, 0),
        weight=jnp.where(is_usable, total, 0),
    )


def _accumulate_all(tuning: Tuning, outcome: Outcome, is_last: Array, ends_batch: Array) -> Tuning:
    """Moments of the window, and in the last one of the batches."""
    batch = _accumulate(tuning.batch, outcome.position)
    batches = _accumulate(tuning.batches, batch.mean)
    none = _no_moments(outcome.position)
    return tuning._replace(
        moments=_accumulate(tuning.moments, outcome.position),
        batches=_select(ends_batch, batches, tuning.batches),
        batch=_select(is_last & ~ends_batch, batch, none),
    )


def _change_metric(tuning: Tuning) -> Tuning:
    """The metric of the window that ends; the step size keeps its length, and its mean starts anew."""
    count = tuning.moments.num_positions
    log_variance = jnp.log(tuning.moments.sum_squares / jnp.maximum(count - 1, 1))
    share = count / (count + _SMOOTHING)
    log_metric = share * log_variance + (1 - share) * log_variance.mean()
    shrunk = jnp.exp(0.5 * (jnp.log(tuning.inverse_mass_matrix).mean() - log_metric.mean()))
    # A coordinate that did not move has no variance.
    is_usable = jnp.isfinite(log_metric).all() & jnp.isfinite(shrunk) & (shrunk > 0)
    changed = tuning._replace(
        step_size=tuning.step_size * shrunk,
        inverse_mass_matrix=jnp.exp(log_metric),
        error=jnp.zeros_like(tuning.error),
        weight=jnp.zeros_like(tuning.weight),
    )
    chosen = jax.tree.map(lambda a, b: jnp.where(is_usable, a, b), changed, tuning)
    return chosen._replace(moments=_no_moments(tuning.moments.mean))


def _length(tuning: Tuning, batch_length: int) -> Float[Array, ""]:
    """L from the autocorrelation time, in steps: that of batch means over that of draws."""
    count = tuning.batches.num_positions
    between = tuning.batches.sum_squares / jnp.maximum(count - 1, 1)
    within = tuning.moments.sum_squares / jnp.maximum(tuning.moments.num_positions - 1, 1)
    times = batch_length * between / within
    root = np.sqrt(times.size)
    length = _AUTOCORRELATIONS * tuning.step_size * jnp.nanmean(jnp.where(jnp.isfinite(times), times, jnp.nan))
    return jnp.where(jnp.isfinite(length), jnp.clip(length, _BOUNDS[0] * root, _BOUNDS[1] * root), tuning.L)


def _no_moments(position: Float[Array, " dim"]) -> Moments:
    return Moments(jnp.zeros_like(position), jnp.zeros_like(position), jnp.zeros((), position.dtype))


def _accumulate(moments: Moments, value: Float[Array, " dim"]) -> Moments:
    count = moments.num_positions + 1
    deviation = value - moments.mean
    mean = moments.mean + deviation / count
    return Moments(mean, moments.sum_squares + deviation * (value - mean), count)


def _select(condition: Array, yes: Moments, no: Moments) -> Moments:
    return Moments(*(jnp.where(condition, a, b) for a, b in zip(yes, no, strict=True)))
