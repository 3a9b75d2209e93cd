"""Modes modulo symmetry: of posteriors whose modes and weights are known, under planted relabelling."""

import functools
import json

import arviz as az
import jax
import numpy as np
import pytest
import xarray as xr

from diagnostics import canonicalize, identify_modes, load, modes, save
from diagnostics.convergence import convergence
from symmetry import Factor, Slot, Symmetries, SymmetryGroup

_GROUP = SymmetryGroup({"means": (3, 2)}, (Factor("labels", "permutation", "component", 3, (Slot("means", 0, 3),)),))
_SYMMETRIES = Symmetries(_GROUP, _GROUP)
_CENTRES = np.array([[[0, 0], [3, 0], [6, 1]], [[0, 0], [3, 4], [7, 3]], [[0, 0], [2, 2], [-3, 3]]], float)
_WEIGHTS = (0.6, 0.3, 0.1)


def _path(rng, weights, num_chains, num_draws, moves):
    """Modes of chains that draw a new one about ``moves`` times each."""
    path = np.empty((num_chains, num_draws), int)
    path[:, 0] = rng.choice(len(weights), size=num_chains)
    for draw in range(1, num_draws):
        new = rng.choice(len(weights), size=num_chains, p=weights)
        path[:, draw] = np.where(rng.random(num_chains) < moves / num_draws, new, path[:, draw - 1])
    return path


def _draws(rng, path, relabel):
    """Normals about the centre of each draw's mode, relabelled by chain or by draw; the function knows no labels."""
    means = _CENTRES[path] + 0.3 * rng.normal(size=(*path.shape, 3, 2))
    probes = rng.normal(size=(2, 12))
    function = np.tanh(0.5 * means @ probes).sum(2)
    batch = {"no": (1, 1), "chain": (len(path), 1), "draw": path.shape}[relabel]
    element = _GROUP.random(jax.random.key(0), batch)
    element = _GROUP.identity() if relabel == "no" else element
    moved = _GROUP.act({name: np.asarray(values) for name, values in element.items()}, {"means": means})
    return {"means": np.asarray(moved["means"])}, function


@pytest.fixture(scope="module")
def planted(tree_of):
    """Trees with the modes of their draws, by seed and settings."""

    @functools.cache
    def plant(seed, moves=100, relabel="chain", weights=_WEIGHTS, num_chains=8, num_draws=300):
        rng = np.random.default_rng(seed)
        path = _path(rng, weights, num_chains, num_draws, moves)
        return identify_modes(canonicalize(tree_of(*_draws(rng, path, relabel), symmetries=_SYMMETRIES))), path

    return plant


def _forget(tree):
    """The tree before its modes were looked for."""
    tree = tree.copy()
    del tree["modes"]
    return tree


@pytest.mark.parametrize("relabel", ["no", "chain", "draw"])
def test_copies_are_no_modes(planted, relabel):
    tree, path = planted(0, weights=(1.0,), relabel=relabel)
    found = modes(tree)
    assert found.num_modes["canonical"] == found.num_modes["function"] == 1
    # There are 6 copies; of chains that keep to one copy each, so many as they happened to get.
    assert found.num_modes["raw"] == {"no": 1, "chain": found.copies, "draw": 6}[relabel]
    assert (found.label_switching > 0.5) == (relabel == "draw")


