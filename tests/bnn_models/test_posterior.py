"""Posteriors of any NumPyro model: densities, transforms, starts, predictions, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from flax import nnx
from numpyro.contrib.control_flow import scan
from numpyro.contrib.module import random_nnx_module
from numpyro.handlers import reparam, scale
from numpyro.infer.reparam import LocScaleReparam
from numpyro.infer.util import constrain_fn, log_density, log_likelihood, potential_energy

from bnn_models import BNN, Posterior, likelihoods, networks, priors

RNG = np.random.default_rng(0)
Y = RNG.normal(size=8)
X = RNG.normal(size=(8, 2))


def eight_schools(num_schools, sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", num_schools):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.deterministic("shrinkage", theta - mu)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def constrained(y):
    numpyro.sample("simplex", dist.Dirichlet(jnp.ones(4)))
    numpyro.sample("ordered", dist.ImproperUniform(dist.constraints.ordered_vector, (), (3,)))
    cholesky = numpyro.sample("cholesky", dist.LKJCholesky(3))
    rate = numpyro.sample("rate", dist.Gamma(2.0, 3.0).expand([2]).to_event(1))
    correlation = numpyro.sample("correlation", dist.Uniform(-1.0, 1.0))
    numpyro.sample("y", dist.Normal(correlation + cholesky[1, 0], rate.sum()), obs=y)


def dynamic_support(y):
    upper = numpyro.sample("upper", dist.LogNormal(0.0, 1.0))
    below = numpyro.sample("below", dist.Uniform(0.0, upper))
    above = numpyro.sample("above", dist.TruncatedNormal(0.0, 1.0, low=upper))
    numpyro.sample("y", dist.Normal(below, above), obs=y)


def factors(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.factor("soft_constraint", -((mu - 0.5) ** 2))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def scaled(y):
    with scale(scale=0.5):
        rate = numpyro.sample("rate", dist.Exponential(2.0))
    with scale(scale=3.0):
        numpyro.sample("y", dist.Normal(0.0, rate), obs=y)


def random_walk(y):
    drift = numpyro.sample("drift", dist.Normal(0.0, 1.0))

    def transition(state, observation):
        step = numpyro.sample("step", dist.LogNormal(drift, 1.0))
        state = numpyro.sample("state", dist.Normal(state, step))
        numpyro.sample("y", dist.Normal(state, 1.0), obs=observation)
        return state, None

    scan(transition, jnp.zeros(()), y)


def nnx_model(x, y=None):
    network = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    f = random_nnx_module("net", network, dist.Normal(0.0, 1.0), scope_divider=".")
    numpyro.sample("y", dist.Normal(f(x)[:, 0], 1.0), obs=y)


noncentred = reparam(eight_schools, config={"theta": LocScaleReparam(0)})

MODELS = {
    "eight_schools": (eight_schools, (8, np.linspace(9.0, 18.0, 8), Y)),
    "noncentred": (noncentred, (8, np.linspace(9.0, 18.0, 8), Y)),
    "constrained": (constrained, (Y,)),
    "dynamic_support": (dynamic_support, (Y,)),
    "factors": (factors, (Y,)),
    "scaled": (scaled, (Y,)),
    "random_walk": (random_walk, (Y,)),
    "nnx": (nnx_model, (X, Y)),
    "bnn": (BNN(networks.mlp([2, 3, 1]), priors.normal(), likelihoods.normal()), (X, Y)),
}


def random_position(posterior, seed=0):
    start = jax.eval_shape(lambda key: posterior.initial(key, 1), jax.random.key(seed))
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=value.shape[1:])) for name, value in start.items()}


@pytest.mark.parametrize("name", MODELS)
def test_densities_are_numpyros(name):
    model, args = MODELS[name]
    with jax.enable_x64(True):
        posterior = Posterior(model, *args)
        arguments = tuple(jnp.asarray(a) if isinstance(a, np.ndarray) else a for a in args)
        position = random_position(posterior)
        density = posterior.logdensity(position)
        assert float(density) == pytest.approx(-float(potential_energy(model, arguments, {}, position)), rel=1e-13)
        split = posterior.logprior(position) + posterior.loglikelihood(position)
        assert float(density) == pytest.approx(float(split), rel=1e-13)
        weights = posterior.constrain(position)
        expected = constrain_fn(model, arguments, {}, position)
        assert set(weights) == set(posterior.sites)
        for site in weights:
            np.testing.assert_array_equal(weights[site], expected[site])
            assert weights[site].shape == posterior.sites[site]
        joint = float(log_density(model, arguments, {}, weights)[0])
        assert float(posterior.log_joint(weights)) == pytest.approx(joint, rel=1e-13)
        pointwise = log_likelihood(model, weights, *arguments, batch_ndims=0)
        ours = posterior.observation_logprobs(weights)
        assert set(pointwise) == set(ours) == set(posterior.observed)
        for site, value in pointwise.items():
            np.testing.assert_allclose(ours[site], value, rtol=1e-12)
            np.testing.assert_allclose(posterior.pointwise_loglikelihood(position)[site], value, rtol=1e-12)
        back = posterior.unconstrain(weights)
        for site in position:
            np.testing.assert_allclose(back[site], position[site], rtol=1e-6, atol=1e-8)


def test_jacobians_are_log_determinants():
    """The Jacobian part of the log prior against the determinant of the transform's own derivative."""
    with jax.enable_x64(True):
        posterior = Posterior(constrained, Y)
        position = random_position(posterior)
        jacobian = float(posterior.logprior(position) + posterior.loglikelihood(position))
        jacobian -= float(posterior.log_joint(posterior.constrain(position)))

        def free_coordinates(position):
            """Constrained values without the redundant ones: the last of a simplex, a Cholesky factor's diagonal."""
            w = posterior.constrain(position)
            lower = w["cholesky"][jnp.tril_indices(3, -1)]
            return jnp.concatenate([w["simplex"][:-1], w["ordered"], lower, w["rate"], w["correlation"][None]])

        keys = ["simplex", "ordered", "cholesky", "rate", "correlation"]
        sizes = {k: position[k].size for k in keys}

        def flat(z):
            parts = jnp.split(z, np.cumsum(list(sizes.values()))[:-1])
            return free_coordinates({k: p.reshape(position[k].shape) for k, p in zip(keys, parts, strict=True)})

        derivative = jax.jacfwd(flat)(jnp.concatenate([position[k].ravel() for k in keys]))
        assert jacobian == pytest.approx(float(jnp.linalg.slogdet(derivative)[1]), rel=1e-10)


