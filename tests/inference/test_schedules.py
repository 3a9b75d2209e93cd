"""Schedules, the preconditioner's bounds, and the rule for host loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_models import BNN, Posterior, likelihoods, networks, priors
from inference import Constant, Cyclical, Polynomial, RMSprop
from inference.host_loop import prefers_host_loop
from inference.preconditioning import start_preconditioning
from inference.schedules import Schedule

STEPS = np.arange(200)


@pytest.mark.parametrize("schedule", [Constant(), Polynomial(), Cyclical()])
def test_schedules_are_static_rules(schedule):
    assert isinstance(schedule, Schedule)
    assert jax.tree.leaves(schedule) == []
    assert hash(schedule) == hash(type(schedule)())
    phase = jax.jit(schedule.phase)(0)
    assert float(phase.factor) == 1.0
    assert int(phase.cycle) == 0


def test_polynomial_is_welling_and_tehs():
    phase = jax.vmap(Polynomial(power=0.75, num_steps=50).phase)(jnp.asarray(STEPS))
    np.testing.assert_allclose(phase.factor, (50 / (50 + STEPS)) ** 0.75, rtol=1e-6)
    assert phase.is_sampling.all()


def test_cyclical_is_zhangs():
    phase = jax.vmap(Cyclical(num_steps=80, exploration=0.25).phase)(jnp.asarray(STEPS))
    np.testing.assert_allclose(phase.factor, (np.cos(np.pi * (STEPS % 80) / 80) + 1) / 2, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(phase.is_sampling, STEPS % 80 >= 20)
    np.testing.assert_array_equal(phase.cycle, STEPS // 80)
    assert Cyclical(num_steps=80, exploration=0.0).phase(jnp.asarray(0)).is_sampling


def test_preconditioner_bounds_what_has_no_gradient_and_skips_what_is_not_finite():
    state = start_preconditioning(jnp.zeros(3))
    for gradient in ([1.0, 100.0, 0.0], [np.nan, 1.0, 1.0], [-1.0, 100.0, 0.0]):
        state = RMSprop().adapt(state, jnp.asarray(gradient))
    assert state.num_gradients == 2
    ratio = np.asarray(state.scale / state.scale[0])
    mean = 101 / 3
    expected = (1 + 0.01 * mean) / (np.array([1.0, 100.0, 0.0]) + 0.01 * mean)
    np.testing.assert_allclose(ratio, expected, rtol=1e-4)
    assert float(state.scale.prod()) == pytest.approx(1.0, rel=1e-4)
    assert np.isfinite(RMSprop().adapt(start_preconditioning(jnp.zeros(3)), jnp.zeros(3)).scale).all()


def test_host_loop_is_a_matter_of_convolutions_on_a_cpu(monkeypatch):
    @jax.tree_util.register_static
    class Convolved:
        def logdensity(self, position):
            @jax.jit
            def hidden_deep_inside(x):
                return jax.lax.map(lambda y: jax.lax.conv(y, jnp.ones((1, 1, 2, 2)), (1, 1), "SAME").sum(), x)

            return hidden_deep_inside(position["x"]).sum()

    dense = Posterior(BNN(networks.mlp([2, 2, 1]), priors.normal(), likelihoods.normal()), np.ones((4, 2)), np.ones(4))
    position = jax.eval_shape(lambda key: dense.initial(key, 1), jax.random.key(0))
    position = {site: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for site, x in position.items()}
    image = {"x": jax.ShapeDtypeStruct((2, 1, 1, 4, 4), jnp.float32)}
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert prefers_host_loop(Convolved(), image)
    assert not prefers_host_loop(dense, position)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not prefers_host_loop(Convolved(), image)


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (Polynomial, {"power": 0.5}, "1/2 < power <= 1, got 0.5"),
        (Polynomial, {"num_steps": 0}, "num_steps must be a whole number"),
        (Cyclical, {"num_steps": 1}, "num_steps must be a whole number of at least 2"),
        (Cyclical, {"exploration": 1.0}, "exploration must be a number strictly between"),
        (RMSprop, {"damping": 0.0}, "damping must be a number strictly between"),
    ],
)
def test_impossible_settings_are_refused(build, settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)
