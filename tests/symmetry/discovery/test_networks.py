"""Known groups of bare functions ``apply(params, x)``."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from symmetry import Slot
from symmetry.discovery import find_symmetries

X = jnp.asarray(np.random.default_rng(0).standard_normal((7, 3)))
S, Z, R = "permutation", "sign", "scale"


def groups(symmetries):
    """Kinds and sizes by axis class."""
    found = {}
    for factor in symmetries.likelihood.factors:
        found.setdefault(factor.axis, set()).add((factor.kind, factor.size))
    return found


def slots(symmetries, name):
    return {(s.site, s.axis): s.exponent for s in symmetries.likelihood.factor(name).slots}


def shapes(**sizes):
    return {name: jax.ShapeDtypeStruct(size, jnp.float32) for name, size in sizes.items()}


def layers(*widths):
    pairs = enumerate(zip(widths[:-1], widths[1:], strict=True))
    return {f"l{i}": shapes(w=(n, m), b=(m,)) for i, (n, m) in pairs}


def dense(activation):
    def apply(params, x):
        *hidden, last = params.values()
        for layer in hidden:
            x = activation(x @ layer["w"] + layer["b"])
        return x @ last["w"] + last["b"]

    return apply


@pytest.mark.parametrize(
    ("activation", "kinds"),
    [
        (jnp.tanh, {Z}),
        (jnp.sin, {Z}),
        (jax.scipy.special.erf, {Z}),
        (jax.nn.hard_tanh, {Z}),
        (jax.nn.relu, {R}),
        (jax.nn.leaky_relu, {R}),
        (lambda x: jnp.where(x > 0, x, 0.1 * x), {R}),
        (jax.nn.gelu, set()),
        (jax.nn.silu, set()),
        (jax.nn.elu, set()),
        (jax.nn.softplus, set()),
        (jax.nn.relu6, set()),
        (jnp.abs, {Z, R}),
        (lambda x: x**2, {Z, R}),
    ],
)
def test_dense_networks(activation, kinds):
    found = find_symmetries(dense(activation), layers(3, 5, 4, 2), X)
    assert found.posterior is None
    assert groups(found) == {
        "l0": {(kind, 5) for kind in kinds | {S}},
        "l1": {(kind, 4) for kind in kinds | {S}},
    }
    assert set(slots(found, "l0:permutation")) == {("l0.w", 1), ("l0.b", 0), ("l1.w", 0)}
    assert found.likelihood.axes["l1.w"] == ("l0", "l1")
    assert {(pin.site, pin.axis, pin.reason) for pin in found.likelihood.pinned} == {
        ("l0.w", 0, "network input"),
        ("l2.w", 1, "position in the output"),
        ("l2.b", 0, "position in the output"),
    }


@pytest.mark.parametrize(
    ("activation", "kind", "exponents"),
    [
        (jax.nn.relu, R, {("l0.w", 1): 1, ("l0.b", 0): 1, ("l1.w", 0): -1}),
        (lambda x: x**2, R, {("l0.w", 1): 1, ("l0.b", 0): 1, ("l1.w", 0): -2}),
        (lambda x: x**2, Z, {("l0.w", 1): 1, ("l0.b", 0): 1}),
        (jnp.tanh, Z, {("l0.w", 1): 1, ("l0.b", 0): 1, ("l1.w", 0): 1}),
    ],
)
def test_exponents(activation, kind, exponents):
    found = find_symmetries(dense(activation), layers(3, 4, 1), X)
    assert slots(found, f"l0:{kind}") == exponents


def test_every_factor_is_certified():
    for factor in find_symmetries(dense(jax.nn.relu), layers(3, 5, 4, 2), X).likelihood.factors:
        assert factor.certificate is not None
        assert factor.certificate.error <= 1e-10
        assert factor.certificate.control > 1e-3
        assert factor.certificate.num_elements >= 2


def test_a_layer_of_width_one_has_its_sign():
    found = find_symmetries(dense(jnp.tanh), layers(3, 1, 2), X)
    assert groups(found) == {"l0": {(Z, 1)}}
    assert slots(found, "l0:sign") == {("l0.w", None): 1, ("l0.b", None): 1, ("l1.w", None): 1}


def test_signs_of_whole_arrays_that_follow_from_those_of_units_are_not_repeated():
    found = find_symmetries(dense(jnp.tanh), layers(3, 4, 1, 1), X)
    assert groups(found) == {"l0": {(S, 4), (Z, 4)}, "l1": {(Z, 1)}}
    assert set(slots(found, "l1:sign")) == {("l1.w", None), ("l1.b", None), ("l2.w", None)}


def test_a_network_without_hidden_layer_has_none():
    found = find_symmetries(dense(jnp.tanh), layers(3, 2), X)
    assert found.likelihood.factors == ()


def test_one_row_of_data_changes_nothing():
    one, many = (find_symmetries(dense(jax.nn.relu), layers(3, 4, 1), x) for x in (X[:1], X))
    assert [f.slots for f in one.likelihood.factors] == [f.slots for f in many.likelihood.factors]


def test_linen_module():
    class MLP(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(2)(jax.nn.silu(linen.Dense(6)(x)))

    module = MLP()
    params = jax.eval_shape(module.init, jax.random.key(0), X)
    found = find_symmetries(module.apply, params, X)
    assert groups(found) == {"params.Dense_0": {(S, 6)}}


def test_nnx_module():
    class MLP(nnx.Module):
        def __init__(self, rngs):
            self.inner = nnx.Linear(3, 6, rngs=rngs)
            self.outer = nnx.Linear(6, 2, rngs=rngs)

        def __call__(self, x):
            return self.outer(nnx.relu(self.inner(x)))

    graph, params = nnx.split(MLP(nnx.Rngs(0)))
    found = find_symmetries(lambda params, x: nnx.merge(graph, params)(x), params, X)
    assert groups(found) == {"inner": {(S, 6), (R, 6)}}
    assert set(slots(found, "inner:scale")) == {("inner.kernel", 1), ("inner.bias", 0), ("outer.kernel", 0)}


def test_equinox_module():
    module = eqx.nn.MLP(3, 2, 5, 2, activation=jnp.tanh, key=jax.random.key(0))
    found = find_symmetries(lambda module, x: jax.vmap(module)(x), module, X)
    assert groups(found) == {"layers.0": {(S, 5), (Z, 5)}, "layers.1": {(S, 5), (Z, 5)}}
    assert set(slots(found, "layers.0:sign")) == {("layers.0.weight", 0), ("layers.0.bias", 0), ("layers.1.weight", 1)}


def test_linear_layers():
    """Between linear layers any invertible matrix goes, and with it permutations, signs and scales."""
    found = find_symmetries(dense(lambda x: 0.5 * x), layers(3, 5, 4, 2), X).likelihood
    assert [(factor.kind, factor.axis, factor.size) for factor in found.factors] == [
        ("linear", "l0", 5),
        ("linear", "l1", 4),
    ]
    assert {(slot.site, slot.exponent) for slot in found.factors[0].slots} == {("l0.w", 1), ("l0.b", 1), ("l1.w", -1)}
    assert found.dimension == 25 + 16


def test_skip_connection_ties_layers():
    def apply(p, x):
        h = x @ p["a"]
        return (h + jax.nn.relu(h @ p["b"]) @ p["c"]) @ p["d"]

    found = find_symmetries(apply, shapes(a=(3, 4), b=(4, 5), c=(5, 4), d=(4, 1)), X)
    assert groups(found) == {"a_dim_1": {("linear", 4)}, "b_dim_1": {(S, 5), (R, 5)}}
    assert slots(found, "a_dim_1:linear") == {("a", 1): 1, ("b", 0): -1, ("c", 1): 1, ("d", 0): -1}


def test_concatenated_layers_keep_their_segments():
    def apply(p, x):
        h = jnp.tanh(x @ p["a"])
        g = jnp.tanh(jnp.concatenate([x, h], axis=1) @ p["b"])
        return jnp.concatenate([h, g], axis=1) @ p["c"]

    found = find_symmetries(apply, shapes(a=(3, 4), b=(7, 5), c=(9, 1)), X)
    assert groups(found) == {"a_dim_1": {(S, 4), (Z, 4)}, "b_dim_1": {(S, 5), (Z, 5)}}
    assert set(found.likelihood.factor("a_dim_1:permutation").slots) == {
        Slot("a", 1, 4),
        Slot("b", 0, 4, offset=3),
        Slot("c", 0, 4),
    }


def test_flattened_outer_product_has_strided_slots():
    def apply(p, x):
        h, g = jax.nn.relu(x @ p["a"]), jnp.tanh(x @ p["b"])
        return (h[:, :, None] * g[:, None, :]).reshape(x.shape[0], -1) @ p["c"]

    found = find_symmetries(apply, shapes(a=(3, 4), b=(3, 5), c=(20, 2)), X)
    assert groups(found) == {"a_dim_1": {(S, 4), (R, 4)}, "b_dim_1": {(S, 5), (Z, 5)}}
    assert found.likelihood.factor("a_dim_1:scale").slots == (Slot("a", 1, 4), Slot("c", 0, 4, stride=5, exponent=-1))
    assert found.likelihood.factor("b_dim_1:sign").slots == (Slot("b", 1, 5), Slot("c", 0, 5, outer=4))


def test_constant_mask_leaves_what_it_cannot_tell_apart():
    mask = jnp.asarray([1.0, 1.0, 1.0, 0.5, 0.5])

    def apply(p, x):
        return (jnp.tanh(x @ p["a"]) * mask) @ p["b"]

    found = find_symmetries(apply, shapes(a=(3, 5), b=(5, 1)), X)
    assert groups(found) == {"a_dim_1": {(S, 5), (Z, 5)}}
    assert found.likelihood.factor("a_dim_1:permutation").colours == (0, 0, 0, 1, 1)


def test_a_unit_told_apart_by_a_slice():
    def apply(p, x):
        h = jnp.tanh(x @ p["a"])
        return h @ p["b"] + h[:, :1] ** 3

    found = find_symmetries(apply, shapes(a=(3, 5), b=(5, 1)), X)
    (permutation, *_) = found.likelihood.factors
    assert permutation.size == 4
    assert permutation.slots == (Slot("a", 1, 4, offset=1), Slot("b", 0, 4, offset=1))


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (lambda h: jnp.cumsum(h, axis=1), "order of positions in cumsum"),
        (lambda h: h[:, ::-1], "order of positions in rev"),
        (lambda h: h * jnp.arange(4.0), "unequal constants"),
        (lambda h: h + jnp.argmax(h, axis=1, keepdims=True), "position returned by argmax"),
        (lambda h: h + h[:, jnp.array([0, 0, 1, 2])], "position named by an index"),
    ],
)
def test_pins_name_their_reason(operation, reason):
    found = find_symmetries(lambda p, x: operation(jax.nn.gelu(x @ p["a"])) @ p["b"], shapes(a=(3, 4), b=(4, 1)), X)
    assert found.likelihood.factors == ()
    (pin,) = (pin for pin in found.likelihood.pinned if pin.site == "a" and pin.axis == 1)
    assert reason in pin.reason


def test_a_sort_of_several_operands_moves_their_other_axes_together():
    def apply(p, x):
        return x @ (jnp.argsort(p["a"], axis=0) * p["v"]).sum(1)

    found = find_symmetries(apply, shapes(a=(3, 4), v=(3, 4)), X)
    assert groups(found) == {"a_dim_1": {(S, 4)}}
    assert set(slots(found, "a_dim_1:permutation")) == {("a", 1), ("v", 1)}


@pytest.mark.parametrize(
    ("activation", "kinds"),
    [
        (jnp.round, {Z}),
        (jnp.sinc, {Z}),
        (jax.scipy.special.i0e, {Z}),
        (jax.scipy.special.i1e, {Z}),
        (lambda h: jnp.polyval(jnp.array([1.0, 0.0, -2.0, 0.0]), h), {Z}),
        (lambda h: jnp.polyval(jnp.array([1.0, 1.0, -2.0]), h), set()),
        (lambda h: jnp.nextafter(h, 2.0), set()),
        (lambda h: jax.scipy.special.gammainc(2.0, jnp.exp(h)), set()),
        (lambda h: jax.scipy.special.polygamma(1, jnp.exp(h)), set()),
        (lambda h: jnp.select([h > 1, h < -1], [h, 2 * h], 0.5), set()),
        (lambda h: jnp.stack([h, jax.nn.sigmoid(h)]).prod(0), set()),
        (lambda h: jnp.stack([jnp.tanh(h), jnp.sin(h)], axis=2).sum(2), {Z}),
        (lambda h: jnp.stack([h, jax.nn.relu(h)], axis=1)[:, 1], {R}),
    ],
)
def test_functions_that_act_entry_by_entry(activation, kinds):
    def apply(p, x):
        return activation(x @ p["a"]) @ p["b"]

    found = find_symmetries(apply, shapes(a=(3, 4), b=(4, 2)), X)
    assert groups(found) == {"a_dim_1": {(kind, 4) for kind in kinds | {S}}}


def test_stacked_operands_are_told_apart():
    def apply(p, x):
        stacked = jnp.stack([x @ p["a"], x @ p["b"]], axis=0)
        return jnp.tanh(stacked * jnp.array([1.0, 2.0])[:, None, None]).sum(0) @ p["c"]

    found = find_symmetries(apply, shapes(a=(3, 4), b=(3, 4), c=(4, 1)), X)
    assert groups(found) == {"a_dim_1": {(S, 4), (Z, 4)}}
    assert set(slots(found, "a_dim_1:permutation")) == {("a", 1), ("b", 1), ("c", 0)}


def test_unused_parameters_are_reported_and_not_grouped():
    found = find_symmetries(lambda p, x: x @ p["a"], shapes(a=(3, 2), b=(4,)), X)
    assert found.likelihood.factors == ()
    assert ("b", 0, "not used") in {(pin.site, pin.axis, pin.reason) for pin in found.likelihood.pinned}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: find_symmetries(dense(jnp.tanh), layers(3, 2)), "its parameters and inputs"),
        (lambda: find_symmetries(lambda p, x: x, {"a": jnp.arange(3)}, X), "must hold floating-point arrays"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
