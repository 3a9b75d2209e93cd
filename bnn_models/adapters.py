"""Networks as pure functions of named weights: one door for four ways to write one.

A *network* is ``shapes(x)``, the names and shapes of its parameters in the order in which the network declares them,
and ``apply(weights, x)``. A name is the path of a parameter, joined by dots: ``hidden_0.kernel``, ``layers.0.weight``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax import Array
from jaxtyping import Shaped

from .layout import Constants, Layout, Weights, dotted, insertion_names

Inputs = Shaped[Array | np.ndarray, "batch ..."]

_BATCH_STATISTICS = (
    "The network keeps batch statistics, which make the density of one row depend on the other rows; replace batch "
    "normalisation by a normalisation without state (layer, group or filter response)."
)


@runtime_checkable
class Network(Protocol):
    """What `BNN` asks of a network; hashable and equal by value, so that equal models share compiled programs."""

    def shapes(self, x: Inputs) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters, in the network's own order."""
        ...

    def apply(self, weights: Weights, x: Inputs) -> Shaped[Array, "batch ..."]:
        """The output at the rows of ``x``."""
        ...


def adapt(network: Any) -> Network:
    """Make a network of whatever the user wrote it in.

    Args:
        network: A Flax NNX module, a Flax Linen module, an Equinox module (called on one row and vmapped over the
            batch), a pair ``(init, apply)`` with ``init(rng_key, x)`` and ``apply(parameters, x)``, or a `Network`.

    Returns:
        The network.

    Raises:
        ValueError: If it is none of these, or keeps batch statistics.

    Example:
        >>> import jax.numpy as jnp
        >>> from bnn_models import networks
        >>> line = (lambda rng_key, x: {"slope": jnp.zeros((x.shape[1], 1))}, lambda w, x: x @ w["slope"])
        >>> networks.adapt(line).shapes(jnp.zeros((5, 2)))
        {'slope': (2, 1)}
    """
    if isinstance(network, nnx.Module):
        return NNXNetwork.of(network)
    if isinstance(network, linen.Module):
        return LinenNetwork(network if _is_hashable(network) else _ByIdentity(network))
    if isinstance(network, tuple) and len(network) == 2 and all(callable(f) for f in network):
        return FunctionNetwork(*network)
    if callable(network) and any(_is_parameter(leaf) for leaf in jax.tree.leaves(network)):
        return PyTreeNetwork.of(network)
    if isinstance(network, Network):
        return network
    raise ValueError(
        "A network should be a Flax NNX or Linen module, an Equinox module or a pair (init, apply), got "
        f"{type(network).__name__}; build one, for instance with networks.mlp([10, 50, 1])."
    )


@dataclass(frozen=True)
class NNXNetwork:
    """A Flax NNX module: its graph, the layout of its parameters, and the state that is no parameter."""

    graphdef: Any = field(repr=False)
    layout: Layout
    rest: Constants = field(repr=False)

    @classmethod
    def of(cls, module: nnx.Module) -> NNXNetwork:
        """Take a module apart; dropout and the like are switched to evaluation, on a copy."""
        copy = nnx.merge(*nnx.split(module), copy=True)
        copy.eval()
        graphdef, parameters, statistics, rest = nnx.split(copy, nnx.Param, nnx.BatchStat, ...)
        if jax.tree.leaves(statistics):
            raise ValueError(_BATCH_STATISTICS)
        names = [dotted(path[:-1]) for path, _ in jax.tree_util.tree_flatten_with_path(parameters)[0]]
        declared = [name for name in _attribute_names(module) if name in names]  # a merged copy is sorted
        return cls(graphdef, Layout.of(parameters, names, declared), Constants.of(rest))

    def shapes(self, x: Inputs) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters, in the order of the module's attributes."""
        del x
        return self.layout.shapes()

    def apply(self, weights: Weights, x: Inputs) -> Shaped[Array, "batch ..."]:
        """The module's output."""
        return nnx.merge(self.graphdef, self.layout.assemble(weights), self.rest.tree())(x)


