"""The adapter: names, order, equality, and what it refuses."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from flax import linen, nnx

from bnn_models import BNN, Posterior, likelihoods, networks, priors

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 3))


class Reversed(nnx.Module):
    """Attributes in an order that is not alphabetical, a list, a shared layer and dropout."""

    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.zeta = nnx.Linear(3, 4, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(11)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.again = self.layers[0]
        self.head = nnx.Linear(4, 1, use_bias=False, rngs=rngs)

    def __call__(self, x):
        h = self.zeta(x)
        for layer in self.layers:
            h = h + jnp.tanh(layer(h))
        return self.head(self.dropout(self.again(h)))


class LinenTower(linen.Module):
    widths: list[int]

    @linen.compact
    def __call__(self, x):
        for i, width in enumerate(self.widths):
            x = linen.tanh(linen.Dense(width, name=f"tower_{9 - i}")(x))
        return linen.Dense(1, name="a_head")(x)


def test_names_follow_the_order_of_the_network():
    names = list(networks.mlp([3, 5, 4, 2]).shapes(X))
    layers = ["hidden_0", "hidden_1", "head"]
    assert names == [f"{layer}.{part}" for layer in layers for part in ("kernel", "bias")]
    nnx_names = list(networks.adapt(Reversed(0)).shapes(X))
    layers = ["zeta", *(f"layers.{i}" for i in range(1, 11)), "again"]
    assert nnx_names == [f"{layer}.{part}" for layer in layers for part in ("kernel", "bias")] + ["head.kernel"]
    linen_names = list(networks.adapt(LinenTower([4, 4])).shapes(X))
    assert [name.split(".")[0] for name in linen_names] == ["tower_9"] * 2 + ["tower_8"] * 2 + ["a_head"] * 2
    mlp = eqx.nn.MLP(3, 1, 4, 1, key=jax.random.key(0))
    assert list(networks.adapt(mlp).shapes(X)) == [f"layers.{i}.{p}" for i in (0, 1) for p in ("weight", "bias")]


def test_haiku_style_names_have_no_slashes():
    pair = (lambda key, x: {"mlp/~/linear_0": {"w": jnp.zeros((3, 1))}}, lambda p, x: x @ p["mlp/~/linear_0"]["w"])
    assert networks.adapt(pair).shapes(X) == {"mlp.linear_0.w": (3, 1)}


@pytest.mark.parametrize(
    "build",
    [
        lambda seed: networks.mlp([3, 4, 1]),
        lambda seed: nnx.Linear(3, 1, rngs=nnx.Rngs(seed)),
        lambda seed: linen.Dense(1),
        lambda seed: eqx.nn.MLP(3, 1, 4, 1, key=jax.random.key(seed)),
    ],
)
def test_networks_are_equal_by_value_whatever_they_were_initialised_with(build):
    first, second = (networks.adapt(build(seed)) for seed in (0, 1))
    assert first == second
    assert hash(first) == hash(second)
    assert networks.adapt(first) is first


def test_different_networks_differ():
    assert networks.mlp([3, 4, 1]) != networks.mlp([3, 5, 1])
    assert networks.mlp([3, 4, 1]) != networks.mlp([3, 4, 1], activation="relu")
    assert networks.mlp([3, 4, 1], activation=jax.nn.relu) == networks.mlp([3, 4, 1], activation="relu")


@pytest.mark.parametrize(
    "build", [lambda: Reversed(0), lambda: LinenTower([4]), lambda: linen.Sequential([linen.Dense(1)])]
)
def test_any_module_makes_a_posterior(build):
    module = build()
    posterior = Posterior(BNN(module, priors.normal(), likelihoods.normal()), X, X[:, 0])
    weights = {name: RNG.normal(size=shape) for name, shape in posterior.sites.items()}
    first, second = (jax.jit(posterior.function)(weights, X) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (6, 1)


def test_an_equinox_module_is_its_own_reference():
    module = eqx.nn.MLP(3, 2, 4, 2, key=jax.random.key(0))
    network = networks.adapt(module)
    leaves = [leaf for leaf in jax.tree.leaves(module) if eqx.is_array(leaf)]
    weights = dict(zip(network.shapes(X), leaves, strict=True))
    x = jnp.asarray(X)
    np.testing.assert_allclose(network.apply(weights, x), jax.vmap(module)(x), rtol=1e-6)


class NNXBatchNorm(nnx.Module):
    def __init__(self):
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.norm(x)


class LinenBatchNorm(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.BatchNorm(use_running_average=False)(x)


@pytest.mark.parametrize(
    "build",
    [NNXBatchNorm, LinenBatchNorm, lambda: eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="batch")[0]],
)
def test_batch_statistics_are_refused(build):
    with pytest.raises(ValueError, match="batch statistics") as caught:
        networks.adapt(build()).shapes(X)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: networks.adapt("mlp"), "A network should be a Flax NNX"),
        (lambda: networks.mlp([3]), "positive whole widths"),
        (lambda: networks.mlp([3, 0, 1]), "positive whole widths"),
        (lambda: networks.mlp([3, 1], activation="thanh"), "Unknown activation 'thanh'"),
        (lambda: BNN(networks.mlp([3, 1]), "gaussian", likelihoods.normal()), r"Unknown prior 'gaussian'.*laplace"),
        (lambda: BNN(networks.mlp([3, 1]), priors.normal, likelihoods.normal()), r"instance priors\.normal\(\)"),
        (lambda: BNN(networks.mlp([3, 1]), dist.Normal(0, 1), likelihoods.normal()), r"instance priors\.normal\(\)"),
        (lambda: BNN(networks.mlp([3, 1]), dist.Normal, likelihoods.normal()), r"instance priors\.normal\(\)"),
        (lambda: BNN(networks.mlp([3, 1]), priors.normal(), likelihoods.normal), r"instance likelihoods\.normal\(\)"),
        (lambda: BNN(networks.mlp([3, 1]), priors.normal(), None), r"Unknown likelihood None.*categorical"),
    ],
)
def test_bad_networks_get_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
