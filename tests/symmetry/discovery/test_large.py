"""Networks of real size, many rows of data, and what keeps both cheap."""

import logging
from collections import Counter
from fractions import Fraction
from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from truth import GL, R, S, Z, factors, shapes

from bnn_models import BNN, Posterior, likelihoods, networks, priors
from symmetry.discovery import find_symmetries
from symmetry.discovery.characters import System
from symmetry.discovery.domains import find_positive
from symmetry.discovery.float64 import function_probe, posterior_probes

MEBIBYTE = 2**20


@pytest.fixture
def architectures(monkeypatch):
    """The models of the benchmarks."""
    monkeypatch.syspath_prepend(Path(__file__).parents[3])
    return import_module("benchmarks.architectures")


def read_off(network):
    """The group without certificates, and a check that nothing came into being."""
    before = sum(array.nbytes for array in jax.live_arrays())
    group = find_symmetries(network.apply, network.params, network.x, certify=False).likelihood
    assert sum(array.nbytes for array in jax.live_arrays()) - before < MEBIBYTE
    assert all(factor.certificate is None for factor in group.factors)
    assert "not certified" in group.describe()
    return group


def certified(network):
    group = find_symmetries(network.apply, network.params, network.x).likelihood
    return factors(group)


def count(group):
    return Counter((factor.kind, factor.size, factor.fibre_shape) for factor in group.factors)


def resnet_18(width):
    """Of each width: the stream of its stage and two inner layers, and five normalised convolutions."""
    expected = Counter()
    for stage in range(4):
        n = width * 2**stage
        expected += Counter({S(n): 3, Z(n): 5, R(n): 5 + 3})
    return expected


def gpt(layers, heads, width):
    """A layer: heads, bases of queries and keys and of values, hidden units, and the gains of two normalisations."""
    hidden, own = 4 * width, width // heads
    return Counter(
        {
            S(heads): layers,
            GL(own, heads): 2 * layers,
            S(hidden): layers,
            S(width): 1,
            Z(width): 2 * layers,
            R(width): 2 * layers,
            Z(1): 1,
        }
    )


@pytest.mark.slow
def test_resnet_50(architectures):
    group = read_off(architectures.resnet50())
    found = count(group)
    permutations = {size: number for (kind, size, _), number in found.items() if kind == "permutation"}
    # A stream for each stage and the stem, two inner layers for each of 16 blocks.
    assert permutations == {64: 1 + 2 * 3, 128: 2 * 4, 256: 1 + 2 * 6, 512: 1 + 2 * 3, 1024: 1, 2048: 1}
    # Each of 53 convolutions against its normalisation; scales also of what lies between two convolutions.
    assert sum(number for (kind, *_), number in found.items() if kind == "sign") == 53
    assert sum(number for (kind, *_), number in found.items() if kind == "scale") == 53 + 37


@pytest.mark.slow
def test_gpt_2_small(architectures):
    group = read_off(architectures.gpt2())
    assert count(group) == gpt(layers=12, heads=12, width=768)
    (stream,) = (factor for factor in group.factors if factor.kind == "permutation" and factor.size == 768)
    sites = {(slot.site.removeprefix("params."), slot.axis) for slot in stream.slots}
    assert {("Embed_0.embedding", 1), ("Embed_1.embedding", 1), ("Block_11.Dense_1.kernel", 1)} <= sites
    reasons = {pin.site: pin.reason for pin in group.pinned}
    assert reasons == dict.fromkeys((f"params.Embed_{n}.embedding" for n in (0, 1)), "position named by an index")


def test_a_mask_of_a_million_entries_is_not_looked_at_one_by_one():
    mask = np.tril(np.ones((1024, 1024), bool))

    def attention(params, x):
        scores = jnp.where(mask, (x @ params["q"]) @ (x @ params["k"]).T, -jnp.inf)
        return jax.nn.softmax(scores) @ x @ params["v"]

    weights = shapes(q=(8, 4), k=(8, 4), v=(8, 2))
    group = find_symmetries(attention, weights, jax.ShapeDtypeStruct((1024, 8), jnp.float32), certify=False).likelihood
    assert count(group) == {GL(4): 1}