@dataclass(frozen=True)
class PyTreeNetwork:
    """A callable pytree such as an Equinox module: its floating arrays are the parameters."""

    treedef: Any = field(repr=False)
    is_parameter: tuple[bool, ...] = field(repr=False)
    layout: Layout
    rest: Constants = field(repr=False)

    @classmethod
    def of(cls, module: Callable[..., Any]) -> PyTreeNetwork:
        """Take a module apart."""
        paths, treedef = jax.tree_util.tree_flatten_with_path(module)
        if any(map(_is_state_index, jax.tree.leaves(module, is_leaf=_is_state_index))):
            raise ValueError(_BATCH_STATISTICS)
        parameters = {dotted(path): leaf for path, leaf in paths if _is_parameter(leaf)}
        rest = [leaf for _, leaf in paths if not _is_parameter(leaf)]
        layout = Layout.of(list(parameters.values()), list(parameters))
        return cls(treedef, tuple(_is_parameter(leaf) for _, leaf in paths), layout, Constants.of(rest))

    def shapes(self, x: Inputs) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters, in the order of the module's fields."""
        del x
        return self.layout.shapes()

    def apply(self, weights: Weights, x: Inputs) -> Shaped[Array, "batch ..."]:
        """The module's output at each row."""
        parameters, rest = iter(self.layout.assemble(weights)), iter(self.rest.tree())
        leaves = [next(parameters) if is_parameter else next(rest) for is_parameter in self.is_parameter]
        return jax.vmap(jax.tree.unflatten(self.treedef, leaves))(x)


class AbstractInitNetwork:
    """A network that makes its parameters when it sees its input."""

    @abstractmethod
    def init(self, rng_key: Array, x: Array) -> Any:
        """A tree of parameters."""

    @abstractmethod
    def call(self, parameters: Any, x: Array) -> Array:
        """The output for a tree of parameters."""

    def shapes(self, x: Inputs) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters, in the order in which `init` makes them."""
        return self._layout(x).shapes()

    def apply(self, weights: Weights, x: Inputs) -> Shaped[Array, "batch ..."]:
        """The network's output."""
        return self.call(self._layout(x).assemble(weights), jnp.asarray(x))

    def _layout(self, x: Inputs) -> Layout:
        order: list[str] = []

        def parameters(rng_key: Array, x: Array) -> Any:
            tree = self.init(rng_key, x)
            order.extend(insertion_names(tree))  # `eval_shape` returns dictionaries sorted
            return tree

        return Layout.of(jax.eval_shape(parameters, jax.random.key(0), x), order=order)


@dataclass(frozen=True)
class LinenNetwork(AbstractInitNetwork):
    """A Flax Linen module."""

    module: Hashable

    def init(self, rng_key: Array, x: Array) -> Any:
        """The module's ``params`` collection."""
        variables = self._module().init(rng_key, x)
        if set(variables) - {"params"}:
            raise ValueError(_BATCH_STATISTICS)
        return variables["params"]

    def call(self, parameters: Any, x: Array) -> Array:
        """The module applied."""
        return self._module().apply({"params": parameters}, x)

    def _module(self) -> Any:
        return self.module.value if isinstance(self.module, _ByIdentity) else self.module


@dataclass(frozen=True)
class FunctionNetwork(AbstractInitNetwork):
    """A pair of functions: ``init_function(rng_key, x)`` and ``apply_function(parameters, x)``."""

    init_function: Callable[[Array, Array], Any]
    apply_function: Callable[[Any, Array], Array]

    def init(self, rng_key: Array, x: Array) -> Any:
        """The tree that ``init_function`` makes."""
        return self.init_function(rng_key, x)

    def call(self, parameters: Any, x: Array) -> Array:
        """The output of ``apply_function``."""
        return self.apply_function(parameters, x)


@dataclass(frozen=True, eq=False)
class _ByIdentity:
    """Stands for a module that cannot be hashed, such as one with a list among its fields."""

    value: Any


def _is_parameter(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and hasattr(leaf, "shape") and jnp.issubdtype(leaf.dtype, jnp.floating)


def _is_state_index(node: Any) -> bool:
    """Whether a node is Equinox's handle of a layer's state."""
    return type(node).__name__ == "StateIndex"


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _attribute_names(node: Any, path: tuple[Any, ...] = ()) -> list[str]:
    """Names of the parameters below an NNX module, in the order in which they were assigned."""
    if isinstance(node, nnx.Param):
        return [dotted(path)]
    if isinstance(node, nnx.Module):
        children = [(key, child) for key, child in vars(node).items() if not key.startswith("_pytree__")]
    elif isinstance(node, Mapping):
        children = list(node.items())
    elif isinstance(node, (list, tuple)):
        children = list(enumerate(node))
    else:
        return []
    return [n for key, child in children for n in _attribute_names(child, (*path, jax.tree_util.DictKey(key)))]
