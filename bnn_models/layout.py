"""Trees of parameters taken apart into named arrays, and trees of constants that can be compared.

A parameter is named after its path in the tree, joined by dots: ``hidden_0.kernel``, ``layers.0.weight``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Weights = Mapping[str, Array | np.ndarray]


@dataclass(frozen=True, repr=False)
class Layout:
    """How a tree of parameters is taken apart: names and shapes in leaf order, and the order in which to show them."""

    treedef: Any
    names: tuple[str, ...]
    leaf_shapes: tuple[tuple[int, ...], ...]
    order: tuple[str, ...]

    @classmethod
    def of(cls, tree: Any, names: Sequence[str] | None = None, order: Sequence[str] | None = None) -> Layout:
        """Lay out a tree; without names each leaf is called by its path."""
        paths, treedef = jax.tree_util.tree_flatten_with_path(tree)
        names = tuple(dotted(path) for path, _ in paths) if names is None else tuple(names)
        return cls(treedef, names, tuple(tuple(leaf.shape) for _, leaf in paths), tuple(order or names))

    def __repr__(self) -> str:
        return ", ".join(f"{name} {shape}" for name, shape in self.shapes().items())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes, in the order in which to show them."""
        by_name = dict(zip(self.names, self.leaf_shapes, strict=True))
        return {name: by_name[name] for name in self.order}

    def assemble(self, weights: Weights) -> Any:
        """The tree whose leaves are the weights."""
        return jax.tree.unflatten(self.treedef, [weights[name] for name in self.names])


@dataclass(frozen=True)
class Constants:
    """A tree whose leaves never change; arrays among them hash and compare by value."""

    treedef: Any
    leaves: tuple[Hashable, ...]

    @classmethod
    def of(cls, tree: Any) -> Constants:
        """Freeze a tree."""
        leaves, treedef = jax.tree.flatten(tree)
        return cls(treedef, tuple(_FrozenArray.of(leaf) if hasattr(leaf, "dtype") else leaf for leaf in leaves))

    def tree(self) -> Any:
        """The tree, its arrays as JAX arrays."""
        leaves = [leaf.array() if isinstance(leaf, _FrozenArray) else leaf for leaf in self.leaves]
        return jax.tree.unflatten(self.treedef, leaves)


def dotted(path: Sequence[Any]) -> str:
    """A path as a name with dots; slashes, which Haiku uses and NetCDF forbids, become dots too."""
    name = jax.tree_util.keystr(tuple(path), simple=True, separator=".")
    parts = [part for part in name.replace("/", ".").split(".") if part not in ("", "~")]
    return ".".join(parts) or "parameters"


def insertion_names(node: Any, path: tuple[Any, ...] = ()) -> list[str]:
    """Names of the leaves, in the order in which dictionaries were filled."""
    if not isinstance(node, Mapping):
        leaves = jax.tree_util.tree_flatten_with_path(node)[0]
        return [dotted((*path, *inner)) for inner, _ in leaves]
    return [n for key, child in node.items() for n in insertion_names(child, (*path, jax.tree_util.DictKey(key)))]


@dataclass(frozen=True)
class _FrozenArray:
    content: bytes
    dtype: str
    shape: tuple[int, ...]
    key_impl: Any

    @classmethod
    def of(cls, array: Any) -> _FrozenArray:
        is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
        data = np.asarray(jax.random.key_data(array) if is_key else array)
        return cls(data.tobytes(), data.dtype.name, data.shape, jax.random.key_impl(array) if is_key else None)

    def array(self) -> Array:
        data = jnp.asarray(np.frombuffer(self.content, jnp.dtype(self.dtype)).reshape(self.shape))
        return data if self.key_impl is None else jax.random.wrap_key_data(data, impl=self.key_impl)
