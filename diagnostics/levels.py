"""The four levels at which draws are looked at, as plain arrays: whole, or piece by piece from where they are stored.

*raw weights* carry labels (permutations, signs, scales) that mean nothing; *canonical weights* have them removed; the
*function* is what the model says (a network's output at the probe inputs; for any other model the pointwise log
likelihood at the data); the *invariants* are the log likelihood and the log prior, which no exact symmetry changes.
None of them is convincing alone, so they are always shown side by side.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, cast

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

TITLES = {
    "raw": "raw weights",
    "canonical": "canonical weights",
    "function": "function",
    "invariants": "invariants",
}
FunctionKind = Literal["network", "pointwise", "site", "instead"]
"""What the function level is: a network's output, each observation's log likelihood, a site the user named, or the log
likelihood instead of a function that was too large to keep."""

_GROUPS = {"raw": "posterior", "canonical": "canonical_posterior", "function": "function", "invariants": "invariants"}


# Values read at a time: blocks of quantities so wide that the rows of a file, one a draw, are read in long runs.
_PIECE = 1 << 24


@dataclass(frozen=True, eq=False)
class Quantities:
    """Scalar quantities of one level: their draws, and which entry of which variable each is.

    Attributes:
        arrays: variables with dimensions chain, draw and those of an entry; a lazily opened tree's are still on disk.
        chains: which of their chains are meant.
    """

    arrays: Mapping[str, xr.DataArray]
    chains: Bool[np.ndarray, " chain"]

    @property
    def shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The variables and their shapes without chain and draw."""
        return tuple((name, array.shape[2:]) for name, array in self.arrays.items())

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of chains, draws and quantities; nothing is read for them."""
        num_draws = next(iter(self.arrays.values())).shape[1]
        return int(self.chains.sum()), num_draws, sum(math.prod(shape) for _, shape in self.shapes)

    @cached_property
    def values(self) -> Float[np.ndarray, "chain draw quantity"]:
        """All draws, in memory."""
        return self._read([(name, ()) for name in self.arrays])

    def pieces(self) -> Iterator[Float[np.ndarray, "chain draw quantity"]]:
        """The same draws, some quantities after others, so that memory stays bounded; of the same type as `values`."""
        most = max(1, _PIECE // max(1, len(self.chains) * self.sizes[1]))
        boxes, size = [], 0
        for name, shape in self.shapes:
            for box, box_size in _boxes(shape, most):
                if boxes and size + box_size > most:
                    yield self._read(boxes)
                    boxes, size = [], 0
                boxes.append((name, box))
                size += box_size
        yield self._read(boxes)

    def _read(self, boxes: Iterable[tuple[str, tuple[slice, ...]]]) -> Float[np.ndarray, "chain draw quantity"]:
        read = [self.arrays[name][(slice(None), slice(None), *box)].values for name, box in boxes]
        flat = [part.reshape(*part.shape[:2], math.prod(part.shape[2:])) for part in read]
        values = np.concatenate(flat, axis=2, dtype=self._dtype, casting="unsafe")
        return values if self.chains.all() else values[self.chains]

    @property
    def _dtype(self) -> np.dtype:
        """The type that holds all variables; numbers that are not of floating point count as double precision."""
        return np.result_type(*(x.dtype if x.dtype.kind == "f" else np.float64 for x in self.arrays.values()))

    def label(self, index: int) -> str:
        """Name of one quantity, ``hidden_0.kernel[3, 2]`` say."""
        for name, shape in self.shapes:
            size = int(np.prod(shape, dtype=int))
            if index < size:
                return name if not shape else f"{name}[{', '.join(str(i) for i in np.unravel_index(index, shape))}]"
            index -= size
        raise IndexError("no such quantity")


def levels(tree: xr.DataTree) -> Iterator[tuple[str, Quantities]]:
    """The levels that the tree holds, from raw weights to invariants.

    Args:
        tree: As `to_datatree` or `canonicalize` returns it.

    Yields:
        Level name (a key of `TITLES`) and its quantities.
    """
    for level in TITLES:
        names = _variables(tree, level)
        if names:
            yield level, _gather(tree[_GROUPS[level]].to_dataset(), names)


def check_tree(tree: object) -> None:
    """Refuse anything that is no tree of draws.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(tree, xr.DataTree) or "posterior" not in tree.children:
        got = "a tree without a posterior group" if isinstance(tree, xr.DataTree) else type(tree).__name__
        raise ValueError(f"a tree of draws was expected, got {got}; make it with to_datatree(draws, symmetries)")


