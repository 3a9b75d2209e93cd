"""Orthogonal matrices: found where inner products are all that is used, and nowhere else."""

from collections import Counter

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import lax
from truth import GL, O, S, Z, factors, members, shapes

from bnn_models import Posterior
from symmetry.discovery import find_symmetries
from symmetry.discovery.certificate import VISIBLE

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((7, 3)))


def discover(apply, x=X, **sizes):
    return find_symmetries(apply, shapes(**sizes), x).likelihood


def kinds(group):
    return {factor.kind for factor in group.factors}


def rms(x):
    return x * lax.rsqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)


def test_the_stream_of_rms_norms_has_any_basis():
    def network(p, x):
        h = x @ p["embed"]
        h = h + jnp.tanh(rms(h) @ p["in_0"]) @ p["out_0"]
        h = h + jnp.tanh(rms(h) @ p["in_1"]) @ p["out_1"]
        return rms(h) @ p["head"]

    found = discover(network, embed=(3, 5), in_0=(5, 4), out_0=(4, 5), in_1=(5, 3), out_1=(3, 5), head=(5, 2))
    assert factors(found) == Counter([O(5), S(4), Z(4), S(3), Z(3)])
    stream = {("embed", 1), ("in_0", 0), ("out_0", 1), ("in_1", 0), ("out_1", 1), ("head", 0)}
    assert members(found, "orthogonal", 5) == stream


def test_a_gain_takes_the_rotations_away():
    """One stretch for each coordinate of the stream; what is left of O(5) permutes it and flips its signs."""
    found = discover(lambda p, x: (rms(x @ p["embed"]) * p["gain"]) @ p["head"], embed=(3, 5), gain=(5,), head=(5, 2))
    assert "orthogonal" not in kinds(found)
    assert S(5) in factors(found)


def factor_model(y=None):
    scores = numpyro.sample("scores", dist.Normal().expand([8, 3]).to_event(2))
    loadings = numpyro.sample("loadings", dist.Normal().expand([4, 3]).to_event(2))
    numpyro.sample("y", dist.Normal(scores @ loadings.T, 0.3), obs=y)


def heavy_tailed_factor_model(y=None):
    scores = numpyro.sample("scores", dist.StudentT(3.0).expand([8, 3]).to_event(2))
    loadings = numpyro.sample("loadings", dist.StudentT(3.0).expand([4, 3]).to_event(2))
    numpyro.sample("y", dist.Normal(scores @ loadings.T, 0.3), obs=y)


@pytest.mark.parametrize(
    ("model", "true"), [(factor_model, [O(3)]), (heavy_tailed_factor_model, [S(3), Z(3)])], ids=["normal", "student"]
)
def test_factor_models(model, true):
    found = find_symmetries(Posterior(model, y=jnp.asarray(RNG.standard_normal((8, 4)))))
    assert factors(found.posterior) == Counter(true)
    assert factors(found.likelihood) == Counter([GL(3)])


def power(p, x, exponent):
    return ((x @ p["w"]) ** exponent).sum(axis=-1)


def test_a_sum_of_squares_is_rotated_and_one_of_fourth_powers_is_not():
    assert factors(discover(lambda p, x: power(p, x, 2), w=(3, 4))) == Counter([O(4)])
    assert factors(discover(lambda p, x: power(p, x, 4), w=(3, 4))) == Counter([S(4), Z(4)])


def test_a_small_admixture_of_fourth_powers_is_seen():
    found = discover(lambda p, x: power(p, x, 2) + 1e-6 * power(p, x, 4), w=(3, 4))
    assert factors(found) == Counter([S(4), Z(4)])


def test_certificates_of_rotations_are_far_from_chance():
    (factor,) = discover(lambda p, x: power(p, x, 2), w=(3, 4)).factors
    assert factor.certificate.error <= VISIBLE
    assert factor.certificate.control > 1e-3


