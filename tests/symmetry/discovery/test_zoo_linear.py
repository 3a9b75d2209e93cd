"""The true groups of what is linear in its units: any invertible matrix, any rotation, and what takes them away."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from truth import GL, O, R, S, Z, exponents, factors, members, reason, shapes

from symmetry.discovery import find_symmetries

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((7, 3)))
relu, tanh, gelu = jax.nn.relu, jnp.tanh, jax.nn.gelu


def discover(apply, x=X, **sizes):
    return find_symmetries(apply, shapes(**sizes), x).likelihood


def test_linear_layers_have_a_matrix_and_its_inverse_transpose():
    found = discover(lambda p, x: x @ p["a"] @ p["b"], a=(3, 4), b=(4, 2))
    assert factors(found) == Counter([GL(4)])
    assert exponents(found, "linear", 4) == [{("a", 1): 1, ("b", 0): -1}]


def test_a_linear_layer_whose_units_are_read_in_two_ways_has_no_matrix():
    def apply(p, x):
        h = x @ p["w"]
        return h @ p["v"] + relu(h) @ p["u"]

    found = discover(apply, w=(3, 4), v=(4, 2), u=(4, 2))
    assert factors(found) == Counter([S(4), R(4)])


def test_low_rank_adaptation():
    base, head = RNG.standard_normal((3, 5)), RNG.standard_normal((5, 2))

    def apply(p, x):
        return gelu(x @ (base + p["down"] @ p["up"])) @ head

    found = discover(apply, down=(3, 2), up=(2, 5))
    assert factors(found) == Counter([GL(2)])
    assert exponents(found, "linear", 2) == [{("down", 1): 1, ("up", 0): -1}]
    assert reason(found, "up", 1) == "unequal constants"


def test_low_rank_adaptation_of_trained_weights():
    def apply(p, x):
        return gelu(x @ (p["base"] + p["down"] @ p["up"])) @ p["head"]

    found = discover(apply, base=(3, 5), down=(3, 2), up=(2, 5), head=(5, 2))
    assert factors(found) == Counter([GL(2), S(5)])
    assert members(found, "permutation", 5) == {("base", 1), ("up", 1), ("head", 0)}


def test_bilinear_units_have_no_matrix():
    """The product of two linear units is linear in neither basis: what is left is diagonal, two of each."""

    def apply(p, x):
        return ((x @ p["a"]) * (x @ p["b"])) @ p["out"]

    found = discover(apply, a=(3, 5), b=(3, 5), out=(5, 2))
    assert factors(found) == Counter({S(5): 1, Z(5): 2, R(5): 2})


def test_ensemble_of_linear_networks():
    def apply(p, x):
        return jax.vmap(lambda p: x @ p["w"] @ p["v"])(p).mean(0)

    found = discover(apply, w=(3, 3, 4), v=(3, 4, 2))
    assert factors(found) == Counter([S(3), GL(4, 3)])


def test_a_stream_with_a_gain_has_no_matrix():
    def apply(p, x):
        h = x @ p["a"]
        return (h + relu((h * p["g"]) @ p["m"]) @ p["n"]) @ p["z"]

    found = discover(apply, a=(3, 5), g=(5,), m=(5, 4), n=(4, 5), z=(5, 2))
    assert factors(found) == Counter({S(5): 1, Z(5): 2, R(5): 2, S(4): 1, R(4): 1})


def test_constant_mask_on_linear_units():
    """Unequal constants on linear units leave their scales, but no matrix that mixes them."""
    mask = jnp.asarray([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
    found = discover(lambda p, x: ((x @ p["w"]) * mask) @ p["v"], w=(3, 6), v=(6, 2))
    assert factors(found) == Counter([S(6), Z(6), R(6)])
    assert [factor.colours for factor in found.factors if factor.kind == "permutation"] == [(0, 0, 0, 1, 1, 1)]


@pytest.mark.parametrize(
    ("apply", "sizes", "true"),
    [
        (lambda p, x: x @ p["a"] @ p["a"].T, {"a": (3, 4)}, [O(4)]),
        (lambda p, x: relu(x @ p["a"]) @ p["a"].T, {"a": (3, 4)}, [S(4)]),
        (lambda p, x: tanh(x @ p["a"]) @ p["a"].T, {"a": (3, 4)}, [S(4), Z(4)]),
        (lambda p, x: jnp.linalg.norm(x @ p["a"] @ p["b"], axis=1), {"a": (3, 4), "b": (4, 5)}, [GL(4), O(5)]),
        (lambda p, x: jnp.einsum("bi,ij,bj->b", x @ p["a"], p["s"], x @ p["a"]), {"a": (3, 4), "s": (4, 4)}, [GL(4)]),
        (
            lambda p, x: x @ p["a"] @ p["s"] @ p["s"] @ p["b"],
            {"a": (3, 4), "s": (4, 4), "b": (4, 2)},
            [GL(4), R(1), Z(1)],
        ),
    ],
    ids=["tied_linear", "tied_relu", "tied_tanh", "length", "quadratic_form", "power"],
)
def test_weights_that_are_used_twice(apply, sizes, true):
    assert factors(discover(apply, **sizes)) == Counter(true)


def test_a_gram_matrix_of_hidden_units_has_rotations():
    """The inner products of embeddings know no basis: O(4), which contains all that is diagonal."""
    found = discover(lambda p, x: (x @ p["w"]) @ (x @ p["w"]).T, w=(3, 4))
    assert factors(found) == Counter([O(4)])


@pytest.mark.parametrize(
    "squares",
    [
        lambda h: jnp.clip(h, -50.0, 50.0) ** 2,
        lambda h: jnp.where(jnp.abs(h) < 30.0, h**2 / 2, 30.0 * jnp.abs(h) - 450.0),
        lambda h: h**2 + 1e-12 * h**4,
    ],
    ids=["clipped", "huber", "quartic"],
)
def test_squares_that_end_far_out_have_no_rotations(squares):
    """Where weights of ordinary size never get: what is tried at random points cannot see it."""
    found = discover(lambda p, x: squares(x @ p["w"]).sum(1), w=(3, 4))
    assert factors(found) == Counter([S(4), Z(4)])