def test_sites_and_data():
    posterior = Posterior(eight_schools, 8, sigma=[1.0] * 8, y=Y)
    assert list(posterior.sites.items()) == [("mu", ()), ("tau", ()), ("theta", (8,))]
    assert posterior.observed == ("y",)
    assert posterior.args == (8,)
    np.testing.assert_allclose(posterior.observed_data()["y"], Y, rtol=1e-6)
    assert list(posterior.constant_data()) == ["sigma"]
    assert "theta" not in repr(posterior)
    assert "float32[8]" in repr(posterior)
    with pytest.raises(AttributeError, match="immutable"):
        posterior.model = None
    assert Posterior(factors, Y).observed == ("soft_constraint", "y")
    assert list(Posterior(factors, Y).observed_data()) == ["y"]


def test_nested_arguments_keep_their_names():
    def model(data):
        slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(slope * data["x"], 1.0), obs=data["y"])

    posterior = Posterior(model, {"x": Y, "y": Y + 1})
    assert list(posterior.constant_data()) == ["data.x"]
    with pytest.raises(ValueError, match=r"'data\.x'"):
        Posterior(model, {"x": np.where(Y > 0, np.nan, Y), "y": Y})


@pytest.mark.parametrize("name", ["eight_schools", "dynamic_support", "bnn"])
def test_initial_is_finite(name):
    model, args = MODELS[name]
    posterior = Posterior(model, *args)
    start = posterior.initial(jax.random.key(3), 3)
    density, gradient = jax.jit(jax.vmap(jax.value_and_grad(posterior.logdensity)))(start)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((density, gradient)))
    assert len(np.unique(np.asarray(density))) == 3


