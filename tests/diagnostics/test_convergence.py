import tracemalloc
from dataclasses import astuple

import arviz as az
import numpy as np
import pytest

from diagnostics import convergence, levels, load, save
from diagnostics.convergence import chance_rhat
from diagnostics.levels import Quantities


@pytest.mark.parametrize(("num_chains", "num_draws", "phi"), [(4, 1000, 0.0), (4, 1000, 0.9), (8, 500, 0.8)])
def test_mixed_chains_exceed_the_chance_level_as_often_as_it_says(autoregressive, num_chains, num_draws, phi):
    # The bound holds for each half of ArviZ's R-hat, so that the larger of both exceeds it in at most 1 %.
    values = autoregressive(np.random.default_rng(0), (num_chains, num_draws, 400), phi)
    rhat = az.rhat(values)
    known = chance_rhat(np.full(400, (1 + phi) / (1 - phi)), num_chains, num_draws)
    assert 0.001 < np.mean(rhat > known) < 0.015


@pytest.mark.parametrize("phi", [0.0, 0.9])
def test_share_above_chance_of_mixed_chains_is_small_although_many_exceed_any_bound(autoregressive, tree_of, phi):
    weights = autoregressive(np.random.default_rng(1), (4, 1000, 150), phi)
    row = convergence(tree_of(weights)).row("raw")
    assert row.rhat_above <= 0.03
    assert row.rhat_beyond == 0
    assert phi == 0.0 or row.rhat_max > 1.03


def test_stuck_chains_are_above_chance_although_their_ess_is_tiny(autoregressive, tree_of):
    weights = autoregressive(np.random.default_rng(2), (4, 500, 20), 0.5)
    weights[0] += 3.0
    row = convergence(tree_of(weights)).row("raw")
    assert row.rhat_above == 1.0
    assert row.rhat_beyond == 20
    assert row.ess_bulk_median < 50


def test_numbers_are_those_of_arviz(autoregressive, tree_of):
    rng = np.random.default_rng(3)
    weights = autoregressive(rng, (4, 200, 6), 0.5) * 10.0 ** np.arange(-3, 3)
    table = convergence(tree_of(weights, weights[..., :3], weights[..., 3:5]))
    rhat, bulk = az.rhat(weights), az.ess(weights)
    assert table.row("raw").rhat_median == pytest.approx(np.median(rhat))
    assert table.row("raw").rhat_max == pytest.approx(rhat.max())
    assert table.row("raw").worst == f"w[{rhat.argmax()}]"
    assert table.row("raw").ess_bulk_min == pytest.approx(bulk.min())
    assert table.row("raw").mcse_over_sd == pytest.approx(
        np.median(az.mcse(weights) / weights.std((0, 1), ddof=1)), rel=1e-3
    )
    assert [row.level for row in table.rows] == ["raw", "function", "invariants"]


def test_constants_are_counted_and_a_large_level_is_measured_evenly(tree_of):
    weights = np.random.default_rng(4).normal(size=(2, 50, 40))
    weights[..., :10] = 3.0
    table = convergence(tree_of(weights), max_quantities=7)
    row = table.row("raw")
    assert (row.num_quantities, row.num_constant, row.num_measured) == (40, 10, 7)
    assert "7 of 30" in str(table)


def test_chains_that_are_not_finite_are_left_out_and_named(tree_of):
    weights = np.random.default_rng(5).normal(size=(4, 100, 3))
    weights[2, 17, 1] = np.nan
    table = convergence(tree_of(weights))
    assert table.left_out == (2,)
    assert table.num_chains == 3
    assert "chain 2" in str(table)
    assert np.isfinite(table.row("raw").rhat_max)


@pytest.mark.parametrize("shape", [(1, 100, 3), (4, 3, 3)])
def test_too_little_to_compare_gives_numbers_that_json_can_hold(tree_of, shape):
    table = convergence(tree_of(np.random.default_rng(6).normal(size=shape)))
    assert np.isnan(table.row("raw").rhat_max)
    assert table.to_dict()["rows"][0]["rhat_max"] is None
    assert "raw weights" in str(table)