@pytest.mark.parametrize("num_seeds", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_modes_are_counted_and_weighed(planted, num_seeds):
    shares = {"canonical": [], "function": []}
    errors = {"canonical": [], "function": []}
    for seed in range(num_seeds):
        tree, path = planted(seed)
        found = modes(tree)
        for level in shares:
            assert len(found.level(level).modes) == 3, seed
            assert found.level(level).crosses
            shares[level].append([mode.share for mode in found.level(level).modes])
            errors[level].append([mode.standard_error for mode in found.level(level).modes])
    for level in shares:
        within = np.abs(np.array(shares[level]) - np.array(_WEIGHTS)) <= 3 * np.array(errors[level])
        assert (within.sum(0) >= 0.95 * num_seeds).all()
        if num_seeds >= 20:
            assert (np.median(errors[level], axis=0) <= 1.5 * np.std(shares[level], axis=0)).all()


def test_labels_are_those_of_the_draws_and_do_not_depend_on_copies(planted):
    tree, path = planted(0, relabel="no")
    group = tree["modes"]
    relabelled = planted(0, relabel="draw")[0]["modes"]
    for level in ("canonical", "function"):
        assert np.mean(group[level].values == path) > 0.995
        assert (group[level].values == relabelled[level].values).mean() > 0.995
    assert len(np.unique(relabelled["raw"].values)) > 3


def test_moves_visits_and_representatives_are_those_of_the_path(planted):
    tree, path = planted(1)
    group = tree["modes"].to_dataset()
    counted = np.zeros((3, 3), int)
    np.add.at(counted, (path[:, :-1].ravel(), path[:, 1:].ravel()), 1)
    np.fill_diagonal(counted, 0)
    assert np.abs(group["function_transitions"].values - counted).sum() <= 0.05 * counted.sum()
    assert group["function_visited"].values.tolist() == [
        [int((chain == mode).any()) for chain in path] for mode in range(3)
    ]
    for mode, (chain, draw) in enumerate(group["canonical_representative"].values):
        assert path[chain, draw] == mode


def test_chains_that_do_not_cross_are_stacked(planted):
    tree, path = planted(0, moves=0)
    rng = np.random.default_rng(0)
    # The first mode predicts seven observations of ten well, the second the rest.
    log_likelihood = -np.abs(path[..., None] - (np.arange(10) >= 7)) * 3.0 + 0.01 * rng.normal(size=(*path.shape, 10))
    tree = _forget(tree)
    tree["log_likelihood"] = xr.DataTree(xr.Dataset({"y": (("chain", "draw", "observation"), log_likelihood)}))
    found = modes(tree)
    level = found.level("canonical")
    assert not level.crosses
    assert all(np.isnan(mode.standard_error) for mode in level.modes)
    by_path = [int(path[mode.representative]) for mode in level.modes]
    assert convergence(tree).row("canonical").rhat_max > 1.5
    assert all(mode.rhat < 1.05 for mode in level.modes if len(mode.chains) > 1)
    weights = {mode: level.modes[number].stacking for number, mode in enumerate(by_path)}
    assert weights[0] == pytest.approx(0.7, abs=0.03)
    assert weights[1] == pytest.approx(0.3, abs=0.03)
    assert level.round_trips == (0,) * 8
    alone = sum(len(set(np.flatnonzero((path == mode).all(1)))) == 1 for mode in range(3))
    assert level.new == pytest.approx(alone / 8)
    text = str(found)
    assert "No chain went from one mode to another: the shares say where the chains started" in text
    assert "They are no posterior masses" in text


def test_without_log_likelihoods_no_weights_are_made_up(planted):
    text = str(modes(planted(0, moves=0)[0]))
    assert "No weights are known; use a sampler that crosses" in text


def test_the_group_is_kept_on_disk(planted, tmp_path):
    tree, _ = planted(0)
    save(tree, tmp_path / "tree.nc")
    again = load(tmp_path / "tree.nc")
    assert modes(again).to_dict() == modes(tree).to_dict()
    assert str(modes(again)) == str(modes(tree))
    assert az.summary(again, group="function").shape[0] == 12
    json.dumps(modes(tree).to_dict(), allow_nan=False)


def test_chains_that_are_not_finite_and_draws_without_weights_have_no_mode(planted):
    tree, _ = planted(0)
    broken = _forget(tree).copy(deep=True)
    broken["function"]["function"].values[3, 10] = np.nan
    broken = identify_modes(broken)
    group = broken["modes"].to_dataset()
    assert (group["canonical"].values[3] == -1).all()
    assert (np.delete(group["canonical"].values, 3, axis=0) >= 0).all()
    assert modes(broken).num_chains == 7
    thinned = _forget(tree)
    for name in ("posterior", "canonical_posterior", "canonicalization"):
        thinned[name] = xr.DataTree(tree[name].to_dataset().isel(draw=slice(None, None, 5)))
    group = identify_modes(thinned)["modes"].to_dataset()
    assert (group["canonical"].values[:, ::5] >= 0).all()
    assert (np.delete(group["canonical"].values, np.s_[::5], axis=1) == -1).all()
    assert (group["function"].values >= 0).all()


def test_the_tree_that_is_given_stays_as_it_is(planted):
    tree = _forget(planted(0)[0])
    before = tree.copy(deep=True)
    identify_modes(tree)
    assert tree.identical(before)


def test_what_cannot_be_looked_at_is_refused(planted, tree_of):
    with pytest.raises(ValueError, match="a tree of draws was expected, got a tree without a posterior group"):
        modes(xr.DataTree())
    with pytest.raises(ValueError, match="4 draws a chain or more, got 3; sample longer"):
        modes(tree_of(np.zeros((4, 3, 2))))
    nothing = _forget(planted(0)[0]).copy(deep=True)
    nothing["posterior"]["means"].values[:, 0] = np.nan
    with pytest.raises(ValueError, match="chains of finite draws were expected, but every chain"):
        modes(nothing)


def test_one_chain_and_no_symmetries_are_said(planted, tree_of):
    tree, _ = planted(0, num_chains=1)
    assert "One chain alone says nothing about the modes that it has not seen; run four or more." in str(
        modes(tree)
    ).replace("\n", " ")
    weights = tree["posterior"]["means"].values
    found = modes(tree_of(np.tile(weights.reshape(1, 300, 6), (2, 1, 1))))
    assert [level.level for level in found.levels] == ["raw"]
    assert "whose symmetries were not looked for" in str(found)
