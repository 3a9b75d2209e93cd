r"""The ladder of inverse temperatures, and what is counted along it.

Neighbours $\beta_i < \beta_{i+1}$ whose states have log likelihoods $L_i$ and $L_{i+1}$ exchange them with probability
$\alpha_i = \min(1, \exp((\beta_{i+1} - \beta_i)(L_i - L_{i+1})))$. The mean rejections $r_i = 1 - \mathrm{E}\,\alpha_i$
add up to the communication barrier $\Lambda$, which hardly depends on the ladder; round trips are most frequent where
all $r_i$ are equal. So a ladder is adapted by interpolating the cumulated $r_i$ and cutting it into equal parts.

The evidence is the product of the ratios $Z_{i+1} / Z_i$ of neighbours, each by bridge sampling with the geometric
bridge: with $\delta = \beta_{i+1} - \beta_i$,

$$ \frac{Z_{i+1}}{Z_i} = \frac{\mathrm{E}_i\, e^{\delta L / 2}}{\mathrm{E}_{i+1}\, e^{-\delta L / 2}}. $$

References:
    Syed et al. (2022), Non-reversible parallel tempering: a scalable highly parallel MCMC scheme,
    https://arxiv.org/abs/1905.02939.
    Meng and Wong (1996), Simulating ratios of normalizing constants via a simple identity: a theoretical exploration,
    Statistica Sinica 6, 831-860.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from .kernel import Position

# Ladders are interpolated in beta**(1 / _POWER), where the first steps away from the prior are not too small to see.
_POWER = 4.0
# No two rungs of a new ladder are closer than this rejection rate makes them.
_SMALLEST_REJECTION = 1e-3


@partial(jax.tree_util.register_dataclass, data_fields=("target", "beta"), meta_fields=())
@dataclass(frozen=True)
class Rung:
    r"""The target of one rung: $\log\pi_0 + \beta \log L$.

    Attributes:
        target: the posterior.
        beta: inverse temperature.
    """

    target: Any
    beta: Float[Array, ""]

    def logdensity(self, position: Position) -> Float[Array, ""]:
        """Log density of one position."""
        # At the prior the likelihood is not even looked at: there it can be minus infinity.
        return self.target.logprior(position) + jax.lax.cond(
            self.beta > 0, lambda: self.beta * self.target.loglikelihood(position), lambda: jnp.zeros_like(self.beta)
        )

    def logprior(self, position: Position) -> Float[Array, ""]:
        """Log prior of one position."""
        return self.target.logprior(position)

    def loglikelihood(self, position: Position) -> Float[Array, ""]:
        """Log likelihood of one position, tempered."""
        return self.beta * self.target.loglikelihood(position)

    @property
    def num_rows(self) -> int:
        """Rows of data."""
        return self.target.num_rows

    def logdensity_estimate(self, rng_key: PRNGKeyArray, position: Position, batch_size: int) -> Float[Array, ""]:
        """Unbiased estimate of the log density."""
        estimate = self.target.logdensity_estimate(rng_key, position, batch_size)
        return (1 - self.beta) * self.target.logprior(position) + self.beta * estimate


class LogMean(NamedTuple):
    """The logarithm of running means of exponentials: a sum would stop growing in float32.

    Attributes:
        reference: largest exponent so far.
        mean: mean of the exponentials, each over that of the reference.
    """

    reference: Float[Array, " pair"]
    mean: Float[Array, " pair"]

    @property
    def value(self) -> Float[Array, " pair"]:
        """Logarithm of the mean."""
        return self.reference + jnp.log(self.mean)

    def add(self, exponent: Float[Array, " pair"], count: Float[Array, ""]) -> "LogMean":
        """With one more term, which makes `count` of them."""
        reference = jnp.maximum(self.reference, exponent)
        mean = self.mean * jnp.exp(self.reference - reference)
        return LogMean(reference, mean + (jnp.exp(exponent - reference) - mean) / count)


class Counts(NamedTuple):
    r"""What is summed since the ladder last changed, or since warm-up ended.

    Attributes:
        num_steps: steps.
        rejections: mean rejection probability of each pair of neighbours.
        upwards: log mean of $e^{\delta L / 2}$ at the lower rung of each pair.
        downwards: log mean of $e^{-\delta L / 2}$ at the upper rung.
    """

    num_steps: Float[Array, ""]
    rejections: Float[Array, " pair"]
    upwards: LogMean
    downwards: LogMean

    @property
    def log_evidence(self) -> Float[Array, ""]:
        """Estimate of the log of the posterior's normalising constant over the prior's."""
        return jnp.sum(self.upwards.value - self.downwards.value)

    def add(self, betas: Float[Array, " rung"], loglikelihoods: Float[Array, " rung"], rejections: Array) -> "Counts":
        """With one more step.

        Args:
            betas: the ladder.
            loglikelihoods: of the rungs' new positions.
            rejections: of the step's exchange, as probabilities.
        """
        count = self.num_steps + 1
        half = 0.5 * jnp.diff(betas)
        return Counts(
            count,
            self.rejections + (rejections - self.rejections) / count,
            self.upwards.add(half * loglikelihoods[:-1], count),
            self.downwards.add(-half * loglikelihoods[1:], count),
        )


class Trips(NamedTuple):
    """Who is where, and how often replicas went from the prior to the posterior and back.

    Attributes:
        replicas: which replica stands on each rung.
        heading: by replica, 1 since it was last at the prior, -1 since it then was at the posterior, 0 before.
        num_round_trips: completed ones, over all replicas.
    """

    replicas: Int[Array, " rung"]
    heading: Int[Array, " replica"]
    num_round_trips: Int[Array, ""]

    def exchange(self, order: Int[Array, " rung"]) -> "Trips":
        """After the rungs took the replicas of the rungs in `order`."""
        replicas = self.replicas[order]
        coldest, hottest = replicas[-1], replicas[0]
        heading = self.heading.at[coldest].set(jnp.where(self.heading[coldest] == 1, -1, self.heading[coldest]))
        trips = self.num_round_trips + (heading[hottest] == -1)
        return Trips(replicas, heading.at[hottest].set(1), trips)


def start_ladder(num_rungs: int) -> np.ndarray:
    """The ladder before any adaptation: from 0 to 1, dense near the prior."""
    return np.linspace(0.0, 1.0, num_rungs) ** _POWER


def start_counts(betas: Float[Array, " rung"]) -> Counts:
    """Nothing counted yet."""
    nothing = jnp.zeros(betas.size - 1, betas.dtype)
    # A finite number that any log likelihood exceeds: every number of a State that runs start from is finite.
    empty = LogMean(jnp.full_like(nothing, -1e30), nothing)
    return Counts(jnp.zeros((), betas.dtype), nothing, empty, empty)


def start_trips(num_rungs: int, replicas: Int[Array, " rung"] | None = None) -> Trips:
    """No trip begun, but by the replica at the prior.

    Args:
        num_rungs: number of rungs.
        replicas: who is where; by default replica i on rung i.
    """
    replicas = jnp.arange(num_rungs, dtype=jnp.int32) if replicas is None else replicas
    heading = jnp.zeros(num_rungs, jnp.int32).at[replicas[0]].set(1)
    return Trips(replicas, heading, jnp.zeros((), jnp.int32))


def acceptance_log(betas: Float[Array, " rung"], loglikelihoods: Float[Array, " rung"]) -> Float[Array, " pair"]:
    """Log probability with which each pair of neighbours exchanges its states."""
    gain = jnp.diff(betas) * (loglikelihoods[:-1] - loglikelihoods[1:])
    return jnp.minimum(jnp.where(jnp.isnan(gain), -jnp.inf, gain), 0.0)


def exchange_order(swaps: Bool[Array, " pair"]) -> Int[Array, " rung"]:
    """Which rung each rung takes its state from, if no two neighbouring pairs swap."""
    none = jnp.zeros(1, bool)
    takes_upper, takes_lower = jnp.concatenate([swaps, none]), jnp.concatenate([none, swaps])
    return jnp.arange(swaps.size + 1, dtype=jnp.int32) + takes_upper - takes_lower


def equal_rejections(betas: Float[Array, " rung"], rejections: Float[Array, " pair"]) -> Float[Array, " rung"]:
    """The ladder on which all neighbours would reject equally often.

    Args:
        betas: the ladder so far.
        rejections: the neighbours' rejection rates on it.

    Returns:
        As many rungs, from 0 to 1.
    """
    barrier = jnp.concatenate([jnp.zeros(1), jnp.cumsum(jnp.maximum(rejections, _SMALLEST_REJECTION))])
    wanted = barrier[-1] * jnp.linspace(0.0, 1.0, betas.size)
    adapted = jnp.interp(wanted, barrier, betas ** (1 / _POWER)) ** _POWER
    return adapted.astype(betas.dtype).at[0].set(0.0).at[-1].set(1.0)
