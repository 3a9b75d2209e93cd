"""Primitives that move positions about: reshapes that read dimensions in another order, reversals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symmetry.discovery import find_symmetries

RNG = np.random.default_rng(4)
X = RNG.standard_normal((6, 3))


def ones(**shapes):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


def found(network, params):
    group = find_symmetries(network, params, X).likelihood
    assert all(factor.certificate.error <= 1e-10 for factor in group.factors)
    return {(factor.kind, factor.size) for factor in group.factors}


def test_a_reshape_that_reads_its_dimensions_in_another_order(recwarn):
    """``[n, a, b]`` read as ``[n, b, a]``: the merged axis runs over b first."""

    def network(params, x):
        h, g = jnp.tanh(x @ params["h"]), jnp.tanh(x @ params["g"])
        return jax.lax.reshape(h[:, :, None] * g[:, None, :], (6, 20), (0, 2, 1)) @ params["c"]

    kinds = found(network, ones(h=(3, 4), g=(3, 5), c=(20, 1)))
    assert {("permutation", 4), ("permutation", 5), ("sign", 4), ("sign", 5)} <= kinds
    assert not recwarn.list


@pytest.mark.parametrize("dim", [0, 1])
def test_a_reversal_keeps_what_does_not_move(dim):
    """Reversed inputs leave the units alone; reversed units have places."""

    def network(params, x):
        return jnp.maximum(x @ jnp.flip(params["w"], dim), 0.0) @ params["v"]

    kinds = found(network, ones(w=(3, 4), v=(4, 1)))
    units = {("permutation", 4), ("scale", 4)}
    assert (units <= kinds) == (dim == 0)
