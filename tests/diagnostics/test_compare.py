"""Two runs side by side: labels separate raw weights alone, and what cannot be compared is refused or left out."""

import argparse
import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
import xarray as xr

from diagnostics import canonicalize, save, to_datatree
from diagnostics.compare import compare
from diagnostics.mmd import mmd
from manymodes import compare as command
from symmetry import Factor, Slot, Symmetries, SymmetryGroup, find_symmetries

_PROBES = np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(6, 2)


@pytest.fixture(scope="module")
def network(network_posterior):
    """A small network and its symmetries."""

    @functools.cache
    def build(activation="tanh"):
        posterior = network_posterior(activation)
        return posterior, find_symmetries(posterior)

    return build


@pytest.fixture(scope="module")
def draws_near(draws_at):
    """Draws near one set of weights: a posterior with one mode, but for labels."""

    def build(posterior, seed, num_chains=8, num_draws=20, probes=_PROBES):
        centre, rng = np.random.default_rng(0), np.random.default_rng(seed)
        weights = {
            site: (centre.normal(size=shape) + 0.1 * rng.normal(size=(num_chains, num_draws, *shape))).astype(
                np.float32
            )
            for site, shape in posterior.sites.items()
        }
        return draws_at(posterior, weights, probes)

    return build


@pytest.fixture(scope="module")
def trees(network, draws_near):
    posterior, symmetries = network()
    return [to_datatree(draws_near(posterior, seed), symmetries) for seed in (1, 2)]


def _relabelled(draws, draws_at, group, shape=(1, 1)):
    element = {name: np.asarray(values) for name, values in group.random(jax.random.key(0), shape).items()}
    # Units in reverse, which no draw of chance can turn into the identity.
    element |= {name: x[..., ::-1].copy() for name, x in group.identity().items() if name.endswith(":permutation")}
    return draws_at(draws.posterior, group.act(element, draws.weights), draws.probes)


@pytest.mark.parametrize("activation", ["tanh", pytest.param("relu", marks=pytest.mark.slow)])
def test_labels_separate_raw_weights_alone(network, activation, draws_near, draws_at):
    posterior, symmetries = network(activation)
    first = draws_near(posterior, 1)
    # Scales, which the prior breaks, are other for every draw; permutations and signs are one for all of them.
    second = _relabelled(draws_near(posterior, 2), draws_at, symmetries.posterior)
    scales = symmetries.likelihood.restrict(("scale",))
    second = _relabelled(second, draws_at, scales, (8, 20)) if scales.factors else second
    result = compare(*(to_datatree(draws, symmetries) for draws in (first, second)))
    assert result.row("raw").mmd2 > 0.3
    assert result.row("raw").p == result.row("raw").smallest_p == 1 / 1000
    for level in ("canonical", "function"):
        assert abs(result.row(level).mmd2) < 0.01
        assert result.row(level).p > 0.05
    assert [row.num_quantities for row in result.rows] == [13, 13, 6]


def test_a_difference_in_function_is_seen_at_every_level(network, draws_near, draws_at):
    posterior, symmetries = network()
    first, second = draws_near(posterior, 1), draws_near(posterior, 2)
    shifted = {**second.weights, "head.bias": second.weights["head.bias"] + np.float32(0.5)}
    trees = [to_datatree(draws, symmetries) for draws in (first, draws_at(posterior, shifted, _PROBES))]
    for kernel in ("gaussian", "laplace"):
        result = compare(*trees, kernel=kernel)
        assert result.kernel == kernel
        assert all(row.mmd2 > 0.05 for row in result.rows)
        assert all(row.p == row.smallest_p for row in result.rows)


def test_the_text_says_what_the_numbers_are(trees):
    result = compare(*trees)
    words = " ".join(str(result).split())
    for level in ("raw weights", "canonical weights", "function"):
        assert level in words
    assert "8 + 8 chains x 20 of 20 draws" in words
    assert "Weights without canonicalisation measure labels" in words
    assert "in 999 random ways and the observed one; p is the share" in words
    assert "It cannot be below 0.001." in words
    assert json.loads(result.to_json())["rows"][0]["level"] == "raw"


def test_the_text_says_what_few_chains_allow(tree_of):
    rng = np.random.default_rng(0)
    four, three = (compare(*(tree_of(rng.normal(size=(n, 9, 2))) for _ in range(2))) for n in (4, 3))
    assert "in all 35 distinct ways; p is the share" in " ".join(str(four).split())
    assert "It cannot be below 0.029." in str(four)
    assert "A large p is no proof" in str(four)
    assert np.isnan(three.row("raw").p)
    assert "p is not available: whole chains are permuted, and 3 + 3 of them are too few" in " ".join(
        str(three).split()
    )
    assert "no proof" not in str(three)


def test_the_command_reads_saved_trees(trees, tmp_path, capsys):
    for number, tree in enumerate(trees, start=1):
        save(tree, tmp_path / f"{number}.nc")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    for json_too in (False, True):
        options = parser.parse_args([str(tmp_path / "1.nc"), str(tmp_path / "2.nc"), "--kernel", "laplace"])
        options.json = json_too
        assert command.carry_out(options) == 0
    table, document = capsys.readouterr().out.rsplit("\n{", 1)
    assert "canonical weights" in table
    assert json.loads("{" + document)["kernel"] == "laplace"


def test_other_probes_leave_the_function_out(network, draws_near, trees):
    posterior, symmetries = network()
    first = trees[0]
    for probes in (_PROBES + 1, _PROBES[:3]):
        result = compare(first, to_datatree(draws_near(posterior, 2, probes=probes), symmetries))
        assert [row.level for row in result.rows] == ["raw", "canonical"]
        assert "Functions are not compared" in result.notes[-1]
    without = first.copy()
    del without["function"]
    assert "the second tree holds none" in compare(first, without).notes[-1]


