"""Density and function at the points of straight lines between weights, all pairs in one compiled call.

A site whose support is not convex, such as a Cholesky factor of a correlation matrix, leaves it on a straight line. It
is known by the middle of the line, which does not come back from unconstrained space as it went there, and takes the
straight line of unconstrained space instead. The other sites, on which its support may depend, stay on theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array, lax
from jaxtyping import Bool

from bnn_models import Posterior

from .levels import function_kind

Weights = Mapping[str, Array | np.ndarray]
Ends = tuple[Weights, Weights]

_LANES = 128  # points evaluated at once: bounds the memory of large models


@partial(jax.tree_util.register_dataclass, data_fields=("inputs",), meta_fields=("site",))
@dataclass(frozen=True)
class Probes:
    """What `Posterior.function` is asked: inputs, or the name of a site, which compiled functions take as structure."""

    inputs: Any
    site: str | None

    @classmethod
    def of(cls, probes: Any) -> Probes:
        """From what a user gives, see `Posterior.function`."""
        return cls(None, probes) if isinstance(probes, str) else cls(probes, None)

    @classmethod
    def of_tree(cls, tree: xr.DataTree) -> Probes:
        """The probes of the tree's function level."""
        kind = function_kind(tree)
        if kind == "site":
            return cls.of(tree["function"].attrs["meaning"].removeprefix("the deterministic site ")[1:-1])
        data = tree["constant_data"].data_vars if "constant_data" in tree.children else {}
        return cls.of(data["probes"].values if kind == "network" and "probes" in data else None)

    def function(self, posterior: Posterior, weights: Weights) -> Array:
        """What the model says there, for one draw."""
        return posterior.function(weights, self.inputs if self.site is None else self.site)


@jax.jit
def walk(posterior: Posterior, probes: Probes | None, t: Any, ends: Ends) -> Any:
    """Log density and function at the points of every path, and its curved sites."""
    return lax.map(lambda pair: _along(posterior, probes, t, pair), ends, batch_size=max(1, _LANES // len(t)))


@jax.jit
def measure(posterior: Posterior, probes: Probes, t: Any, ends: Ends) -> Any:
    """Log density and curved sites of every path, and how far its function strays and its ends lie apart."""

    def summary(pair: Ends) -> Any:
        logdensity, function, curved = _along(posterior, probes, t, pair)
        values = jnp.asarray(function).reshape(len(t), -1)
        chord = _mix(values[0], values[-1], t[:, None])
        apart = 0.5 * jnp.mean((values[-1] - values[0]) ** 2)
        return logdensity, curved, jnp.mean((values - chord) ** 2), apart

    return lax.map(summary, ends, batch_size=max(1, _LANES // len(t)))


def _along(posterior: Posterior, probes: Probes | None, t: Any, ends: Ends) -> Any:
    """Log density and function at the points of one path, and which sites the straight line leads off their support."""
    middle = _line(*ends, 0.5)
    back = posterior.constrain(posterior.unconstrain(middle))
    curved = {site: ~_is_same(back[site], middle[site]) for site in middle}
    positions = posterior.unconstrain(ends[0]), posterior.unconstrain(ends[1])

    def at(fraction: Any) -> Any:
        line = _line(*ends, fraction)
        straight, bent = posterior.unconstrain(line), _line(*positions, fraction)
        position = {site: jnp.where(curved[site], bent[site], straight[site]) for site in line}
        detour = posterior.constrain(position)
        weights = {site: jnp.where(curved[site], detour[site], line[site]) for site in line}
        return posterior.log_joint(weights), None if probes is None else probes.function(posterior, weights)

    return *jax.vmap(at)(t), curved


def _line(start: Weights, end: Weights, t: Any) -> dict[str, Array]:
    return {site: _mix(start[site], end[site], t) for site in start}


def _mix(start: Any, end: Any, t: Any) -> Array:
    """``(1 - t) start + t end``, exact at both ends, in the floating-point type of the ends."""
    t = jnp.asarray(t, jnp.result_type(start, 0.0))
    return (1 - t) * start + t * end


def _is_same(back: Array, there: Array) -> Bool[Array, ""]:
    """Whether a value survived the way to unconstrained space and back, as those in the support do."""
    tolerance = jnp.sqrt(jnp.finfo(there.dtype).eps) * jnp.max(jnp.abs(there), initial=0.0)
    return jnp.all(jnp.abs(back - there) <= tolerance)
