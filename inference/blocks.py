r"""What is compiled: the three programs of one chain, each a pure function of arrays.

`Start` evaluates the density once, `Advance` runs a block of steps (`Step` only one, where the host loops), `Observe`
derives from a block's positions what is kept of each draw. A program is a frozen dataclass of its static settings and
takes what is the chain's own and what all chains share (posterior, probes: data are arguments, never constants of the
program). The key of step $t$ of chain $c$ is `fold_in(fold_in(root, c), t)`: there is no random state to carry, and no
draw depends on where blocks begin.

A block's length is a run-time argument below a fixed capacity, so that one compilation serves blocks of every length,
in warm-up and after it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from .kernel import Info, Kernel, Position, Target


@runtime_checkable
class Sampled(Target, Protocol):
    """What the runner reads of a posterior, besides the kernel's log density; `bnn_models.Posterior` has it all.

    A pytree whose leaves are the data. Its other methods are the runner's, and are called outside of programs.
    """

    @property
    def sites(self) -> dict[str, tuple[int, ...]]:
        """Latent sites and their constrained shapes."""
        ...

    @property
    def observed(self) -> tuple[str, ...]:
        """Observed sites."""
        ...

    def prior_logprob(self, weights: dict[str, Array]) -> Float[Array, ""]:
        """Log prior of one draw, without Jacobians."""
        ...

    def logprior(self, position: Position) -> Float[Array, ""]:
        """Log prior of one position, Jacobians included."""
        ...

    def loglikelihood(self, position: Position) -> Float[Array, ""]:
        """Log likelihood of one position."""
        ...

    def pointwise_loglikelihood(self, position: Position) -> dict[str, Array]:
        """Log likelihood of each observation, by observed site."""
        ...

    def initial(self, rng_key: Array, num_chains: int) -> Position:
        """Starting positions with a leading chain axis."""
        ...

    def constrain(self, position: Position) -> dict[str, Array]:
        """Constrained values of one position."""
        ...

    def unconstrain(self, weights: dict[str, Array]) -> dict[str, Array]:
        """Unconstrained values of one draw."""
        ...

    def function(self, weights: dict[str, Array], probes: Any = None) -> Array:
        """The function level of one draw."""
        ...

    def deterministics(self, weights: dict[str, Array]) -> dict[str, Array]:
        """Values of the deterministic sites of one draw."""
        ...

    def observed_data(self) -> dict[str, np.ndarray]:
        """Observed arrays by site."""
        ...

    def constant_data(self) -> dict[str, np.ndarray]:
        """The model's other arrays by argument."""
        ...


@dataclass(frozen=True)
class Start:
    """(key, position), posterior -> state.

    Attributes:
        kernel: makes the State.
    """

    runs_once: ClassVar = True

    kernel: Kernel

    def __call__(self, chain: tuple[Array, Position], shared: Target) -> Any:
        """The State before step 0."""
        rng_key, position = chain
        return self.kernel.init(rng_key, position, shared)


@dataclass(frozen=True)
class Step:
    """(chain's key, state), (target, t) -> state, (position, statistics): one step, for a loop of the host.

    Attributes:
        kernel: makes the step.
    """

    kernel: Kernel

    def __call__(self, chain: tuple[Array, Any], shared: tuple[Target, Array]) -> tuple[Any, tuple[Position, Info]]:
        """The State after step t, and its row."""
        rng_key, state = chain
        target, t = shared
        state, info = self.kernel.step(jax.random.fold_in(rng_key, t), state, target, t)
        return state, (state.position, info)


@dataclass(frozen=True)
class Advance:
    """(chain's key, state), (posterior, first step, length) -> state, positions, statistics.

    Attributes:
        kernel: makes the steps.
        capacity: rows of the result; those past the length are zero.
    """

    kernel: Kernel
    capacity: int

    def __call__(
        self, chain: tuple[Array, Any], shared: tuple[Target, Array, Array]
    ) -> tuple[Any, tuple[Position, Info]]:
        """The State after the block, and a row a step."""
        rng_key, state = chain
        target, first, length = shared

        def step(i: Array, state: Any) -> tuple[Any, tuple[Position, Info]]:
            t = first + i
            state, info = self.kernel.step(jax.random.fold_in(rng_key, t), state, target, t)
            return state, (state.position, info)

        return _scan(step, state, length, self.capacity)


@dataclass(frozen=True)
class Observe:
    """Positions, (posterior, probes, length) -> what is kept of each draw, by group and name.

    Attributes:
        capacity: rows of the positions and of the result; those past the length are zero.
        probe_site: the deterministic site that is the function level, instead of probe inputs.
        dropped: those of the `optional` groups that are not wanted.
    """

    capacity: int
    probe_site: str | None
    dropped: frozenset[str] = frozenset()

    optional: ClassVar = ("function", "pointwise", "deterministic")

    def __call__(self, positions: Position, shared: tuple[Sampled, Any, Array]) -> dict[str, dict[str, Array]]:
        """A row a position."""
        posterior, probes, length = shared

        def observe(i: Array, carry: tuple[()]) -> tuple[tuple[()], dict[str, dict[str, Array]]]:
            return carry, self.draw(jax.tree.map(lambda rows: rows[i], positions), posterior, probes)

        # One draw after the other: batched products are slower on a CPU, and all draws at once might not fit.
        return _scan(observe, (), length, self.capacity)[1]

    def draw(self, position: Position, posterior: Sampled, probes: Any) -> dict[str, dict[str, Array]]:
        """What is kept of one draw."""
        weights = posterior.constrain(position)
        kept = {
            "weights": weights,
            "invariants": {
                "log_prior": posterior.prior_logprob(weights),
                "log_likelihood": posterior.loglikelihood(position),
            },
        }
        if "pointwise" not in self.dropped:
            kept["pointwise"] = posterior.pointwise_loglikelihood(position)
        if "deterministic" not in self.dropped:
            kept["deterministic"] = posterior.deterministics(weights)
        if "function" not in self.dropped:
            probes = probes if self.probe_site is None else self.probe_site
            kept["function"] = {"function": posterior.function(weights, probes)}
        return kept


def _scan[Carry, Row](
    step: Callable[[Array, Carry], tuple[Carry, Row]], carry: Carry, length: Array, capacity: int
) -> tuple[Carry, Row]:
    """`lax.scan` of a length known only at run time, below a capacity known at compile time."""
    step = jax.jit(step)  # traced once, for the rows' shapes and for the loop
    _, row = jax.eval_shape(step, jnp.int32(0), carry)
    rows = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), row)

    def body(i: Array, loop: tuple[Carry, Row]) -> tuple[Carry, Row]:
        carry, rows = loop
        carry, row = step(i, carry)
        return carry, jax.tree.map(lambda x, one: jax.lax.dynamic_update_index_in_dim(x, one, i, 0), rows, row)

    return jax.lax.fori_loop(jnp.int32(0), length, body, (carry, rows))
