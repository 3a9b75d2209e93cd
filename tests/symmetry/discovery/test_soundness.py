"""Nothing false is reported: random programs, and certificates that catch what is planted."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symmetry.discovery import find_symmetries
from symmetry.discovery.certificate import NO_EFFECT, Probe, certify
from symmetry.discovery.rules import AXIS_RULES, CHARACTER_RULES
from symmetry.group import Factor, Slot, SymmetryGroup

X = jnp.asarray(np.random.default_rng(1).standard_normal((5, 3)))

# Each takes the hidden state, (batch, n), and a source of parameters `new(*shape)`.
OPERATIONS = {
    "dense": lambda h, new: h @ new(h.shape[1], 4) + new(4),
    "residual": lambda h, new: h + jnp.tanh(h @ new(h.shape[1], 3)) @ new(3, h.shape[1]),
    "tanh": lambda h, new: jnp.tanh(h),
    "relu": lambda h, new: jax.nn.relu(h),
    "abs": lambda h, new: jnp.abs(h),
    "square": lambda h, new: h**2,
    "gelu": lambda h, new: jax.nn.gelu(h),
    "gate": lambda h, new: h * jax.nn.sigmoid(h @ new(h.shape[1], h.shape[1])),
    "gain": lambda h, new: h * new(h.shape[1]),
    "quotient": lambda h, new: h / (1 + jnp.abs(h).sum(1, keepdims=True)),
    "self_quotient": lambda h, new: h / jnp.sqrt((h**2).sum(1, keepdims=True) + 1e-3),
    "softmax": lambda h, new: jax.nn.softmax(h, axis=1),
    "concat": lambda h, new: jnp.concatenate([h, jnp.tanh(h @ new(h.shape[1], 2))], axis=1),
    "halves": lambda h, new: h[:, : h.shape[1] // 2] if h.shape[1] > 1 else h,
    "swap": lambda h, new: jnp.concatenate([h[:, 1:], h[:, :1]], axis=1),
    "cumsum": lambda h, new: jnp.cumsum(h, axis=1),
    "rev": lambda h, new: h[:, ::-1],
    "sort": lambda h, new: jnp.sort(h, axis=1),
    "outer": lambda h, new: (h[:, :, None] * jnp.tanh(h @ new(h.shape[1], 2))[:, None]).reshape(h.shape[0], -1),
    "pool": lambda h, new: jnp.concatenate([h.max(1, keepdims=True), h.min(1, keepdims=True), h], axis=1),
    "refold": lambda h, new: h.reshape(5, 2, -1).sum(1) if h.shape[1] % 2 == 0 else h,
    "transpose": lambda h, new: (h.T + new(h.shape[1], 1)).T,
    "pad": lambda h, new: jnp.pad(h, ((0, 0), (1, 0))),
    "mask": lambda h, new: jnp.where(jnp.arange(h.shape[1]) < 2, h, 0.0),
    "compare": lambda h, new: jnp.where(h > h.mean(1, keepdims=True), h, -h),
    "take": lambda h, new: h[:, jnp.arange(h.shape[1]) // 2],
}


def random_network(seed):
    """A chain of random operations, its parameters in a dict; the shapes come from a dry run."""
    rng = np.random.default_rng(seed)
    names = ["dense", *rng.choice(list(OPERATIONS), size=rng.integers(3, 8)), "dense"]
    shapes = {}

    def dry(shape):
        shapes[f"p{len(shapes):02d}"] = jax.ShapeDtypeStruct(shape, jnp.float32)
        return jnp.zeros(shape)

    def run(new, x):
        for name in names:
            x = OPERATIONS[name](x, new)
        return x

    jax.eval_shape(lambda x: run(lambda *shape: dry(shape), x), X)

    def apply(params, x):
        source = iter(params.values())
        return run(lambda *shape: next(source), x)

    return apply, shapes


@pytest.mark.parametrize("seed", [*range(12), *(pytest.param(s, marks=pytest.mark.slow) for s in range(12, 150))])
def test_every_reported_factor_of_a_random_network_is_certified(seed):
    # A factor that fails its certificate is dropped with a warning, which is an error here.
    apply, shapes = random_network(seed)
    for factor in find_symmetries(apply, shapes, X).likelihood.factors:
        assert factor.certificate.error <= 1e-10


def dense(params, x):
    return jnp.tanh(x @ params["a"]) @ params["b"]


SHAPES = {"a": jax.ShapeDtypeStruct((3, 4), jnp.float32), "b": jax.ShapeDtypeStruct((4, 2), jnp.float32)}
SITES = {"a": (3, 4), "b": (4, 2)}


def numpy_probe():
    x = np.asarray(X, np.float64)
    return Probe(
        lambda rng: {site: rng.standard_normal(shape) for site, shape in SITES.items()},
        lambda weights: {"output": np.tanh(x @ weights["a"]) @ weights["b"]},
    )


@pytest.mark.parametrize(
    "planted",
    [
        Factor("false", "permutation", "h", 4, (Slot("a", 1, 4),)),
        Factor("false", "permutation", "i", 3, (Slot("a", 0, 3),)),
        Factor("false", "permutation", "o", 2, (Slot("b", 1, 2),)),
        Factor("false", "sign", "h", 4, (Slot("a", 1, 4),)),
        Factor("false", "scale", "h", 4, (Slot("a", 1, 4), Slot("b", 0, 4, exponent=-1))),
        Factor("false", "sign", "w", 1, (Slot("a", None, 1),)),
    ],
)
def test_a_false_factor_is_dropped_and_reported(planted):
    true = Factor("true", "permutation", "u", 4, (Slot("a", 1, 4), Slot("b", 0, 4)))
    checked, defects = certify(SymmetryGroup(SITES, (true, planted)), numpy_probe())
    assert [factor.name for factor in checked.factors] == ["true"]
    assert len(defects) == 1
    assert "please report" in defects[0]


def test_leaving_a_member_out_is_seen():
    found = find_symmetries(dense, SHAPES, X)
    for factor in found.likelihood.factors:
        assert factor.certificate.control > 1e-3


def test_a_model_that_depends_on_nothing_gives_no_certificate():
    true = Factor("true", "permutation", "u", 4, (Slot("a", 1, 4), Slot("b", 0, 4)))
    blind = Probe(numpy_probe().draw, lambda weights: {"output": np.ones(3)})
    checked, defects = certify(SymmetryGroup(SITES, (true,)), blind)
    assert checked.factors == defects == ()
    assert checked.pinned[0].reason == NO_EFFECT


def test_outputs_that_are_never_finite_give_no_certificate():
    true = Factor("true", "permutation", "u", 4, (Slot("a", 1, 4), Slot("b", 0, 4)))
    lost = Probe(numpy_probe().draw, lambda weights: {"output": np.full(3, np.nan)})
    checked, _ = certify(SymmetryGroup(SITES, (true,)), lost)
    assert checked.factors == ()


def test_a_broken_axis_rule_is_caught(monkeypatch):
    monkeypatch.setitem(AXIS_RULES, "cumsum", lambda equation, operand: [operand])

    def apply(params, x):
        return jnp.cumsum(jnp.tanh(x @ params["a"]), axis=1) @ params["b"]

    with pytest.warns(RuntimeWarning, match="permutation was dropped"):
        found = find_symmetries(apply, SHAPES, X)
    assert "permutation" not in {factor.kind for factor in found.likelihood.factors}


def test_a_broken_character_rule_is_caught(monkeypatch):
    monkeypatch.setitem(CHARACTER_RULES, "add", lambda equation, system, a, b: [a])

    def apply(params, x):
        return (jnp.tanh(x @ params["a"]) + x[:, :1]) @ params["b"]

    with pytest.warns(RuntimeWarning, match="sign was dropped"):
        find_symmetries(apply, SHAPES, X)


def test_a_primitive_without_rules_pins_and_is_named(monkeypatch):
    monkeypatch.delitem(AXIS_RULES, "dot_general")
    found = find_symmetries(dense, SHAPES, X)
    assert found.likelihood.factors == ()
    reasons = {pin.reason for pin in found.likelihood.pinned}
    assert "unsupported primitive dot_general" in reasons


def test_discovery_is_deterministic():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (find_symmetries(dense, SHAPES, X).to_json() for _ in range(2))
    assert first == second
