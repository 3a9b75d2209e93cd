"""The true groups of networks of dense layers: factorised, gated, mixed, stacked and masked weights."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from truth import GL, R, S, Z, exponents, factors, members, reason, shapes

from symmetry.discovery import find_symmetries

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((7, 3)))
relu, tanh, gelu = jax.nn.relu, jnp.tanh, jax.nn.gelu


def discover(apply, x=X, **sizes):
    return find_symmetries(apply, shapes(**sizes), x).likelihood


PERCEPTRON = {"w": (3, 5), "b": (5,), "v": (5, 4), "c": (4,), "u": (4, 2)}


@pytest.mark.parametrize(
    ("activation", "true"),
    [
        (jax.nn.soft_sign, [S(5), Z(5), S(4), Z(4)]),
        (jax.nn.log_sigmoid, [S(5), S(4)]),
        (lambda h: h**3, [S(5), Z(5), R(5), S(4), Z(4), R(4)]),
        (lambda h: h, [GL(5), GL(4)]),
    ],
)
def test_perceptron(activation, true):
    def apply(p, x):
        return activation(activation(x @ p["w"] + p["b"]) @ p["v"] + p["c"]) @ p["u"]

    assert factors(discover(apply, **PERCEPTRON)) == Counter(true)


def test_powers_of_the_activation_are_exponents():
    found = discover(lambda p, x: (x @ p["a"]) ** 3 @ p["b"], a=(3, 4), b=(4, 2))
    assert exponents(found, "scale", 4) == [{("a", 1): 1, ("b", 0): -3}]
    assert exponents(found, "sign", 4) == [{("a", 1): 1, ("b", 0): 1}]


@pytest.mark.parametrize(("activation", "kinds"), [(relu, [R(5)]), (tanh, [Z(5)]), (gelu, [])])
def test_weight_normalisation(activation, kinds):
    """The length of a direction is free, and its sign with that of the gain."""

    def apply(p, x):
        kernel = p["gain"] * p["direction"] / jnp.sqrt((p["direction"] ** 2).sum(0))
        return activation(x @ kernel + p["bias"]) @ p["head"]

    found = discover(apply, direction=(3, 5), gain=(5,), bias=(5,), head=(5, 2))
    assert factors(found) == Counter([S(5), R(5), Z(5), *kinds])
    assert {("direction", 1): 1} in exponents(found, "scale", 5)
    assert {("direction", 1): 1, ("gain", 0): 1} in exponents(found, "sign", 5)


def test_gated_linear_units():
    def apply(p, x):
        return (jax.nn.silu(x @ p["gate"]) * (x @ p["value"])) @ p["out"]

    found = discover(apply, gate=(3, 5), value=(3, 5), out=(5, 2))
    assert factors(found) == Counter([S(5), Z(5), R(5)])
    assert members(found, "permutation", 5) == {("gate", 1), ("value", 1), ("out", 0)}
    assert exponents(found, "scale", 5) == [{("out", 0): 1, ("value", 1): -1}]


def test_soft_mixture_of_experts():
    """S_3 wr (Z_2 wr S_5): the experts change places, with their gates, and the units within each."""

    def apply(p, x):
        gates = jax.nn.softmax(x @ p["gate"], axis=1)
        hidden = tanh(jnp.einsum("bi,eih->beh", x, p["w"]) + p["b"])
        return jnp.einsum("be,beh,eho->bo", gates, hidden, p["v"])

    found = discover(apply, gate=(3, 3), w=(3, 3, 5), b=(3, 5), v=(3, 5, 2))
    assert factors(found) == Counter([S(3), S(5, 3), Z(5, 3)])
    assert members(found, "permutation", 3) == {("gate", 1), ("w", 0), ("b", 0), ("v", 0)}
    assert members(found, "sign", 5) == {("w", 2), ("b", 1), ("v", 1)}
    (experts,) = {factor.axis for factor in found.factors if factor.size == 3}
    assert [factor.fibre for factor in found.factors if factor.size == 5] == [(experts,), (experts,)]


@pytest.mark.parametrize(("activation", "diagonal"), [(tanh, [Z(6, 3)]), (relu, [R(6, 3)]), (gelu, [])])
def test_vmapped_ensemble(activation, diagonal):
    """S_3 wr (Z_2 wr S_6), and so for relu."""

    def member(p, x):
        return activation(x @ p["w"] + p["b"]) @ p["v"] + p["c"]

    def apply(p, x):
        return jax.vmap(member, (0, None))(p, x).mean(0)

    found = discover(apply, w=(3, 3, 6), b=(3, 6), v=(3, 6, 2), c=(3, 2))
    assert factors(found) == Counter([S(3), S(6, 3), *diagonal])
    assert members(found, "permutation", 3) == {("w", 0), ("b", 0), ("v", 0), ("c", 0)}


def test_vmapped_ensemble_with_one_output_each():
    """Outputs side by side: the members stay in their places, the units of each are its own."""

    def apply(p, x):
        return jax.vmap(lambda p: tanh(x @ p["w"]) @ p["v"])(p)

    found = discover(apply, w=(3, 3, 6), v=(3, 6, 2))
    assert factors(found) == Counter([S(6, 3), Z(6, 3)])
    assert reason(found, "w", 0) == "position in the output"


def test_ensemble_that_shares_its_last_layer():
    """S_3 wr (S_6 with Z_2^6): the units of a sum over members change places together, its terms one unit at a time."""

    def apply(p, x):
        return jax.vmap(lambda w: tanh(x @ w))(p["w"]).mean(0) @ p["v"]

    found = discover(apply, w=(3, 3, 6), v=(6, 2))
    assert factors(found) == Counter([S(3, 6), S(6), Z(6)])


def scanned(activation):
    """Residual layers in a scan, between two linear layers."""

    def apply(p, x):
        def layer(h, layer):
            return h + activation(h @ layer["m"] + layer["b"]) @ layer["n"], None

        return lax.scan(layer, x @ p["a"], {key: p[key] for key in "mbn"})[0] @ p["z"]

    return apply


SCANNED = {"a": (3, 5), "m": (3, 5, 7), "b": (3, 7), "n": (3, 7, 5), "z": (5, 2)}


@pytest.mark.parametrize(("activation", "diagonal"), [(relu, [R(7, 3)]), (tanh, [Z(7, 3)])])
def test_scan_over_layers(activation, diagonal):
    """(S_7)^3 and (R_+^7)^3: the units of each layer are its own; the stream between them is linear, GL(5)."""
    found = discover(scanned(activation), **SCANNED)
    assert factors(found) == Counter([S(7, 3), GL(5), *diagonal])
    assert exponents(found, "linear", 5) == [{("a", 1): 1, ("m", 1): -1, ("n", 2): 1, ("z", 0): -1}]
    assert reason(found, "m", 0) == "order of positions in scan"


def test_constant_mask():
    mask = jnp.asarray([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
    found = discover(lambda p, x: tanh((x @ p["w"]) + mask) @ p["v"], w=(3, 6), v=(6, 2))
    assert factors(found) == Counter([S(6)])
    (permutation,) = found.factors
    assert permutation.colours == (0, 0, 0, 1, 1, 1)
    assert found.order == 36


def test_block_diagonal_connections():
    """Each block of three units may be reordered on both sides; that whole blocks change places is missed."""
    blocks = np.kron(np.eye(2), np.ones((3, 3)))

    def apply(p, x):
        return tanh(tanh(x @ p["w"]) @ (p["v"] * blocks)) @ p["u"]

    found = discover(apply, w=(3, 6), v=(6, 6), u=(6, 2))
    assert factors(found) == Counter([S(6), S(6), Z(6), Z(6)])
    colours = [factor.colours for factor in found.factors if factor.kind == "permutation"]
    assert colours == [(0, 0, 0, 1, 1, 1)] * 2


def test_deep_scan_without_stream():
    """Each layer has units of its own, (S_4)^4; a carried value has one order for all steps, so one S_4 is found."""

    def apply(p, x):
        return lax.scan(lambda h, w: (tanh(h @ w), None), tanh(x @ p["a"]), p["m"])[0] @ p["z"]

    found = discover(apply, a=(3, 4), m=(3, 4, 4), z=(4, 2))
    assert factors(found) == Counter([S(4), Z(4)])


def test_batch_normalised_units_have_signs_with_their_gain():
    def apply(p, x):
        h = x @ p["w"]
        h = (h - h.mean(0)) / h.std(0) * p["gain"] + p["shift"]
        return relu(h) @ p["v"]

    found = discover(apply, w=(3, 5), gain=(5,), shift=(5,), v=(5, 2))
    assert factors(found) == Counter({S(5): 1, Z(5): 1, R(5): 2})
    assert exponents(found, "sign", 5) == [{("w", 1): 1, ("gain", 0): 1}]
    assert {("w", 1): 1} in exponents(found, "scale", 5)
