"""Programs that insist on float32, evaluated in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax import lax

from bnn_models import BNN, Posterior, likelihoods, priors
from symmetry.discovery import find_symmetries
from symmetry.discovery.upcast import in_double_precision

THIRD = np.float32(1 / 3)


def scanned(x):
    carried, ys = lax.scan(lambda c, v: (c * THIRD + v, jnp.sum(c)), jnp.zeros(3, jnp.float32), x, reverse=True)
    return carried, ys


def looped(x):
    return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.tanh(c[1]) * THIRD), (0, x.astype(jnp.float32)))


def chosen(x):
    return lax.cond(x.sum() > 0, lambda v: v.astype(jnp.float32) * THIRD, lambda v: jnp.cumsum(v, 0) / 7, x)


def called(x):
    return jax.nn.softplus(jax.jit(jnp.sin)(x)).astype(jnp.float32), jnp.argsort(x, axis=0), jax.checkpoint(jnp.exp)(x)


def drawn(x):
    return x + jax.random.normal(jax.random.key(0), x.shape, jnp.float32)


@pytest.mark.parametrize("function", [scanned, looped, chosen, called, drawn])
def test_values_are_those_of_the_program_with_fewer_roundings(function):
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    expected = jax.tree.leaves(jax.jit(function)(x))
    doubled = in_double_precision(function, x)
    with jax.enable_x64(True):
        values = jax.tree.leaves(jax.jit(doubled)(x.astype(np.float64)))
    assert [value.shape for value in values] == [value.shape for value in expected]
    for value, single in zip(values, expected, strict=True):
        is_float = jnp.issubdtype(single.dtype, jnp.floating)
        assert value.dtype == (np.float64 if is_float else single.dtype)
        np.testing.assert_allclose(value, single, rtol=1e-5, atol=1e-6)
        assert not is_float or np.any(np.asarray(value) != np.asarray(value, np.float32))


class Sequence(linen.Module):
    """A recurrent network with flax's own default types, its last state read out."""

    @linen.compact
    def __call__(self, x):
        return linen.Dense(1)(linen.RNN(linen.SimpleCell(4))(x)[:, -1])


def test_a_posterior_of_a_network_that_insists_on_float32():
    rng = np.random.default_rng(1)
    model = BNN(Sequence(), priors.normal(), likelihoods.normal())
    found = find_symmetries(Posterior(model, rng.normal(size=(6, 5, 2)), rng.normal(size=6)))
    assert [(factor.kind, factor.size) for factor in found.posterior.factors] == [("permutation", 4), ("sign", 4)]
    assert all(factor.certificate.error <= 1e-12 for factor in found.posterior.factors)
