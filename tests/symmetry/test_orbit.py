"""Orbit moves leave the prior, the joint and the likelihood as they are; wrong variants of them do not."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.flatten_util import ravel_pytree
from scipy import stats

from bnn_models import BNN, Posterior, likelihoods, networks, priors
from symmetry import Factor, Slot, SymmetryGroup, find_symmetries, orbit_layers, orbit_units
from symmetry.orbit_derivation import check_moves, orbit_moves

NUM_LANES = 20_000
SCALES = {
    "hidden_0.kernel": 0.4,
    "hidden_0.bias": 1.5,
    "hidden_1.kernel": 1.0,
    "hidden_1.bias": 0.7,
    "head.kernel": 2.0,
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def own_scale(name, shape):
    return numpyro.sample(name, dist.Normal(0.0, SCALES.get(name, 0.9)).expand(shape).to_event(len(shape)))


@functools.cache
def network(prior, widths=(3, 5, 4, 2)):
    rng = np.random.default_rng(0)
    model = BNN(networks.mlp(widths, activation="relu"), prior, likelihoods.normal(scale=0.3))
    posterior = Posterior(model, rng.normal(size=(6, widths[0])), rng.normal(size=(6, widths[-1])))
    return posterior, find_symmetries(posterior)


@functools.cache
def hierarchical(num_units=4, num_rows=5):
    """One hidden layer, weights and biases under one gamma precision a layer; the last bias has a fixed one."""

    def model(x, y=None):
        tau_1 = numpyro.sample("tau_1", dist.Gamma(2.0, 1.0))
        tau_2 = numpyro.sample("tau_2", dist.Gamma(3.0, 0.5))
        w_1 = numpyro.sample("w_1", dist.Normal(0.0, tau_1**-0.5).expand((1, num_units)).to_event(2))
        b_1 = numpyro.sample("b_1", dist.Normal(0.0, tau_1**-0.5).expand((num_units,)).to_event(1))
        w_2 = numpyro.sample("w_2", dist.Normal(0.0, 0.5 * tau_2**-0.5).expand((num_units, 1)).to_event(2))
        b_2 = numpyro.sample("b_2", dist.Normal(0.0, 1.0))
        mean = (jax.nn.relu(x @ w_1 + b_1) @ w_2)[:, 0] + b_2
        numpyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    x = np.linspace(-1, 1, num_rows)[:, None]
    posterior = Posterior(model, x, np.zeros(num_rows))
    return posterior, find_symmetries(posterior)


def prior_draws(posterior, seed, num=NUM_LANES):
    """Prior draws of the weights, all of them: `initial` keeps every finite one."""
    return jax.vmap(posterior.constrain)(posterior.initial(jax.random.key(seed), num))


def moved(posterior, symmetries, weights, seed=0):
    moves = orbit_moves(posterior, symmetries)
    keys = jax.random.split(jax.random.key(seed), next(iter(weights.values())).shape[0])
    return jax.jit(jax.vmap(lambda key, w: moves.sweep(key, posterior, w)))(keys, weights)


def unit_statistics(weights):
    """Eight statistics of each of the nine hidden units: 72."""
    found = []
    layers = [("hidden_0", "hidden_1"), ("hidden_1", "head")]
    for layer, following in layers:
        w_in, bias, w_out = (
            np.asarray(weights[k]) for k in (f"{layer}.kernel", f"{layer}.bias", f"{following}.kernel")
        )
        for unit in range(bias.shape[1]):
            size_in, size_out = (w_in[:, :, unit] ** 2).sum(1), (w_out[:, unit] ** 2).sum(1)
            found += [size_in, size_out, bias[:, unit], np.abs(bias[:, unit]), size_in / size_out]
            found += [w_in[:, 0, unit], w_out[:, unit, 0], np.abs(bias[:, unit]) * np.sqrt(size_out)]
    return found


def smallest_p(first, second):
    return min(stats.ks_2samp(a, b).pvalue for a, b in zip(first, second, strict=True)) * len(first)


def unit_p(prior):
    posterior, symmetries = network(prior)
    after = moved(posterior, symmetries, prior_draws(posterior, 0))
    return smallest_p(unit_statistics(after), unit_statistics(prior_draws(posterior, 1)))


def test_unit_moves_leave_a_normal_prior_as_it_is():
    assert unit_p(own_scale) > 0.01


def volume_plus_one(original, group, factor):
    return original(group, factor) + 1


def no_volume(original, group, factor):
    return 0.0


def volume_without_bias(original, group, factor):
    return original(group, factor) - 1


def masses_without_bias(original, target, group, factor, weights):
    bare = {site: jnp.where(site.endswith("bias"), 0.0, value) for site, value in weights.items()}
    return original(target, group, factor, bare)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("unit_volume", volume_plus_one),
        pytest.param("unit_volume", no_volume, marks=pytest.mark.slow),
        pytest.param("unit_volume", volume_without_bias, marks=pytest.mark.slow),
        pytest.param("unit_masses", masses_without_bias, marks=pytest.mark.slow),
    ],
)
def test_wrong_unit_moves_do_not(monkeypatch, name, wrong):
    posterior, symmetries = network(own_scale)
    orbit_moves(posterior, symmetries)  # derived from the right ones
    monkeypatch.setattr(orbit_units, name, functools.partial(wrong, getattr(orbit_units, name)))
    assert unit_p(own_scale) < 1e-6


@pytest.mark.parametrize(
    "prior",
    [
        pytest.param(priors.laplace(0.7), marks=pytest.mark.slow),
        pytest.param(priors.student_t(3.0), marks=pytest.mark.slow),
        pytest.param(priors.logistic(), marks=pytest.mark.slow),
    ],
)
def test_unit_moves_leave_other_priors_as_they_are(prior):
    posterior, symmetries = network(prior)
    assert not any(unit.is_normal for unit in orbit_moves(posterior, symmetries).units)
    assert unit_p(prior) > 0.01


def joint_statistics(weights):
    w_1, b_1, w_2 = (np.asarray(weights[k]) for k in ("w_1", "b_1", "w_2"))
    tau_1, tau_2 = np.asarray(weights["tau_1"]), np.asarray(weights["tau_2"])
    q_1, q_2 = (w_1**2).sum((1, 2)) + (b_1**2).sum(1), (w_2**2).sum((1, 2))
    found = [tau_1, tau_2, tau_1 / tau_2, tau_1 * tau_2, q_1, q_2, q_1 / q_2, q_1 * q_2, tau_1 * q_1, tau_2 * q_2]
    return [
        *found,
        w_1[:, 0, 0],
        b_1[:, 0],
        w_2[:, 0, 0],
        np.asarray(weights["b_2"]),
        tau_1 * q_2,
        w_1[:, 0, 0] * b_1[:, 0],
    ]


def geweke_p(num_lanes=8000, num_rounds=10):
    """Lanes that start from the exact joint law of weights and data must stay in it."""
    posterior, symmetries = hierarchical()
    moves = orbit_moves(posterior, symmetries)
    leaves, structure = jax.tree.flatten(posterior)
    (place,) = [n for n, leaf in enumerate(leaves) if leaf.ndim == 1]

    def round_of(weights, key):
        key_data, key_momentum, key_accept, key_moves = jax.random.split(key, 4)
        data = posterior.predict(weights, rng_key=key_data)["y"]
        at_data = jax.tree.unflatten(structure, [*leaves[:place], data, *leaves[place + 1 :]])
        position = leapfrogs(at_data, posterior.unconstrain(weights), key_momentum, key_accept)
        return moves.sweep(key_moves, at_data, posterior.constrain(position)), None

    @jax.jit
    @jax.vmap
    def rounds(key, weights):
        return jax.lax.scan(round_of, weights, jax.random.split(key, num_rounds))[0]

    after = rounds(jax.random.split(jax.random.key(2), num_lanes), prior_draws(posterior, 0, num_lanes))
    return smallest_p(joint_statistics(after), joint_statistics(prior_draws(posterior, 1, num_lanes)))


def leapfrogs(target, position, key_momentum, key_accept, step_size=0.05):
    """Four leapfrogs and their acceptance."""
    flat, unravel = ravel_pytree(position)
    gradient = jax.grad(lambda x: target.logdensity(unravel(x)))
    momentum = jax.random.normal(key_momentum, flat.shape)
    x, p = flat, momentum
    for _ in range(4):
        p = p + 0.5 * step_size * gradient(x)
        x = x + step_size * p
        p = p + 0.5 * step_size * gradient(x)
    energies = [0.5 * m @ m - target.logdensity(unravel(q)) for q, m in ((flat, momentum), (x, p))]
    accepted = jnp.log(jax.random.uniform(key_accept)) < energies[0] - energies[1]
    return unravel(jnp.where(accepted, x, flat))


@pytest.mark.slow
def test_layer_moves_leave_the_joint_as_it_is():
    assert geweke_p() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        pytest.param("layer_volume", lambda move: 0.0, marks=pytest.mark.slow),
        pytest.param("redraw_precisions", lambda key, move, governed, log_scale, weights: dict(weights)),
    ],
    ids=["without the Jacobian", "without new precisions"],
)
def test_wrong_layer_moves_do_not(monkeypatch, name, wrong):
    posterior, symmetries = hierarchical()
    assert orbit_moves(posterior, symmetries).layers
    monkeypatch.setattr(orbit_layers, name, wrong)
    assert geweke_p() < 1e-4


@pytest.mark.slow
def test_moves_leave_the_likelihood_as_it_is():
    for posterior, symmetries in (network(priors.laplace(0.7), (2, 3, 2)), hierarchical()):
        weights = prior_draws(posterior, 3, 50)
        after = moved(posterior, symmetries, weights)
        loglikelihood = jax.vmap(lambda w, p=posterior: p.loglikelihood(p.unconstrain(w)))
        np.testing.assert_allclose(loglikelihood(after), loglikelihood(weights), rtol=1e-9)
        assert all(
            (np.asarray(after[site]) != np.asarray(weights[site])).any()
            for site in after
            if site not in ("b_2", "head.bias")
        )


def test_precisions_are_read_off_the_model():
    posterior, symmetries = hierarchical()
    moves = orbit_moves(posterior, symmetries)
    assert [unit.is_normal for unit in moves.units] == [True]
    (layer,) = moves.layers
    assert orbit_layers.layer_volume(layer) == 4 + 4 - 4
    laws = {p.site: (p.concentration.item(), p.rate.item(), p.counts.item()) for p in layer.precisions}
    assert laws["tau_1"] == pytest.approx((2.0, 1.0, 8))
    assert laws["tau_2"] == pytest.approx((3.0, 0.5, 4))
    assert "without tau_1, tau_2" in moves.describe()


@pytest.mark.slow
def test_precisions_of_single_inputs_are_told_apart():
    """A precision for each input, as in automatic relevance determination, in rows of one array."""

    def model(x, y=None):
        tau = numpyro.sample("tau", dist.Gamma(1.5, 2.0).expand((3,)).to_event(1))
        w_1 = numpyro.sample("w_1", dist.Normal(0.0, jnp.broadcast_to(tau[:, None] ** -0.5, (3, 4))).to_event(2))
        w_2 = numpyro.sample("w_2", dist.Normal(0.0, 1.0).expand((4,)).to_event(1))
        numpyro.sample("y", dist.Normal(jax.nn.relu(x @ w_1) @ w_2, 0.5), obs=y)

    posterior = Posterior(model, np.ones((5, 3)), np.zeros(5))
    (layer,) = orbit_moves(posterior, find_symmetries(posterior)).layers
    (precision,) = layer.precisions
    np.testing.assert_array_equal(precision.members["w_1"], np.repeat(np.arange(3)[:, None], 4, axis=1))
    np.testing.assert_allclose([precision.concentration, precision.rate], [[1.5] * 3, [2.0] * 3], rtol=1e-6)
    check_moves(orbit_moves(posterior, find_symmetries(posterior)), posterior)


@pytest.mark.parametrize("hyperprior", [dist.HalfNormal(1.0), dist.LogNormal(0.0, 1.0)], ids=["scale", "no gamma"])
def test_other_hyperpriors_have_no_layer_move(hyperprior):
    def model(x, y=None):
        tau = numpyro.sample("tau", hyperprior)
        w_1 = numpyro.sample("w_1", dist.Normal(0.0, tau**-0.5).expand((1, 3)).to_event(2))
        w_2 = numpyro.sample("w_2", dist.Normal(0.0, 1.0).expand((3,)).to_event(1))
        numpyro.sample("y", dist.Normal(jax.nn.relu(x @ w_1) @ w_2, 0.5), obs=y)

    posterior = Posterior(model, np.ones((5, 1)), np.zeros(5))
    moves = orbit_moves(posterior, find_symmetries(posterior))
    assert not moves.layers
    assert [unit.is_normal for unit in moves.units] == [True]


@pytest.mark.slow
def test_a_precision_that_the_likelihood_uses_has_no_layer_move():
    def model(x, y=None):
        tau = numpyro.sample("tau", dist.Gamma(2.0, 2.0))
        w_1 = numpyro.sample("w_1", dist.Normal(0.0, tau**-0.5).expand((1, 3)).to_event(2))
        w_2 = numpyro.sample("w_2", dist.Normal(0.0, 1.0).expand((3,)).to_event(1))
        numpyro.sample("y", dist.Normal(jax.nn.relu(x @ w_1) @ w_2, tau**-0.5), obs=y)

    posterior = Posterior(model, np.ones((5, 1)), np.zeros(5))
    assert not orbit_moves(posterior, find_symmetries(posterior)).layers


@pytest.mark.slow
def test_priors_that_are_not_log_concave_are_refused_with_their_names():
    posterior, symmetries = network(priors.mixture(), (2, 3, 2))
    moves = orbit_moves(posterior, symmetries)
    assert not moves
    assert "hidden_0.kernel" in moves.refused["hidden_0:scale"]


def test_moves_of_another_prior_are_refused():
    posterior, symmetries = network(own_scale)
    other = Posterior(
        BNN(networks.mlp((3, 5, 4, 2), activation="relu"), priors.laplace(1.0), likelihoods.normal(scale=0.3)),
        *posterior.args,
    )
    moves = orbit_moves(posterior, symmetries)
    check_moves(moves, posterior)
    with pytest.raises(ValueError, match="log prior along the orbit of 'hidden_0:scale' is not the one"):
        check_moves(moves, other)


def test_layer_moves_of_another_hyperprior_are_refused():
    posterior, symmetries = hierarchical()
    moves = orbit_moves(posterior, symmetries)
    check_moves(moves, posterior)
    (layer,) = moves.layers
    wrong = [replace(p, rate=1.1 * p.rate) for p in layer.precisions]
    with pytest.raises(ValueError, match="log prior along the orbit"):
        check_moves(replace(moves, layers=(replace(layer, precisions=tuple(wrong)),)), posterior)


def test_scales_that_the_likelihood_notices_are_refused():
    posterior, symmetries = network(own_scale, (2, 3, 2))
    tanh = BNN(networks.mlp((2, 3, 2), activation="tanh"), own_scale, likelihoods.normal(scale=0.3))
    with pytest.raises(ValueError, match="changes the log likelihood"):
        check_moves(orbit_moves(posterior, symmetries), Posterior(tanh, *posterior.args))


@pytest.mark.slow
def test_other_exponents_than_one():
    """A unit that enters squared: the scale has exponents 2 and -1."""
    sites = {"inner": (3, 4), "outer": (4,)}
    slots = Slot("inner", 1, 4, exponent=-1), Slot("outer", 0, 4, exponent=2)
    group = SymmetryGroup(sites, (Factor("scale", "scale", "unit", 4, slots),))

    class Prior:
        def precisions(self, weights):
            return {"inner": jnp.full((3, 4), 0.5), "outer": jnp.full(4, 3.0)}

        def nothing(self, values):
            raise AssertionError

        constrain = unconstrain = loglikelihood = prior_logprob = nothing

    def draw(seed):
        keys = jax.random.split(jax.random.key(seed))
        return {
            "inner": jax.random.normal(keys[0], (NUM_LANES, 3, 4)) / np.sqrt(0.5),
            "outer": jax.random.normal(keys[1], (NUM_LANES, 4)) / np.sqrt(3.0),
        }

    keys = jax.random.split(jax.random.key(5), NUM_LANES)
    after = jax.jit(jax.vmap(lambda key, w: orbit_units.move_units(key, Prior(), group, group.factors[0], w)))(
        keys, draw(0)
    )

    def statistics(weights):
        inner, outer = np.asarray(weights["inner"]), np.asarray(weights["outer"])
        return [*(inner**2).sum(1).T, *outer.T, *np.abs(outer).T]

    assert smallest_p(statistics(after), statistics(draw(1))) > 0.01
    np.testing.assert_allclose(
        after["inner"][:, 0] ** 2 * after["outer"], draw(0)["inner"][:, 0] ** 2 * draw(0)["outer"]
    )
