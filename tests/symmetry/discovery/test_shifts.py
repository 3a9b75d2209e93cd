"""Numbers that may be added to a site, found by trying; and what must not be taken for such."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import sample

from bnn_models import Posterior
from symmetry import Shift, Symmetries, SymmetryGroup
from symmetry.discovery import find_symmetries

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((5, 3)))


def shapes(**sizes):
    return {name: jax.ShapeDtypeStruct(size, jnp.float32) for name, size in sizes.items()}


def shifts(apply, x=X, **sizes):
    found = find_symmetries(apply, shapes(**sizes), x).likelihood
    return {shift.site: shift.along for shift in found.shifts}


def test_the_last_layer_before_a_softmax():
    found = shifts(lambda p, x: jax.nn.log_softmax(jnp.tanh(x @ p["w"]) @ p["v"] + p["b"]), w=(3, 4), v=(4, 2), b=(2,))
    assert found == {"v": (1,), "b": (0,)}


def test_the_bias_of_keys():
    def attention(p, x):
        q, k, v = x @ p["q"] + p["q_bias"], x @ p["k"] + p["k_bias"], x @ p["v"] + p["v_bias"]
        return jax.nn.softmax(q @ k.T) @ v

    sizes = {"q": (3, 2), "q_bias": (2,), "k": (3, 2), "k_bias": (2,), "v": (3, 2), "v_bias": (2,)}
    assert shifts(attention, **sizes) == {"k_bias": ()}


def test_a_bias_before_a_mean_is_removed():
    def normalised(p, x):
        h = x @ p["w"] + p["b"]
        return jnp.tanh(h - h.mean(1, keepdims=True)) @ p["v"]

    assert shifts(normalised, w=(3, 4), b=(4,), v=(4, 2)) == {"w": (1,), "b": (0,)}


@pytest.mark.parametrize(
    "apply",
    [
        lambda p, x: jnp.tanh(x @ p["w"] + p["b"]),
        lambda p, x: 1e9 + x @ p["w"] + p["b"],
        lambda p, x: jnp.round(x @ p["w"] + p["b"]),
        lambda p, x: jnp.sign(10 + 0.1 * (x @ p["w"] + p["b"])),
        lambda p, x: jax.nn.relu(x @ p["w"] + p["b"] - 100),
        lambda p, x: jnp.tanh(x @ p["w"] + 1e-12 * p["b"]),
        lambda p, x: jnp.argmax(x @ p["w"] + 1e-6 * p["b"], axis=1),
    ],
)
def test_what_changes_but_little_or_by_steps_is_no_shift(apply):
    assert shifts(apply, w=(3, 2), b=(2,)) == {}


def categorical(x, y):
    w = sample("w", dist.Normal(0.0, 1.0).expand([3, 4]).to_event(2))
    scale = sample("scale", dist.HalfNormal(1.0).expand([4]).to_event(1))
    sample("y", dist.Categorical(logits=(x @ w) * scale.mean() + scale.sum()), obs=y)


def test_a_proper_prior_breaks_them_and_a_positive_site_has_none():
    found = find_symmetries(Posterior(categorical, X, jnp.array([0, 1, 2, 3, 1])))
    assert found.posterior.shifts == ()
    assert found.likelihood.shifts == (Shift("w", (1,), (3, 4)),)
    assert found.likelihood.dimension - sum(factor.dimension for factor in found.likelihood.factors) == 3


def test_they_are_told_and_stored():
    group = SymmetryGroup({"w": (3, 4)}, shifts=(Shift("w", (1,), (3, 4)),))
    assert "w, the same along axis 1: R^3" in group.describe()
    assert SymmetryGroup.from_json(group.to_json()) == group
    assert Symmetries.from_json(Symmetries(None, group).to_json()).likelihood == group
    assert group.restrict(("scale",)).shifts == ()
