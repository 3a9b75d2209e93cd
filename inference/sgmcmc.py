r"""Stochastic-gradient MCMC: `SGLD`, `SGHMC`, `SGNHT`, and `SGD` at a constant rate as a sampler.

All are discretised diffusions that leave $\pi^{1/T}$ invariant in the limit of small steps. With $g$ the gradient of
$\log \pi$ or its unbiased estimate from a batch, $G$ a constant diagonal preconditioner, $\xi$ standard normal:

* overdamped Langevin, $d\theta = G g \, dt + \sqrt{2 T G} \, dW$;
* underdamped Langevin with friction $\gamma$, in $u = G^{-1/2} \dot\theta$:
  $d\theta = G^{1/2} u \, dt, \; du = (G^{1/2} g - \gamma u) \, dt + \sqrt{2 \gamma T} \, dW$;
* the same with a thermostat, which replaces $\gamma$ by a variable that rises while the momentum is too hot.

Every gradient step evaluates one gradient. `stochastic` has what they share, and what their statistics mean.

References:
    Welling and Teh (2011), Bayesian learning via stochastic gradient Langevin dynamics,
    https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf.
    Chen, Fox and Guestrin (2014), Stochastic gradient Hamiltonian Monte Carlo, https://arxiv.org/abs/1402.4102.
    Ding et al. (2014), Bayesian sampling using stochastic gradient thermostats, NIPS 27.
    Leimkuhler and Matthews (2013), Rational construction of stochastic numerical methods for molecular sampling,
    https://arxiv.org/abs/1203.5428: the splitting of `SGHMC`.
    Leimkuhler and Shang (2016), Adaptive thermostats for noisy gradient systems, https://arxiv.org/abs/1505.06889: the
    splitting of `SGNHT`.
    Mandt, Hoffman and Blei (2017), Stochastic gradient descent as approximate Bayesian inference,
    https://arxiv.org/abs/1704.04289.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, PRNGKeyArray

from .kernel import Info
from .settings import check_between
from .stochastic import AbstractStochasticGradient, Drift, Motion, StochasticState


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class SGLD(AbstractStochasticGradient):
    r"""Stochastic-gradient Langevin dynamics.

    $$ \theta \leftarrow \theta + \epsilon G g + \sqrt{2 \epsilon T G} \, \xi. $$

    On a Gaussian of variance $\sigma^2$, with gradients of variance $V$ around their mean, the draws have the variance
    $(2 T + \epsilon V) \sigma^2 / (2 - \epsilon / \sigma^2)$: the bias is of order $\epsilon$.

    Args:
        step_size: $\epsilon$; at most the smallest variance of the (preconditioned) posterior, or less.
        batch_size: rows of a batch; None for all of them.
        num_warmup: steps that are not kept; those adapt the preconditioner.
        num_integration_steps: gradient steps a draw.
        schedule: factor of the step size after warm-up.
        preconditioner: `RMSprop()`, or None for $G = 1$.
        temperature: $T$; below 1 the posterior is cold.

    Raises:
        ValueError: a setting is out of its range.

    Example:
        >>> SGLD(step_size=1e-4, batch_size=32).temperature
        1.0
    """

    def _start(self, rng_key: PRNGKeyArray, flat: Float[Array, " dim"]) -> Motion:
        del rng_key
        return Motion(flat[:0], flat[:0])

    def _move(
        self, rng_key: PRNGKeyArray, state: StochasticState, flat: Float[Array, " dim"], drift: Drift
    ) -> tuple[Float[Array, " dim"], Motion]:
        noise = jax.random.normal(rng_key, flat.shape, flat.dtype)
        fall = drift.step_size * drift.root**2 * state.gradient
        return flat + fall + jnp.sqrt(2 * drift.step_size * drift.temperature) * drift.root * noise, state.motion


@dataclass(frozen=True, kw_only=True)
class AbstractUnderdamped(AbstractStochasticGradient):
    """A momentum with friction, which every gradient kicks: what `SGHMC` and `SGNHT` share."""

    friction: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("friction", self.friction, 0.0, math.inf)

    @property
    def _noise_rate(self) -> float:
        return 2.0 * self.friction

    def _draw_momentum(self, rng_key: PRNGKeyArray, flat: Float[Array, " dim"]) -> Float[Array, " dim"]:
        return math.sqrt(self.temperature) * jax.random.normal(rng_key, flat.shape, flat.dtype)

    def _arrive(self, motion: Motion, gradient: Float[Array, " dim"], drift: Drift) -> Motion:
        return motion._replace(momentum=motion.momentum + drift.step_size * drift.root * gradient)

    def _own_info(self, state: StochasticState) -> Info:
        """Mean square of the momentum: of all entries, and of each site's."""
        _, unravel = ravel_pytree(state.position)
        by_site = {f"kinetic_temperature_{n}": jnp.mean(u**2) for n, u in unravel(state.motion.momentum).items()}
        return {"kinetic_temperature": jnp.mean(state.motion.momentum**2)} | by_site


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class SGHMC(AbstractUnderdamped):
    r"""Stochastic-gradient Hamiltonian Monte Carlo: underdamped Langevin dynamics with persistent momentum.

    Half a drift, the friction's exact solution $u \leftarrow c u + \sqrt{T (1 - c^2)} \, \xi$ with
    $c = e^{-\gamma\epsilon}$, half a drift, and a kick by the one gradient of the step. With all rows the variances of
    position and momentum are exact on a Gaussian, and the bias is of order $\epsilon^2$ elsewhere; gradients of
    variance $V$ heat by about $\epsilon V / (2 \gamma)$.

    Args:
        step_size: $\epsilon$, a time: below twice the smallest standard deviation of the (preconditioned) posterior.
        batch_size: rows of a batch; None for all of them.
        num_warmup: steps that are not kept; those adapt the preconditioner.
        num_integration_steps: gradient steps a draw.
        schedule: factor of the step size after warm-up.
        preconditioner: `RMSprop()`, or None for $G = 1$.
        temperature: $T$; below 1 the posterior is cold.
        friction: $\gamma$; the momentum is forgotten within a time of $1 / \gamma$.

    Raises:
        ValueError: a setting is out of its range.

    Example:
        >>> SGHMC(step_size=1e-2, batch_size=32).friction
        1.0
    """

    def _start(self, rng_key: PRNGKeyArray, flat: Float[Array, " dim"]) -> Motion:
        return Motion(self._draw_momentum(rng_key, flat), flat[:0])

    def _move(
        self, rng_key: PRNGKeyArray, state: StochasticState, flat: Float[Array, " dim"], drift: Drift
    ) -> tuple[Float[Array, " dim"], Motion]:
        momentum = state.motion.momentum
        moved = flat + 0.5 * drift.step_size * drift.root * momentum
        kept = jnp.exp(-self.friction * drift.step_size)
        noise = jnp.sqrt(drift.temperature * (1 - kept**2)) * jax.random.normal(rng_key, flat.shape, flat.dtype)
        momentum = kept * momentum + noise
        return moved + 0.5 * drift.step_size * drift.root * momentum, state.motion._replace(momentum=momentum)


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class SGNHT(AbstractUnderdamped):
    r"""Stochastic-gradient Nosé-Hoover thermostat: a friction that takes out the heat of the batches.

    With injected noise of strength $A$ the friction $\zeta$ follows $d\zeta = (|u|^2 / d - T) \, dt$, and settles at
    $A$ plus what the gradient's noise, if the same in all directions, needs to leave the temperature at $T$. The
    splitting is thermostat, drift, friction with noise (solved exactly), drift, thermostat, and a kick by the one
    gradient of the step.

    Args:
        step_size: $\epsilon$, a time: below twice the smallest standard deviation of the (preconditioned) posterior.
        batch_size: rows of a batch; None for all of them.
        num_warmup: steps that are not kept; those adapt the preconditioner.
        num_integration_steps: gradient steps a draw.
        schedule: factor of the step size after warm-up; steps without noise have the friction $A$.
        preconditioner: `RMSprop()`, or None for $G = 1$.
        temperature: $T$; below 1 the posterior is cold.
        friction: $A$, where the thermostat starts.

    Raises:
        ValueError: a setting is out of its range.

    Example:
        >>> SGNHT(step_size=1e-2, batch_size=32).friction
        1.0
    """

    def _start(self, rng_key: PRNGKeyArray, flat: Float[Array, " dim"]) -> Motion:
        return Motion(self._draw_momentum(rng_key, flat), jnp.asarray(self.friction, flat.dtype))

    def _move(
        self, rng_key: PRNGKeyArray, state: StochasticState, flat: Float[Array, " dim"], drift: Drift
    ) -> tuple[Float[Array, " dim"], Motion]:
        momentum = state.motion.momentum
        thermostat = self._regulate(state.motion, drift)
        moved = flat + 0.5 * drift.step_size * drift.root * momentum
        # The solution of the friction's equation over a whole step; its variance is positive for either sign.
        rate = jnp.where(jnp.abs(thermostat) < 1e-6, 1e-6, thermostat)
        variance = -jnp.expm1(-2 * rate * drift.step_size) / (2 * rate) * 2 * self.friction * drift.temperature
        noise = jnp.sqrt(variance) * jax.random.normal(rng_key, flat.shape, flat.dtype)
        momentum = jnp.exp(-rate * drift.step_size) * momentum + noise
        moved = moved + 0.5 * drift.step_size * drift.root * momentum
        return moved, Motion(momentum, self._regulate(Motion(momentum, thermostat), drift))

    def _regulate(self, motion: Motion, drift: Drift) -> Float[Array, ""]:
        """Half a step of the thermostat."""
        excess = jnp.mean(motion.momentum**2) - drift.temperature
        return jnp.where(drift.temperature > 0, motion.thermostat + 0.5 * drift.step_size * excess, self.friction)

    def _own_info(self, state: StochasticState) -> Info:
        return super()._own_info(state) | {"thermostat": state.motion.thermostat}


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class SGD(AbstractStochasticGradient):
    r"""Stochastic gradient descent at a constant rate, as a sampler: an approximation, and how good is not known.

    $$ \theta \leftarrow \theta + \epsilon G g. $$

    The only noise is that of the batches. At the rate at which ``gradient_noise_scale`` is 1 it is as strong as that of
    Langevin dynamics, which is Mandt et al.'s best constant rate; so run it, and divide the step size by what is
    reported. The posterior is sampled only where the gradient's noise is the same in all directions of
    $G^{-1/2} \theta$.

    Args:
        step_size: $\epsilon$.
        batch_size: rows of a batch.
        num_warmup: steps that are not kept; those adapt the preconditioner.
        num_integration_steps: gradient steps a draw.
        schedule: factor of the step size after warm-up.
        preconditioner: `RMSprop()`, or None for $G = 1$.
        temperature: what ``gradient_noise_scale`` is relative to; it changes no step.

    Raises:
        ValueError: a setting is out of its range, or there is no batch size.

    Example:
        >>> SGD(step_size=1e-4, batch_size=32).batch_size
        32
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size is None:
            raise ValueError("SGD needs a batch_size: with all rows it has no noise, and only descends.")

    def _start(self, rng_key: PRNGKeyArray, flat: Float[Array, " dim"]) -> Motion:
        del rng_key
        return Motion(flat[:0], flat[:0])

    def _move(
        self, rng_key: PRNGKeyArray, state: StochasticState, flat: Float[Array, " dim"], drift: Drift
    ) -> tuple[Float[Array, " dim"], Motion]:
        del rng_key
        return flat + drift.step_size * drift.root**2 * state.gradient, state.motion
