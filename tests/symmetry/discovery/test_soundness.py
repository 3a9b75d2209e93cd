"""Nothing false is reported: random programs, and certificates that catch what is planted."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_models import random_posterior, random_weights, sites_outside
from random_networks import OPERATIONS, X, random_network
from subsets import first

from symmetry import Factor, Slot, SymmetryGroup
from symmetry.discovery import find_symmetries
from symmetry.discovery.certificate import NO_EFFECT, ZERO, Probe, certify
from symmetry.discovery.rules import AXIS_RULES, CHARACTER_RULES


@pytest.mark.parametrize("seed", first(10, range(260)))
def test_every_reported_factor_of_a_random_network_is_certified(seed):
    # A factor that fails its certificate is dropped with a warning, which is an error here.
    apply, shapes, names = random_network(seed)
    for factor in find_symmetries(apply, shapes, X).likelihood.factors:
        assert factor.certificate.error <= 1e-10, names


@pytest.mark.parametrize("seed", first(1, range(60)))
def test_every_reported_factor_of_a_random_posterior_is_certified(seed):
    posterior, operations, priors = random_posterior(seed)
    found = find_symmetries(posterior)
    for factor in (*found.posterior.factors, *found.likelihood.factors):
        assert factor.certificate.error <= 1e-10, (operations, priors)
    assert found.posterior.dimension <= found.likelihood.dimension, (operations, priors)
    # Densities need not show where a support ends, so a certificate cannot tell.
    rng = np.random.default_rng(seed)
    weights = random_weights(posterior, rng)
    for group in (found.posterior, found.likelihood):
        moved = group.act({factor.name: random_element(factor, rng) for factor in group.factors}, weights)
        assert sites_outside(posterior, moved) == sites_outside(posterior, weights) == set(), (operations, priors)


def random_element(factor, rng):
    """Values that differ all over the fibre."""
    shape = (*factor.fibre_shape, factor.size)
    if factor.kind == "permutation":
        colours = np.zeros(factor.size, int) if factor.colours is None else np.asarray(factor.colours)
        shuffled = np.lexsort((rng.random(shape), np.broadcast_to(colours, shape)))
        return shuffled[..., np.argsort(np.argsort(colours, kind="stable"))]
    if factor.kind == "sign":
        return rng.choice([-1.0, 1.0], shape)
    scales = np.exp(0.3 * rng.standard_normal(shape))
    if factor.kind == "scale":
        return scales
    rotation, other = np.linalg.qr(rng.standard_normal((2, *shape, factor.size)))[0]
    return rotation @ (scales[..., None] * other) if factor.kind == "linear" else rotation


@pytest.mark.parametrize("seed", first(3, range(60)))
def test_all_factors_of_a_random_network_act_together(seed):
    """Each is certified alone; here one element of their product, and its inverse, without the library's evaluation."""
    apply, shapes, names = random_network(seed)
    group = find_symmetries(apply, shapes, X).likelihood
    rng = np.random.default_rng(seed)
    weights = {name: rng.standard_normal(leaf.shape) / np.sqrt(leaf.size) for name, leaf in shapes.items()}
    element = {factor.name: random_element(factor, rng) for factor in group.factors}
    moved = group.act(element, weights)
    returned = group.act(group.inverse(element), moved)
    assert set(moved) == set(weights)
    for name, value in weights.items():
        np.testing.assert_allclose(returned[name], value, rtol=1e-9, atol=1e-9, err_msg=str(names))
    with jax.enable_x64(True):
        run = jax.jit(apply, compiler_options={"xla_backend_optimization_level": 0})
        before, after = (np.asarray(run(w, X.astype(float))) for w in (weights, moved))
    np.testing.assert_allclose(after, before, rtol=1e-7, atol=1e-9 * np.max(np.abs(before)), err_msg=str(names))


@pytest.mark.slow
def test_random_networks_use_every_operation():
    used = {name for seed in range(260) for name in random_network(seed)[2]}
    assert used == set(OPERATIONS)


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


def test_outputs_that_are_zero_up_to_rounding_are_no_defect():
    """The mean of what lacks its mean: a permutation of the hidden units changes it by rounding, and by no more."""

    def apply(params, x):
        h = jnp.tanh(x @ params["w"]) @ params["v"]
        return (h - h.mean(1, keepdims=True)).mean(1)

    shapes = {"w": (3, 4), "v": (4, 5)}
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    found = find_symmetries(apply, params, X).likelihood
    assert "permutation" not in {factor.kind for factor in found.factors}
    assert ZERO in {pin.reason for pin in found.pinned}


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
