r"""How long a trajectory should be, found from the trajectories of warm-up themselves.

One trajectory says what every shorter one would have done. With $q_l$ the position after $l$ leapfrogs and $w_l$ the
probability of accepting it, the expected squared jump of a trajectory of $l$ leapfrogs is

$$ j(l) = \mathbb{E}\big[ \sqrt{w_l}\, (q_l - q_0)^\top M (q_l - q_0) \big]. $$

Of $w_l$ it is the root, because a length that is rejected too often at this step size would be kept with a smaller one:
with $w_l$ itself short trajectories, and the large steps that only they can bear, confirm each other. Every step of
warm-up records $j$ at lengths that grow geometrically, averaged over the lengths that jitter would mix. Some of the
steps explore: they set out for twice the length where it is largest, so that the length grows in a few steps where it
is too short, and nothing is compiled anew. The others are as long as those that will be kept. It needs no mean, no
variance and no other chain.

Half of the length of largest jumps is the best. Along the flow of a Gaussian of unit frequency a coordinate's
correlation falls like $\cos t$ and that of its square like $\cos^2 t$: the jump is largest at $t = \pi$, where the
coordinate has only changed its sign, and at half of that both correlations are zero. Networks are nearly even functions
of their weights, a sign's flip going with another's, and log densities are even about the mode, so that trajectories
that carry every weight to the other side bring functions back. A little less than the half is kept, `FRACTION`, because
the last leapfrogs before it gain least.

References:
    Pasarica and Gelman (2010), Adaptively scaling the Metropolis algorithm using expected squared jumped distance,
    https://www3.stat.sinica.edu.tw/statistica/oldpdf/A20n116.pdf.
    Hoffman, Radul and Sountsov (2021), An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian Monte
    Carlo, https://proceedings.mlr.press/v130/hoffman21a.html: changes of squares, and why they should be maximised.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.mcmc import hmc, proposal
from jax import Array
from jaxtyping import Bool, Float, Int, PRNGKeyArray

FRACTION = 0.4
"""The length kept, relative to the one of largest squared jumps."""

# The best length is this at first, and counts as no less in warm-up: at one leapfrog the step size could grow beyond
# what longer trajectories bear, and none of them would be found any good.
_FIRST_LENGTH = 12.0
# Share of warm-up's trajectories that explore, and their mean length relative to the best one so far.
_EXPLORING, _REACH = 0.25, 2.0
# Ratio of neighbouring lengths on the curve, and how many trajectories must have come as far for one to count.
_RATIO, _FEWEST = 2**0.25, 3.0
# After so many steps of a window the step size has settled enough for its trajectories to count; what they said is
# forgotten at this rate, and the length that is kept is the mean over about so many of the last steps.
_UNSETTLED, _MEMORY, _AVERAGED = 8, 100.0, 30.0
# The length shrinks no faster than this a step: at the beginning of a window little is known of long trajectories.
_SHRINKAGE = 0.97


class Trajectory(NamedTuple):
    """What is known of the length.

    Attributes:
        length: mean number of leapfrogs of a trajectory: of largest jumps in warm-up, the kept one after it.
        log_length_mean: running mean of its logarithm.
        num_steps: of this window.
        jumps: sums of squared jumps times the root of the acceptance, at each length of the curve.
        counts: number of terms in each sum.
    """

    length: Float[Array, ""]
    log_length_mean: Float[Array, ""]
    num_steps: Float[Array, ""]
    jumps: Float[Array, " length"]
    counts: Float[Array, " length"]


class Curve(NamedTuple):
    """One trajectory's squared jumps times the root of their acceptance, and which lengths it reached."""

    jumps: Float[Array, " length"]
    reached: Float[Array, " length"]


def curve_lengths(longest: int) -> np.ndarray:
    """The lengths at which jumps are recorded.

    Args:
        longest: the last of them.

    Returns:
        Increasing whole numbers of leapfrogs.

    Example:
        >>> curve_lengths(16).tolist()
        [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13, 16]
    """
    exponents = np.arange(int(np.log(longest) / np.log(_RATIO)) + 1)
    return np.unique([*np.round(_RATIO**exponents).astype(int), longest])


