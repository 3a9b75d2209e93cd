"""The discrepancy against brute force; its p-value against known truths: size, power, what too few chains allow."""

import inspect
import itertools
import math
import sys

import numpy as np
import pytest

from diagnostics.mmd import KERNELS, even_steps, mmd, squared_distances

REPETITIONS = 200


def _brute_force(first, second, kernel="gaussian"):
    """Double loops over all pairs of draws, in float64."""
    x, y = (list(side.astype(np.float64).reshape(-1, side.shape[2])) for side in (first, second))
    power = {"gaussian": 2, "laplace": 1}[kernel]
    bandwidth = np.median([np.linalg.norm(a - b) ** power for a, b in itertools.combinations(x + y, 2)])

    def value(a, b):
        return math.exp(-(np.linalg.norm(a - b) ** power) / bandwidth)

    same = [sum(value(a, b) for a, b in itertools.permutations(z, 2)) / (len(z) * (len(z) - 1)) for z in (x, y)]
    return sum(same) - 2 * sum(value(a, b) for a in x for b in y) / (len(x) * len(y))


def _two(rng, shape, other=None):
    return rng.normal(size=shape), rng.normal(size=other or shape)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("dtype", "rounding"), [(np.float32, 1e-5), (np.float64, 1e-10)])
def test_equals_a_double_loop_over_all_pairs(kernel, dtype, rounding, monkeypatch):
    first, second = _two(np.random.default_rng(0), (3, 6, 40), (2, 6, 40))
    first, second = first.astype(dtype), (second + 0.5).astype(dtype)
    expected = _brute_force(first, second, kernel)
    assert expected > 0.02
    assert mmd(first, second, kernel=kernel).mmd2 == pytest.approx(expected, rel=rounding)
    monkeypatch.setattr(sys.modules[mmd.__module__], "_CHUNK", 7 * 30)  # seven quantities at a time
    assert mmd(first, second, kernel=kernel).mmd2 == pytest.approx(expected, rel=rounding)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_common_offset_costs_float32_nothing(kernel):
    rng = np.random.default_rng(1)
    first, second = ((side + 30.0).astype(np.float32) for side in _two(rng, (2, 10, 500)))
    second += np.float32(0.2)
    assert mmd(first, second, kernel=kernel).mmd2 == pytest.approx(_brute_force(first, second, kernel), rel=1e-5)
    pooled = np.concatenate([first, second]).reshape(-1, 500)
    exact = ((pooled[:, None].astype(float) - pooled[None]) ** 2).sum(-1)
    products, off = pooled @ pooled.T, ~np.eye(len(pooled), dtype=bool)
    squares = np.diag(products)
    uncentred = squares[:, None] + squares - 2 * products
    error, worse = (
        np.abs(found - exact)[off].max() / exact[off].min()
        for found in (squared_distances(first, second, np.arange(10)), uncentred)
    )
    assert error < 2e-6
    assert worse > 20 * error


def test_repeated_draws_and_constants_are_fine():
    rng = np.random.default_rng(2)
    first, second = (np.repeat(side, 5, axis=1).astype(np.float32) for side in _two(rng, (2, 2, 300)))
    for kernel in KERNELS:
        assert mmd(first, second, kernel=kernel).mmd2 == pytest.approx(_brute_force(first, second, kernel), abs=1e-6)
    same = mmd(np.ones((4, 5, 2)), np.ones((4, 5, 2)))
    assert (same.mmd2, same.p) == (0.0, 1.0)
    rarely = np.zeros((4, 5, 1))
    rarely[0, 0] = 1.0  # most pairs are ties: their median distance is 0
    assert math.isfinite(mmd(rarely, np.zeros((4, 5, 1))).mmd2)


def test_independent_draws_of_one_law_have_mean_zero():
    rng = np.random.default_rng(3)
    found = np.array([mmd(*_two(rng, (4, 5, 3), (4, 5, 3))).mmd2 for _ in range(REPETITIONS)])
    assert abs(found.mean()) < 3 * found.std() / math.sqrt(REPETITIONS)
    assert (found < 0).mean() > 0.4
    # Counting every draw with itself as well would show: it adds (1 / m + 1 / n) (1 - mean k), here about 0.04.
    assert 3 * found.std() / math.sqrt(REPETITIONS) < 0.01


@pytest.mark.parametrize(("num_first", "num_second", "distinct"), [(4, 4, 35), (4, 5, 126)])
def test_p_is_the_share_of_all_ways_to_deal_the_chains(num_first, num_second, distinct):
    first, second = _two(np.random.default_rng(4), (num_first, 3, 2), (num_second, 3, 2))
    second += 0.3
    chains, everyone = np.concatenate([first, second]), set(range(num_first + num_second))
    observed, at_least, ways = _brute_force(first, second), 0, 0
    for chosen in itertools.combinations(sorted(everyone), num_first):
        ways += 1
        rest = sorted(everyone - set(chosen))
        at_least += _brute_force(chains[list(chosen)], chains[rest]) >= observed - 1e-12
    found = mmd(first, second)
    assert found.p == pytest.approx(at_least / ways)
    assert 0.05 < found.p < 0.95
    assert (found.num_splits, found.enumerated) == (distinct, True)
    sampled = mmd(first, second, num_permutations=distinct - 1)
    assert (sampled.num_splits, sampled.enumerated) == (distinct, False)
    assert sampled.p == pytest.approx(found.p, abs=0.2)


def test_swapping_the_sides_changes_nothing():
    first, second = _two(np.random.default_rng(5), (4, 10, 2), (5, 10, 2))
    one, other = mmd(first, second), mmd(second, first)
    assert one.mmd2 == pytest.approx(other.mmd2)
    assert one.bandwidth == pytest.approx(other.bandwidth)
    assert one.p == other.p


