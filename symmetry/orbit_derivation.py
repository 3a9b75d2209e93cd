r"""Which orbit moves a model allows, derived from its scale symmetries and its own prior; nothing is declared.

A factor's units have a move of their own where no weight belongs to two of them. It is the closed form where the log
prior changes along the orbit as that of normal weights does, and the one by the model's own prior where that is
concave. A layer has a move where `precisions` finds gamma precisions above its weights. Only the structure of the
posterior counts, so the derivation works on stand-in data of the right shapes; `check_moves` repeats every comparison
on the posterior itself.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .factor import Factor
from .group import SymmetryGroup
from .orbit import OrbitMoves, UnitMove
from .orbit_layers import LayerMove, PrecisionSite, layer_masses
from .orbit_units import OrbitTarget, Values, prior_along_units, unit_masses, unit_volume
from .precisions import agree, find_precisions
from .symmetries import Symmetries

# Log-scales at which the log prior along a unit's orbit is compared and looked at for concavity.
_GRID = np.linspace(-3.0, 3.0, 25)
_CONCAVE = 1e-9
# Points at which the structure is read, and at which it is checked.
_NUM_READ, _NUM_CHECKED = 2, 3


def orbit_moves(target: Any, symmetries: Symmetries) -> OrbitMoves:
    """The orbit moves that a posterior allows.

    Args:
        target: a posterior; under jit its data may be tracers, since only their shapes count.
        symmetries: what `find_symmetries` found for it.

    Returns:
        The moves; none where the likelihood has no scale symmetry.
    """
    leaves, structure = jax.tree.flatten(target)
    return _derive(structure, tuple((np.shape(x), jnp.dtype(x.dtype).name) for x in leaves), symmetries)


def check_moves(moves: OrbitMoves, target: Any) -> None:
    """Compares what moves use with the posterior itself, at three random points.

    Args:
        moves: from `orbit_moves`.
        target: the posterior with its data.

    Raises:
        ValueError: a move would change the log likelihood, or follow another prior than the model's.
    """
    with jax.enable_x64(new_val=True):
        target = jax.tree.map(_to_float64, target)
        for seed in range(_NUM_CHECKED):
            weights = _weights(target, seed)
            _check_likelihood(moves, target, weights, seed)
            for unit in moves.units:
                follows = _is_normal if unit.is_normal else _is_concave
                if not follows(target, moves.group, unit.factor, weights):
                    raise ValueError(_wrong_prior(unit.factor))
            for layer in moves.layers:
                if not _is_collapsible(target, layer, weights, seed):
                    raise ValueError(_wrong_prior(layer.factor))


@lru_cache(maxsize=64)
def _derive(structure: Any, shapes: tuple[tuple[tuple[int, ...], str], ...], symmetries: Symmetries) -> OrbitMoves:
    group = symmetries.likelihood.monomial().restrict(("scale",))
    if not group.factors:
        return OrbitMoves(group, (), (), {})
    with jax.ensure_compile_time_eval(), jax.enable_x64(new_val=True):
        target = jax.tree.unflatten(structure, [_stand_in(shape, dtype, n) for n, (shape, dtype) in enumerate(shapes)])
        points = [_weights(target, seed) for seed in range(_NUM_READ)]
        units: list[UnitMove] = []
        refused: dict[str, str] = {}
        for factor in group.factors:
            if _interacts(group, factor):
                refused[factor.name] = "its units meet in the same weights, so they cannot be moved one by one"
            elif all(_is_normal(target, group, factor, weights) for weights in points):
                units.append(UnitMove(factor, is_normal=True))
            elif all(_is_concave(target, group, factor, weights) for weights in points):
                units.append(UnitMove(factor, is_normal=False))
            else:
                sites = ", ".join(dict.fromkeys(slot.site for slot in factor.slots))
                refused[factor.name] = f"the prior of {sites} is not log-concave along the orbit"
        return OrbitMoves(group, tuple(units), _layer_moves(target, group, points), refused)


def _layer_moves(target: OrbitTarget, group: SymmetryGroup, points: list[dict[str, Array]]) -> tuple[LayerMove, ...]:
    """One move for each factor with weights below gamma precisions."""
    scaled = {slot.site for factor in group.factors for slot in factor.slots}
    precisions = find_precisions(target, scaled, points)
    known = jax.eval_shape(target.precisions, points[0])
    moves = []
    for factor in group.factors:
        exponents = {site: e for site, e in _exponents(group, factor).items() if e.any()}
        above = tuple(_widened(p, exponents) for p in precisions if _rules(p, exponents))
        if above and all(site in known for site in exponents):
            move = LayerMove(factor, exponents, above)
            if all(_is_collapsible(target, move, weights, seed) for seed, weights in enumerate(points)):
                moves.append(move)
    return tuple(moves)


def _rules(precision: PrecisionSite, exponents: dict[str, np.ndarray]) -> bool:
    return any(((precision.members[s] >= 0) & (e != 0)).any() for s, e in exponents.items() if s in precision.members)


def _widened(precision: PrecisionSite, exponents: dict[str, np.ndarray]) -> PrecisionSite:
    """With an entry for each of the moved sites, be it ruled or not."""
    nowhere = {site: np.full(e.shape, -1) for site, e in exponents.items()}
    return replace(precision, members={**nowhere, **precision.members})


def _interacts(group: SymmetryGroup, factor: Factor) -> bool:
    """Whether a weight belongs to two slots of a factor: then two units meet in it."""
    of_slots = [_exponents(group, replace(factor, slots=(slot,))) for slot in factor.slots]
    return any((np.sum([e[site] != 0 for e in of_slots], axis=0) > 1).any() for site in group.sites)


def _is_normal(target: OrbitTarget, group: SymmetryGroup, factor: Factor, weights: Values) -> bool:
    r"""Whether $-\frac12 \sum \tau w^2$ is how the log prior changes with the scale of each unit."""
    known = jax.eval_shape(target.precisions, weights)
    if not all(slot.site in known for slot in factor.slots):
        return False
    masses = _unit_masses(target, group, factor, weights)
    values = np.asarray(_prior_on_grid(target, group, factor, weights))
    centre, volume = values[len(_GRID) // 2], unit_volume(group, factor)
    for u, value in zip(_GRID, values, strict=True):
        expected = -0.5 * sum(np.asarray(mass) * np.expm1(2 * m * u) for m, mass in masses.items())
        if not agree(value - centre - volume * u, expected, scale=np.abs(centre).max()):
            return False
    return True


def _is_concave(target: OrbitTarget, group: SymmetryGroup, factor: Factor, weights: Values) -> bool:
    values = np.asarray(_prior_on_grid(target, group, factor, weights))
    curvature = values[2:] - 2 * values[1:-1] + values[:-2]
    return bool(np.isfinite(values).all() and (curvature <= _CONCAVE * np.abs(values).max()).all())


def _is_collapsible(target: OrbitTarget, move: LayerMove, weights: Values, seed: int) -> bool:
    """Whether the joint prior of a layer and its precisions changes as the move says, at other scales and values."""
    rng = np.random.default_rng(seed)
    fixed, governed = layer_masses(target, move, weights)
    start = _prior_logprob(target, weights)
    for u in (-0.6, 0.5):
        moved = dict(weights)
        for site, exponents in move.exponents.items():
            moved[site] = weights[site] * jnp.exp(exponents * u)
        expected = -0.5 * sum(mass * np.expm1(2 * m * u) for m, mass in fixed.items())
        for precision, masses in zip(move.precisions, governed, strict=True):
            old = weights[precision.site].reshape(-1)
            new = old * np.exp(rng.normal(size=old.shape))
            moved[precision.site] = new.reshape(weights[precision.site].shape)
            shape = precision.concentration + 0.5 * precision.counts - 1
            before = precision.rate + 0.5 * sum(masses.values())
            after = precision.rate + 0.5 * sum(q * np.exp(2 * m * u) for m, q in masses.items())
            expected += jnp.sum(shape * jnp.log(new / old) - after * new + before * old)
        if not agree(_prior_logprob(target, moved) - start, expected, scale=jnp.abs(start)):
            return False
    return True


def _check_likelihood(moves: OrbitMoves, target: OrbitTarget, weights: dict[str, Array], seed: int) -> None:
    """The likelihood must not notice the group, nor the precisions that are drawn anew."""
    before = _loglikelihood(target, weights)

    def is_unchanged(other: Any) -> bool:
        return bool(jnp.abs(_loglikelihood(target, other) - before) <= 1e-6 * (1 + jnp.abs(before)))

    if not is_unchanged(moves.group.act(moves.group.random(jax.random.key(seed)), weights)):
        raise ValueError(
            "A random element of the scale symmetries changes the log likelihood; give the symmetries that "
            "find_symmetries finds for this posterior."
        )
    for layer in moves.layers:
        if not is_unchanged(weights | {p.site: 2.0 * weights[p.site] for p in layer.precisions}):
            names = ", ".join(precision.site for precision in layer.precisions)
            raise ValueError(f"The likelihood depends on the precisions {names}; use the kernel without orbit moves.")


def _wrong_prior(factor: Factor) -> str:
    return (
        f"The log prior along the orbit of {factor.name!r} is not the one that the orbit move follows: it depends on "
        "the data in a way that their shapes do not show. Use the kernel without orbit moves."
    )


@partial(jax.jit, static_argnums=(1, 2))
def _unit_masses(target: OrbitTarget, group: SymmetryGroup, factor: Factor, weights: Values) -> dict[int, Array]:
    return unit_masses(target, group, factor, weights)


@partial(jax.jit, static_argnums=(1, 2))
def _prior_on_grid(target: OrbitTarget, group: SymmetryGroup, factor: Factor, weights: Values) -> Array:
    """The log density of each unit's log-scale, (point, unit)."""
    along = prior_along_units(target, group, factor, weights)
    still = jnp.zeros(factor.num_copies * factor.size)
    return jax.lax.map(lambda u: along(still + u), jnp.asarray(_GRID))


