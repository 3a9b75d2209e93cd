r"""What the runner and the kernels agree on: a kernel is a start and a step.

A kernel is a frozen, static-registered dataclass of its settings with two pure methods. Everything the next step needs,
adaptation included, is in its *State*; what diagnostics want of one step is its *Info*, a dictionary under ArviZ's
names. Tuning is a step like any other: step $t$ adapts where $t < \text{num\_warmup}$, so that warm-up runs, is stored
and is resumed like sampling.

References:
    Cabezas et al. (2024), BlackJAX: composable Bayesian inference in JAX, https://arxiv.org/abs/2402.10797.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from jax import Array
from jaxtyping import Float, Int, PRNGKeyArray

Position = Mapping[str, Array]
"""Unconstrained values of the sites, by name."""

Info = dict[str, Array]
"""One step's statistics under ArviZ's names; each a scalar."""

ARVIZ_NAMES = {
    "logdensity": "lp",
    "acceptance_rate": "acceptance_rate",
    "step_size": "step_size",
    "num_integration_steps": "n_steps",
    "is_divergent": "diverging",
    "energy": "energy",
    "num_trajectory_expansions": "tree_depth",
}
"""BlackJAX's name of a statistic -> ArviZ's: the one place where they are translated."""


@runtime_checkable
class Target(Protocol):
    """What a kernel samples from: a log density in unconstrained space."""

    def logdensity(self, position: Position) -> Float[Array, ""]:
        """Log density of one position, up to a constant."""
        ...


@runtime_checkable
class State(Protocol):
    """What every kernel's State has; the rest is the kernel's own.

    A State is a pytree of arrays, and every number in the one that a run starts from is finite.
    """

    @property
    def position(self) -> Position:
        """Where the chain stands."""
        ...

    @property
    def logdensity(self) -> Float[Array, ""]:
        """The target's log density there."""
        ...


@runtime_checkable
class Kernel(Protocol):
    """How one draw follows from the one before it."""

    @property
    def num_warmup(self) -> int:
        """How many of the first steps adapt; they are not kept as draws."""
        ...

    def init(self, rng_key: PRNGKeyArray, position: Position, target: Target) -> Any:
        """Starting State; evaluates the density once."""
        ...

    def step(self, rng_key: PRNGKeyArray, state: Any, target: Target, t: Int[Array, ""]) -> tuple[Any, Info]:
        """One transition; `t` counts all steps from 0, and `t < num_warmup` adapts."""
        ...


def arviz_info(statistics: Mapping[str, Any]) -> Info:
    """Statistics under BlackJAX's names as an Info under ArviZ's names.

    Args:
        statistics: by BlackJAX's name; those that are not in `ARVIZ_NAMES` are dropped.

    Returns:
        The Info.

    Example:
        >>> import jax.numpy as jnp
        >>> sorted(arviz_info({"is_divergent": jnp.array(False), "logdensity": jnp.array(0.0), "momentum": None}))
        ['diverging', 'lp']
    """
    return {ARVIZ_NAMES[name]: value for name, value in statistics.items() if name in ARVIZ_NAMES}
