"""What the prior breaks, what is merely unproved, and certificates where numbers are large or not finite."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import plate, sample

from bnn_models import Posterior
from symmetry.discovery import find_symmetries

RNG = np.random.default_rng(1)
X, Y = RNG.standard_normal((20, 3)), RNG.standard_normal(20)


def kinds(group):
    return {factor.name: factor.size for factor in group.factors}


def two_networks(tied):
    """A sum of two networks, the scales of their weights shared unit by unit or each their own."""

    def model(x, y):
        total = 0.0
        shared = sample("tau", dist.HalfNormal(1.0).expand([3]).to_event(1)) if tied else None
        for name in ("a", "b"):
            tau = shared if tied else sample(f"tau_{name}", dist.HalfNormal(1.0).expand([3]).to_event(1))
            w = sample(f"w_{name}", dist.Normal(0.0, tau).expand([3, 3]).to_event(2))
            v = sample(f"v_{name}", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
            total = total + jnp.tanh(x @ w) @ v
        sample("y", dist.Normal(total, 0.5), obs=y)

    return model


def test_a_prior_that_ties_two_classes_breaks_each_of_them():
    found = find_symmetries(Posterior(two_networks(tied=True), X, Y))
    assert {f.name for f in found.likelihood.factors if f.kind == "permutation"} == {
        "w_a_dim_1:permutation",
        "w_b_dim_1:permutation",
    }
    (together,) = [f for f in found.posterior.factors if f.kind == "permutation"]
    assert {slot.site for slot in together.slots} == {"tau", "w_a", "v_a", "w_b", "v_b"}
    assert {b.factor: b.sites for b in found.broken} == {
        "w_a_dim_1:permutation": ("w_a",),
        "w_b_dim_1:permutation": ("w_b",),
    }
    assert found.broken[0].note == "remains only where w_b, v_b move along"
    assert "w_a_dim_1:permutation through w_a: remains only where w_b, v_b move along" in found.describe()


def test_hyper_parameters_that_move_along_break_nothing():
    found = find_symmetries(Posterior(two_networks(tied=False), X, Y))
    assert sum(f.kind == "permutation" for f in found.posterior.factors) == 2
    assert found.broken == ()


def test_an_unproved_symmetry_is_not_called_broken():
    """A mixture symmetric about zero is even, which no rule proves and no number contradicts."""

    def model(x, y):
        w = sample("w", dist.Normal(0.0, 1.0).expand([3, 4]).to_event(2))
        pair = dist.MixtureSameFamily(dist.Categorical(probs=np.full(2, 0.5)), dist.Normal(np.array([-1.0, 1.0]), 0.5))
        v = sample("v", pair.expand([4]).to_event(1))
        sample("y", dist.Normal(jnp.tanh(x @ w) @ v, 1.0), obs=y)

    found = find_symmetries(Posterior(model, X, Y))
    assert "w_dim_1:sign" in kinds(found.likelihood)
    assert "w_dim_1:sign" not in kinds(found.posterior)
    assert [(b.factor, b.sites) for b in found.broken] == [("w_dim_1:sign", ())]
    text = found.describe()
    assert "Broken by the prior" not in text
    assert "Neither broken nor proved\n    w_dim_1:sign: not proved for the log joint" in text


@pytest.mark.parametrize("sd", [1e2, 1e5])
def test_a_prior_as_wide_as_the_sky_still_breaks_scales(sd):
    """It changes the log prior by 1e-11 of itself, far beyond rounding."""

    def model(x, y):
        w = sample("w", dist.Normal(0.0, sd).expand([3, 2]).to_event(2))
        v = sample("v", dist.Normal(0.0, sd).expand([2]).to_event(1))
        sample("y", dist.Normal(jnp.maximum(x @ w, 0.0) @ v, 1.0), obs=y)

    found = find_symmetries(Posterior(model, X, Y))
    assert [(b.factor, b.sites) for b in found.broken] == [("w_dim_1:scale", ("w", "v"))]


@pytest.mark.parametrize("unit", [1.0, 1e-6, 3e9])
def test_the_unit_of_the_data_hides_no_symmetry(unit):
    def model(x, y):
        w = sample("w", dist.Normal(0.0, 1.0).expand([3, 4]).to_event(2))
        v = sample("v", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
        sample("y", dist.Normal(jnp.tanh(x @ w) @ v, 1.0), obs=y)

    found = find_symmetries(Posterior(model, X, Y * unit))
    assert kinds(found.posterior) == kinds(found.likelihood) == {"w_dim_1:permutation": 4, "w_dim_1:sign": 4}


def bounded_by(total, width=5):
    """A site whose support depends on another one: half of all weights have no density."""

    def model(y):
        m = sample("m", dist.Normal(0.0, 1.0).expand([width]).to_event(1))
        u = sample("u", dist.Uniform(0.0, total(m)))
        with plate("n", 20):
            sample("y", dist.Normal(u + (m**2).sum(), 1.0), obs=y)

    return model


def test_weights_without_density_are_drawn_anew(recwarn):
    found = find_symmetries(Posterior(bounded_by(jnp.sum), Y))
    assert "m_dim_0:permutation" in kinds(found.posterior)
    assert not recwarn.list


def test_a_density_that_is_nowhere_finite_certifies_nothing(recwarn):
    def model(y):
        m = sample("m", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        sample("y", dist.Normal(jnp.log(-jnp.sum(m**2)), 1.0), obs=y)

    found = find_symmetries(Posterior(model, Y))
    assert found.posterior.factors == found.likelihood.factors == ()
    assert any("random weights have finite outputs" in pin.reason for pin in found.posterior.pinned)
    assert not recwarn.list


def test_whole_arrays_that_could_not_be_certified_are_named():
    def model(y):
        w, v = sample("w", dist.Normal(0.0, 1.0)), sample("v", dist.Normal(0.0, 1.0))
        sample("y", dist.Normal(jnp.log(w * v - 20.0), 1.0), obs=y)

    found = find_symmetries(Posterior(model, Y)).likelihood
    assert {(pin.site, pin.axis) for pin in found.pinned} == {("w", None), ("v", None)}
    assert "w[all]: not certified" in found.describe()


@pytest.mark.parametrize(("width", "special"), [(4, 0), (8, 1)])
def test_a_prior_that_singles_out_one_member_is_seen(width, special):
    """Random signs leave a given member alone half of the time, random permutations often."""

    def model(x, y):
        w = sample("w", dist.Normal(0.0, 1.0).expand([3, width]).to_event(2))
        v = sample("v", dist.Normal(np.eye(width)[special], 1.0).to_event(1))
        sample("y", dist.Normal(jnp.tanh(x @ w) @ v, 1.0), obs=y)

    found = find_symmetries(Posterior(model, X, Y))
    assert {b.factor: b.sites for b in found.broken} == {"w_dim_1:permutation": ("v",), "w_dim_1:sign": ("v",)}
    assert found.broken[0].note.startswith("remains only within the colours")


def test_a_product_of_surviving_symmetries_survives():
    """The likelihood's sign of (w, s) is that of (s, v, h) times those of all units (h, w, v)."""

    def model(x, y):
        h = sample("h", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
        w = sample("w", dist.Normal(0.0, 1.0).expand([3, 4]).to_event(2))
        v = sample("v", dist.Normal(h, 1.0).to_event(1))
        s = sample("s", dist.Normal(0.0, 1.0))
        sample("y", dist.Normal(s * (jnp.tanh(x @ w) @ v), 1.0), obs=y)

    assert "sign" not in {b.factor.partition(":")[2] for b in find_symmetries(Posterior(model, X, Y)).broken}
