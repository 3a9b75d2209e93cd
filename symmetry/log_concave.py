r"""Exact draws from log-concave densities on the line, many at once.

Let $\psi(x) = \log f(m + x) - \log f(m)$ around the mode $m$, and $t, s > 0$ points where $\psi$ has fallen by about 1.
With

$$ \eta = -\psi(t), \quad \zeta = -\psi'(t), \quad \theta = -\psi(-s), \quad \xi = \psi'(-s), \quad
   t' = t - \eta / \zeta, \quad s' = s - \theta / \xi, $$

the density lies below 1 on $[-s', t']$ and below the tangents of $\psi$ at $t$ and $-s$ outside, so a draw from these
three pieces is accepted with a probability that does not depend on the scale of $f$. The generalised inverse Gaussian
with density $x^{\nu - 1} \exp(-(a x + b / x) / 2)$ is the special case in $\log x$ whose mode, $t$ and $s$ are known.

References:
    Devroye (2014), Random variate generation for the generalized inverse Gaussian distribution,
    https://doi.org/10.1007/s11222-012-9367-z.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, PRNGKeyArray

LogDensity = Callable[[Array], Array]
"""An elementwise function: entry `i` of its value depends on entry `i` of its argument alone."""

# Rounds of the searches for the mode and for the points of the envelope; each ends earlier where all lanes are done.
_NEWTON_STEPS, _DOUBLINGS, _BISECTIONS = 200, 60, 25
_LONGEST_NEWTON_STEP = 2.0
# A correct envelope accepts more than every fourth proposal; who is not done after so many has a NaN.
_MAX_PROPOSALS = 1000


def sample_log_concave(
    rng_key: PRNGKeyArray, logdensity: LogDensity, start: Float[Array, " lane"]
) -> Float[Array, " lane"]:
    """One exact draw a lane from log-concave densities.

    Args:
        rng_key: key of the draws.
        logdensity: elementwise, concave, with a maximum; known up to a constant a lane.
        start: where the search for the mode begins.

    Returns:
        The draws. A lane whose density is not finite gives NaN.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> draws = sample_log_concave(jax.random.key(0), lambda x: -0.5 * (x - 3.0) ** 2, jnp.zeros(10_000))
        >>> bool(jnp.abs(draws.mean() - 3.0) < 0.05)
        True
    """
    mode = find_mode(logdensity, start)
    peak = logdensity(mode)
    return mode + sample_around_mode(rng_key, lambda x: logdensity(mode + x) - peak, mode)


def sample_around_mode(rng_key: PRNGKeyArray, rise: LogDensity, like: Float[Array, " lane"]) -> Float[Array, " lane"]:
    r"""Exact draws of the distance to the mode.

    Args:
        rng_key: key of the draws.
        rise: $\psi$, elementwise and concave, at most 0 and 0 at 0. Writing it without cancellation keeps float32 good.
        like: gives the number of lanes and the dtype.

    Returns:
        The distances.
    """
    ones = jnp.ones_like(like)
    return _accept_reject(rng_key, rise, _envelope(rise, _fall_by_one(rise, ones), _fall_by_one(rise, -ones)))


def find_mode(logdensity: LogDensity, start: Float[Array, " lane"]) -> Float[Array, " lane"]:
    """Where concave functions have their maximum, by clipped Newton steps.

    Args:
        logdensity: elementwise and concave.
        start: first guess.

    Returns:
        The modes.
    """
    tolerance = 10 * jnp.finfo(start.dtype).eps

    def is_unfinished(search: tuple[Array, Array, Array]) -> Array:
        x, step, count = search
        return (count < _NEWTON_STEPS) & jnp.any(jnp.abs(step) > tolerance * (1 + jnp.abs(x)))

    def improve(search: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, _, count = search
        slope, curvature = jax.jvp(lambda y: _slope(logdensity, y), (x,), (jnp.ones_like(x),))
        # Where the curvature is lost to rounding only the direction is known.
        step = jnp.where(curvature < 0, -slope / jnp.where(curvature < 0, curvature, -1), jnp.sign(slope))
        step = jnp.clip(step, -_LONGEST_NEWTON_STEP, _LONGEST_NEWTON_STEP)
        return x + step, step, count + 1

    return lax.while_loop(is_unfinished, improve, (start, jnp.full_like(start, jnp.inf), jnp.int32(0)))[0]


def generalized_inverse_gaussian(
    rng_key: PRNGKeyArray, nu: Float[Array, " lane"], a: Float[Array, " lane"], b: Float[Array, " lane"]
) -> Float[Array, " lane"]:
    r"""Exact draws with density proportional to $x^{\nu-1} \exp(-(a x + b / x) / 2)$.

    Args:
        rng_key: key of the draws.
        nu: index, of either sign.
        a: weight of $x$, positive.
        b: weight of $1 / x$, positive.

    Returns:
        The draws.
    """
    nu, a, b = jnp.broadcast_arrays(jnp.asarray(nu), jnp.asarray(a), jnp.asarray(b))
    omega, index = jnp.sqrt(a) * jnp.sqrt(b), jnp.abs(nu)
    root = jnp.sqrt(omega**2 + index**2)
    alpha = omega**2 / (root + index)  # sqrt(omega^2 + nu^2) - |nu| without its cancellation

    def rise(x: Array) -> Array:
        return -alpha * 2 * jnp.sinh(x / 2) ** 2 - index * (jnp.expm1(x) - x)

    one = jnp.ones_like(omega)
    distance = _accept_reject(rng_key, rise, _envelope(rise, *_gig_points(alpha, index, rise(one), rise(-one))))
    mode = jnp.log(index + root) - jnp.log(omega)
    return jnp.exp(jnp.sign(nu + (nu == 0)) * (mode + distance) + 0.5 * (jnp.log(b) - jnp.log(a)))


class _Envelope(NamedTuple):
    """The three pieces above the density: $t, s$ with values and slopes, $t', s'$, and the pieces' masses p, q, r."""

    t: Array
    s: Array
    eta: Array
    zeta: Array
    theta: Array
    xi: Array
    right: Array
    left: Array

    @property
    def masses(self) -> tuple[Array, Array, Array]:
        return 1 / self.xi, self.left + self.right, 1 / self.zeta