@pytest.mark.slow
def test_resnet_18_is_certified(architectures):
    assert certified(architectures.resnet18(width=4)) == resnet_18(4)


@pytest.mark.slow
def test_resnet_18_of_its_usual_width_is_certified(architectures):
    assert certified(architectures.resnet18()) == resnet_18(64)


@pytest.mark.slow
def test_a_gpt_of_two_layers_is_certified(architectures):
    assert certified(architectures.small_gpt()) == gpt(layers=2, heads=4, width=64)


def test_many_rows_of_data():
    rng = np.random.default_rng(0)
    model = BNN(networks.mlp([10, 16, 1], activation="tanh"), priors.fan_in(priors.normal()), likelihoods.normal())
    x, y = rng.standard_normal((50_000, 10)), rng.standard_normal(50_000)
    found = find_symmetries(Posterior(model, jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)))
    assert found.posterior is not None
    assert factors(found.posterior) == factors(found.likelihood) == {S(16): 1, Z(16): 1}
    assert found.broken == ()


def test_a_posterior_without_certificates(monkeypatch):
    monkeypatch.setattr("symmetry.discovery.find.posterior_probes", lambda _: pytest.fail("the model was run"))
    x, y = jnp.ones((5, 2)), jnp.ones(5)
    prior = priors.normal()
    found = find_symmetries(
        Posterior(BNN(networks.mlp([2, 4, 1], activation="relu"), prior, likelihoods.normal()), x, y), certify=False
    )
    assert found.posterior is not None
    assert count(found.posterior) == {S(4): 1}
    assert count(found.likelihood) == {S(4): 1, R(4): 1}
    assert [(item.factor.rpartition(":")[2], item.sites) for item in found.broken] == [("scale", ())]


@pytest.mark.parametrize("order", [1, -1])
def test_work_is_linear_in_the_length_of_a_chain(order, monkeypatch):
    """Each unknown equals the next; eliminated one by one they would all be rewritten each time."""
    additions = Counter()
    add = System._add

    def counted(self, *arguments):
        additions["now"] += 1
        return add(self, *arguments)

    monkeypatch.setattr(System, "_add", counted)
    work = []
    for length in (400, 800):
        additions.clear()
        system = System("scale", {})
        system.names += [("w", (0, number)) for number in range(length)]
        for number in range(length - 1)[::order]:
            system.equal({None: {number: Fraction(1)}}, {None: {number + 1: Fraction(1)}})
        (solution,) = system.solutions()
        assert solution == {("w", (0, number)): 1 for number in range(length)}
        work.append(additions["now"])
    assert work[1] < 3 * work[0]


@pytest.fixture
def compilations(caplog):
    """How many programs XLA was given since the last look."""

    def look():
        number = sum("Finished XLA compilation" in record.message for record in caplog.records)
        caplog.clear()
        return number

    with caplog.at_level(logging.WARNING), jax.log_compiles():
        yield look


def test_a_function_is_compiled_once(compilations):
    weights = {"w": jnp.ones((3, 4)), "v": jnp.ones((4, 2)), "count": jnp.arange(3)}

    def apply(params, x):
        return jnp.tanh(x @ params["w"] * 1.25) @ params["v"] + params["count"].sum()

    first = find_symmetries(apply, weights, jnp.ones((5, 3)))
    assert compilations() > 0
    assert find_symmetries(apply, weights, jnp.ones((5, 3))) == first
    assert compilations() == 0
    find_symmetries(apply, weights, jnp.ones((6, 3)))
    assert compilations() > 0


