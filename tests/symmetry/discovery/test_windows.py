"""Known groups of convolutional networks, and broken rules for windows that the certificate catches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from subsets import first

from bnn_models import BNN, Posterior, likelihoods, priors
from symmetry import Slot
from symmetry.discovery import find_symmetries
from symmetry.discovery.rules import CHARACTER_RULES, windows

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((4, 6, 6, 2)))
S, Z, R = "permutation", "sign", "scale"
IMAGE, OUTPUTS_FIRST, SEQUENCE = ("NHWC", "HWIO", "NHWC"), ("NHWC", "OIHW", "NHWC"), ("NWC", "WIO", "NWC")
relu, tanh, gelu, product = jax.nn.relu, jnp.tanh, jax.nn.gelu, windows.product


def groups(group):
    """Kinds and sizes of the factors of each axis class, every factor with its certificate."""
    found = {}
    for factor in group.factors:
        assert factor.certificate.error <= 1e-10
        assert factor.certificate.control > 1e-6
        found.setdefault(factor.axis, []).append((factor.kind, factor.size, *factor.fibre))
    return found


def discover(apply, x=X, **sizes):
    shapes = {name: jax.ShapeDtypeStruct(size, jnp.float32) for name, size in sizes.items()}
    return find_symmetries(apply, shapes, x).likelihood


def members(group, name):
    return {(slot.site, slot.axis): slot.exponent for slot in group.factor(name).slots}


def reason(group, site, axis):
    return next((pin.reason for pin in group.pinned if (pin.site, pin.axis) == (site, axis)), None)


def conv(x, kernel, strides=1, padding="SAME", numbers=IMAGE, groups=1, **options):
    steps = (strides,) * (x.ndim - 2)
    options |= {"dimension_numbers": numbers, "feature_group_count": groups}
    return jax.lax.conv_general_dilated(x, kernel, steps, padding, **options)


def between(layer, activation=relu):
    """A convolution a, the layer under test on b, a mean over positions and a head c."""

    def apply(p, x):
        h = activation(conv(x, p["a"]))
        return activation(layer(h, p["b"])).mean((1, 2)) @ p["c"]

    return apply


def network(x, activation, first, second, third, last):
    """Two convolutions with pooling and two dense layers."""
    x = linen.max_pool(activation(first(x)), (2, 2), (2, 2))
    x = linen.avg_pool(activation(second(x)), (2, 2), (2, 2), padding="SAME", count_include_pad=False)
    return last(activation(third(x.reshape(x.shape[0], -1))))


class Linen(linen.Module):
    activation: object

    @linen.compact
    def __call__(self, x):
        convolutions = linen.Conv(4, (3, 3), name="conv_0"), linen.Conv(5, (3, 3), name="conv_1")
        dense = linen.Dense(6, name="dense_0"), linen.Dense(3, name="dense_1")
        return network(x, self.activation, *convolutions, *dense)


class NNX(nnx.Module):
    def __init__(self, activation):
        rngs = nnx.Rngs(0)
        self.activation = activation
        self.conv_0 = nnx.Conv(2, 4, kernel_size=(3, 3), rngs=rngs)
        self.conv_1 = nnx.Conv(4, 5, kernel_size=(3, 3), rngs=rngs)
        self.dense_0 = nnx.Linear(20, 6, rngs=rngs)
        self.dense_1 = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return network(x, self.activation, self.conv_0, self.conv_1, self.dense_0, self.dense_1)


# A maximum over a window keeps scales but no signs, a mean keeps both.
FREE = {
    relu: {"conv_0": [(S, 4), (R, 4)], "conv_1": [(S, 5), (R, 5)], "dense_0": [(S, 6), (R, 6)]},
    tanh: {"conv_0": [(S, 4)], "conv_1": [(S, 5), (Z, 5)], "dense_0": [(S, 6), (Z, 6)]},
}


@pytest.mark.parametrize("activation", [relu, tanh])
@pytest.mark.parametrize("library", first(1, ["linen", "nnx"]))
def test_pooling_flattening_and_dense_layers(library, activation):
    if library == "linen":
        module = Linen(activation)
        params = jax.eval_shape(module.init, jax.random.key(0), X)["params"]
        found = find_symmetries(lambda params, x: module.apply({"params": params}, x), params, X).likelihood
    else:
        graph, params = nnx.split(NNX(activation))
        found = find_symmetries(lambda params, x: nnx.merge(graph, params)(x), params, X).likelihood
    assert groups(found) == FREE[activation]
    assert ("conv_1.kernel", 2) in members(found, "conv_0:permutation")
    assert Slot("dense_0.kernel", 0, 5, outer=4) in found.factor("conv_1:permutation").slots
    assert reason(found, "conv_1.kernel", 0) == windows.POSITION
    assert reason(found, "conv_0.kernel", 2) == "network input"


def test_the_posterior_of_a_convolutional_network():
    model = BNN(Linen(relu), priors.normal(scale=1.0), likelihoods.categorical())
    found = find_symmetries(Posterior(model, X, RNG.integers(0, 3, 4)))
    assert groups(found.likelihood) == FREE[relu]
    assert groups(found.posterior) == {"conv_0": [(S, 4)], "conv_1": [(S, 5)], "dense_0": [(S, 6)]}
    assert [broken.factor for broken in found.broken] == ["conv_0:scale", "conv_1:scale", "dense_0:scale"]


LAYERS = {
    "same": ((3, 3), conv),
    "one_by_one": ((1, 1), conv),
    "strided": ((3, 2), lambda h, k: conv(h, k, strides=2, padding="VALID")),
    "dilated": ((3, 3), lambda h, k: conv(h, k, rhs_dilation=(2, 2))),
    "transposed": ((3, 3), lambda h, k: jax.lax.conv_transpose(h, k, (2, 2), "SAME", dimension_numbers=IMAGE)),
    "circular": ((3, 3), lambda h, k: conv(jnp.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)), "wrap"), k, padding="VALID")),
    "channels_first": ((3, 3), lambda h, k: conv(jnp.moveaxis(h, 3, 1), k.T, numbers=("NCHW", "OIWH", "NHWC"))),
    "one_image_at_a_time": ((3, 3), lambda h, k: jax.vmap(lambda one: conv(one[None], k)[0])(h)),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_layers(layer):
    window, apply = LAYERS[layer]
    found = discover(between(apply), a=(3, 3, 2, 4), b=(*window, 4, 5), c=(5, 3))
    assert groups(found) == {"a_dim_3": [(S, 4), (R, 4)], "b_dim_3": [(S, 5), (R, 5)]}
    assert members(found, "a_dim_3:scale") == {("a", 3): 1, ("b", 2): -1}
    assert members(found, "b_dim_3:scale") == {("b", 3): 1, ("c", 0): -1}


BLUR = np.broadcast_to(np.array([[1.0, 2.0], [2.0, 4.0]])[:, :, None, None], (2, 2, 1, 4))
POOLS = {
    "mean_of_the_image_alone": ([S, Z], tanh, lambda h: linen.avg_pool(h, (3, 3), (2, 2), "SAME", False)),
    "global_mean": ([S, Z], tanh, lambda h: h.mean((1, 2), keepdims=True)),
    "max": ([S, R], relu, lambda h: linen.max_pool(h, (3, 3), (1, 1), "SAME")),
    "min": ([S, R], relu, lambda h: nnx.min_pool(h, (2, 3))),
    "max_of_both_signs": ([S], tanh, lambda h: linen.max_pool(h, (2, 2))),
    "blur": ([S, Z], tanh, lambda h: conv(h, jnp.asarray(BLUR, h.dtype), strides=2, groups=4)),
    "features": ([], gelu, lambda h: jax.lax.reduce_window(h, 0.0, jax.lax.add, (1, 1, 1, 3), (1, 1, 1, 1), "SAME")),
}


@pytest.mark.parametrize("pool", POOLS)
def test_pooling(pool):
    kinds, activation, apply = POOLS[pool]
    found = discover(lambda p, x: apply(activation(conv(x, p["a"]))).sum((1, 2)) @ p["c"], a=(3, 3, 2, 4), c=(4, 3))
    assert groups(found).get("a_dim_3", []) == [(kind, 4) for kind in kinds]
    assert reason(found, "a", 3) == (None if kinds else windows.POSITION)


def test_depthwise_convolution_continues_its_channels():
    found = discover(between(lambda h, k: conv(h, k, groups=4)), a=(3, 3, 2, 4), b=(3, 3, 1, 4), c=(4, 3))
    assert groups(found) == {"a_dim_3": [(S, 4), (R, 4), (R, 4)]}
    assert set(members(found, "a_dim_3:permutation")) == {("a", 3), ("b", 3), ("c", 0)}
    assert members(found, "a_dim_3:scale") == {("a", 3): 1, ("c", 0): -1}
    assert members(found, "a_dim_3:scale_2") == {("b", 3): 1, ("c", 0): -1}


def test_depthwise_convolution_with_a_multiplier():
    """The two channels made of each of the four are exchanged and scaled one by one, (S_2)^4 and R_+^8."""
    found = discover(between(lambda h, k: conv(h, k, groups=4)), a=(3, 3, 2, 4), b=(3, 3, 1, 8), c=(8, 3))
    assert groups(found) == {"a_dim_3": [(S, 4), (R, 4)], "b_dim_3": [(S, 2, "a_dim_3"), (R, 2, "a_dim_3")]}
    strided = {Slot("a", 3, 4), Slot("b", 3, 4, stride=2), Slot("c", 0, 4, stride=2)}
    assert set(found.factor("a_dim_3:permutation").slots) == strided
    within = {(slot.site, slot.size, slot.outer, slot.fibre) for slot in found.factor("b_dim_3:permutation").slots}
    assert within == {("b", 2, 4, (Slot("b", 3, 4, stride=2),)), ("c", 2, 4, (Slot("c", 0, 4, stride=2),))}


GROUPED = between(lambda h, k: conv(h, k, groups=2)), {"a": (3, 3, 2, 6), "b": (3, 3, 3, 8), "c": (8, 3)}


def test_grouped_convolution():
    """S_2 of the groups, and within each of them S_3 x S_4 and scales of its own."""
    found = discover(GROUPED[0], **GROUPED[1])
    assert groups(found) == {
        "a_dim_3": [(S, 2)],
        "a_dim_3_2": [(S, 3, "a_dim_3"), (R, 3, "a_dim_3")],
        "b_dim_3": [(S, 4, "a_dim_3"), (R, 4, "a_dim_3")],
    }
    strided = {Slot("a", 3, 2, stride=3), Slot("b", 3, 2, stride=4), Slot("c", 0, 2, stride=4)}
    assert set(found.factor("a_dim_3:permutation").slots) == strided
    going_in = {(slot.site, slot.axis, slot.fibre[0].axis) for slot in found.factor("a_dim_3_2:scale").slots}
    assert going_in == {("a", 3, 3), ("b", 2, 3)}
    assert found.order == 2 * 6**2 * 24**2


def test_batch_groups_pin():
    found = discover(between(lambda h, k: conv(h, k, batch_group_count=2)), a=(3, 3, 2, 3), b=(3, 3, 3, 4), c=(4, 3))
    assert groups(found) == {}
    assert reason(found, "a", 3) == reason(found, "b", 2) == reason(found, "b", 3) == windows.BATCH_GROUPS


def test_one_dimension_and_causal_padding():
    def apply(p, x):
        h = tanh(conv(x, p["a"], numbers=SEQUENCE))
        return tanh(conv(h, p["b"], padding=[(2, 0)], numbers=SEQUENCE))[:, -1] @ p["c"]

    found = discover(apply, X[:, 0], a=(3, 2, 4), b=(3, 4, 5), c=(5, 3))
    assert groups(found) == {"a_dim_2": [(S, 4), (Z, 4)], "b_dim_2": [(S, 5), (Z, 5)]}


@pytest.mark.parametrize(
    ("window", "options", "free"),
    [(1, {}, True), (3, {}, False), (1, {"strides": 2}, False), (1, {"padding": [(1, 0)]}, False)],
)
def test_only_a_window_that_does_nothing_keeps_positions_exchangeable(window, options, free):
    def apply(p, x):
        h = relu(conv(p["a"], p["b"], numbers=SEQUENCE, **options))
        return x[:, 0, 0] @ p["c"] @ gelu(h.mean((0, 1)))

    found = discover(apply, a=(1, 5, 3), b=(window, 3, 4), c=(2, 4))
    positions = {"a_dim_1": [(S, 5)]} if free else {}
    assert groups(found) == positions | {"a_dim_2": [("linear", 3)], "b_dim_2": [(S, 4)]}


def test_a_residual_block_ties_its_stream():
    def apply(p, x):
        h = relu(conv(x, p["a"]) + p["a_bias"])
        return (h + conv(relu(conv(h, p["b"])), p["c"])).mean((1, 2)) @ p["d"]

    found = discover(apply, a=(3, 3, 2, 4), a_bias=(4,), b=(3, 3, 4, 5), c=(3, 3, 5, 4), d=(4, 3))
    assert groups(found) == {"a_dim_3": [(S, 4), (R, 4)], "b_dim_3": [(S, 5), (R, 5)]}
    stream = {("a", 3): 1, ("a_bias", 0): 1, ("b", 2): -1, ("c", 3): 1, ("d", 0): -1}
    assert members(found, "a_dim_3:scale") == stream


def test_a_vmapped_ensemble():
    """The units of each member are exchanged by themselves: S_3 wr (S_4 x S_5)."""

    def net(p, x):
        h = gelu(conv(x, p["a"], numbers=OUTPUTS_FIRST))
        return gelu(conv(h, p["b"], numbers=OUTPUTS_FIRST)).mean((1, 2)) @ p["c"]

    ensemble = jax.vmap(net, (0, None))
    found = discover(lambda p, x: ensemble(p, x).mean(0), a=(3, 4, 2, 3, 3), b=(3, 5, 4, 3, 3), c=(3, 5, 3))
    assert groups(found) == {"a_dim_0": [(S, 3)], "a_dim_1": [(S, 4, "a_dim_0")], "b_dim_1": [(S, 5, "a_dim_0")]}


# Each takes an image with eight channels and kernels of the shapes that follow.
OPERATIONS = {
    "grouped": (lambda h, k: conv(h, k, groups=2), (2, 3, 4, 8)),
    "depthwise": (lambda h, k: conv(h, k, groups=8), (3, 1, 1, 8)),
    "multiplier": (lambda h, k, m: conv(conv(h, k), m, groups=4), (1, 1, 8, 4), (2, 2, 1, 8)),
    "transposed": (lambda h, k: conv(h, k, padding=[(1, 2), (2, 1)], lhs_dilation=(2, 2)), (3, 3, 8, 8)),
    "strided": (lambda h, k: conv(h, k, strides=2), (2, 2, 8, 8)),
    "residual": (lambda h, k: h + relu(conv(h, k)), (3, 3, 8, 8)),
    "dense_block": (lambda h, k: jnp.concatenate([h[..., :5], conv(h, k)], 3), (3, 3, 8, 3)),
    "shuffle": (lambda h: h.reshape(*h.shape[:3], 2, 4).swapaxes(3, 4).reshape(h.shape),),
    "max": (lambda h: linen.max_pool(h, (2, 2), padding="SAME"),),
    "mean": (lambda h: linen.avg_pool(h, (3, 2), padding="SAME", count_include_pad=False),),
    "tanh": (tanh,),
}


@pytest.mark.parametrize("seed", first(3, range(60)))
def test_random_networks(seed):
    # A factor that fails its certificate is dropped with a warning, which is an error here.
    layers = [OPERATIONS[name] for name in np.random.default_rng(seed).choice(list(OPERATIONS), size=6)]
    shapes = [(3, 3, 2, 8), *(shape for _, *shapes in layers for shape in shapes), (8, 2)]

    def apply(params, x):
        kernels = iter(params.values())
        h = conv(x, next(kernels))
        for operation, *shapes in layers:
            h = operation(h, *(next(kernels) for _ in shapes))
        return h.mean((1, 2)) @ next(kernels)

    groups(discover(apply, **{f"p{number:02d}": shape for number, shape in enumerate(shapes)}))


BROKEN = {
    "windows_are_free": ("pin", lambda axis, reason: axis),
    "nothing_is_contracted": ("unify", lambda *axes: axes[0]),
    "groups_run_fastest": ("product", lambda factors: product(reversed(tuple(factors)))),
    "exponents_are_free": ("keys_of", lambda character, dims: []),
}


@pytest.mark.parametrize("defect", BROKEN)
def test_a_broken_rule_for_convolutions_is_caught(monkeypatch, defect):
    monkeypatch.setattr(windows, *BROKEN[defect])
    with pytest.warns(RuntimeWarning, match="was dropped: its float64 certificate failed"):
        discover(GROUPED[0], **GROUPED[1])


def test_a_broken_rule_for_pooling_is_caught(monkeypatch):
    signed = between(lambda h, k: conv(linen.max_pool(h, (2, 2)), k), tanh)
    monkeypatch.setitem(CHARACTER_RULES, "reduce_window_max", windows.window_total)
    with pytest.warns(RuntimeWarning, match="sign was dropped"):
        discover(signed, a=(3, 3, 2, 4), b=(3, 3, 4, 5), c=(5, 3))