def count_draws(tree: xr.DataTree) -> int:
    """Draws a chain; where weights are thinned, the other groups have them all."""
    return max(tree[group].sizes.get("draw", 0) for group in ("posterior", "invariants") if group in tree.children)


def finite_chains(tree: xr.DataTree) -> Bool[np.ndarray, " chain"]:
    """Which chains hold finite numbers only, at every level."""
    finite = np.ones(tree["posterior"].sizes["chain"], bool)
    for _, quantities in levels(tree):
        for piece in quantities.pieces():
            finite &= np.isfinite(piece).all((1, 2))
    return finite


def restrict_chains(quantities: Quantities, chains: Bool[np.ndarray, " chain"]) -> Quantities:
    """The same quantities in some of the chains."""
    kept = quantities.chains.copy()
    kept[kept] = chains
    return quantities if chains.all() else replace(quantities, chains=kept)


def latent_sites(dataset: xr.Dataset) -> tuple[str, ...]:
    """The variables of a group of weights that are sampled, not derived from others."""
    return tuple(str(name) for name, array in dataset.data_vars.items() if "deterministic" not in array.attrs)


def function_kind(tree: xr.DataTree) -> FunctionKind | None:
    """What the tree's function level is; None without one, or where its maker does not say."""
    return cast(FunctionKind, tree["function"].attrs.get("kind")) if "function" in tree.children else None


def identified_parameters(tree: xr.DataTree) -> Quantities | None:
    """The parameters that no symmetry moves, of a model whose own function is the likelihood of its observations.

    None for a network, whose weights nobody asks for, without symmetries, where nobody knows, and where all are moved.
    """
    text = tree.attrs.get("symmetries")
    if text is None or function_kind(tree) != "pointwise":
        return None
    groups = json.loads(text)
    factors = (groups["posterior"] or groups["likelihood"])["factors"]
    moved = {slot["site"] for factor in factors for slot in factor["slots"]}
    dataset = tree["posterior"].to_dataset()
    fixed = [site for site in latent_sites(dataset) if site not in moved]
    return _gather(dataset, fixed) if fixed else None


def scale_factors(tree: xr.DataTree) -> bool:
    """Whether the likelihood has scale symmetries, so that the raw log prior depends on the representative."""
    text = tree.attrs.get("symmetries")
    return text is not None and any(item["kind"] == "scale" for item in json.loads(text)["likelihood"]["factors"])


def _variables(tree: xr.DataTree, level: str) -> tuple[str, ...]:
    """Variables that make up a level; the log prior counts as an invariant only where the canonical one is known."""
    if _GROUPS[level] not in tree.children:
        return ()
    present = tuple(str(name) for name in tree[_GROUPS[level]].data_vars)
    if level in ("raw", "canonical"):
        return latent_sites(tree[_GROUPS[level]].to_dataset())
    if level != "invariants":
        return present
    if "canonical_log_prior" in present or scale_factors(tree):
        return tuple(name for name in present if name != "log_prior")
    return present


def _gather(dataset: xr.Dataset, names: Iterable[str]) -> Quantities:
    arrays = {name: dataset[name].transpose("chain", "draw", ...) for name in names}
    return Quantities(arrays, np.ones(dataset.sizes["chain"], bool))


def _boxes(shape: tuple[int, ...], most: int) -> Iterator[tuple[tuple[slice, ...], int]]:
    """Boxes of at most so many entries, with their sizes, that hold all entries in order one behind the other."""
    if not shape or math.prod(shape) <= most:
        yield tuple(slice(None) for _ in shape), math.prod(shape)
        return
    size = math.prod(shape[1:])
    step = max(1, most // size)
    for begin in range(0, shape[0], step):
        end = min(begin + step, shape[0])
        for box, inner in _boxes(shape[1:], most):
            yield (slice(begin, end), *box), (end - begin) * inner