def start_trajectory(longest: int, dtype: Any) -> Trajectory:
    """Nothing known yet.

    Args:
        longest: most leapfrogs of a trajectory.
        dtype: of the sums.

    Returns:
        The state before the first step.
    """
    zeros = jnp.zeros(len(curve_lengths(longest)), dtype)
    length = jnp.asarray(min(_FIRST_LENGTH, longest), dtype)
    return Trajectory(length, jnp.log(length), jnp.zeros((), dtype), zeros, zeros)


def jittered_length(
    rng_key: PRNGKeyArray, trajectory: Trajectory, jitter: float, longest: int, is_settled: Bool[Array, ""]
) -> Int[Array, ""]:
    r"""Number of leapfrogs of the next trajectory: uniform on $(1 \pm \text{jitter}) L$, often longer in warm-up.

    Args:
        rng_key: key of the draw.
        trajectory: what is known.
        jitter: half-width of the range relative to its middle.
        longest: most leapfrogs.
        is_settled: whether the length is the kept one.

    Returns:
        The number.
    """
    u = jax.random.uniform(rng_key, (), trajectory.length.dtype)
    best = jnp.maximum(trajectory.length, _FIRST_LENGTH)
    is_exploring = ~is_settled & (u < _EXPLORING)
    kept = jnp.where(is_settled, trajectory.length, FRACTION * best)
    middle = jnp.where(is_exploring, _REACH * best, kept)
    # What is left of u once it has decided is uniform again.
    v = jnp.where(is_settled, u, jnp.where(is_exploring, u / _EXPLORING, (u - _EXPLORING) / (1 - _EXPLORING)))
    length = middle * (1 + jitter * (2 * v - 1))
    return jnp.clip(jnp.round(length), 1, longest).astype(jnp.int32)


def recorded_proposal(
    lengths: np.ndarray, distance: Callable[[Array], Array], is_recording: Bool[Array, ""]
) -> Callable[..., Any]:
    """BlackJAX's proposal of HMC, recording the squared jumps on the way.

    The trajectory stops at each length of the curve to look where it is; after warm-up it does not stop, in the same
    program.

    Args:
        lengths: where the jumps are recorded.
        distance: squared length of a displacement in the metric.
        is_recording: whether to look.

    Returns:
        A `build_proposal` of `blackjax.mcmc.hmc.build_kernel`, whose Info comes with a `Curve`.
    """

    def build(
        integrator: Callable[..., Any], kinetic_energy: Callable[..., Any], step_size: Any, count: Any, threshold: float
    ) -> Callable[..., Any]:
        def energy(state: Any) -> Any:
            return kinetic_energy(state.momentum) - state.logdensity

        def generate(rng_key: PRNGKeyArray, begin: Any) -> tuple[Any, Any, None]:
            def leapfrogs(number: Array, state: Any) -> Any:
                return jax.lax.fori_loop(0, number, lambda _, state: integrator(state, step_size), state)

            def jump(state: Any) -> Array:
                gain = proposal.safe_energy_diff(energy(begin), energy(state))
                return jnp.minimum(jnp.exp(0.5 * gain), 1) * distance(state.position - begin.position)

            end, curve = _follow(begin, leapfrogs, jump, lengths, count, is_recording)
            end = hmc.flip_momentum(end)
            gain: Any = proposal.safe_energy_diff(energy(begin), energy(end))
            chosen, (is_accepted, acceptance_rate, _) = proposal.static_binomial_sampling(rng_key, gain, begin, end)
            more: Any = (acceptance_rate, is_accepted, -gain > threshold, energy(end), end, count)
            return chosen, (hmc.HMCInfo(begin.momentum, *more), curve), None

        return generate

    return build