@pytest.fixture
def sites():
    """Variables of several shapes and types, some of which never vary."""
    rng = np.random.default_rng(7)
    shapes = {"scalar": (), "vector": (7,), "matrix": (5, 6), "cube": (2, 3, 4)}
    drawn = {name: rng.normal(size=(3, 40, *shape)).astype(np.float32) for name, shape in shapes.items()}
    drawn["matrix"][..., 2, :] = 1.0
    return drawn | {"wide": rng.normal(size=(3, 40, 3)), "count": rng.poisson(2.0, (3, 40, 2))}


def gathered(sites):
    return np.concatenate([array.reshape(*array.shape[:2], -1) for array in sites.values()], axis=2)


@pytest.mark.parametrize("most", [1, 2, 5, 13, 1000])
def test_pieces_are_the_whole_whatever_their_size(tree_of, sites, monkeypatch, most):
    monkeypatch.setattr(levels, "_PIECE", most * 3 * 40)
    _, quantities = next(levels.levels(tree_of(sites)))
    assert quantities.sizes == (3, 40, 67)
    np.testing.assert_array_equal(quantities.values, gathered(sites))
    pieces = list(quantities.pieces())
    assert max(piece.shape[2] for piece in pieces) <= most
    assert {piece.dtype for piece in pieces} == {quantities.values.dtype}
    np.testing.assert_array_equal(np.concatenate(pieces, axis=2), quantities.values)


def test_chains_are_restricted_again_and_again(tree_of, sites):
    _, quantities = next(levels.levels(tree_of(sites)))
    two = levels.restrict_chains(quantities, np.array([True, False, True]))
    one = levels.restrict_chains(two, np.array([False, True]))
    np.testing.assert_array_equal(two.values, quantities.values[[0, 2]])
    np.testing.assert_array_equal(one.values, quantities.values[[2]])
    np.testing.assert_array_equal(next(one.pieces()), one.values)
    assert one.sizes == (1, 40, 67)


@pytest.mark.parametrize(("suffix", "max_quantities"), [(".nc", 11), (".zarr", None)])
def test_table_of_a_lazily_opened_tree_is_that_of_the_loaded_one(
    tree_of, sites, tmp_path, monkeypatch, suffix, max_quantities
):
    sites["vector"][1, 3, 2] = np.nan
    save(tree_of(sites, np.random.default_rng(8).normal(size=(3, 40, 9))), tmp_path / f"tree{suffix}")
    expected = convergence(load(tmp_path / f"tree{suffix}"), max_quantities=max_quantities)
    assert expected.row("raw").num_measured == (max_quantities or 61)
    monkeypatch.setattr(levels, "_PIECE", 16 * 3 * 40)
    opened = load(tmp_path / f"tree{suffix}", lazy=True)
    found = convergence(opened, max_quantities=max_quantities)
    opened.close()
    assert (found.num_chains, found.num_draws, found.left_out) == (2, 40, (1,))
    for row, other in zip(found.rows, expected.rows, strict=True):
        assert (row.level, row.worst) == (other.level, other.worst)
        numbers = [[x for x in astuple(one) if isinstance(x, int | float)] for one in (row, other)]
        np.testing.assert_allclose(*numbers, rtol=1e-12)


@pytest.mark.parametrize(("whole", "bounded"), [(False, True), (True, False)])
def test_memory_is_bounded_where_the_draws_are_on_disk(tree_of, tmp_path, monkeypatch, whole, bounded):
    weights = np.random.default_rng(9).standard_normal((4, 8, 600_000), np.float32)
    save(tree_of(weights), tmp_path / "tree.nc")
    monkeypatch.setattr(levels, "_PIECE", 2**21)
    if whole:  # the control: what reads all of it is seen to
        monkeypatch.setattr(Quantities, "pieces", lambda self: iter([self.values]))
    opened = load(tmp_path / "tree.nc", lazy=True)
    tracemalloc.start()
    try:
        assert convergence(opened, max_quantities=100).row("raw").num_measured == 100
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        opened.close()
    assert (peak < 0.5 * weights.nbytes) == bounded
