"""Directions in which nothing changes, against those that the group explains."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import sample

from bnn_models import Posterior
from symmetry import SymmetryGroup, check_completeness, find_symmetries

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((6, 3)))


def shapes(**sizes):
    return {name: jax.ShapeDtypeStruct(size, jnp.float32) for name, size in sizes.items()}


def attention(p, x):
    return jax.nn.softmax((x @ p["q"]) @ (x @ p["k"]).T) @ x @ p["v"]


def normalised(p, x):
    h = x @ p["w"]
    return jnp.tanh(h / jnp.sqrt((h**2).sum(1, keepdims=True)) @ p["v"])


# What changes nothing: scales of units, GL(2), its like over two heads, O(4) and a scale, shifts, unused weights.
KNOWN = {
    "relu": (lambda p, x: jax.nn.relu(x @ p["w"] + p["b"]) @ p["v"], {"w": (3, 4), "b": (4,), "v": (4, 2)}, 4),
    "tanh": (lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"], {"w": (3, 4), "v": (4, 2)}, 0),
    "linear": (lambda p, x: x @ p["w"] @ p["v"], {"w": (3, 2), "v": (2, 3)}, 4),
    "attention": (attention, {"q": (3, 2), "k": (3, 2), "v": (3, 2)}, 4),
    "softmax": (lambda p, x: jax.nn.log_softmax(x @ p["w"] + p["b"]), {"w": (3, 4), "b": (4,)}, 4),
    "unused": (lambda p, x: x @ p["w"], {"w": (3, 2), "b": (5,)}, 5),
    "normalised": (normalised, {"w": (3, 3), "v": (3, 4)}, 3 + 1),
}


@pytest.mark.parametrize("name", KNOWN)
def test_nothing_is_missing(name):
    apply, sizes, dimension = KNOWN[name]
    group = find_symmetries(apply, shapes(**sizes), X).likelihood
    found = check_completeness(group, apply, shapes(**sizes), X)
    assert (found.num_flat, found.num_explained) == (dimension, dimension)
    assert str(found).startswith("complete")


def test_abstract_inputs_are_those_of_the_certificates():
    """Every row of a table is looked up, whole numbers of which only the shape is known included."""

    def apply(p, x):
        features, tokens = x
        return jnp.tanh(features + p["table"][tokens]) @ p["v"]

    params = shapes(table=(2, 3), v=(3, 2))
    x = jax.ShapeDtypeStruct((6, 3), jnp.float32), jax.ShapeDtypeStruct((6,), jnp.int32)
    found = check_completeness(find_symmetries(apply, params, x).likelihood, apply, params, x)
    assert str(found) == "complete: 0 of 12 directions change nothing, 0 by symmetry"


def test_what_is_missing_is_counted():
    apply, sizes, dimension = KNOWN["relu"]
    trivial = SymmetryGroup(sizes)
    found = check_completeness(trivial, apply, shapes(**sizes), X)
    assert (found.num_missing, found.num_explained) == (dimension, 0)
    assert str(found).startswith("possibly incomplete by 4 directions")


def test_a_bias_that_the_next_one_makes_good():
    """A known limit: ``b_0`` shifted and ``b_1`` shifted back depends on the weights between, and is no factor."""

    def apply(p, x):
        return (x @ p["w"] + p["b_0"]) @ p["v"] + p["b_1"]

    sizes = {"w": (3, 2), "b_0": (2,), "v": (2, 3), "b_1": (3,)}
    found = check_completeness(find_symmetries(apply, shapes(**sizes), X).likelihood, apply, shapes(**sizes), X)
    assert found.num_missing == 2


def regression(x, y):
    w = sample("w", dist.Normal(0.0, 1.0).expand([3, 2]).to_event(2))
    v = sample("v", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    sample("y", dist.Normal(jax.nn.relu(x @ w) @ v, 1.0), obs=y)


@pytest.mark.parametrize(("rows", "text"), [(40, "complete: 2 of 8"), (5, "5 outputs cannot tell 8 weights apart")])
def test_posteriors(rows, text):
    posterior = Posterior(regression, RNG.standard_normal((rows, 3)), RNG.standard_normal(rows))
    assert text in str(check_completeness(find_symmetries(posterior).likelihood, posterior))


def test_large_models_are_not_counted():
    found = check_completeness(SymmetryGroup({"w": (100, 100)}), lambda p, x: x, shapes(w=(100, 100)), X)
    assert "10000 weights are more than 3000" in str(found)
