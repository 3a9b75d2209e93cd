"""Barriers on straight paths: closed forms, relabelled copies, and chains whose truth is known."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from bnn_models import Posterior
from diagnostics import to_datatree
from diagnostics.interpolation import measure, walk
from diagnostics.pairs import choose_pairs
from diagnostics.paths import barriers, path
from symmetry import align_to, find_symmetries

_RAW, _ALIGNED, _WITHIN = "between chains, raw", "between chains, aligned", "within a chain, aligned"
_MEANS = (-3.0, 3.0)


def _gaussian(y):
    numpyro.sample("w", dist.Normal(0.0, 1.0).expand([5]).to_event(1))
    numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def _two_modes(y):
    parts = dist.Normal(jnp.asarray(_MEANS), 1.0)
    mu = numpyro.sample("mu", dist.MixtureSameFamily(dist.Categorical(probs=jnp.array([0.3, 0.7])), parts))
    numpyro.deterministic("square", mu**2)
    numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def _supports(y):
    root = numpyro.sample("root", dist.LKJCholesky(2, 2.0))
    shares = numpyro.sample("shares", dist.Dirichlet(np.ones(3)))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    below = numpyro.sample("below", dist.Uniform(0.0, scale))
    numpyro.deterministic("seen", jnp.concatenate([(root**2).sum(-1), shares, scale[None], below[None]]))
    numpyro.sample("y", dist.Normal(0.0, scale), obs=y)


def _of_modes(means, num_draws=40, spread=0.5, seed=0):
    """Draws of `_two_modes`, each chain near a mean of its own."""
    noise = np.random.default_rng(seed).normal(size=(len(means), num_draws))
    return {"mu": (np.asarray(means)[:, None] + spread * noise).astype(np.float32)}


def _weights(posterior, seed, batch=(), spread=1.0):
    rng = np.random.default_rng(seed)
    return {s: (spread * rng.normal(size=batch + shape)).astype(np.float32) for s, shape in posterior.sites.items()}


def _moved(group, element, weights):
    return {s: np.asarray(a) for s, a in group.act({k: np.asarray(v) for k, v in element.items()}, weights).items()}


def _text(found):
    """What is printed, on one line."""
    return " ".join(str(found).split())


@pytest.fixture(scope="module")
def mixing(sine_run):
    """Chains that mix but for their labels."""
    return sine_run("tanh", 3, 8, 200, 5)


@pytest.fixture(scope="module")
def relabelled(mixing):
    """The same, every chain moved by another random element."""
    draws, symmetries = mixing
    element = symmetries.posterior.random(jax.random.key(3), (draws.num_chains, 1))
    return dataclasses.replace(draws, weights=_moved(symmetries.posterior, element, draws.weights)), symmetries


@pytest.fixture(scope="module")
def two_modes():
    posterior = Posterior(_two_modes, np.array(0.0))
    return posterior, find_symmetries(posterior)


def test_between_two_points_of_a_gaussian_the_energy_is_a_parabola_below_the_chord():
    with jax.enable_x64(True):
        posterior = Posterior(_gaussian, np.array(0.0))
        start, end = (np.random.default_rng(seed).normal(size=5) for seed in (0, 1))
        found = path(posterior, {"w": start}, {"w": end})
    chord = (1 - found.t) * found.logdensity[0] + found.t * found.logdensity[-1]
    squared = ((end - start) ** 2).sum()
    np.testing.assert_allclose(chord - found.logdensity, -found.t * (1 - found.t) * squared / 2, atol=1e-5)
    assert (found.logdensity - chord)[12] == pytest.approx(squared / 8, abs=1e-5)
    assert found.barrier == 0


def test_between_two_modes_the_barrier_is_the_closed_form():
    with jax.enable_x64(True):
        found = path(Posterior(_two_modes, np.array(0.0)), {"mu": np.array(-3.0)}, {"mu": np.array(3.0)}, num_points=49)
    line = np.linspace(-3.0, 3.0, 49)
    logdensity = np.log(np.exp(-((line[:, None] - np.array(_MEANS)) ** 2) / 2) @ [0.3, 0.7]) - np.log(2 * np.pi)
    chord = np.linspace(logdensity[0], logdensity[-1], 49)
    np.testing.assert_allclose(found.logdensity, logdensity, rtol=1e-7)
    assert found.barrier == pytest.approx((chord - logdensity).max(), abs=1e-5)
    assert found.barrier > 3


def test_a_relabelled_copy_lies_behind_a_barrier_until_it_is_aligned(network_posterior):
    posterior = network_posterior("tanh")
    group = find_symmetries(posterior).posterior
    # Units of different slope that together are close to the data's x[0] - x[1].
    slopes = np.array([0.3, 0.2, 0.1], np.float32)
    start = {
        "hidden_0.kernel": np.stack([slopes, -slopes]),
        "hidden_0.bias": slopes / 10,
        "head.kernel": np.full((3, 1), 1 / slopes.sum(), np.float32),
        "head.bias": np.zeros(1, np.float32),
    }
    kinds = {"permutation": np.array([2, 0, 1]), "sign": np.array([-1, -1, -1])}
    copy = _moved(group, {factor.name: kinds[factor.kind] for factor in group.factors}, start)
    probes = np.random.default_rng(2).normal(size=(6, 2)).astype(np.float32)
    assert path(posterior, start, copy).barrier > 10
    found = path(posterior, start, _moved(group, align_to(copy, group, start), copy), probes=probes)
    np.testing.assert_allclose(found.logdensity, found.logdensity[0], rtol=1e-5)
    np.testing.assert_allclose(found.function, np.broadcast_to(found.function[0], found.function.shape), atol=1e-5)
    assert found.barrier < 1e-3


def test_ends_are_the_weights_and_points_the_model_says(network_posterior):
    posterior = network_posterior("tanh")
    start, end = _weights(posterior, 0), _weights(posterior, 1)
    probes = np.random.default_rng(2).normal(size=(6, 2)).astype(np.float32)
    found = path(posterior, start, end, num_points=5, probes=probes)
    points = {site: np.stack([start[site], 0.75 * start[site] + 0.25 * end[site], end[site]]) for site in start}
    says = jax.jit(jax.vmap(lambda p, w, x: (p.log_joint(w), p.function(w, x)), (None, 0, None)))
    logdensity, function = says(posterior, points, probes)
    np.testing.assert_allclose(found.logdensity[[0, 1, 4]], logdensity, rtol=1e-5)
    np.testing.assert_allclose(found.function[[0, 1, 4]], function, rtol=1e-4, atol=1e-5)
    assert path(posterior, start, end).function is None


def test_batches_are_followed_pair_by_pair(network_posterior):
    posterior = network_posterior("tanh")
    starts, ends = _weights(posterior, 0, (3, 5)), _weights(posterior, 1, (3, 5))
    probes = np.zeros((2, 2), np.float32)
    together = path(posterior, starts, ends, probes=probes)
    assert together.function.shape[:3] == (3, 5, 25)
    alone = path(posterior, *({site: array[2, 3] for site, array in w.items()} for w in (starts, ends)), probes=probes)
    np.testing.assert_allclose(together.logdensity[2, 3], alone.logdensity, rtol=1e-5)
    np.testing.assert_allclose(together.function[2, 3], alone.function, rtol=1e-4, atol=1e-6)
    assert together.barrier[2, 3] == pytest.approx(float(alone.barrier), rel=1e-3, abs=1e-3)


def _roots(*angles):
    """Cholesky factors of 2 x 2 correlation matrices."""
    return np.array([[[1.0, 0.0], [np.sin(angle), np.cos(angle)]] for angle in angles], np.float32)


def test_a_path_stays_in_the_support():
    posterior = Posterior(_supports, np.array(0.5))
    numbers = {"shares": ([0.2, 0.3, 0.5], [0.9, 0.05, 0.05]), "scale": (0.5, 2.0), "below": (0.49, 0.1)}
    start, end = ({site: np.array([ends[k]] * 2, np.float32) for site, ends in numbers.items()} for k in (0, 1))
    found = path(posterior, start | {"root": _roots(-1.2, 0.3)}, end | {"root": _roots(0.9, 0.3)}, probes="seen")
    assert found.curved == ("root",)
    norms, rest = found.function[..., :2], found.function[..., 2:]
    np.testing.assert_allclose(norms, 1.0, rtol=1e-5)
    first, last = (np.concatenate([w["shares"], w["scale"][:, None], w["below"][:, None]], -1) for w in (start, end))
    t = found.t[:, None]
    np.testing.assert_allclose(rest, (1 - t) * first[:, None] + t * last[:, None], rtol=1e-5)
    assert np.isfinite(found.logdensity).all()


def test_a_path_through_no_density_has_an_infinite_barrier():
    def apart(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.factor("gap", jnp.where(jnp.abs(mu) < 0.5, -jnp.inf, 0.0))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    posterior = Posterior(apart, np.array(0.0))
    ends = {"mu": np.array([-1.0, 0.0, 1.0])}, {"mu": np.array([1.0, 1.0, 2.0])}
    np.testing.assert_array_equal(path(posterior, *ends).barrier, [np.inf, np.nan, 0.0])


def test_chains_that_mix_but_for_labels_are_no_farther_from_each_other_than_from_themselves(mixing):
    draws, symmetries = mixing
    found = barriers(to_datatree(draws, symmetries), draws.posterior)
    assert [row.kind for row in found.rows] == [_RAW, _ALIGNED, _WITHIN]
    assert all(row.num_pairs == 60 for row in found.rows)
    assert 0.3 < found.ratio < 3
    assert found.row(_RAW).median > 100 * max(found.row(_ALIGNED).median, 1.0)
    assert found.row(_RAW).function_excess > 100 * found.row(_ALIGNED).function_excess
    assert found.row(_ALIGNED).function_excess < 0.2
    text = _text(found)
    assert "as where chains mix but for their labels" in text
    assert "a curved path may go around it" in text
    assert json.loads(found.to_json())["rows"][0]["kind"] == _RAW
    assert found.row("between modes, aligned") is None


def test_any_labelling_of_each_chain_leaves_all_but_the_raw_row(mixing, relabelled):
    before, after = (barriers(to_datatree(*case), case[0].posterior) for case in (mixing, relabelled))
    for kind in (_ALIGNED, _WITHIN):
        for number in ("median", "q90", "function_excess"):
            expected = pytest.approx(getattr(before.row(kind), number), rel=1e-2, abs=1e-2)
            assert getattr(after.row(kind), number) == expected
    assert abs(after.row(_RAW).median / before.row(_RAW).median - 1) > 0.01


def test_chains_that_say_something_else_lie_behind_a_barrier(mixing, draws_at):
    draws, symmetries = mixing
    shift = 2.0

    def either(x, y):
        inner, bias, outer, level = (
            numpyro.sample(site, dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)))
            for site, shape in draws.posterior.sites.items()
        )
        output = (jnp.tanh(x @ inner + bias) @ outer + level)[:, 0]
        levels = [dist.Normal(output, 0.1).log_prob(y + offset).sum() for offset in (0.0, shift)]
        numpyro.factor("y", jnp.logaddexp(*levels))

    posterior = Posterior(either, *draws.posterior.args)
    odd = (np.arange(draws.num_chains) % 2)[:, None, None]
    weights = {**draws.weights, "head.bias": (draws.weights["head.bias"] + shift * odd).astype(np.float32)}
    tree = to_datatree(draws_at(posterior, weights), symmetries)
    found = barriers(tree, posterior, labels=np.broadcast_to(odd[..., 0], (8, draws.num_draws)))
    height = 40 * (shift / 2) ** 2 / (2 * 0.1**2)
    assert found.ratio > 30
    assert "stuck in different modes" in _text(found)
    assert found.row("between modes, aligned").median == pytest.approx(height, rel=0.2)
    assert found.row("within a mode, aligned").median < 0.02 * height
    assert "Between modes the median barrier is" in _text(found)


def test_one_stuck_chain_of_eight_shows_in_the_ratio_of_the_quantiles(two_modes, tree_of):
    posterior, symmetries = two_modes
    found = barriers(tree_of(_of_modes([-3.0] + [3.0] * 7), symmetries=symmetries), posterior)
    assert found.ratio == 1
    assert found.ratio_q90 > 3
    assert found.row(_WITHIN).median < 1
    assert "a few chains may sit in other modes" in _text(found)


@pytest.mark.slow
def test_relabelling_is_found_on_balanced_weights_and_changes_no_density(network_case, draws_at):
    draws, symmetries = network_case("relu")
    posterior = draws.posterior
    scales = symmetries.likelihood.restrict(("scale",))
    element = scales.random(jax.random.key(4), (draws.num_chains, draws.num_draws))
    scaled = draws_at(posterior, _moved(scales, element, draws.weights))
    aligned = {}
    for name, case in (("plain", draws), ("scaled", scaled)):
        pairs, notes = choose_pairs(to_datatree(case, symmetries), posterior, None, 40, 0)
        assert notes == ()
        raw, aligned[name] = (next(p for p in pairs if p.kind == kind) for kind in (_RAW, _ALIGNED))
        density = jax.jit(jax.vmap(Posterior.log_joint, (None, 0)))
        np.testing.assert_allclose(density(posterior, raw.second), density(posterior, aligned[name].second), rtol=1e-5)
        assert np.any(raw.second["hidden_0.bias"] != aligned[name].second["hidden_0.bias"])
    # A unit is known by the direction of its incoming weights, which no scale changes.
    directions = [p.second["hidden_0.kernel"][:, 0] / p.second["hidden_0.bias"] for p in aligned.values()]
    np.testing.assert_allclose(*directions, rtol=1e-4)


def test_pairs_within_a_chain_are_an_early_and_a_late_draw(two_modes, tree_of):
    posterior, symmetries = two_modes
    tree = tree_of({"mu": np.arange(4)[:, None] * 100.0 + np.arange(40)}, symmetries=symmetries)
    pairs, _ = choose_pairs(tree, posterior, np.tile(np.arange(40) % 3 - 1, (4, 1)), 50, 0)
    first, second = ({p.kind: getattr(p, side)["mu"] for p in pairs} for side in ("first", "second"))
    assert np.all(first[_WITHIN] // 100 == second[_WITHIN] // 100)
    assert np.all(first[_ALIGNED] // 100 != second[_ALIGNED] // 100)
    assert set(first[_ALIGNED] // 100) == {0, 1, 2, 3}
    modes = [[mu % 100 % 3 for mu in (first[kind], second[kind])] for kind in first if "mode" in kind]
    assert np.all(modes[0][0] != modes[0][1])
    assert np.all(modes[1][0] == modes[1][1])
    assert not np.any(np.concatenate(modes) == 0)  # these have a negative label
    for kind in (_WITHIN, "within a mode, aligned"):
        assert np.all(first[kind] % 100 < 20)
        assert np.all(second[kind] % 100 >= 20)


def test_draws_that_are_not_finite_take_no_part(two_modes, tree_of):
    posterior, symmetries = two_modes
    weights = _of_modes([-3.0, -3.0, 3.0])
    weights["mu"][2] = np.nan
    weights["mu"][0, 3] = np.inf
    found = barriers(tree_of(weights, symmetries=symmetries), posterior)
    assert "41 draws that are not finite took no part." in found.notes
    assert found.row(_RAW).q90 < 1
    assert all(row.num_pairs == 60 and np.isfinite(row.q90) for row in found.rows)


def test_one_chain_has_no_rows_between_chains_and_says_so(two_modes, tree_of):
    posterior, symmetries = two_modes
    found = barriers(tree_of(_of_modes([3.0]), symmetries=symmetries), posterior)
    assert [row.kind for row in found.rows] == [_WITHIN]
    assert np.isnan(found.ratio)
    assert "no pairs between chains" in _text(found)


def test_without_symmetries_nothing_is_aligned_and_it_says_so(two_modes, tree_of):
    found = barriers(tree_of(_of_modes([-3.0, 3.0])), two_modes[0])
    assert [row.kind for row in found.rows] == [_RAW]
    assert found.row(_RAW).median > 2
    assert "find_symmetries(posterior)" in _text(found)
    alone = barriers(tree_of(_of_modes([3.0])), two_modes[0])
    assert alone.rows == ()
    assert "No symmetries were looked for" in _text(alone)


@pytest.mark.slow
def test_thinned_weights_are_enough(mixing):
    draws, symmetries = mixing
    tree = to_datatree(draws, symmetries)
    kept = tree["posterior"].to_dataset().isel(draw=slice(None, None, 4))
    tree["posterior"] = type(tree)(kept)
    assert [row.kind for row in barriers(tree, draws.posterior).rows] == [_RAW, _ALIGNED, _WITHIN]


def test_the_function_is_that_of_the_tree(two_modes, draws_at):
    posterior, symmetries = two_modes
    weights = _of_modes([-3.0, 3.0], spread=0.01)
    square = weights["mu"] ** 2
    draws = dataclasses.replace(draws_at(posterior, weights), function=square, probes="square")
    found = barriers(to_datatree(draws, symmetries), posterior)
    strays = np.mean((np.linspace(-3, 3, 25) ** 2 - 9) ** 2)
    assert found.row(_RAW).function_excess == pytest.approx(strays / square.var(), rel=0.5)


def test_a_second_call_does_not_compile_again(two_modes, tree_of):
    posterior, symmetries = two_modes
    barriers(tree_of(_of_modes([-3.0, 3.0]), symmetries=symmetries), posterior)
    path(posterior, {"mu": np.zeros(3)}, {"mu": np.ones(3)})
    sizes = measure._cache_size(), walk._cache_size()
    other = Posterior(_two_modes, np.array(1.0))
    barriers(tree_of(_of_modes([1.0, 2.0], seed=1), symmetries=symmetries), other, seed=1)
    path(other, {"mu": np.ones(3)}, {"mu": np.zeros(3)})
    assert (measure._cache_size(), walk._cache_size()) == sizes


def test_bad_arguments_are_refused(network_case, two_modes):
    draws, symmetries = network_case("tanh")
    tree, posterior = to_datatree(draws, symmetries), draws.posterior
    start = _weights(posterior, 0)
    for message, refused in [
        ("the posterior of the tree's draws was expected", lambda: barriers(tree, two_modes[0])),
        ("a tree of draws was expected", lambda: barriers(tree["function"], posterior)),
        ("one pair or more was expected, got num_pairs=0", lambda: barriers(tree, posterior, num_pairs=0)),
        ("three points or more", lambda: barriers(tree, posterior, num_points=2)),
        ("three points or more", lambda: path(posterior, start, start, num_points=2)),
        (
            r"one label for each draw was expected, \(4, 25\)",
            lambda: barriers(tree, posterior, labels=np.zeros((4, 3), int)),
        ),
        ("got no 'hidden_0.kernel'", lambda: path(posterior, {}, start)),
        (r"'head.bias' must have shape", lambda: path(posterior, start, start | {"head.bias": np.zeros(2)})),
        ("the same batch dims", lambda: path(posterior, start, _weights(posterior, 0, (2,)))),
    ]:
        with pytest.raises(ValueError, match=message):
            refused()


@pytest.mark.slow
def test_networks_that_are_stuck_in_different_functions_lie_behind_barriers(sine_run):
    draws, symmetries = sine_run("relu", 5, 8, 300, 5)
    found = barriers(to_datatree(draws, symmetries), draws.posterior)
    assert found.ratio > 4
    assert found.row(_ALIGNED).function_excess > 4 * found.row(_WITHIN).function_excess


@pytest.mark.slow
def test_networks_that_switch_labels_have_barriers_within_chains_as_well(sine_run):
    draws, symmetries = sine_run("tanh", 8, 8, 300, 5)
    found = barriers(to_datatree(draws, symmetries), draws.posterior)
    assert 0.5 < found.ratio < 2
    assert found.row(_WITHIN).median > 30
