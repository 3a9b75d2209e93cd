r"""Two runs side by side: do their draws have one distribution, as raw weights, as canonical weights, as functions?

The maximum mean discrepancy (`mmd.py`) of the raw weights measures labels: two runs that agree in everything but the
order of hidden units are far apart in it. Canonical weights are only comparable in labels common to both, so the raw
draws of both are pooled and canonicalised together: trees that were made canonical apart have barycentres of their own.
Functions need no labels, but have to be values at the same inputs.

Each site's draws are divided by their pooled spread, the root mean square of the standard deviations of its entries:
sites need not share a unit, and a permutation or a sign that moves all draws alike changes no spread of a site.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import xarray as xr
from jaxtyping import Float

from symmetry import ISOMETRIES, Factor

from .datatree import symmetries_of
from .levels import TITLES, Quantities, check_tree, finite_chains, function_kind, latent_sites, levels
from .mmd import MAX_DRAWS, NUM_PERMUTATIONS, even_steps, mmd
from .quotient import canonicalize
from .record import Record
from .sentences import WIDTH
from .verdict import _site_spread

_Sides = tuple[xr.DataTree, xr.DataTree]
_Groups = dict[str, xr.Dataset]
_NAMES = ("first", "second")
_LEGEND = (
    "MMD^2: the squared maximum mean discrepancy ({kernel} kernel, its bandwidth from the pooled draws), 0 if the two "
    "distributions are equal. The estimate can be below 0, and autocorrelated draws raise it, which p allows for."
)
_LABELS = (
    "Weights without canonicalisation measure labels: raw weights can be far apart where the runs differ in nothing "
    "but labels, such as the order of hidden units."
)
_LIMITS = (
    "p takes the chains of either run for independent, and for alike if the posteriors are. A large p is no proof that "
    "the two are equal."
)


@dataclass(frozen=True)
class Row(Record):
    """One level: its discrepancy, p-value, the smallest p that so few chains can give, and how many quantities."""

    level: str
    num_quantities: int
    mmd2: float
    p: float
    smallest_p: float


@dataclass(frozen=True)
class Comparison(Record):
    """Two sets of draws at every level that both have; ``print`` it.

    ``num_draws`` counts those of a chain that were used, of ``num_available`` in either run. ``about_p`` says what p is
    and how small it can be, ``notes`` what a reader must know about the levels.
    """

    kernel: str
    num_chains: tuple[int, int]
    num_draws: int
    num_available: tuple[int, int]
    rows: tuple[Row, ...]
    about_p: str
    notes: tuple[str, ...]

    def row(self, level: str) -> Row | None:
        """One level (``raw``, ``canonical``, ``function``), if it was compared."""
        return next((row for row in self.rows if row.level == level), None)

    def __str__(self) -> str:
        available = " and ".join(map(str, dict.fromkeys(self.num_available)))
        lines = [
            f"{self.num_chains[0]} + {self.num_chains[1]} chains x {self.num_draws} of {available} draws",
            f"{'':18} {'number':>8} {'MMD^2':>10} {'p':>7}",
        ]
        for row in self.rows:
            p = "-" if np.isnan(row.p) else f"{row.p:.3f}"
            lines.append(f"{TITLES[row.level]:18} {row.num_quantities:>8} {row.mmd2:>10.3g} {p:>7}")
        limits = () if all(np.isnan(row.p) for row in self.rows) else (_LIMITS,)
        sentences = (_LEGEND.format(kernel=self.kernel), self.about_p, *limits, _LABELS, *self.notes)
        return "\n".join([*lines, "", *(textwrap.fill(sentence, WIDTH) for sentence in sentences)])


def compare(
    tree: xr.DataTree,
    other: xr.DataTree,
    *,
    kernel: str = "gaussian",
    num_permutations: int = NUM_PERMUTATIONS,
    max_draws: int = MAX_DRAWS,
    seed: int = 0,
) -> Comparison:
    """Compare the draws of two runs of one model as raw weights, as canonical weights and as functions.

    If one run keeps the weights of fewer draws, as many are left out of the other. Both are cut to the length of the
    shorter chains and thinned evenly where there would be more than ``max_draws`` draws in all. Chains with numbers
    that are not finite are left out and named.

    Args:
        tree: Draws of one run, from `to_datatree`, `canonicalize` or `open_run`.
        other: Draws of the other run.
        kernel: ``gaussian`` or ``laplace`` (see `mmd.mmd`).
        num_permutations: Random ways to deal whole chains to the two sides, if there are more than that.
        max_draws: Pooled draws to use at most.
        seed: Of the random ways.

    Returns:
        A row for every level; without the canonical one where symmetries were not looked for, and without the function
        where the two are not values at the same inputs, which ``notes`` then say. Trees that hold no inputs at all are
        taken at their word.

    Raises:
        ValueError: If the trees are of different models, or a setting is none.

    Example:
        >>> import arviz as az
        >>> draws = np.random.default_rng(0).normal(size=(2, 4, 50, 3))
        >>> first, second = (az.from_dict({"posterior": {"w": draws[k] + k}}) for k in range(2))
        >>> compare(first, second).row("raw").p == 1 / 35
        True
    """
    sides = tree, other
    for side in sides:
        check_tree(side)
    _check_models(sides)
    obstacle = _function_obstacle(sides)
    used, left_out = _used_draws(sides, max_draws, with_function=not obstacle)
    pool, about_weights = _pool(used, sides)
    num_first = used[0]["posterior"].sizes["chain"]
    measure = partial(mmd, kernel=kernel, num_permutations=num_permutations, max_draws=max_draws, seed=seed)
    found = {level: measure(*np.split(_in_units_of_spread(values), [num_first])) for level, values in levels(pool)}
    raw = found["raw"]
    return Comparison(
        kernel=kernel,
        num_chains=raw.num_chains,
        num_draws=raw.num_draws,
        num_available=(tree["posterior"].sizes["draw"], other["posterior"].sizes["draw"]),
        rows=tuple(Row(name, one.num_quantities, one.mmd2, one.p, one.smallest_p) for name, one in found.items()),
        about_p=raw.about_p,
        notes=(*left_out, *about_weights, *([obstacle] if obstacle else [])),
    )


def _check_models(sides: _Sides) -> None:
    """Refuse trees with other sites, shapes or symmetries."""
    first, second = (_shapes(side, "posterior") for side in sides)
    for site in first | second:
        if first.get(site) != second.get(site):
            there = [f"of shape {shapes[site]}" if site in shapes else "missing" for shapes in (first, second)]
            raise ValueError(
                f"two trees of one model were expected, but site {site!r} is {there[0]} in the first and {there[1]} in "
                "the second; compare runs of the same model"
            )
    if all("symmetries" in side.attrs for side in sides):
        factors, others = (_removed_factors(side) for side in sides)
        if factors != others:
            raise ValueError(
                "two trees with the same symmetries were expected, but the first has "
                f"{_names(factors)} and the second {_names(others)} where canonical weights have none; compare runs of "
                "the same model and prior"
            )


def _shapes(tree: xr.DataTree, group: str) -> dict[str, tuple[int, ...]]:
    dataset = tree[group].to_dataset()
    return {site: dataset[site].transpose("chain", "draw", ...).shape[2:] for site in latent_sites(dataset)}


def _removed_factors(tree: xr.DataTree) -> list[Factor]:
    """The factors that canonical weights have removed, whatever their certificates."""
    symmetries = symmetries_of(tree)
    assert symmetries is not None
    scales = symmetries.likelihood.monomial().restrict(("scale",))
    labels = (symmetries.posterior or symmetries.likelihood).restrict(ISOMETRIES)
    return [replace(factor, certificate=None) for factor in (*scales.factors, *labels.factors)]


def _names(factors: list[Factor]) -> str:
    return ", ".join(f"{factor.name} ({factor.size})" for factor in factors) or "none"


def _function_obstacle(sides: _Sides) -> str:
    """Why the functions of the two are not to be compared; empty if they are."""
    missing = [name for name, side in zip(_NAMES, sides, strict=True) if "function" not in side.children]
    if missing:
        return f"Functions are not compared: the {' and the '.join(missing)} tree holds none."
    meanings = [str(side["function"].attrs.get("meaning", "one of no name")) for side in sides]
    shapes = [_shapes(side, "function") for side in sides]
    if meanings[0] != meanings[1] or shapes[0] != shapes[1]:
        return f"Functions are not compared: the two trees hold different ones, {' and '.join(meanings)}."
    first, second = (_inputs(side) for side in sides)
    for name in first | second:
        if name not in first or name not in second or not np.array_equal(first[name], second[name]):
            return (
                f"Functions are not compared: they are values at different inputs, for {name!r} is not the same in the "
                "two trees; sample both with the same probes and data."
            )
    return ""


def _inputs(tree: xr.DataTree) -> dict[str, np.ndarray]:
    """Everything that the function values of a tree are values at."""
    kind = function_kind(tree)
    groups = ("constant_data",) if kind in ("network", "site") else ("constant_data", "observed_data")
    datasets = [tree[group].to_dataset() for group in groups if group in tree.children]
    found = {str(name): array.values for dataset in datasets for name, array in dataset.data_vars.items()}
    return {"probes": found["probes"]} if kind == "network" and "probes" in found else found


def _used_draws(sides: _Sides, max_draws: int, *, with_function: bool) -> tuple[list[_Groups], list[str]]:
    """The groups that are compared or needed to compare, at the draws that are used, and notes on chains left out."""
    weights = [side["posterior"].to_dataset() for side in sides]
    # Chains are alike only if a draw of one run is as many steps of the sampler from the next as in the other.
    apart = [int(np.diff(one.coords["draw"].values[:2]).sum()) or 1 for one in weights]
    strides = [math.lcm(*apart) // each for each in apart]
    num_draws = min(len(range(0, one.sizes["draw"], stride)) for one, stride in zip(weights, strides, strict=True))
    even = even_steps(num_draws, sum(one.sizes["chain"] for one in weights), max_draws)
    used, notes = [], []
    for name, side, dataset, stride in zip(_NAMES, sides, weights, strides, strict=True):
        steps = even * stride
        groups = {"posterior": dataset[list(latent_sites(dataset))].isel(draw=steps)}
        # Where weights are thinned, the other groups have all draws.
        kept = {"draw": dataset.coords["draw"].values[steps]}
        if with_function:
            groups["function"] = side["function"].to_dataset().sel(kept)
        if "sample_stats" in side.children and "lp" in side["sample_stats"].data_vars:
            groups["sample_stats"] = side["sample_stats"].to_dataset()[["lp"]].sel(kept)
        if "precision" in side.children:
            groups["precision"] = side["precision"].to_dataset().isel(draw=steps, missing_dims="ignore")
        finite = finite_chains(xr.DataTree.from_dict(groups))
        if not finite.any():
            raise ValueError(
                f"finite numbers were expected, but every chain of the {name} tree holds others; sample anew"
            )
        if not finite.all():
            left_out = ", ".join(str(chain) for chain in np.flatnonzero(~finite))
            notes.append(f"Left out of the {name}, for holding values that are not finite: chains {left_out}.")
        used.append({key: group.isel(chain=finite, missing_dims="ignore") for key, group in groups.items()})
    return used, notes


def _pool(used: list[_Groups], sides: _Sides) -> tuple[xr.DataTree, list[str]]:
    """One tree with the chains of both, canonical where both carry their symmetries; and notes on how that went."""
    first, second = used
    pooled = {group: _concatenated(first[group], second[group]) for group in first if group in second}
    notes = []
    if "precision" in first | second and pooled.get("precision") is None:
        notes.append("Scales were balanced as if all weights had one prior precision: those of the two trees differ.")
    groups = {group: dataset for group, dataset in pooled.items() if dataset is not None}
    pool = xr.DataTree.from_dict({**groups, "invariants": xr.Dataset()})
    missing = [name for name, side in zip(_NAMES, sides, strict=True) if "symmetries" not in side.attrs]
    if missing:
        notes.append(
            f"There are no canonical weights: the {' and the '.join(missing)} tree carries no symmetries; make it with "
            "to_datatree(draws, find_symmetries(posterior))."
        )
        return pool, notes
    pool.attrs["symmetries"] = sides[0].attrs["symmetries"]
    pool = canonicalize(pool)
    about = pool["canonicalization"].attrs
    if about["trivial"]:
        notes.append("No permutation, sign or scale symmetry was found: canonical weights are the raw weights.")
    if about["unbalanced"]:
        notes.append(f"Scales were left as they are: {about['unbalanced'].rstrip('.')}.")
    return pool, notes


def _concatenated(first: xr.Dataset, second: xr.Dataset) -> xr.Dataset | None:
    """The variables with the chains of both; None if one has chains where the other has none, or another constant."""
    variables = {}
    for name, one in first.data_vars.items():
        other = second.data_vars.get(name)
        if other is None or ("chain" in one.dims) != ("chain" in other.dims):
            return None
        if "chain" in one.dims:
            one, other = (array.transpose("chain", "draw", ...) for array in (one, other))
            variables[name] = one.dims, np.concatenate([one.values, other.values]), one.attrs
        elif np.array_equal(one.values, other.values):
            variables[name] = one.dims, one.values
        else:
            return None
    result = xr.Dataset(variables)
    return result.assign_coords({dim: np.arange(result.sizes[dim]) for dim in ("chain", "draw") if dim in result.dims})


def _in_units_of_spread(quantities: Quantities) -> Float[np.ndarray, "chain draw quantity"]:
    return quantities.values / _site_spread(quantities).astype(quantities.values.dtype)
