r"""Exact moves along orbits between the steps of any kernel.

Where the likelihood does not notice how a unit's weights are scaled, only the prior says how large they are: a slow
direction for a chain that follows gradients, above all where precisions have priors of their own (the ridge of layer
scales and precisions), and one that can be drawn from exactly. After each step of the kernel inside, the moves of
`symmetry.orbit` redraw the scale of every unit and of every layer, precisions included, at the cost of one gradient.

What to expect: precisions, norms, the log prior and weight-space diagnostics mix much faster under hierarchical priors;
predictions, which do not depend on the orbit, hardly change. Networks without scale symmetries (tanh) gain nothing.

Permutations and signs are no moves here. A uniform relabelling of every draw makes all raw diagnostics look converged,
and leaves chains that are stuck in different functions where they are: it would hide what diagnostics are for.

References:
    Liu and Sabatti (2000), Generalised Gibbs sampler and multigrid Monte Carlo for Bayesian computation,
    https://doi.org/10.1093/biomet/87.2.353.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
from jax import Array
from jaxtyping import Int, PRNGKeyArray

from symmetry import Symmetries
from symmetry.orbit_derivation import check_moves, orbit_moves
from symmetry.orbit_units import OrbitTarget

from .hmc import NUTS
from .kernel import Info, Kernel, Position, Target
from .ladder import Rung
from .moving import check_movable, moved


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class WithOrbitMoves:
    """Any kernel, with exact moves along the orbits of the scale symmetries after each of its steps.

    Which moves there are is derived from the symmetries and the model's own prior, and `sample` compares what they use
    with the posterior before it starts. The State is that of the kernel inside, and so are the statistics.

    Args:
        kernel: makes the steps between the moves.
        symmetries: what `find_symmetries` found for the posterior.

    Raises:
        ValueError: a setting is of another kind.

    Example:
        >>> from symmetry import SymmetryGroup
        >>> nothing = Symmetries(None, SymmetryGroup({"x": (2,)}))
        >>> WithOrbitMoves(kernel=NUTS(num_warmup=500), symmetries=nothing).num_warmup
        500
    """

    kernel: Kernel = field(default_factory=NUTS)
    symmetries: Symmetries

    def __post_init__(self) -> None:
        if isinstance(self.kernel, type) or not isinstance(self.kernel, Kernel):
            raise ValueError(f"kernel must be a kernel with its settings, such as NUTS(), got {self.kernel!r}.")
        if not isinstance(self.symmetries, Symmetries):
            raise ValueError(f"symmetries must be what find_symmetries(posterior) gives, got {self.symmetries!r}.")

    @property
    def num_warmup(self) -> int:
        """The kernel's adapting steps; the moves adapt nothing."""
        return self.kernel.num_warmup

    @property
    def crosses_chains(self) -> bool:
        """Whether the kernel inside reduces over chains."""
        return getattr(self.kernel, "crosses_chains", False)

    @property
    def num_rungs(self) -> int:
        """Rungs of the kernel inside, which devices may share."""
        return getattr(self.kernel, "num_rungs", 1)

    @property
    def batch_size(self) -> int | None:
        """Rows of data that a step of the kernel inside looks at."""
        return getattr(self.kernel, "batch_size", None)

    def check(self, posterior: Any) -> None:
        """Refuses a posterior on which the moves would be wrong or none.

        Args:
            posterior: what is to be sampled.

        Raises:
            ValueError: the likelihood notices a move, a move follows another prior than the model's, or there is none.
        """
        if not isinstance(posterior, OrbitTarget):
            raise ValueError(
                f"WithOrbitMoves needs a posterior that knows its prior's precisions, got {type(posterior).__name__}; "
                "wrap a NumPyro model in a Posterior."
            )
        known = dict(self.symmetries.likelihood.sites)
        if any(dict(posterior.sites).get(site) != shape for site, shape in known.items()):  # pyright: ignore
            raise ValueError(
                f"The symmetries are those of a model with the sites {known}, which this posterior does not have; give "
                "find_symmetries(posterior)."
            )
        moves = orbit_moves(posterior, self.symmetries)
        if not moves:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in moves.refused.items())
            raise ValueError(
                f"There is nothing to move along: {reasons or 'the likelihood has no scale symmetry'}. Use "
                f"{type(self.kernel).__name__} alone."
            )
        check_moves(moves, posterior)
        check_movable(self.kernel)
        if (check := getattr(self.kernel, "check", None)) is not None:
            check(posterior)

    def init(self, rng_key: PRNGKeyArray, position: Position, target: Target) -> Any:
        """State of the kernel inside at a position.

        Args:
            rng_key: key of the kernel's start.
            position: unconstrained values by site.
            target: what is sampled.

        Returns:
            The state before step 0.
        """
        return self.kernel.init(rng_key, position, target)

    def step(self, rng_key: PRNGKeyArray, state: Any, target: Any, t: Int[Array, ""]) -> tuple[Any, Info]:
        """A step of the kernel inside, then every move once.

        Args:
            rng_key: the step's key.
            state: before the step.
            target: what is sampled.
            t: the step's number, counted from the start of warm-up.

        Returns:
            The state after the moves, and the kernel's statistics with the log density there.
        """
        key_kernel, key_moves = jax.random.split(rng_key)
        state, info = self.kernel.step(key_kernel, state, target, t)
        model = target.target if isinstance(target, Rung) else target
        model = getattr(model, "shard", model)  # the prior is the same whatever rows a device holds
        moves = orbit_moves(model, self.symmetries)
        if not moves:
            return state, info
        weights = moves.sweep(key_moves, model, model.constrain(state.position))
        state = moved(self.kernel, state, model.unconstrain(weights), target)
        return state, info | {"lp": state.logdensity}

    def moved(self, state: Any, position: Position, target: Target) -> Any:
        """The State of the kernel inside at another position.

        Args:
            state: before the move.
            position: where to.
            target: what is sampled.

        Returns:
            The State at the position.
        """
        return moved(self.kernel, state, position, target)
