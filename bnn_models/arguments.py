"""The arguments of one model call, with the arrays apart from everything else.

A model is called as ``model(*args, **kwargs)``. Arrays among the arguments are *data*: they become leaves of a pytree,
so that a compiled program takes them as inputs and serves any other data of the same shapes. Everything else (sizes,
names, switches, ``None``) is *structure*: it must be hashable and decides which program is compiled.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from numpyro.primitives import Messenger


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class Arguments:
    """Arguments of one call; a pytree whose leaves are the arrays.

    Attributes:
        arrays: One entry a leaf of ``(args, kwargs)``: the array, or ``None`` where the leaf is structure.
        structure: The other leaves, ``None`` where the leaf is an array.
        names: What each leaf is called: the model's own name for the argument, then the keys inside it.
        treedef: How ``(args, kwargs)`` is put together again.
    """

    arrays: tuple[Any, ...]
    structure: tuple[Hashable, ...]
    names: tuple[str, ...]
    treedef: Any

    @classmethod
    def pack(cls, model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments:
        """Sort the arguments of ``model(*args, **kwargs)`` into arrays and structure.

        Raises:
            ValueError: If they do not fit the model's signature, or an array holds NaN, infinity or no numbers.
        """
        positional = _positional_names(model, args, kwargs)
        paths, treedef = jax.tree_util.tree_flatten_with_path((args, dict(kwargs)), is_leaf=_is_number_list)
        names = tuple(_leaf_name(path, positional) for path, _ in paths)
        leaves = [_as_leaf(leaf, name) for (_, leaf), name in zip(paths, names, strict=True)]
        arrays = tuple(leaf if isinstance(leaf, Array) else None for leaf in leaves)
        structure = tuple(None if isinstance(leaf, Array) else leaf for leaf in leaves)
        return cls(arrays, structure, names, treedef)

    def unpack(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``(args, kwargs)`` as they were given, with JAX arrays in place of all others."""
        leaves = [s if a is None else a for a, s in zip(self.arrays, self.structure, strict=True)]
        return jax.tree.unflatten(self.treedef, leaves)

    def named_arrays(self) -> dict[str, Array]:
        """The arrays under the model's names for them."""
        return {name: a for name, a in zip(self.names, self.arrays, strict=True) if a is not None}

    def tree_flatten(self) -> tuple[tuple[Any, ...], Hashable]:
        """Arrays as leaves, the rest as structure."""
        return (self.arrays,), (self.structure, self.names, self.treedef)

    @classmethod
    def tree_unflatten(cls, aux: Any, children: tuple[Any, ...]) -> Arguments:
        """Put together what `tree_flatten` took apart."""
        return cls(children[0], *aux)


def signature_of(model: Callable[..., Any]) -> inspect.Signature:
    """The signature of a model's own function, also where a NumPyro handler is wrapped about it."""
    while isinstance(model, Messenger) and callable(model.fn):
        model = model.fn
    return inspect.signature(model)


def _positional_names(model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    """The model's names for its positional arguments; refuses a call that its signature does not allow."""
    signature = signature_of(model)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        name = getattr(model, "__name__", type(model).__name__)
        raise ValueError(
            f"The arguments do not fit the model {name}({', '.join(signature.parameters)}): {error}; pass what it "
            "takes, by these names."
        ) from error
    names = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{i}" for i in range(len(args) - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    return names


def _leaf_name(path: tuple[Any, ...], positional: list[str]) -> str:
    group, argument, *inner = path
    head = positional[argument.idx] if group.idx == 0 else argument.key
    return ".".join([head, *(jax.tree_util.keystr((key,), simple=True) for key in inner)])


def _is_number_list(value: Any) -> bool:
    """Whether a list is written-out data (``[28.0, 8.0, -3.0]``) rather than a container of arguments."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(v, (int, float, np.generic)) or _is_number_list(v) for v in value)


def _as_leaf(value: Any, name: str) -> Any:
    """A JAX array for whatever is an array, a plain Python value for the rest."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tracer):
        return value
    if not (isinstance(value, list) or hasattr(value, "__array__")):
        if not isinstance(value, Hashable):
            raise ValueError(
                f"Argument {name!r} should be an array or hashable, got a {type(value).__name__}; pass data as arrays "
                "and settings as numbers, strings or tuples."
            )
        return value
    if isinstance(value, Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "biufc" and not jnp.issubdtype(array.dtype, jnp.number):
        raise ValueError(
            f"Argument {name!r} should hold numbers, got dtype {array.dtype}; encode its values as numbers."
        )
    if jnp.issubdtype(array.dtype, jnp.inexact) and not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise ValueError(
            f"Argument {name!r} should be finite, but {bad} of its {array.size} values are NaN or infinite; "
            "drop or impute them first."
        )
    return value if isinstance(value, Array) else jnp.asarray(array)
