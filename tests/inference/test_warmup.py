"""Warm-up against known answers: the windows, NumPy's moments, the step size of the wanted acceptance, the length."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.mcmc.integrators import IntegratorState
from scipy import stats

from inference import metrics, trajectory
from inference.step_size import Point, average, search_step_size, start_averaging
from inference.warmup import adapt, search, start_adaptation, window_schedule

TARGETS = {"sd": np.array([0.01, 1.0, 30.0]), "correlation": 0.9}


@pytest.mark.parametrize(
    ("num_warmup", "first", "ends"),
    [(500, 20, (49, 94, 161, 262, 424)), (100, 20, (84,)), (40, 8, (33,)), (20, 4, (14,)), (19, 19, ()), (0, 0, ())],
)
def test_windows(num_warmup, first, ends):
    assert window_schedule(num_warmup) == (num_warmup, first, ends)


@pytest.mark.parametrize("num_warmup", range(20, 2000, 67))
def test_windows_follow_each_other_and_leave_the_last_buffer(num_warmup):
    schedule = window_schedule(num_warmup)
    assert schedule.first <= schedule.ends[0]
    lengths = np.diff([schedule.first - 1, *schedule.ends])
    assert (lengths[:-1] <= lengths[1:]).all()
    assert schedule.settled + 5 <= num_warmup <= schedule.settled + 75


def window(num_draws=200):
    """Draws of a correlated Gaussian far from zero, and gradients of its log density."""
    rng = np.random.default_rng(0)
    sd = TARGETS["sd"]
    correlation = np.eye(3) + TARGETS["correlation"] * (np.eye(3, k=1) + np.eye(3, k=-1)) / 1.5
    covariance = correlation * np.outer(sd, sd)
    positions = rng.multivariate_normal(np.zeros(3), covariance, num_draws)
    gradients = -positions @ np.linalg.inv(covariance)
    # A mean a thousand standard deviations away: the sum of squares would lose every digit in float32.
    return jnp.asarray(positions + 1000 * sd, jnp.float32), jnp.asarray(gradients, jnp.float32), covariance


def estimated(kind, positions, gradients):
    sums = metrics.start_sums(kind, positions[0])
    add = jax.jit(metrics.accumulate)
    for position, gradient in zip(positions, gradients, strict=True):
        sums = add(sums, position, gradient)
    return jax.jit(metrics.estimate, static_argnums=0)(kind, sums, metrics.identity(kind, positions[0]))


def test_metrics_are_their_formulae():
    positions, gradients, _ = window()
    exact, slopes, count = np.asarray(positions, np.float64), np.asarray(gradients, np.float64), len(positions)
    share, prior = count / (count + 5), 1e-3 * 5 / (count + 5)
    ratio = exact.var(axis=0) / slopes.var(axis=0)
    np.testing.assert_allclose(estimated("gradient", positions, gradients), np.sqrt(ratio), rtol=2e-3)
    expected = share * exact.var(axis=0, ddof=1) + prior
    np.testing.assert_allclose(estimated("diagonal", positions, gradients), expected, rtol=2e-3)
    dense = estimated("dense", positions, gradients)
    np.testing.assert_allclose(dense, share * np.cov(exact.T) + prior * np.eye(3), rtol=2e-2, atol=1e-4)


def test_low_rank_metric_is_the_covariance_where_its_rank_suffices():
    positions, gradients, covariance = window()
    sigma, basis, scales = (np.asarray(x, np.float64) for x in estimated("low_rank", positions, gradients))
    inner = np.eye(3) + basis @ np.diag(scales - 1) @ basis.T
    found = sigma[:, None] * inner * sigma
    whitened = np.linalg.solve(covariance, found)
    diagonal = np.linalg.solve(covariance, np.diag(np.diag(covariance)))
    spread, without = (np.ptp(np.log(np.abs(np.linalg.eigvals(x)))) for x in (whitened, diagonal))
    assert spread < 0.75 < without


@pytest.mark.parametrize("kind", metrics.METRICS)
def test_metric_stays_where_nothing_has_moved(kind):
    still = jnp.ones((30, 3))
    found = estimated(kind, still, 0 * still)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    if kind in ("gradient", "low_rank"):
        jax.tree.map(np.testing.assert_array_equal, found, metrics.identity(kind, still[0]))


def test_a_window_starts_the_sums_anew_and_puts_its_metric_in_force():
    schedule = window_schedule(40)
    rng = np.random.default_rng(0)
    positions, gradients = jnp.asarray(rng.normal(size=(2, 40, 3)), jnp.float32)
    adaptation = start_adaptation(jnp.zeros(3), 1.0, "gradient")
    step = jax.jit(lambda a, t, x, g: adapt(a, schedule, t, Point(x, jnp.zeros(()), g), jnp.zeros(()), "gradient"))
    for t in range(40):
        adaptation = step(adaptation, jnp.int32(t), positions[t], gradients[t])
        if t == schedule.ends[0] - 1:
            np.testing.assert_array_equal(adaptation.inverse_mass_matrix, 1.0)
    used = slice(schedule.first, schedule.ends[0] + 1)
    expected = np.sqrt(positions[used].var(axis=0) / gradients[used].var(axis=0))
    np.testing.assert_allclose(adaptation.inverse_mass_matrix, expected, rtol=1e-4)
    assert float(adaptation.sums[0].num_draws) == 0


@pytest.mark.parametrize("wanted", [0.6, 0.8, 0.95])
def test_step_size_reaches_the_wanted_acceptance(wanted):
    """With the acceptance exp(-step) the answer is -log(wanted)."""

    def step(_, averaging):
        return average(averaging, wanted - jnp.exp(-jnp.exp(averaging.log_step)))

    averaging = jax.lax.fori_loop(0, 500, step, start_averaging(jnp.ones(())))
    np.testing.assert_allclose(np.exp(-np.exp(averaging.log_step_mean)), wanted, atol=0.01)


@pytest.mark.parametrize("begin", [1e-4, 1.0, 1e3])
@pytest.mark.parametrize("sd", [0.01, 1.0, 100.0])
def test_search_finds_the_scale_of_the_target(begin, sd):
    def logdensity(x):
        return -0.5 * (x**2).sum() / sd**2

    position = jnp.full(4, 1.0) * sd
    point = Point(position, *jax.value_and_grad(logdensity)(position))
    found = jax.jit(lambda key, a: search(key, a, point, logdensity))(
        jax.random.key(0), start_adaptation(position, begin, "gradient")
    )
    assert 0.3 * sd < found.step_size < 4 * sd
    np.testing.assert_allclose(found.averaging.log_step, np.log(found.step_size), rtol=1e-5)


def test_search_ends_where_every_step_is_accepted():
    point = Point(jnp.zeros(1), jnp.zeros(()), jnp.zeros(1))
    found = search_step_size(jax.random.key(0), jnp.ones(()), jnp.ones(1), point, lambda x: 0.0 * x.sum())
    assert 1e10 < found < np.inf


def recorded(length, step_size, *, is_recording=True, longest=64):
    """A trajectory of unit frequency that begins at rest beside the mode: q = cos t."""
    lengths = trajectory.curve_lengths(longest)

    def leapfrog(state, step_size):
        momentum = state.momentum - 0.5 * step_size * state.position
        position = state.position + step_size * momentum
        momentum = momentum - 0.5 * step_size * position
        return state._replace(position=position, momentum=momentum, logdensity=-0.5 * (position**2).sum())

    build = trajectory.recorded_proposal(lengths, lambda jump: (jump**2).sum(), jnp.asarray(is_recording))
    generate = build(leapfrog, lambda p: 0.5 * (p**2).sum(), jnp.float32(step_size), jnp.int32(length), 1000.0)
    begin = IntegratorState(jnp.ones(1), jnp.zeros(1), jnp.float32(-0.5), -jnp.ones(1))
    _, (info, curve), _ = generate(jax.random.key(0), begin)
    return lengths, info, SimpleNamespace(jumps=np.asarray(curve.jumps), reached=np.asarray(curve.reached))


def test_a_trajectory_records_what_shorter_ones_would_have_jumped():
    step = 0.05
    lengths, info, curve = recorded(40, step)
    is_reached = lengths <= 40
    np.testing.assert_array_equal(curve.reached, is_reached)
    expected = (1 - np.cos(step * lengths[is_reached])) ** 2
    np.testing.assert_allclose(curve.jumps[is_reached], expected, atol=5e-3)
    np.testing.assert_array_equal(curve.jumps[~is_reached], 0)
    # The end is the same whether it was watched or not.
    _, other, unseen = recorded(40, step, is_recording=False)
    np.testing.assert_allclose(info.proposal.position, np.cos(step * 40), atol=5e-3)
    np.testing.assert_array_equal(info.proposal.position, other.proposal.position)
    np.testing.assert_array_equal(unseen.reached, 0)


def test_best_length_is_that_of_largest_jumps():
    """For 1 - cos(t) it is half a period, for 1 - cos(t)^2 half of that."""
    lengths = trajectory.curve_lengths(180)  # less than a period: the next one is as good
    for curve, best in ((1 - np.cos(0.02 * lengths), np.pi / 0.02), (np.sin(0.02 * lengths) ** 2, np.pi / 0.04)):
        found = trajectory.best_length(jnp.asarray(3 * curve), jnp.full(len(lengths), 3.0), lengths, 0.2)
        assert abs(np.log(found / best)) < 0.25
    # Beyond what has been seen, and seen more than once, nothing is chosen.
    seen = jnp.where(lengths <= 40, 3.0, 1.0)
    assert trajectory.best_length(seen * (1 - np.cos(0.02 * lengths)), seen, lengths, 0.4) <= 32


def test_rejected_jumps_count_by_the_root_of_their_acceptance():
    step = 1.2
    lengths, _, curve = recorded(16, step)
    position, momentum, expected = 1.0, 0.0, {}
    for length in range(1, 17):
        momentum -= 0.5 * step * position
        position += step * momentum
        momentum -= 0.5 * step * position
        rise = 0.5 * (position**2 + momentum**2) - 0.5
        expected[length] = min(1.0, np.exp(-0.5 * rise)) * (position - 1.0) ** 2
    np.testing.assert_allclose(
        curve.jumps[lengths <= 16], [expected[n] for n in lengths if n <= 16], rtol=1e-3, atol=1e-5
    )


def test_some_of_warmup_looks_for_lengths_and_the_rest_keeps_to_them():
    """Uniform on (0.6, 1.4) times twice the best length for those that look, else times the kept one."""
    known = trajectory.start_trajectory(1024, float)._replace(length=jnp.array(100.0))
    keys = jax.random.split(jax.random.key(7), 4000)
    draw = jax.vmap(lambda key, is_settled: trajectory.jittered_length(key, known, 0.4, 1024, is_settled), (0, None))
    settled, sought = np.asarray(draw(keys, jnp.array(True))), np.asarray(draw(keys, jnp.array(False)))
    kept = stats.uniform(60.0, 80.0)
    assert stats.kstest(settled + jitter_of_rounding(settled), kept.cdf).pvalue > 1e-3

    def mixed(length):
        return 0.25 * kept.cdf(length / 2) + 0.75 * kept.cdf(length / trajectory.FRACTION)

    assert stats.kstest(sought + jitter_of_rounding(sought), mixed).pvalue > 1e-3
    assert stats.kstest(sought + jitter_of_rounding(sought), kept.cdf).pvalue < 1e-9


def test_the_length_grows_at_once_and_shrinks_slowly():
    lengths = trajectory.curve_lengths(64)
    reached = jnp.asarray(lengths <= 40, float)

    def lengths_after(num_steps, begin, jumps):
        known = trajectory.start_trajectory(64, float)._replace(length=jnp.array(begin))
        curve = trajectory.Curve(reached * jnp.asarray(jumps, float), reached)
        no = jnp.array(False)
        for _ in range(num_steps):
            known = trajectory.adapt_trajectory(known, curve, 0.4, 64, no, no)
        return float(known.length)

    # Squared jumps that grow like the length's square: the longest length of which enough is known is the best.
    assert lengths_after(8, 12.0, lengths**2.0) == 12.0
    assert 20 < lengths_after(12, 12.0, lengths**2.0) <= 1.1 * 38 / 1.4
    # All jumps are equal: the shortest is best, and the length goes there by 3 % a step.
    np.testing.assert_allclose(lengths_after(18, 40.0, np.ones(len(lengths))), 40 * 0.97**10, rtol=1e-5)


def jitter_of_rounding(lengths):
    """What rounding to whole leapfrogs took away, in law."""
    return np.random.default_rng(0).uniform(-0.5, 0.5, lengths.shape)
