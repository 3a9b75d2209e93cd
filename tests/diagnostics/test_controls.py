"""The verdict on chains whose truth is known: copies of one real chain that does not switch labels."""

import dataclasses

import jax
import numpy as np
import pytest

from diagnostics import Label, canonicalize, to_datatree, verdict

_NUM_COPIES = 5
_RUNS = [
    ("tanh", 3, 1),
    pytest.param(("relu", 5, 3), marks=pytest.mark.slow),
    pytest.param(("tanh", 2, 0), marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=_RUNS, ids=lambda run: f"{run[0]} {run[1]}")
def copies(request, sine_run):
    """One chain dealt to five interleaved pseudo-chains, which therefore agree in everything."""
    activation, units, seed = request.param
    draws, symmetries = sine_run(activation, units, 1, 2000, seed)
    assert not _switches(canonicalize(to_datatree(draws, symmetries)))

    def deal(array):
        return np.stack([array[0, start::_NUM_COPIES] for start in range(_NUM_COPIES)])

    dealt = dataclasses.replace(
        draws,
        **{
            name: {key: deal(array) for key, array in getattr(draws, name).items()}
            for name in ("weights", "sample_stats", "invariants", "pointwise")
        },
        function=deal(draws.function),
        num_chains=_NUM_COPIES,
        num_draws=draws.num_draws // _NUM_COPIES,
    )
    return dealt, symmetries


def _switches(tree):
    labels = [
        array.values.reshape(-1, array.shape[-1])
        for name, array in tree["canonicalization"].data_vars.items()
        if name.endswith((":permutation", ":sign"))
    ]
    return len(np.unique(np.concatenate(labels, axis=1), axis=0)) > 1


def _relabelled(draws, group, seed, num_elements=_NUM_COPIES):
    element = group.random(jax.random.key(seed), (num_elements, 1))
    moved = group.act({name: np.asarray(values) for name, values in element.items()}, draws.weights)
    return dataclasses.replace(draws, weights=moved)


def _shifted(draws):
    """The output bias of every other chain raised by one standard deviation of the function."""
    shift = draws.function.std((0, 1)).mean() * (np.arange(_NUM_COPIES) % 2)
    weights = dict(draws.weights)
    weights["head.bias"] = (weights["head.bias"] + shift[:, None, None]).astype(np.float32)
    posterior = draws.posterior
    terms = jax.jit(
        jax.vmap(jax.vmap(lambda posterior, one: posterior.observation_logprobs(one)["y"], (None, 0)), (None, 0))
    )
    log_likelihood = np.asarray(terms(posterior, weights)).sum(-1)
    return dataclasses.replace(
        draws,
        weights=weights,
        function=(draws.function + shift[:, None, None, None]).astype(np.float32),
        invariants={**draws.invariants, "log_likelihood": log_likelihood},
    )


def _verdict(draws, symmetries):
    return verdict(canonicalize(to_datatree(draws, symmetries)))


def _states(result, *levels):
    return [result.level(level).state for level in levels]


def test_a_different_labelling_of_each_chain_is_symmetry_only(copies):
    draws, symmetries = copies
    result = _verdict(_relabelled(draws, symmetries.posterior, 0), symmetries)
    assert result.label == Label.SYMMETRY_ONLY
    assert result.symmetry_share == pytest.approx(1.0, abs=0.02)
    assert len(result.level("raw").groups) > 1
    assert not result.problem


def test_equal_labelling_is_mixed(copies):
    assert _verdict(*copies).label == Label.MIXED


def test_a_shift_of_the_function_in_some_chains_is_functional_disagreement(copies):
    draws, symmetries = copies
    result = _verdict(_shifted(_relabelled(draws, symmetries.posterior, 0)), symmetries)
    assert result.label == Label.FUNCTIONAL_DISAGREEMENT
    assert result.problem


def test_one_common_relabelling_changes_no_state(copies):
    draws, symmetries = copies
    before = _verdict(_relabelled(draws, symmetries.posterior, 0), symmetries)
    common = _relabelled(_relabelled(draws, symmetries.posterior, 0), symmetries.posterior, 7, num_elements=1)
    after = _verdict(common, symmetries)
    for name in ("raw", "canonical", "function", "invariants"):
        assert after.level(name).state == before.level(name).state
        assert after.level(name).beta == pytest.approx(before.level(name).beta, abs=2e-3)
    assert after.symmetry_share == pytest.approx(before.symmetry_share, abs=2e-3)


@pytest.mark.parametrize("seed", [1, 2])
def test_any_labelling_of_each_chain_leaves_all_but_the_raw_state(copies, seed):
    draws, symmetries = copies
    levels = ("canonical", "function", "invariants")
    before = _verdict(draws, symmetries)
    after = _verdict(_relabelled(draws, symmetries.posterior, seed), symmetries)
    assert _states(after, *levels) == _states(before, *levels)


@pytest.mark.slow
def test_independent_chains_that_mix_never_disagree(sine_run):
    draws, symmetries = sine_run("tanh", 3, 8, 1000, 5)
    rng = np.random.default_rng(0)
    for _ in range(20):
        chains, start = rng.choice(8, size=5, replace=False), rng.integers(0, 500)

        def cut(array, chains=chains, start=start):
            return array[chains, start : start + 500]

        part = dataclasses.replace(
            draws,
            **{
                name: {key: cut(array) for key, array in getattr(draws, name).items()}
                for name in ("weights", "sample_stats", "invariants", "pointwise")
            },
            function=cut(draws.function),
            num_chains=5,
            num_draws=500,
        )
        assert _verdict(part, symmetries).label in (Label.SYMMETRY_ONLY, Label.MIXED)
