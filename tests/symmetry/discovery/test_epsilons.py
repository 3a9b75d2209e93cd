"""Scales that hold but for the epsilon of a normalisation: kept apart, measured, and never used to move weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symmetry import Symmetries
from symmetry.discovery import find_symmetries

X = jnp.asarray(np.random.default_rng(0).standard_normal((8, 3)))
SHAPES = {
    name: jax.ShapeDtypeStruct(size, jnp.float32)
    for name, size in {"w": (3, 4), "g": (4,), "b": (4,), "v": (4, 2)}.items()
}


def network(epsilon, norm="batch"):
    axis = 0 if norm == "batch" else 1

    def apply(p, x):
        h = x @ p["w"]
        spread = jnp.sqrt(h.var(axis, keepdims=True) + epsilon)
        if norm == "maximum":
            spread = jnp.maximum(jnp.sqrt((h**2).sum(axis, keepdims=True)), epsilon)
        return jnp.tanh((h - h.mean(axis, keepdims=True)) / spread * p["g"] + p["b"]) @ p["v"]

    return apply


def scales(factors):
    return {
        (factor.size, frozenset((slot.site, slot.axis, slot.exponent) for slot in factor.slots)) for factor in factors
    }


@pytest.mark.parametrize(("norm", "size", "axis"), [("batch", 4, 1), ("layer", 1, None), ("maximum", 1, None)])
def test_weights_before_a_normalisation(norm, size, axis):
    found = find_symmetries(network(1e-5, norm), SHAPES, X)
    assert {factor.kind for factor in found.likelihood.factors} == {"permutation", "sign"}
    assert scales(found.approximate) == {(size, frozenset({("w", axis, 1)}))}
    (factor,) = found.approximate
    assert 0.0 <= factor.certificate.error < 1e-2
    assert factor.certificate.control > 0.0


def test_the_deviation_is_what_the_epsilon_makes_it():
    small, large = (find_symmetries(network(epsilon), SHAPES, X).approximate[0] for epsilon in (1e-7, 1e-4))
    assert 0 < 10 * small.certificate.error < large.certificate.error


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_without_an_epsilon_nothing_is_approximate(epsilon):
    found = find_symmetries(network(epsilon), SHAPES, X)
    assert found.approximate == ()
    assert any(factor.kind == "scale" for factor in found.likelihood.factors) == (epsilon == 0.0)


def test_a_small_constant_that_matters_is_no_epsilon():
    """Next to inputs of size 1e-3 the constant is what the network is about: the deviation is large."""
    found = find_symmetries(lambda p, x: jnp.maximum(1e-3 * jnp.tanh(x @ p["w"]), 1e-3) @ p["v"], SHAPES, X)
    assert found.approximate == ()


def test_they_are_told_and_stored():
    found = find_symmetries(network(1e-5), SHAPES, X)
    assert "Approximate symmetries of the likelihood" in found.describe()
    assert f"deviation {found.approximate[0].certificate.error:.1e}" in found.describe()
    assert Symmetries.from_json(found.to_json()) == found


def test_shapes_suffice():
    found = find_symmetries(network(1e-5), SHAPES, X, certify=False)
    assert [factor.certificate for factor in found.approximate] == [None]
