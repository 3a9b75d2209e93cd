"""The log density of every network, prior and likelihood against NumPyro's own and against SciPy's formulae."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from flax import linen, nnx
from numpyro.infer.util import log_density, potential_energy

from bnn_models import BNN, Posterior, likelihoods, networks, priors

NUM_ROWS, NUM_INPUTS, NUM_HIDDEN = 7, 3, 4


class LinenMLP(linen.Module):
    num_outputs: int

    @linen.compact
    def __call__(self, x):
        h = linen.tanh(linen.Dense(NUM_HIDDEN, name="hidden_0")(x))
        return linen.Dense(self.num_outputs, name="head")(h)


class NNXMLP(nnx.Module):
    def __init__(self, num_outputs):
        rngs = nnx.Rngs(0)
        self.hidden_0 = nnx.Linear(NUM_INPUTS, NUM_HIDDEN, rngs=rngs)
        self.head = nnx.Linear(NUM_HIDDEN, num_outputs, rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.tanh(self.hidden_0(x)))


def equinox_mlp(num_outputs):
    return eqx.nn.MLP(NUM_INPUTS, num_outputs, NUM_HIDDEN, 1, activation=jnp.tanh, key=jax.random.key(0))


def pair_mlp(num_outputs):
    def init(rng_key, x):
        del rng_key
        hidden = {"kernel": jnp.zeros((x.shape[1], NUM_HIDDEN)), "bias": jnp.zeros(NUM_HIDDEN)}
        head = {"kernel": jnp.zeros((NUM_HIDDEN, num_outputs)), "bias": jnp.zeros(num_outputs)}
        return {"hidden_0": hidden, "head": head}

    def apply(w, x):
        h = jnp.tanh(x @ w["hidden_0"]["kernel"] + w["hidden_0"]["bias"])
        return h @ w["head"]["kernel"] + w["head"]["bias"]

    return init, apply


NETWORKS = {
    "mlp": lambda k: networks.mlp([NUM_INPUTS, NUM_HIDDEN, k], activation="tanh"),
    "nnx": NNXMLP,
    "linen": LinenMLP,
    "equinox": equinox_mlp,
    "pair": pair_mlp,
}

# A prior and the log density of one of its weights at scale s, as SciPy has it.
PRIORS = {
    "normal": (lambda s: priors.normal(s), lambda w, s: scipy.stats.norm.logpdf(w, scale=s)),
    "laplace": (lambda s: priors.laplace(s), lambda w, s: scipy.stats.laplace.logpdf(w, scale=s)),
    "student_t": (lambda s: priors.student_t(4.0, s), lambda w, s: scipy.stats.t.logpdf(w, 4.0, scale=s)),
    "logistic": (lambda s: priors.logistic(s), lambda w, s: scipy.stats.logistic.logpdf(w, scale=s)),
    "mixture": (
        lambda s: priors.mixture((s, 0.1 * s), (0.3, 0.7)),
        lambda w, s: np.log(0.3 * scipy.stats.norm.pdf(w, scale=s) + 0.7 * scipy.stats.norm.pdf(w, scale=0.1 * s)),
    ),
}

LIKELIHOODS = {
    "normal_learned": likelihoods.normal(),
    "normal_fixed": likelihoods.normal(scale=0.3),
    "normal_two_outputs": likelihoods.normal(),
    "categorical": likelihoods.categorical(),
    "bernoulli": likelihoods.bernoulli(),
}


def observations(name, rng):
    """Targets for a likelihood, and how many outputs the network needs."""
    if name == "categorical":
        return rng.integers(0, 3, NUM_ROWS), 3
    if name == "bernoulli":
        return rng.integers(0, 2, NUM_ROWS), 1
    return (rng.normal(size=(NUM_ROWS, 2)), 2) if name == "normal_two_outputs" else (rng.normal(size=NUM_ROWS), 1)


def forward(weights, x):
    """The network in NumPy, whichever way round its matrices lie."""
    matrices = {name.rpartition(".")[0]: value for name, value in weights.items() if value.ndim == 2}
    matrices = [m.T if f"{layer}.weight" in weights else m for layer, m in matrices.items()]
    biases = [value for value in weights.values() if value.ndim == 1]
    return np.tanh(x @ matrices[0] + biases[0]) @ matrices[1] + biases[1]


def reference_loglikelihood(name, output, y, scale):
    if name == "categorical":
        return scipy.special.log_softmax(output, axis=1)[np.arange(len(y)), y]
    if name == "bernoulli":
        return scipy.stats.bernoulli.logpmf(y, scipy.special.expit(output[:, 0]))
    logprobs = scipy.stats.norm.logpdf(y.reshape(len(y), -1), output, 0.3 if name == "normal_fixed" else scale)
    return logprobs.sum(axis=1)


def evaluate(posterior, position, weights):
    return [
        float(value)
        for value in (
            posterior.logdensity(position),
            posterior.logprior(position),
            posterior.loglikelihood(position),
            posterior.log_joint(weights),
            posterior.prior_logprob(weights),
        )
    ]


def combinations():
    """Every network, likelihood and prior, with fan-in scaling and without.

    A Latin square of them, in which every two meet once, is always run; the others belong to the slow tests.
    """
    for (i, network), (j, likelihood), (k, prior) in itertools.product(
        *map(enumerate, (NETWORKS, LIKELIHOODS, PRIORS))
    ):
        for scaled in (False, True):
            is_in_square = (i + j + k) % 5 == 0 and scaled == bool((i + 2 * j) % 2)
            name = "-".join([network, likelihood, prior, "fan_in" if scaled else "plain"])
            yield pytest.param(
                network, likelihood, prior, scaled, marks=() if is_in_square else (pytest.mark.slow,), id=name
            )


@pytest.mark.parametrize(("network_name", "likelihood_name", "prior_name", "scaled"), list(combinations()))
def test_density_is_numpyros_and_scipys(network_name, likelihood_name, prior_name, scaled):
    make_prior, reference_prior = PRIORS[prior_name]
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = rng.normal(size=(NUM_ROWS, NUM_INPUTS))
        y, num_outputs = observations(likelihood_name, rng)
        prior = priors.fan_in(make_prior(0.8)) if scaled else make_prior(0.8)
        model = BNN(NETWORKS[network_name](num_outputs), prior, LIKELIHOODS[likelihood_name])
        posterior = Posterior(model, x, y)
        position = {name: rng.normal(size=shape) for name, shape in posterior.sites.items()}
        weights = {k: np.asarray(v) for k, v in posterior.constrain(position).items()}

        density, logprior, loglikelihood, joint, prior_logprob = evaluate(posterior, position, weights)
        pointwise = posterior.pointwise_loglikelihood(position)["y"]
        assert density == pytest.approx(-float(potential_energy(model, (x, y), {}, position)), rel=1e-13)
        assert joint == pytest.approx(float(log_density(model, (x, y), {}, weights)[0]), rel=1e-13)
        assert density == pytest.approx(logprior + loglikelihood, rel=1e-13)
        # The scale is sampled as its logarithm: its Jacobian is its unconstrained value.
        assert density == pytest.approx(joint + position.get("scale", 0.0), rel=1e-12)

    scale = weights.pop("scale", None)
    expected = 0.0 if scale is None else scipy.stats.halfnorm.logpdf(scale)
    for name, w in weights.items():
        fan_in = (NUM_INPUTS if "hidden_0" in name or "layers.0" in name else NUM_HIDDEN) if w.ndim == 2 else 1
        expected += reference_prior(w, 0.8 / np.sqrt(fan_in) if scaled else 0.8).sum()
    reference = reference_loglikelihood(likelihood_name, forward(weights, x), y, scale)
    assert prior_logprob == pytest.approx(expected, rel=1e-12)
    assert joint == pytest.approx(expected + reference.sum(), rel=1e-12)
    np.testing.assert_allclose(pointwise, reference, rtol=1e-10)


def test_gradient_is_that_of_the_plain_network():
    """The affine map's own derivative rule against automatic differentiation through ``x @ kernel + bias``."""
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        x, y = jnp.asarray(rng.normal(size=(9, 3))), jnp.asarray(rng.normal(size=9))
        ours = Posterior(BNN(networks.mlp([3, 2, 2, 1]), priors.normal(), likelihoods.normal()), x, y)

        class Plain(linen.Module):
            @linen.compact
            def __call__(self, x):
                for i in range(2):
                    x = jnp.tanh(linen.Dense(2, name=f"hidden_{i}")(x))
                return linen.Dense(1, name="head")(x)

        plain = Posterior(BNN(Plain(), priors.normal(), likelihoods.normal()), x, y)
        position = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in ours.sites.items()}
        assert ours.sites == plain.sites
        assert list(ours.sites) == list(plain.sites)
        for derivative in (jax.grad, lambda f: jax.jacfwd(jax.grad(f))):
            left = jax.jit(derivative(ours.logdensity))(position)
            right = jax.jit(derivative(plain.logdensity))(position)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), left, right)
