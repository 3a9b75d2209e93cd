"""What a run is: everything that decides its draws, before any of them is made."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .blocks import Sampled
from .draws import Keep
from .executors import Executor
from .host_loop import prefers_host_loop
from .kernel import Kernel
from .programs import Programs, Sizes, trace_programs
from .runner import Plan
from .starts import position_shapes


@dataclass(frozen=True, eq=False)
class Setup:
    """A posterior, a kernel, and how the one samples the other.

    Attributes:
        posterior: what is sampled.
        kernel: what samples it.
        executor: where the chains run.
        rng_key: the run's key, typed.
        num_chains: independent chains.
        num_draws: kept draws of each.
        probes: inputs, the name of a site, or None.
        keep: what is kept of the draws.
        looped_by_host: whether a block is a loop of the host over single steps.
    """

    posterior: Sampled
    kernel: Kernel
    executor: Executor
    rng_key: Array
    num_chains: int
    num_draws: int
    probes: Any
    keep: Keep
    looped_by_host: bool

    @property
    def key_initial(self) -> Array:
        """Key of where the chains start."""
        return jax.random.split(self.rng_key)[0]

    @property
    def rng_keys(self) -> Array:
        """Each chain's key."""
        return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.split(self.rng_key)[1], np.arange(self.num_chains))

    @property
    def num_steps(self) -> int:
        """Steps of a chain, warm-up included."""
        return int(self.kernel.num_warmup) + self.num_draws

    def plan(self, target: Any, programs: Programs) -> Plan:
        """What every group does, with everything placed where the programs want it; nothing is written.

        Args:
            target: what the kernel samples.
            programs: traced for it.

        Returns:
            The plan.
        """
        executor = self.executor
        placed = executor.place(target)
        return Plan(
            programs=programs,
            executor=executor,
            target=placed,
            posterior=placed if target is self.posterior else executor.place(self.posterior),
            probes=executor.place(None if isinstance(self.probes, str) else self.probes),
            num_warmup=int(self.kernel.num_warmup),
            num_steps=self.num_steps,
            writer=None,
        )

    def trace(self) -> tuple[Any, Programs]:
        """What the kernel sees of the posterior, and the programs."""
        target = self.executor.target(self.posterior)
        sizes = Sizes(self.num_chains, self.num_draws, self.keep, self.looped_by_host)
        shapes = position_shapes(self.posterior)
        args = (self.posterior, target, self.kernel, self.executor, self.rng_keys, self.probes, sizes, shapes)
        return target, trace_programs(*args)


def typed_key(rng_key: Array) -> Array:
    """A typed key, from one of either kind.

    Args:
        rng_key: such as `jax.random.key(0)` or `jax.random.PRNGKey(0)`.

    Returns:
        The key.

    Raises:
        ValueError: it is no single key.
    """
    if not isinstance(rng_key, Array):
        raise ValueError(f"rng_key must be one key, such as jax.random.key(0), got {rng_key!r}.")
    is_typed = jnp.issubdtype(rng_key.dtype, jax.dtypes.prng_key)
    if rng_key.ndim != (0 if is_typed else 1):
        raise ValueError(f"rng_key must be one key, such as jax.random.key(0), got an array of shape {rng_key.shape}.")
    return rng_key if is_typed else jax.random.wrap_key_data(rng_key)


def loops_by_host(kernel: Kernel, posterior: Sampled, executor: Executor) -> bool:
    """Whether blocks are loops of the host: a rule of kernel, platform and primitives, since it changes the rounding.

    Args:
        kernel: what samples; only one whose step has no loop of its own can gain.
        posterior: what is sampled.
        executor: where the chains run.

    Returns:
        The answer.
    """
    if executor.name != "threads" or not getattr(kernel, "is_one_gradient", False):
        return False
    return prefers_host_loop(posterior, position_shapes(posterior))
