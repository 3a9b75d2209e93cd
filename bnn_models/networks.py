r"""Constructors of networks.

`mlp` computes, for one row x,

.. math:: h_0 = x,\quad h_{l+1} = \phi(W_l^\top h_l + b_l),\quad f(x) = W_L^\top h_L + b_L,

on all rows at once, as columns (*feature-major*): the long data axis is then contiguous in every matrix product. The
gradient of an affine map is taken through the one product :math:`[W; b]^\top [h; 1]`, because the sum over rows that a
separate bias needs backwards costs XLA's CPU compiler as much as a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax
from jaxtyping import Float, Shaped

from .adapters import Network, NNXNetwork, adapt

__all__ = ["Network", "adapt", "mlp"]


def mlp(widths: Sequence[int], activation: str | Callable[[Array], Array] = "tanh") -> NNXNetwork:
    """A fully connected network.

    Args:
        widths: Numbers of units, ``[input, hidden, ..., output]``.
        activation: What each hidden layer applies: the name of a function in ``jax.nn``, or a function of one array.

    Returns:
        A network with the layers ``hidden_0``, ``hidden_1``, ..., ``head``, each with a ``kernel`` and a ``bias``.

    Raises:
        ValueError: If there are fewer than two widths, one is not positive, or the activation is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> from bnn_models import networks
        >>> list(networks.mlp([10, 3, 1]).shapes(jnp.zeros((5, 10))).items())[:2]
        [('hidden_0.kernel', (10, 3)), ('hidden_0.bias', (3,))]
    """
    if len(widths) < 2 or any(not isinstance(w, (int, np.integer)) or w < 1 for w in widths):
        raise ValueError(f"mlp needs positive whole widths [input, hidden, ..., output], got {list(widths)}.")
    if isinstance(activation, str):
        function = getattr(jax.nn, activation, None)
        if not callable(function):
            raise ValueError(
                f"Unknown activation {activation!r}; give the name of a function in jax.nn, such as 'tanh' or 'relu'."
            )
        activation = cast(Callable[[Array], Array], function)
    return NNXNetwork.of(MLP([int(width) for width in widths], activation))


@jax.custom_jvp
def affine(
    kernel: Float[Array, "input output"], bias: Float[Array, " output"], h: Float[Array, "input batch"]
) -> Array:
    """``kernel.T @ h + bias`` of columns ``h``."""
    return lax.dot_general(kernel, h, (((0,), (0,)), ((), ()))) + bias[:, None]


@affine.defjvp
def _affine_jvp(primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    return jax.jvp(_affine_as_one_product, primals, tangents)


def _affine_as_one_product(kernel: Array, bias: Array, h: Array) -> Array:
    stacked = jnp.concatenate([kernel, bias[None]])
    inputs = jnp.concatenate([h, jnp.ones((1, h.shape[1]), h.dtype)])
    return lax.dot_general(stacked, inputs, (((0,), (0,)), ((), ())))


class FeatureMajorDense(nnx.Module):
    """One affine map of columns; its weights are given with each call, those it is made with stand for their shapes."""

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        self.kernel = nnx.Param(jnp.zeros((num_inputs, num_outputs)))
        self.bias = nnx.Param(jnp.zeros(num_outputs))

    def __call__(self, h: Float[Array, "input batch"]) -> Float[Array, "output batch"]:
        kernel, bias = self.kernel[...], self.bias[...]
        dtype = jnp.result_type(kernel, bias, h)
        return affine(kernel.astype(dtype), bias.astype(dtype), h.astype(dtype))


class MLP(nnx.Module):
    """See `mlp`."""

    def __init__(self, widths: list[int], activation: Callable[[Array], Array]) -> None:
        self.activation = activation
        self.num_hidden = len(widths) - 2
        for i in range(self.num_hidden):
            setattr(self, f"hidden_{i}", FeatureMajorDense(widths[i], widths[i + 1]))
        self.head = FeatureMajorDense(widths[-2], widths[-1])

    def __call__(self, x: Shaped[Array, "batch input"]) -> Float[Array, "batch output"]:
        h = x.T
        for i in range(self.num_hidden):
            h = self.activation(getattr(self, f"hidden_{i}")(h))
        return self.head(h).T