def test_a_chains_start_is_its_own_however_many_others_there_are():
    posterior = Posterior(factors, Y)
    three, two = (posterior.initial(jax.random.key(3), num_chains)["mu"] for num_chains in (3, 2))
    np.testing.assert_array_equal(three[:2], two)


def test_initial_falls_back_to_uniform_and_then_gives_up():
    def only_near_zero(y):
        mu = numpyro.sample("mu", dist.Normal(100.0, 1.0))
        numpyro.factor("fence", jnp.where(jnp.abs(mu) < 2, 0.0, -jnp.inf))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    def nowhere(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.factor("fence", mu - jnp.inf)
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    start = Posterior(only_near_zero, Y).initial(jax.random.key(0), 2)
    assert bool((jnp.abs(start["mu"]) < 2).all())
    with pytest.raises(ValueError, match="No start with finite log density"):
        Posterior(nowhere, Y).initial(jax.random.key(0), 1)


def test_predict_draws_new_observations():
    posterior = Posterior(eight_schools, 8, np.full(8, 0.1), Y)
    weights = {"mu": np.zeros((2, 500)), "tau": np.ones((2, 500)), "theta": np.tile(np.arange(8.0), (2, 500, 1))}
    drawn = posterior.predict(weights, rng_key=jax.random.key(0))["y"]
    assert drawn.shape == (2, 500, 8)
    assert len(np.unique(np.asarray(drawn[..., 0]))) > 900
    np.testing.assert_allclose(drawn.mean((0, 1)), np.arange(8.0), atol=0.02)
    np.testing.assert_allclose(drawn.std((0, 1)), 0.1, atol=0.01)
    wider = posterior.predict(weights, 8, np.full(8, 2.0), rng_key=jax.random.key(0))["y"]
    np.testing.assert_allclose(wider.std((0, 1)), 2.0, rtol=0.1)
    with pytest.raises(ValueError, match=r"\(2, 500, 8\)"):
        posterior.predict({**weights, "theta": np.zeros((2, 500, 9))}, rng_key=jax.random.key(0))


def test_predict_of_a_network_is_its_function_and_noise():
    posterior = Posterior(BNN(networks.mlp([2, 3, 1]), priors.normal(), likelihoods.normal(scale=1e-3)), X, Y)
    weights = {name: RNG.normal(size=(4, *shape)).astype(np.float32) for name, shape in posterior.sites.items()}
    new = RNG.normal(size=(5, 2))
    drawn = posterior.predict(weights, new, rng_key=jax.random.key(1))["y"]
    exact = jax.vmap(lambda w: posterior.function(w, new))(weights)
    assert exact.shape == (4, 5, 1)
    np.testing.assert_allclose(drawn, exact[..., 0], atol=0.01)


def test_function_level():
    network = Posterior(*MODELS["bnn"][:1], *MODELS["bnn"][1])
    weights = network.constrain(random_position(network))
    np.testing.assert_array_equal(network.function(weights), network.function(weights, X))
    schools = Posterior(eight_schools, 8, np.ones(8), Y)
    weights = schools.constrain(random_position(schools))
    np.testing.assert_array_equal(schools.function(weights), schools.observation_logprobs(weights)["y"])
    np.testing.assert_allclose(schools.function(weights, "shrinkage"), weights["theta"] - weights["mu"], rtol=1e-5)
    with pytest.raises(ValueError, match="shrinkage"):
        schools.function(weights, "shrink")
    with pytest.raises(ValueError, match="function of its own"):
        schools.function(weights, np.ones(3))


def test_precisions_are_inverse_variances():
    def model(y):
        tau = numpyro.sample("tau", dist.Gamma(2.0, 2.0).expand([3]).to_event(1))
        numpyro.sample("hierarchical", dist.Normal(0.0, tau[:, None]).expand([3, 2]).to_event(2))
        numpyro.sample("laplace", dist.Laplace(0.0, 2.0))
        numpyro.sample("heavy", dist.StudentT(1.5, 0.0, 3.0))
        numpyro.sample("logistic", dist.Logistic(0.0, 0.5).expand([2]).to_event(1))
        mu = numpyro.sample("mu", dist.Normal(jnp.array([0.0, 1.0]), 1.0).to_event(1))
        numpyro.sample("centred_at_mu", dist.Normal(mu[1], 1.0))
        numpyro.sample("mixture", priors.mixture((1.0, 0.1), (0.25, 0.75)).distribution().expand([4]).to_event(1))
        with scale(scale=2.0):
            numpyro.sample("tempered", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)

    posterior = Posterior(model, Y)
    weights = posterior.constrain(random_position(posterior))
    precisions = posterior.precisions(weights)
    tau = np.asarray(weights["tau"])
    expected = {
        "hierarchical": np.repeat(tau[:, None] ** -2.0, 2, axis=1),
        "laplace": 1 / 8.0,
        "heavy": 1 / 9.0,
        "logistic": np.full(2, 3 / (0.25 * np.pi**2)),
        "mixture": np.full(4, 1 / (0.25 + 0.75 * 0.01)),
    }
    assert set(precisions) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(precisions[name], value, rtol=1e-5)
        assert precisions[name].shape == posterior.sites[name]


def test_methods_transform_with_the_posterior_as_an_argument():
    posterior = Posterior(*MODELS["bnn"][:1], *MODELS["bnn"][1])
    positions = {name: jnp.stack([v, 2 * v, -v]) for name, v in random_position(posterior).items()}
    batch = jax.jit(jax.vmap(Posterior.logdensity, in_axes=(None, 0)))(posterior, positions)
    single = [posterior.logdensity(jax.tree.map(lambda a, i=i: a[i], positions)) for i in range(3)]
    np.testing.assert_allclose(batch, single, rtol=1e-5)
    weights = jax.jit(jax.vmap(Posterior.constrain, in_axes=(None, 0)))(posterior, positions)
    one = jax.tree.map(lambda a: a[0], weights)
    for method in ("log_joint", "observation_logprobs", "unconstrain", "function", "precisions"):
        compiled = jax.jit(getattr(Posterior, method))(posterior, one)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            compiled,
            getattr(posterior, method)(one),
        )
    # Data are leaves like any other: the density can be differentiated with respect to them.
    gradient = jax.grad(lambda p: p.log_joint(one))(posterior)
    assert gradient.args[0].shape == X.shape
    simple = Posterior(factors, Y)
    assert jax.jit(lambda p, key: p.initial(key, 2))(simple, jax.random.key(0))["mu"].shape == (2,)
    drawn = jax.jit(lambda p, w, key: p.predict(w, rng_key=key))(simple, {"mu": jnp.zeros(3)}, jax.random.key(0))
    assert drawn["y"].shape == (3, 8)