def test_autocorrelated_chains_of_one_law_are_rejected_no_more_often_than_stated(autoregressive):
    rng = np.random.default_rng(6)
    chains = [autoregressive(rng, (16, 50, 2), 0.9).astype(np.float32) for _ in range(REPETITIONS)]
    p = np.array([mmd(each[:8], each[8:], num_permutations=199).p for each in chains])
    assert (p <= 0.05).mean() <= 0.08
    assert np.abs(p.mean() - 0.5) < 4 / math.sqrt(12 * REPETITIONS)
    # As if every draw were a chain of its own, which is to permute draws.
    single = [
        mmd(each[:8].reshape(-1, 1, 2), each[8:].reshape(-1, 1, 2), num_permutations=99).p for each in chains[:20]
    ]
    assert (np.array(single) <= 0.05).mean() > 0.8


def test_a_shift_by_one_standard_deviation_is_found(autoregressive):
    rng, rejected = np.random.default_rng(7), []
    for _ in range(30):
        chains = autoregressive(rng, (16, 50, 2), 0.9)
        rejected.append(mmd(chains[:8], chains[8:] + 1.0, num_permutations=199).p <= 0.05)
    assert np.mean(rejected) >= 0.9


def test_a_mode_of_weight_a_half_against_nine_tenths_is_found():
    rng = np.random.default_rng(8)
    rejected = [mmd(_jumping(rng, 0.5), _jumping(rng, 0.9), num_permutations=199).p <= 0.05 for _ in range(30)]
    assert np.mean(rejected) >= 0.9


def _jumping(rng, share):
    """Eight chains of 50 draws that leave either of two modes, 8 sd apart, now and then; the first holds ``share``."""
    is_first = np.empty((8, 50), bool)
    is_first[:, 0] = rng.random(8) < share
    for draw in range(1, 50):
        fresh = rng.random(8) < 0.2
        is_first[:, draw] = np.where(fresh, rng.random(8) < share, is_first[:, draw - 1])
    return rng.normal(size=(8, 50, 2)) + 8.0 * is_first[:, :, None]


@pytest.mark.parametrize("shape", [(3, 5, 2), (1, 5, 2)])
def test_fewer_than_four_chains_have_no_p(shape):
    first, second = _two(np.random.default_rng(9), shape, (8, 5, 2))
    found = mmd(first, second)
    assert math.isnan(found.p)
    assert math.isnan(found.smallest_p)
    assert math.isfinite(found.mmd2)
    assert f"p is not available: whole chains are permuted, and {shape[0]} + 8 of them are too few" in str(found)
    assert found.to_dict()["p"] is None


def test_the_smallest_p_is_said():
    far = [
        mmd(*(side + 9.0 * k for k, side in enumerate(_two(np.random.default_rng(0), (n, 5, 2))))) for n in (4, 6, 8)
    ]
    assert [found.p for found in far[:2]] == [found.smallest_p for found in far[:2]] == [1 / 35, 1 / 462]
    assert "It cannot be below 0.029." in str(far[0])
    assert far[2].smallest_p == 1 / 1000
    assert far[2].p == pytest.approx(1 / 1000, abs=1e-3)  # the observed split and its mirror can be drawn again


def test_draws_are_thinned_evenly_and_read_from_disk(tmp_path):
    first, second = _two(np.random.default_rng(10), (4, 40, 6), (4, 60, 6))
    cut = mmd(first, second[:, :40])
    assert mmd(first, second).mmd2 == cut.mmd2
    thin = mmd(first, second, max_draws=80)
    assert (thin.num_draws, cut.num_draws) == (10, 40)
    steps = even_steps(40, 8, 80)
    assert thin.mmd2 == mmd(first[:, steps], second[:, steps]).mmd2
    assert (steps[0], steps[-1]) == (0, 39)
    assert set(np.diff(steps)) <= {4, 5}
    np.save(tmp_path / "first.npy", first)
    assert mmd(np.load(tmp_path / "first.npy", mmap_mode="r"), second).mmd2 == cut.mmd2


@pytest.mark.parametrize(
    ("shapes", "settings", "sentence"),
    [
        (((4, 9, 3), (4, 9, 2)), {}, "same quantities were expected on both sides, got 3 and 2"),
        (((4, 9, 0), (4, 9, 0)), {}, "got 0 and 0"),
        (
            ((1, 1, 2), (4, 9, 2)),
            {},
            "two draws or more on either side were expected, got 1 chains x 1 draws on the first",
        ),
        (((4, 9, 2), (4, 9, 2)), {"kernel": "rbf"}, "a kernel among gaussian, laplace was expected, got 'rbf'"),
        (((4, 9, 2), (4, 9, 2)), {"num_permutations": 0}, "num_permutations of 1 or more was expected, got 0"),
        (((4, 9, 2), (4, 9, 2)), {"max_draws": 7}, "max_draws of at least a draw a chain, 8, was expected, got 7"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(shapes, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        mmd(*map(np.zeros, shapes), **settings)


def test_numbers_that_are_not_finite_and_arrays_without_chains_are_refused():
    first, second = _two(np.random.default_rng(11), (4, 9, 3))
    second[2, 3, 1] = np.nan
    with pytest.raises(ValueError, match="finite numbers were expected in all draws, but quantity 1 has others"):
        mmd(first, second)
    unchecked = inspect.unwrap(mmd)  # the tests' own check of shapes would speak first
    with pytest.raises(ValueError, match=r"draws of shape \(chain, draw, quantity\) were expected, got \(9, 3\)"):
        unchecked(first[0], second)