def test_what_a_function_closes_over_may_change():
    weights, x = shapes(w=(3, 4), v=(4, 2)), jnp.ones((5, 3))
    closed_over = {"activation": jnp.tanh, "factor": np.full(4, 2.0)}

    def apply(params, x):
        return closed_over["activation"](x @ params["w"]) * closed_over["factor"] @ params["v"]

    assert factors(find_symmetries(apply, weights, x).likelihood) == {S(4): 1, Z(4): 1}
    closed_over["activation"] = jax.nn.relu
    assert factors(find_symmetries(apply, weights, x).likelihood) == {S(4): 1, R(4): 1}
    for factor in (np.array([1.0, 1.0, 2.0, 2.0]), np.array([1.0, 2.0, 2.0, 1.0])):
        closed_over["factor"] = factor
        permutation, _ = find_symmetries(apply, weights, x).likelihood.factors
        assert np.array_equal(np.unique(factor)[list(permutation.colours)], factor)


def test_a_posterior_is_compiled_once(compilations):
    model = BNN(networks.mlp([2, 4, 1], activation="tanh"), priors.laplace(), likelihoods.normal())
    posterior, other = (Posterior(model, value * jnp.ones((9, 2)), jnp.ones(9)) for value in (1, 2))
    first = find_symmetries(posterior)
    assert compilations() > 0
    assert [factor.slots for factor in find_symmetries(other).likelihood.factors] == [
        factor.slots for factor in first.likelihood.factors
    ]
    assert compilations() == 0


def test_both_groups_of_a_posterior_are_certified_by_the_same_runs(monkeypatch):
    model = BNN(networks.mlp([2, 4, 1], activation="tanh"), priors.normal(), likelihoods.normal())
    joint, likelihood, _ = posterior_probes(Posterior(model, jnp.ones((5, 2)), jnp.ones(5)))
    weights = joint.draw(np.random.default_rng(0))
    outputs = joint.outputs(weights)
    monkeypatch.setattr(jax, "enable_x64", lambda **_: pytest.fail("the model was run again"))
    again = likelihood.outputs({site: np.array(value) for site, value in weights.items()})
    np.testing.assert_array_equal(again["y"], outputs["y"])


class Normalised(linen.Module):
    """Variances are parameters, and some other numbers have to lie between 0 and 1."""

    @linen.compact
    def __call__(self, x):
        x = jnp.tanh(linen.BatchNorm(use_running_average=True)(linen.Dense(4)(x)))
        share = self.param("share", linen.initializers.constant(0.5), (4,))
        return linen.Dense(2)(x * jnp.log(share) / jnp.log1p(-share))


def test_weights_that_have_to_be_positive_are_found():
    network = Normalised()
    params = jax.eval_shape(network.init, jax.random.key(0), jnp.ones((5, 3)))
    found = find_symmetries(network.apply, params, jnp.ones((5, 3))).likelihood
    assert Counter(kind for kind, *_ in factors(found).elements()) == {"permutation": 1, "sign": 2, "scale": 1}


def test_positive_weights_are_named():
    sites = {"a": (3,), "b": (), "c": (2, 2), "d": (50,)}
    assert find_positive(sites, lambda _: True) == frozenset()
    assert find_positive(sites, lambda arrays: bool((arrays["d"] > 0).all() and arrays["b"] > 0)) == {"b", "d"}
    assert find_positive(sites, lambda arrays: all((array > 0).all() for array in arrays.values())) == set(sites)
    assert find_positive(sites, lambda _: False) is None


def test_abstract_inputs_are_inside_every_table():
    """Integers stay small enough to be indices, nothing is masked, keys are keys."""
    inputs = jax.eval_shape(lambda: (jnp.zeros(40, int), jnp.zeros(4, bool), jax.random.key(0), jnp.zeros(4)))

    def function(inputs, weights):
        index, keep, key, x = inputs
        chosen = weights["table"].at[index].get(mode="fill", fill_value=jnp.nan)
        return chosen, index, keep, jax.random.normal(key, ()), x

    probe = function_probe(function, inputs, {"table": (2, 3)})
    outputs = probe.outputs(probe.draw(np.random.default_rng(0)))
    assert all(np.isfinite(output).all() for output in outputs.values())
    assert set(outputs["output 1"]) == {0, 1}
    assert outputs["output 2"].all()