def test_likelihoods_of_other_data_are_not_compared(network, draws_near):
    posterior, symmetries = network()
    trees = [to_datatree(dataclasses.replace(draws_near(posterior, 1), function=None), symmetries) for _ in range(2)]
    assert compare(*trees).row("function").num_quantities == 12  # pointwise log likelihoods
    trees[1]["observed_data"] = trees[1]["observed_data"].map_over_datasets(lambda dataset: dataset + 1.0)
    assert "values at different inputs, for 'y' is not the same" in compare(*trees).notes[-1]


def test_trees_of_other_models_are_refused(trees, tree_of):
    tree, wider = trees[0], {"hidden_0.kernel": np.zeros((4, 9, 2, 4))}
    with pytest.raises(ValueError, match=r"of shape \(2, 3\) in the first and of shape \(2, 4\) in the second"):
        compare(tree, tree_of(wider))
    with pytest.raises(ValueError, match="'other' is missing in the first and of shape"):
        compare(tree_of(wider), tree_of({**wider, "other": np.zeros((4, 9))}))
    nothing = SymmetryGroup({"hidden_0.kernel": (2, 3)})
    another = trees[1].copy()
    another.attrs["symmetries"] = Symmetries(nothing, nothing).to_json()
    with pytest.raises(ValueError, match="two trees with the same symmetries were expected, but the first has .* none"):
        compare(tree, another)
    with pytest.raises(ValueError, match="a tree of draws was expected, got a tree without a posterior group"):
        compare(tree, xr.DataTree())


def test_without_symmetries_there_are_no_canonical_weights(trees):
    second = trees[1].copy()
    del second.attrs["symmetries"]
    result = compare(trees[0], second)
    assert [row.level for row in result.rows] == ["raw", "function"]
    assert "the second tree carries no symmetries" in " ".join(result.notes)


def test_hand_made_components_are_compared_in_common_labels(tree_of):
    slots = Slot("means", 0, 3), Slot("shares", 0, 3)
    group = SymmetryGroup({"means": (3,), "shares": (3,)}, (Factor("labels", "permutation", "component", 3, slots),))
    rng = np.random.default_rng(0)
    sites = [
        {"means": rng.normal(size=(8, 30, 3)) + [0.0, 5.0, 10.0], "shares": rng.dirichlet([20, 30, 40], size=(8, 30))}
        for _ in range(2)
    ]
    sites[1] = {site: array[..., [2, 0, 1]] for site, array in sites[1].items()}
    trees = [canonicalize(tree_of(weights, symmetries=Symmetries(group, group))) for weights in sites]
    result = compare(*trees)
    assert result.row("raw").mmd2 > 0.3
    assert abs(result.row("canonical").mmd2) < 0.01
    # Canonical each by itself they have barycentres, and so labels, of their own.
    assert mmd(*(tree["canonical_posterior"]["means"].values for tree in trees)).mmd2 > 0.3


def test_units_of_a_site_do_not_matter(tree_of):
    rng = np.random.default_rng(1)
    first, second = ({"a": rng.normal(size=(4, 30, 2)), "b": rng.normal(size=(4, 30))} for _ in range(2))
    second["b"] += 1.0
    plain = compare(tree_of(first), tree_of(second)).row("raw")
    scaled = compare(*(tree_of({**sites, "b": 1e4 * sites["b"]}) for sites in (first, second))).row("raw")
    assert scaled.mmd2 == pytest.approx(plain.mmd2)
    assert scaled.mmd2 > 0.05


def test_longer_runs_are_cut_and_thinned_and_bad_chains_left_out(tree_of):
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(5, 40, 2)), rng.normal(size=(4, 60, 2))
    whole = compare(tree_of(first), tree_of(second))
    assert (whole.num_draws, whole.num_available) == (40, (40, 60))
    thin = compare(tree_of(first), tree_of(second), max_draws=90)
    assert thin.num_draws == 10
    first[2, 7] = np.nan
    result = compare(tree_of(first), tree_of(second))
    assert result.num_chains == (4, 4)
    assert result.notes[0] == "Left out of the first, for holding values that are not finite: chains 2."
    with pytest.raises(ValueError, match="every chain of the second tree holds others"):
        compare(tree_of(first), tree_of(np.full((4, 9, 2), np.inf)))


def test_a_thinned_run_is_compared_with_as_widely_spaced_draws_of_the_other(tree_of):
    draws, other = np.random.default_rng(3).normal(size=(2, 4, 30, 2))
    thinned = tree_of(other)
    thinned["posterior"] = xr.DataTree(thinned["posterior"].to_dataset().isel(draw=slice(None, None, 3)))
    expected = compare(tree_of(draws[:, ::3]), tree_of(other[:, ::3])).row("raw")
    for found in (compare(tree_of(draws), thinned), compare(thinned, tree_of(draws))):
        assert found.num_draws == 10
        assert found.row("raw").mmd2 == pytest.approx(expected.mmd2)


def test_other_prior_precisions_do_not_pick_other_representatives(network, draws_near):
    posterior, symmetries = network("relu")
    trees = [to_datatree(draws_near(posterior, 1), symmetries) for _ in range(2)]
    same = compare(*trees)
    assert not same.notes
    trees[1]["precision"] = trees[1]["precision"].map_over_datasets(lambda dataset: 4.0 * dataset)
    for pair in (trees, trees[::-1]):
        result = compare(*pair)
        assert "those of the two trees differ" in result.notes[0]
        assert result.row("canonical").mmd2 == pytest.approx(same.row("canonical").mmd2, abs=1e-3)
