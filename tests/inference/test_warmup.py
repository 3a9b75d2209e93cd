"""Warm-up against known answers: Stan's windows, NumPy's variance, the step size that gives the wanted acceptance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inference.warmup import Point, adapt, search_step_size, start_adaptation, window_schedule


@pytest.mark.parametrize(
    ("num_warmup", "first", "ends"),
    [
        (1000, 75, (99, 149, 249, 449, 949)),  # Stan's manual: buffers 75 and 50, windows 25, 50, 100, 200, 500
        (500, 75, (99, 149, 249, 449)),
        (150, 75, (99,)),
        (100, 15, (89,)),
        (19, 19, ()),
        (0, 0, ()),
    ],
)
def test_windows_are_stans(num_warmup, first, ends):
    assert window_schedule(num_warmup) == (num_warmup, first, ends)


@pytest.mark.parametrize("num_warmup", range(20, 2000, 67))
def test_windows_leave_the_last_buffer(num_warmup):
    schedule = window_schedule(num_warmup)
    assert schedule.first <= schedule.ends[0]
    assert list(schedule.ends) == sorted(set(schedule.ends))
    assert schedule.ends[-1] + 1 + min(50, int(0.1 * num_warmup)) <= num_warmup


def test_metric_is_the_shrunk_variance_of_the_window():
    schedule = window_schedule(100)
    rng = np.random.default_rng(0)
    # A mean a thousand standard deviations away: the sum of squares would lose every digit in float32.
    positions = (1000 + rng.normal(size=(100, 3)) * [0.5, 1.0, 2.0]).astype(np.float32)
    adaptation = start_adaptation(jnp.zeros(3), 1.0)
    step = jax.jit(lambda adaptation, t, x: adapt(adaptation, schedule, t, x, jnp.zeros(())))
    for t, position in enumerate(positions):
        adaptation = step(adaptation, jnp.int32(t), position)
    window = positions[schedule.first : schedule.ends[0] + 1].astype(np.float64)
    n = len(window)
    expected = n / (n + 5) * window.var(axis=0, ddof=1) + 1e-3 * 5 / (n + 5)
    np.testing.assert_allclose(adaptation.inverse_mass_matrix, expected, rtol=1e-3)


@pytest.mark.parametrize("wanted", [0.6, 0.8, 0.95])
def test_step_size_reaches_the_wanted_acceptance(wanted):
    """With the acceptance exp(-step) the answer is -log(wanted)."""
    schedule = window_schedule(19)._replace(num_warmup=2000, first=2000)

    def step(t, adaptation):
        acceptance = jnp.exp(-adaptation.step_size)
        return adapt(adaptation, schedule, t, jnp.zeros(1), wanted - acceptance)

    adaptation = jax.lax.fori_loop(0, 2000, step, start_adaptation(jnp.zeros(1), 1.0))
    np.testing.assert_allclose(np.exp(-adaptation.step_size), wanted, atol=0.01)


@pytest.mark.parametrize("begin", [1e-4, 1.0, 1e3])
@pytest.mark.parametrize("sd", [0.01, 1.0, 100.0])
def test_search_finds_the_scale_of_the_target(begin, sd):
    def logdensity(x):
        return -0.5 * (x**2).sum() / sd**2

    position = jnp.full(4, 1.0) * sd
    point = Point(position, *jax.value_and_grad(logdensity)(position))
    search = jax.jit(lambda key, adaptation: search_step_size(key, adaptation, point, logdensity))
    found = search(jax.random.key(0), start_adaptation(position, begin))
    assert 0.3 * sd < found.step_size / 1.0 < 4 * sd
    np.testing.assert_allclose(found.averaging.centre, np.log(10 * found.step_size), rtol=1e-5)


def test_search_ends_where_every_step_is_accepted():
    point = Point(jnp.zeros(1), jnp.zeros(()), jnp.zeros(1))
    found = search_step_size(jax.random.key(0), start_adaptation(jnp.zeros(1), 1.0), point, lambda x: 0.0 * x.sum())
    assert 1e10 < found.step_size < np.inf
