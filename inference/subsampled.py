r"""Hamiltonian Monte Carlo on batches, done naively: for study, not for use.

`SubsampledHMC` draws a batch, follows the Hamiltonian flow of its estimated log density for a whole trajectory, and
accepts or rejects by the energy of the same batch. Each transition leaves the *batch's* posterior
$\pi_b(\theta) \propto e^{\widehat{\log \pi}_b(\theta)}$ invariant, and none leaves $\pi$: as long trajectories forget
where they began, the draws become those of the mixture of all $\pi_b$. For Gaussian likelihoods its variance is that of
a batch posterior plus that of the batch posteriors' means, whatever the step size: smaller steps do not help, and the
acceptance rate does not tell.

References:
    Betancourt (2015), The fundamental incompatibility of scalable Hamiltonian Monte Carlo and naive data subsampling,
    https://arxiv.org/abs/1502.01510.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.mcmc import hmc
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, Int, PRNGKeyArray

from .kernel import Info, Position
from .settings import check_between, check_integer
from .stochastic import check_batches


class SubsampledState(NamedTuple):
    """Where a chain stands.

    Attributes:
        position: unconstrained values by site.
        logdensity: estimate of the log density there, from the last batch.
    """

    position: Position
    logdensity: Float[Array, ""]


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class SubsampledHMC:
    """Naively subsampled HMC, which samples something else than the posterior: for study.

    Args:
        batch_size: rows of a trajectory's batch.
        step_size: of the leapfrog.
        num_integration_steps: leapfrogs of a trajectory.
        num_warmup: steps that are not kept.

    Raises:
        ValueError: a setting is out of its range.

    Example:
        >>> SubsampledHMC(batch_size=10, step_size=0.1).num_integration_steps
        10
    """

    batch_size: int
    step_size: float
    num_integration_steps: int = 10
    num_warmup: int = 100

    def __post_init__(self) -> None:
        check_integer("batch_size", self.batch_size, 1)
        check_between("step_size", self.step_size, 0.0, math.inf)
        check_integer("num_integration_steps", self.num_integration_steps, 1)
        check_integer("num_warmup", self.num_warmup, 0)

    def check(self, posterior: Any) -> None:
        """Refuses batches that the posterior cannot give.

        Args:
            posterior: what is to be studied.

        Raises:
            ValueError: its rows cannot be taken apart, or are fewer than those of a batch.
        """
        check_batches(self.batch_size, posterior)

    def init(self, rng_key: PRNGKeyArray, position: Position, target: Any) -> SubsampledState:
        """State at a position; evaluates one estimate of the density.

        Args:
            rng_key: key of the batch.
            position: unconstrained values by site.
            target: what is studied.

        Returns:
            The state before step 0.
        """
        return SubsampledState(position, target.logdensity_estimate(rng_key, position, self.batch_size))

    def step(
        self, rng_key: PRNGKeyArray, state: SubsampledState, target: Any, t: Int[Array, ""]
    ) -> tuple[SubsampledState, Info]:
        """One trajectory on one batch.

        Args:
            rng_key: the step's key.
            state: before the step.
            target: what is studied.
            t: not used: nothing adapts.

        Returns:
            The state after the step, and its statistics; ``batch_acceptance_rate`` is that of the batch's energy.
        """
        del t
        key_batch, key_transition = jax.random.split(rng_key)
        flat, unravel = ravel_pytree(state.position)

        def logdensity(flat: Array) -> Array:
            return target.logdensity_estimate(key_batch, unravel(flat), self.batch_size)

        transition: Callable[..., Any] = hmc.build_kernel()
        start: Any = hmc.init(flat, logdensity)
        end, info = transition(
            key_transition, start, logdensity, self.step_size, jnp.ones_like(flat), self.num_integration_steps
        )
        statistics = {
            "lp_estimate": end.logdensity,
            "step_size": jnp.asarray(self.step_size, flat.dtype),
            "n_steps": jnp.int32(self.num_integration_steps),
            "diverging": info.is_divergent,
            "batch_acceptance_rate": info.acceptance_rate,
        }
        return SubsampledState(unravel(end.position), end.logdensity), statistics