def test_data_are_no_constants_and_equal_models_share_programs():
    def build(seed):
        rng = np.random.default_rng(seed)
        model = BNN(networks.mlp([2, 3, 1]), priors.fan_in(priors.laplace(0.5)), likelihoods.normal())
        return Posterior(model, rng.normal(size=(64, 2)), rng.normal(size=64))

    posterior, other = build(0), build(1)
    position = random_position(posterior)
    traced = jax.make_jaxpr(lambda p, z: jax.value_and_grad(p.logdensity)(z))(posterior, position)
    assert sum(np.size(constant) for constant in traced.consts) == 0
    # Control: a closed-over posterior does end up among the constants.
    closed = jax.make_jaxpr(posterior.logdensity)(position)
    assert sum(np.size(constant) for constant in closed.consts) >= 64 * 3

    count = 0

    @jax.jit
    def density(p, z):
        nonlocal count
        count += 1
        return p.logdensity(z)

    assert density(posterior, position) != density(other, position)
    assert count == 1
    different = Posterior(BNN(networks.mlp([2, 3, 1]), priors.normal(), likelihoods.normal()), *posterior.args)
    density(different, position)
    assert count == 2


def test_float64_data_give_a_float64_density():
    with jax.enable_x64(True):
        posterior = Posterior(*MODELS["bnn"][:1], *MODELS["bnn"][1])
        assert posterior.logdensity(posterior.constrain(random_position(posterior))).dtype == jnp.float64
    # A posterior built in float32 is raised to float64 leaf by leaf.
    single = Posterior(*MODELS["bnn"][:1], *MODELS["bnn"][1])
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), single)
        assert double.logdensity(random_position(double)).dtype == jnp.float64