@pytest.mark.parametrize(
    "steps",
    [
        lambda p, x: jnp.argmax((x @ p["w"]) ** 4 @ p["v"], axis=-1),
        lambda p, x: jnp.argmax((x @ p["w"]) ** 4 @ p["v"], axis=-1).astype(float),
        lambda p, x: jnp.sign(power(p, x, 4) - 1000.0),
        lambda p, x: jnp.sign(power(p, x, 4) + 1000.0) * p["v"].sum(),
        lambda p, x: jnp.round(power(p, x, 4) / 100.0),
        lambda p, x: jnp.floor(power(p, x, 4)) * 1e-3,
        lambda p, x: jnp.where(power(p, x, 4) > 5.0, 1.0, 0.0),
        lambda p, x: (power(p, x, 4) > 5.0).astype(jnp.float32) + p["v"].sum(),
    ],
    ids=["argmax", "argmax_float", "sign", "sign_times", "round", "floor", "where", "compare"],
)
def test_steps_that_rotations_do_not_cross_are_no_evidence(steps):
    found = discover(steps, w=(3, 4), v=(4, 2))
    assert not kinds(found) & {"orthogonal", "linear"}


@pytest.mark.parametrize("size", [1e3, 3e9])
def test_large_data_hide_no_change(size):
    """Only the last digits of the log probability of an observation of 3e9 change with the weights."""

    def model(x, y=None):
        w = numpyro.sample("w", dist.Normal().expand([3, 4]).to_event(2))
        numpyro.sample("y", dist.Normal(((x @ w) ** 4).sum(axis=-1), 1.0), obs=y)

    found = find_symmetries(Posterior(model, X, y=jnp.full(7, size)))
    assert not kinds(found.likelihood) & {"orthogonal", "linear"}
    assert not kinds(found.posterior) & {"orthogonal", "linear"}


def test_large_offsets_hide_no_change():
    found = discover(lambda p, x: 3e9 + power(p, x, 4), w=(3, 4))
    assert not kinds(found) & {"orthogonal", "linear"}


@pytest.mark.parametrize("scale", [1e-2, 1e-5, 1e-7])
def test_a_unit_that_is_all_but_linear_is_not(scale):
    found = discover(lambda p, x: jnp.tanh(scale * (x @ p["w"])) @ p["v"], w=(3, 4), v=(4, 2))
    assert factors(found) == Counter([S(4), Z(4)])


@pytest.mark.parametrize("scale", [1e-2, 1e-5, 1e-7])
def test_squares_of_units_that_are_all_but_linear(scale):
    found = discover(lambda p, x: (jnp.tanh(scale * (x @ p["w"])) ** 2).sum(axis=-1), w=(3, 4))
    assert factors(found) == Counter([S(4), Z(4)])


def test_colours_and_fixed_orders_are_no_rotations():
    weights = jnp.asarray([1.0, 1.0, 2.0, 2.0])
    assert "orthogonal" not in kinds(discover(lambda p, x: ((x @ p["w"]) ** 2) @ weights, w=(3, 4)))
    assert "orthogonal" not in kinds(discover(lambda p, x: jnp.cumsum((x @ p["w"]) ** 2, axis=-1), w=(3, 4)))


def test_rotations_of_each_member():
    """Each of three embeddings has a basis of its own: (O(2))^3, and they may change places."""

    def network(p, x):
        parts = jnp.einsum("bi,gij->bgj", x, p["w"])
        return jnp.sin((parts**2).sum(axis=-1)).sum(axis=-1)

    assert factors(discover(network, w=(3, 3, 2))) == Counter([S(3), O(2, 3)])


def test_rotations_without_a_permutation_of_the_members():
    """The members' order is seen in the output."""
    found = discover(lambda p, x: (jnp.einsum("bi,gij->bgj", x, p["w"]) ** 2).sum(axis=-1), w=(3, 3, 2))
    assert factors(found) == Counter([O(2, 3)])