def _envelope(rise: LogDensity, t: Array, minus_s: Array) -> _Envelope:
    eta, zeta = -rise(t), -_slope(rise, t)
    theta, xi = -rise(minus_s), _slope(rise, minus_s)
    return _Envelope(t, -minus_s, eta, zeta, theta, xi, t - eta / zeta, -minus_s - theta / xi)


def _accept_reject(rng_key: PRNGKeyArray, rise: LogDensity, envelope: _Envelope) -> Array:
    """Proposes for all lanes together until each has accepted once."""
    shape, dtype = envelope.t.shape, envelope.t.dtype
    p, q, r = envelope.masses

    def propose(count: Array) -> tuple[Array, Bool[Array, " lane"]]:
        # (0, 1]: a logarithm is taken of each.
        piece, place, height = 1 - jax.random.uniform(jax.random.fold_in(rng_key, count), (3, *shape), dtype)
        piece = piece * (p + q + r)
        right = envelope.right - r * jnp.log(place)
        left = -envelope.left + p * jnp.log(place)
        x = jnp.where(piece < q, -envelope.left + q * place, jnp.where(piece < q + r, right, left))
        above = jnp.where(x > envelope.right, -envelope.eta - envelope.zeta * (x - envelope.t), 0)
        above = jnp.where(x < -envelope.left, -envelope.theta + envelope.xi * (x + envelope.s), above)
        return x, jnp.log(height) + above <= rise(x)

    def is_unfinished(search: tuple[Array, Array, Array]) -> Array:
        _, done, count = search
        return ~done.all() & (count < _MAX_PROPOSALS)

    def retry(search: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, done, count = search
        new, accepted = propose(count)
        return jnp.where(done, x, jnp.where(accepted, new, jnp.nan)), done | accepted, count + 1

    nothing = jnp.full(shape, jnp.nan, dtype)
    return lax.while_loop(is_unfinished, retry, (nothing, jnp.zeros(shape, bool), jnp.int32(0)))[0]


def _fall_by_one(rise: LogDensity, direction: Array) -> Array:
    """A point in a direction (+1 or -1) where a function that is 0 at 0 has fallen by about 1."""

    def outwards(search: tuple[Array, Array]) -> tuple[Array, Array]:
        reach, count = search
        return jnp.where(rise(direction * reach) > -1, 2 * reach, reach), count + 1

    def is_short(search: tuple[Array, Array]) -> Array:
        reach, count = search
        return jnp.any(rise(direction * reach) > -1) & (count < _DOUBLINGS)

    reach, _ = lax.while_loop(is_short, outwards, (jnp.abs(direction), jnp.int32(0)))

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        is_low = rise(direction * middle) > -1
        return jnp.where(is_low, middle, low), jnp.where(is_low, high, middle)

    _, high = lax.fori_loop(0, _BISECTIONS, halve, (jnp.zeros_like(reach), reach))
    return direction * high


def _gig_points(alpha: Array, index: Array, at_one: Array, at_minus_one: Array) -> tuple[Array, Array]:
    """Devroye's $t$ and $-s$ for the generalised inverse Gaussian, from its rise at 1 and -1."""
    t = jnp.where(-at_one > 2, jnp.sqrt(2 / (alpha + index)), 1.0)
    t = jnp.where(-at_one < 0.5, jnp.log(4 / (alpha + 2 * index)), t)
    s = jnp.where(-at_minus_one > 2, jnp.sqrt(4 / (alpha * jnp.cosh(1.0) + index)), 1.0)
    by_alpha = jnp.log1p(1 / alpha + jnp.sqrt(1 / alpha**2 + 2 / alpha))
    s = jnp.where(-at_minus_one < 0.5, jnp.minimum(1 / jnp.maximum(index, 1e-30), by_alpha), s)
    return t, -s


def _slope(function: LogDensity, x: Array) -> Array:
    return jax.jvp(function, (x,), (jnp.ones_like(x),))[1]