def discrete(y):
    z = numpyro.sample("z", dist.Bernoulli(0.5))
    numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


def unobserved(y):
    numpyro.sample("mu", dist.Normal(0.0, 1.0))
    del y


def nothing_latent(y):
    numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def subsampled(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", 8, subsample_size=4):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y[:4])


def column_against_vector(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(jnp.full((8, 1), mu), 1.0), obs=y)


def wrong_plate(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", 9):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def counts(y):
    rate = numpyro.sample("rate", dist.Exponential(1.0))
    numpyro.sample("y", dist.Poisson(rate), obs=y)


def reads_values(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu, float(y.max())), obs=y)


def delta(y):
    mu = numpyro.sample("mu", dist.Delta(1.0))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


class Unhashable:
    __hash__ = None

    def __call__(self, y):
        factors(y)


@pytest.mark.parametrize(
    ("model", "args", "sentence"),
    [
        (factors, (np.where(Y > 0, np.nan, Y),), r"Argument 'y' should be finite, but \d of its 8 values"),
        (factors, (np.array([1.0, np.inf]),), "'y'.*NaN or infinite"),
        (factors, (np.array(["a"]),), "'y' should hold numbers"),
        (factors, (Y, Y), r"do not fit the model factors\(y\)"),
        (factors, (), "missing a required argument: 'y'"),
        (factors, ({1, 2},), "'y' should be an array or hashable"),
        (unobserved, (Y,), "no observed site"),
        (nothing_latent, (Y,), "no latent site"),
        (discrete, (Y,), "'z' is a discrete latent site"),
        (delta, (Y,), "'mu' has a delta"),
        (subsampled, (Y,), "Plate 'rows' draws 4 of its 8"),
        (column_against_vector, (Y,), r"'y' have shape \(8,\), but their distribution has shape \(8, 1\)"),
        (wrong_plate, (Y,), r"'y' have shape \(8,\), but their distribution has shape \(9,\)"),
        (counts, (np.array([0, 3, -1]),), "'y' lie outside the support"),
        (reads_values, (Y,), "uses the values of its array arguments"),
        (Unhashable(), (Y,), "should be hashable"),
        (eight_schools, (8, np.ones(8), Y[:7]), r"'y' have shape \(7,\), but their distribution has shape \(8,\)"),
    ],
)
def test_bad_models_and_data_get_one_sentence(model, args, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        Posterior(model, *args)
    assert "\n" not in str(caught.value)


def test_missing_and_misshapen_values_are_refused():
    posterior = Posterior(eight_schools, 8, np.ones(8), Y)
    weights = posterior.constrain(random_position(posterior))
    with pytest.raises(ValueError, match=r"none for \['tau'\]"):
        posterior.log_joint({k: v for k, v in weights.items() if k != "tau"})
    with pytest.raises(ValueError, match=r"shape \(8,\) at site 'theta', got shape \(2, 8\)"):
        posterior.log_joint({**weights, "theta": jnp.zeros((2, 8))})
