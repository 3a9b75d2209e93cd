"""The true groups of convolutional networks: residual, dense, U-shaped, depthwise, normalised."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from truth import R, S, Z, exponents, factors, members, shapes

from symmetry import Slot
from symmetry.discovery import find_symmetries

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((3, 4, 4, 2)))
relu, tanh, gelu = jax.nn.relu, jnp.tanh, jax.nn.gelu


def discover(apply, x=X, **sizes):
    return find_symmetries(apply, shapes(**sizes), x).likelihood


def conv(x, kernel, groups=1, strides=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (strides, strides), "SAME", dimension_numbers=numbers, feature_group_count=groups
    )


def filter_response(h, p, name):
    """Filter response normalisation; where there is one, a thresholded linear unit."""
    h = h * jax.lax.rsqrt((h**2).mean((1, 2), keepdims=True) + 1e-6)
    h = h * p[f"{name}_gamma"] + p[f"{name}_beta"]
    return jnp.maximum(h, p[f"{name}_tau"]) if f"{name}_tau" in p else h


def residual(p, x):
    """A stem, two residual blocks and a dense layer."""
    h = filter_response(conv(x, p["stem"]) + p["stem_bias"], p, "stem")
    for block in "ab":
        inner = filter_response(conv(h, p[f"{block}1"]), p, f"{block}1")
        h = h + filter_response(conv(inner, p[f"{block}2"]), p, f"{block}2")
    return relu(h.mean((1, 2)) @ p["dense"]) @ p["head"]


RESIDUAL = {"stem": (3, 3, 2, 4), "stem_bias": (4,), "dense": (4, 8), "head": (8, 3)}
RESIDUAL |= {f"stem_{name}": (4,) for name in ("gamma", "beta", "tau")}
for name in "ab":
    RESIDUAL |= {f"{name}1": (3, 3, 4, 5), f"{name}2": (3, 3, 5, 4), f"{name}1_tau": (5,)}
    RESIDUAL |= {f"{name}1_gamma": (5,), f"{name}1_beta": (5,), f"{name}2_gamma": (4,), f"{name}2_beta": (4,)}


def test_residual_network_with_filter_response_normalisation():
    """Each normalisation has the sign of what goes in, with its gain; the stream ties all that is added to it."""
    found = discover(residual, **RESIDUAL)
    assert factors(found) == Counter({S(4): 1, R(4): 1, Z(4): 3, S(5): 2, R(5): 2, Z(5): 2, S(8): 1, R(8): 1})
    added = {("stem_bias", 0), ("stem", 3), ("a2", 3), ("b2", 3), ("stem_tau", 0)}
    added |= {(f"{name}_{part}", 0) for name in ("stem", "a2", "b2") for part in ("gamma", "beta")}
    assert members(found, "permutation", 4) == added | {("a1", 2), ("b1", 2), ("dense", 0)}
    assert {("stem", 3): 1, ("stem_bias", 0): 1, ("stem_gamma", 0): 1} in exponents(found, "sign", 4)
    assert {("a2", 3): 1, ("a2_gamma", 0): 1} in exponents(found, "sign", 4)


class Normalised(linen.Module):
    """Two convolutions, each with batch normalisation."""

    train: bool

    @linen.compact
    def __call__(self, x):
        for features in (4, 5):
            x = linen.Conv(features, (3, 3))(x)
            x = relu(linen.BatchNorm(use_running_average=not self.train)(x))
        return linen.Dense(3, name="head")(x.mean((1, 2)))


def test_batch_normalisation_in_training():
    """The scale of what goes in is free up to epsilon only, its sign exactly; the bias before it has no effect."""
    module = Normalised(train=True)
    variables = jax.eval_shape(module.init, jax.random.key(0), X)

    def apply(params, x):
        statistics = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
        return module.apply({"params": params, "batch_stats": statistics}, x, mutable=["batch_stats"])[0]

    found = find_symmetries(apply, variables["params"], X).likelihood
    assert factors(found) == Counter([S(4), Z(4), R(4), S(5), Z(5), R(5)])
    assert exponents(found, "scale", 4) == [
        {("BatchNorm_0.bias", 0): 1, ("BatchNorm_0.scale", 0): 1, ("Conv_1.kernel", 2): -1}
    ]
    (signs,) = exponents(found, "sign", 4)
    assert signs.items() >= {("BatchNorm_0.scale", 0): 1, ("Conv_0.kernel", 3): 1}.items()


def test_batch_normalisation_in_evaluation():
    """Statistics as parameters: the mean follows what goes in, and the gain undoes it."""
    module = Normalised(train=False)
    variables = jax.eval_shape(module.init, jax.random.key(0), X)
    found = find_symmetries(module.apply, variables, X).likelihood
    assert factors(found) == Counter({S(4): 1, Z(4): 1, R(4): 2, S(5): 1, Z(5): 1, R(5): 2})
    before = {("Conv_0.kernel", 3): 1, ("Conv_0.bias", 0): 1, ("BatchNorm_0.mean", 0): 1, ("BatchNorm_0.scale", 0): 1}
    assert exponents(found, "sign", 4) == [before]
    assert ("BatchNorm_0.var", 0) in members(found, "permutation", 4)


def grouped_normalisation(h, gamma, beta, groups):
    parts = h.reshape(*h.shape[:-1], groups, -1)
    parts = parts - parts.mean((1, 2, 4), keepdims=True)
    parts = parts * jax.lax.rsqrt((parts**2).mean((1, 2, 4), keepdims=True) + 1e-6)
    return parts.reshape(h.shape) * gamma + beta


def depthwise(p, x):
    """Convolution, depthwise convolution with two channels for each, pointwise convolution, group normalisation."""
    h = relu(conv(relu(conv(x, p["a"])), p["b"], groups=4))
    h = relu(grouped_normalisation(conv(h, p["c"]), p["gamma"], p["beta"], 3))
    return h.mean((1, 2)) @ p["d"]


DEPTHWISE = {"a": (3, 3, 2, 4), "b": (3, 3, 1, 8), "c": (1, 1, 8, 6), "gamma": (6,), "beta": (6,), "d": (6, 3)}


def test_depthwise_convolution_and_group_normalisation():
    """S_4 wr (R_+ wr S_2) of the channels; S_3 wr (R_+ wr S_2) of the groups, each with a sign before it."""
    found = discover(depthwise, **DEPTHWISE)
    channels = [S(4), R(4), S(2, 4), R(2, 4)]
    groups = [S(3), Z(3), S(2, 3), R(2, 3)]
    assert factors(found) == Counter(channels + groups)
    assert ("a", 3) in members(found, "scale", 4)
    assert exponents(found, "sign", 3) == [{("c", 3): 1, ("gamma", 0): 1}]


def test_two_depthwise_convolutions_in_a_row():
    """Channels that are never mixed stay one class; between two layers without activation their scales are free."""
    found = discover(
        lambda p, x: relu(conv(conv(conv(x, p["a"]), p["b"], groups=4), p["c"], groups=4)).mean((1, 2)) @ p["d"],
        a=(1, 1, 2, 4),
        b=(3, 3, 1, 4),
        c=(3, 3, 1, 4),
        d=(4, 3),
    )
    assert factors(found) == Counter({S(4): 1, R(4): 3, Z(4): 2})


def test_grouped_convolution():
    """S_2 wr (S_3 x S_4): the groups change places, the channels within each are its own."""

    def apply(p, x):
        return relu(conv(relu(conv(x, p["a"])), p["b"], groups=2)).mean((1, 2)) @ p["c"]

    found = discover(apply, a=(3, 3, 2, 6), b=(3, 3, 3, 8), c=(8, 3))
    assert factors(found) == Counter([S(2), S(3, 2), R(3, 2), S(4, 2), R(4, 2)])
    assert exponents(found, "scale", 3) == [{("a", 3): 1, ("b", 2): -1}]


@pytest.mark.parametrize(("activation", "diagonal"), [(relu, R), (tanh, Z), (gelu, None)])
def test_densely_connected_network(activation, diagonal):
    def apply(p, x):
        seen = x
        for name in "abc":
            seen = jnp.concatenate([seen, activation(conv(seen, p[name]))], axis=3)
        return seen.mean((1, 2)) @ p["d"]

    found = discover(apply, a=(3, 3, 2, 4), b=(3, 3, 6, 5), c=(3, 3, 11, 6), d=(17, 3))
    assert factors(found) == Counter([kind(size) for size in (4, 5, 6) for kind in (S, diagonal) if kind])
    (permutation,) = (factor for factor in found.factors if (factor.kind, factor.size) == ("permutation", 5))
    assert set(permutation.slots) == {Slot("b", 3, 5), Slot("c", 2, 5, offset=6), Slot("d", 0, 5, offset=6)}


class UNet(linen.Module):
    """Down, up by a transposed convolution, and across."""

    @linen.compact
    def __call__(self, x):
        fine = relu(linen.Conv(4, (3, 3), name="fine")(x))
        coarse = relu(linen.Conv(5, (3, 3), name="coarse")(linen.max_pool(fine, (2, 2), (2, 2))))
        up = relu(linen.ConvTranspose(6, (2, 2), (2, 2), name="up")(coarse))
        return linen.Conv(1, (1, 1), name="head")(jnp.concatenate([fine, up], axis=3))


def test_u_shaped_network():
    params = jax.eval_shape(UNet().init, jax.random.key(0), X)["params"]
    found = find_symmetries(lambda params, x: UNet().apply({"params": params}, x), params, X).likelihood
    assert factors(found) == Counter([kind(size) for size in (4, 5, 6) for kind in (S, R)])
    fine = {("fine.kernel", 3): -1, ("fine.bias", 0): -1, ("coarse.kernel", 2): 1, ("head.kernel", 2): 1}
    assert exponents(found, "scale", 4) == [fine]


@pytest.mark.parametrize(("activation", "diagonal"), [(relu, [R(4), R(5)]), (tanh, [Z(4), Z(5)])])
def test_strides_and_global_pooling(activation, diagonal):
    def apply(p, x):
        h = activation(conv(x, p["a"], strides=2) + p["b"])
        return activation(conv(h, p["c"])).mean((1, 2)) @ p["d"]

    found = discover(apply, a=(3, 3, 2, 4), b=(4,), c=(3, 3, 4, 5), d=(5, 3))
    assert factors(found) == Counter([S(4), S(5), *diagonal])


def test_squeeze_and_excitation():
    """The gate reads the channels that it multiplies; its own units are a second class."""

    def apply(p, x):
        h = relu(conv(x, p["a"]))
        gate = jax.nn.sigmoid(relu(h.mean((1, 2)) @ p["b"]) @ p["c"])
        return (h * gate[:, None, None]).mean((1, 2)) @ p["d"]

    found = discover(apply, a=(3, 3, 2, 4), b=(4, 3), c=(3, 4), d=(4, 2))
    assert factors(found) == Counter([S(4), R(4), S(3), R(3)])
    assert exponents(found, "scale", 4) == [{("a", 3): 1, ("b", 0): -1, ("d", 0): -1}]