@jax.jit
def _prior_logprob(target: OrbitTarget, weights: Values) -> Array:
    return target.prior_logprob(weights)


@jax.jit
def _loglikelihood(target: OrbitTarget, weights: Values) -> Array:
    return target.loglikelihood(target.unconstrain(weights))


@jax.jit
def _constrain(target: OrbitTarget, position: Values) -> dict[str, Array]:
    return target.constrain(position)


def _exponents(group: SymmetryGroup, factor: Factor) -> dict[str, np.ndarray]:
    """The exponent of every weight, when all units of a factor get one scale."""
    ones = {site: np.ones(shape) for site, shape in group.sites.items()}
    moved = replace(group, factors=(factor,)).act({factor.name: np.full(factor.shape, 2.0)}, ones)
    return {site: np.asarray(np.round(np.log2(value)), int) for site, value in moved.items()}


def _weights(target: Any, seed: int) -> dict[str, Array]:
    """Constrained values at a random position."""
    shapes = {site: jax.ShapeDtypeStruct(shape, jnp.float64) for site, shape in target.sites.items()}
    rng = np.random.default_rng(seed)
    position = jax.eval_shape(target.unconstrain, shapes)
    return _constrain(target, {site: 0.5 * rng.normal(size=x.shape) for site, x in position.items()})


def _stand_in(shape: tuple[int, ...], dtype: str, seed: int) -> Any:
    if jnp.issubdtype(jnp.dtype(dtype), jnp.floating):
        return jnp.asarray(np.random.default_rng(seed).normal(size=shape))
    return jnp.zeros(shape, dtype)


def _to_float64(leaf: Any) -> Any:
    return jnp.asarray(np.asarray(leaf), jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
