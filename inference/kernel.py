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
class TemperedTarget(Target, Protocol):
    """A target that says which part of it is the prior; their sum is the log density."""

    def logprior(self, position: Position) -> Float[Array, ""]:
        """Log prior of one position, Jacobians included."""
        ...

    def loglikelihood(self, position: Position) -> Float[Array, ""]:
        """Log likelihood of one position."""
        ...


@runtime_checkable
class MinibatchTarget(Target, Protocol):
    r"""A target whose log likelihood is a sum over rows of data, of which a few can stand for all.

    It draws the rows itself, so that a kernel knows nothing of how the data are laid out over devices.
    """

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        ...

    def logdensity_estimate(self, rng_key: PRNGKeyArray, position: Position, batch_size: int) -> Float[Array, ""]:
        r"""Unbiased estimate from $B$ of $N$ rows: log prior $+ \frac{N}{B} \sum$ of the rows' log likelihoods."""
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
    """How one draw follows from the one before it.

    A kernel may have more, which the runner looks for:

    * ``crosses_chains``: true where a step reduces over the axes `mesh.CHAIN` and `mesh.LOCAL`, so that all chains must
      advance together;
    * ``num_rungs``: rungs of a step, which the devices along `mesh.RUNG` share where there is such an axis;
    * ``batch_size``: rows of data a step looks at, None for all of them;
    * ``is_one_gradient``: true where a step is one gradient, without a loop of its own: the host may do the looping;
    * ``moved(state, position, target)``: its State at another position, where `moving.moved` could not make it;
    * ``check(posterior)``: raises ValueError where the kernel cannot sample it, before anything is compiled.
    """

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