def _follow(
    begin: Any,
    leapfrogs: Callable[[Array, Any], Any],
    jump: Callable[[Any], Array],
    lengths: np.ndarray,
    count: Array,
    is_recording: Array,
) -> tuple[Any, Curve]:
    """The trajectory's end, and its curve; without recording it is one stretch."""
    stops = jnp.minimum(jnp.asarray(np.r_[0, lengths], jnp.int32), count)

    def go_on(k: Array, carry: tuple[Any, Curve]) -> tuple[Any, Curve]:
        state, curve = carry
        state = leapfrogs(jnp.where(is_recording, stops[k + 1] - stops[k], count), state)
        is_reached = is_recording & (jnp.asarray(lengths)[k] <= count)
        jumped = jump(state)
        jumps = curve.jumps.at[k].set(jnp.where(is_reached & jnp.isfinite(jumped), jumped, 0))
        return state, Curve(jumps, curve.reached.at[k].set(is_reached))

    zeros = jnp.zeros(len(lengths), begin.position.dtype)
    num_stretches = jnp.where(is_recording, jnp.sum(jnp.asarray(lengths) < count) + 1, 1)
    return jax.lax.fori_loop(0, num_stretches, go_on, (begin, Curve(zeros, zeros)))


def best_length(
    jumps: Float[Array, " length"], counts: Float[Array, " length"], lengths: np.ndarray, jitter: float
) -> Float[Array, ""]:
    """The length of largest jumps, among those whose jittered lengths have all been reached.

    Args:
        jumps: sums at each length.
        counts: terms of each sum.
        lengths: of the curve.
        jitter: half-width of the range of lengths relative to its middle.

    Returns:
        One of the lengths.
    """
    width = np.gradient(lengths.astype(float)) if len(lengths) > 1 else np.ones(1)
    ratio = lengths[None] / lengths[:, None]
    mixed = ((ratio >= 1 - jitter - 1e-6) & (ratio <= 1 + jitter + 1e-6)) * width
    weights = jnp.asarray(mixed, jumps.dtype) * (counts > 0)
    mean = weights @ (jumps / jnp.maximum(counts, 1e-6)) / jnp.maximum(weights.sum(1), 1e-6)
    reach = jnp.max(jnp.where(counts >= _FEWEST, jnp.asarray(lengths, jumps.dtype), 1))
    is_seen = (1 + jitter) * lengths <= 1.1 * reach
    return jnp.asarray(lengths, jumps.dtype)[jnp.argmax(jnp.where(is_seen, mean, -1))]


def adapt_trajectory(
    trajectory: Trajectory,
    curve: Curve,
    jitter: float,
    longest: int,
    ends_window: Bool[Array, ""],
    settles: Bool[Array, ""],
) -> Trajectory:
    """One step of warm-up, after its trajectory.

    Args:
        trajectory: before the step.
        curve: of the step's trajectory.
        jitter: half-width of the range of lengths relative to its middle.
        longest: most leapfrogs.
        ends_window: whether metric and step size change after this step: what was recorded counts no more.
        settles: whether the length to keep is found with this step.

    Returns:
        What is known after it.
    """
    counts_now = trajectory.num_steps >= _UNSETTLED
    keep = 1 - 1 / _MEMORY
    jumps = keep * trajectory.jumps + counts_now * curve.jumps
    counts = keep * trajectory.counts + counts_now * curve.reached
    best = best_length(jumps, counts, curve_lengths(longest), jitter)
    length = jnp.where(counts_now, jnp.maximum(best, _SHRINKAGE * trajectory.length), trajectory.length)
    share = 1 / jnp.clip(trajectory.num_steps - _UNSETTLED + 1, 1, _AVERAGED)
    log_mean = trajectory.log_length_mean + counts_now * share * (jnp.log(length) - trajectory.log_length_mean)
    kept = jnp.maximum(FRACTION * jnp.exp(log_mean), 1.0)
    forget = 1 - ends_window
    return Trajectory(
        jnp.where(settles, kept, length), log_mean, forget * (trajectory.num_steps + 1), forget * jumps, forget * counts
    )
