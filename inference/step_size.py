r"""The step size of a Hamiltonian kernel: a first guess by doubling or halving, then stochastic approximation.

The logarithm of the step size follows Robbins and Monro's recursion in the error between the reached acceptance
$\alpha_t$ and the wanted one $\delta$, and what is kept is a mean of its path,

$$ \log\epsilon_{t+1} = \log\epsilon_t + \max(g\, t^{-1/2}, g_\infty)\, (\alpha_t - \delta), \qquad
   \overline{\log\epsilon}_t = t^{-\kappa} \log\epsilon_t + (1 - t^{-\kappa}) \overline{\log\epsilon}_{t-1}. $$

Stan's dual averaging has the same fixed point, but lets $\epsilon$ swing by a factor of ten in short windows, which
spoils whatever else is measured meanwhile: the length of the trajectories above all.

References:
    Hoffman and Gelman (2014), The No-U-Turn sampler, algorithm 4, https://jmlr.org/papers/v15/hoffman14a.html.
    Andrieu and Thoms (2008), A tutorial on adaptive MCMC, https://doi.org/10.1007/s11222-008-9110-y.
    Polyak and Juditsky (1992), Acceleration of stochastic approximation by averaging,
    https://doi.org/10.1137/0330046.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.mcmc import integrators
from blackjax.mcmc import metrics as euclidean
from jax import Array
from jaxtyping import Float, PRNGKeyArray

_GAIN, _LEAST_GAIN, _KAPPA = 0.7, 0.1, 0.75
# A step size is doubled or halved at most so often: beyond it float32 has no room.
_MAX_DOUBLINGS = 60


class Point(NamedTuple):
    """A flat position with what the integrator needs there: BlackJAX's `HMCState`, typed."""

    position: Float[Array, " dim"]
    logdensity: Float[Array, ""]
    logdensity_grad: Float[Array, " dim"]


class Averaging(NamedTuple):
    """State of the step size: the equation of the module's docstring, term by term."""

    log_step: Float[Array, ""]
    log_step_mean: Float[Array, ""]
    num_steps: Float[Array, ""]


def start_averaging(step_size: Float[Array, ""]) -> Averaging:
    """The recursion before its first error.

    Args:
        step_size: where it begins.

    Returns:
        Its state.
    """
    log_step = jnp.log(step_size)
    return Averaging(log_step, log_step, jnp.zeros_like(step_size))


def average(averaging: Averaging, error: Float[Array, ""]) -> Averaging:
    """One step of the recursion.

    Args:
        averaging: before the step.
        error: wanted less reached acceptance rate.

    Returns:
        The state after it.
    """
    count = averaging.num_steps + 1
    log_step = averaging.log_step - jnp.maximum(_GAIN / jnp.sqrt(count), _LEAST_GAIN) * error
    weight = count**-_KAPPA
    return Averaging(log_step, weight * log_step + (1 - weight) * averaging.log_step_mean, count)


def search_step_size(
    rng_key: PRNGKeyArray,
    step_size: Float[Array, ""],
    inverse_mass_matrix: Any,
    point: Point,
    logdensity: Callable[[Array], Array],
) -> Float[Array, ""]:
    r"""Doubles or halves the step size until one leapfrog's acceptance crosses 0.8.

    Hoffman and Gelman's algorithm 4, with Stan's 0.8. It costs one gradient a doubling.

    Args:
        rng_key: key of the one momentum that is used.
        step_size: to begin with.
        inverse_mass_matrix: the metric, in any of BlackJAX's forms.
        point: flat position with its log density and gradient.
        logdensity: log density of a flat position.

    Returns:
        The found step size.
    """
    metric = euclidean.default_metric(inverse_mass_matrix)
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
    return jax.lax.while_loop(keeps_going, double_or_halve, (step_size, unknown, unknown, jnp.int32(0)))[0]
