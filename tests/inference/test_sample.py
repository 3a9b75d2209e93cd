"""`sample`: what it gives, that only a chain's key fixes its bits, that nothing compiles twice, what it refuses."""

import logging
import os
import re
import signal
from contextlib import nullcontext
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from targets import Gaussian

from inference import HMC, NUTS, Keep, executors, programs, runner, sample
from inference.blocks import Advance
from inference.sample import check_posterior

KERNEL = NUTS(num_warmup=40, max_tree_depth=5)
KEY = jax.random.key(0)
TARGET = Gaussian.example(3)
SETTINGS = {"num_chains": 4, "num_draws": 30, "rng_key": KEY}


@pytest.fixture(scope="module")
def draws():
    return sample(TARGET, KERNEL, **SETTINGS)


def test_gives_every_level(draws):
    assert repr(draws) == "Draws(4 chains x 30 draws of 2 sites)"
    assert {site: x.shape for site, x in draws.weights.items()} == {"x": (4, 30, 3), "scale": (4, 30)}
    assert {x.shape for x in draws.sample_stats.values()} == {(4, 30)}
    assert draws.sample_stats["diverging"].dtype == bool
    assert (draws.weights["scale"] > 0).all()
    assert draws.function.shape == (4, 30, 3)
    assert draws.pointwise["y"].shape == (4, 30, 3)
    assert set(draws.seconds) == {"compile", "warmup", "sampling"}
    assert not draws.interrupted
    log_scale = np.log(draws.weights["scale"])
    np.testing.assert_allclose(draws.invariants["log_prior"], -0.5 * log_scale**2 - log_scale, atol=1e-5)
    jacobian = log_scale
    total = draws.invariants["log_prior"] + draws.invariants["log_likelihood"] + jacobian
    np.testing.assert_allclose(total, draws.sample_stats["lp"], rtol=1e-5, atol=1e-5)


def test_chains_and_steps_have_the_keys_they_are_said_to_have(draws):
    key_initial, key_chains = jax.random.split(KEY)
    position = jax.tree.map(lambda x: x[0], TARGET.initial(jax.random.fold_in(key_initial, 2), 1))
    state = KERNEL.init(KEY, position, TARGET)
    step = jax.jit(KERNEL.step)
    for t in range(45):
        state, _ = step(jax.random.fold_in(jax.random.fold_in(key_chains, 2), t), state, TARGET, t)
    np.testing.assert_allclose(state.position["x"], draws.weights["x"][2, 4], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_bits_do_not_depend_on_threads(draws, cores, monkeypatch):
    monkeypatch.setattr(executors, "usable_cores", lambda: cores)
    again = sample(TARGET, KERNEL, **SETTINGS)
    jax.tree.map(np.testing.assert_array_equal, again.weights, draws.weights)


def test_bits_do_not_depend_on_other_chains(draws):
    alone = sample(TARGET, KERNEL, **SETTINGS | {"num_chains": 1})
    np.testing.assert_array_equal(alone.weights["x"][0], draws.weights["x"][0])


@pytest.mark.parametrize("longest", [1, 7])
def test_bits_do_not_depend_on_blocks(draws, longest, monkeypatch):
    monkeypatch.setattr(programs, "_LONGEST_BLOCK", longest)
    again = sample(TARGET, KERNEL, **SETTINGS)
    jax.tree.map(np.testing.assert_array_equal, again.weights, draws.weights)
    jax.tree.map(np.testing.assert_array_equal, again.sample_stats, draws.sample_stats)


def test_timing_changes_block_lengths_alone(draws, monkeypatch):
    monkeypatch.setattr(runner, "_SECONDS_A_BLOCK", 0.0)
    again = sample(TARGET, KERNEL, **SETTINGS)
    jax.tree.map(np.testing.assert_array_equal, again.weights, draws.weights)


def test_more_draws_begin_with_the_same(draws):
    longer = sample(TARGET, KERNEL, **SETTINGS | {"num_draws": 37})
    np.testing.assert_array_equal(longer.weights["x"][:, :30], draws.weights["x"])


def test_other_key_other_draws(draws):
    other = sample(TARGET, KERNEL, **SETTINGS | {"rng_key": jax.random.key(1)})
    assert (other.weights["x"] != draws.weights["x"]).all(axis=(1, 2)).all()


def test_old_style_key_is_the_same_key(draws):
    again = sample(TARGET, KERNEL, **SETTINGS | {"rng_key": jax.random.PRNGKey(0)})
    np.testing.assert_array_equal(again.weights["x"], draws.weights["x"])


def test_second_run_compiles_nothing(draws, caplog):
    """Not even for other data, as long as they have the same shapes."""
    other = replace(TARGET, mean=TARGET.mean + 1)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        again = sample(other, KERNEL, **SETTINGS)
        assert [record.message for record in caplog.records if "Compiling" in record.message] == []
        jax.jit(lambda x: x + 2)(1.0)
        assert [record for record in caplog.records if "Compiling" in record.message]
    assert (again.weights["x"] != draws.weights["x"]).all()


def test_data_are_arguments():
    """Data closed over would stand in the program's text, and be folded by the compiler for seconds."""
    target = Gaussian(jnp.zeros(50), jnp.arange(2500.0).reshape(50, 50))
    state = KERNEL.init(KEY, jax.tree.map(lambda x: x[0], target.initial(KEY, 1)), target)
    text = jax.jit(Advance(KERNEL, 10)).lower((KEY, state), (target, np.int32(0), np.int32(1))).as_text()
    assert "tensor<50x50xf32>" in text
    assert not re.search(r"constant dense<[^>]{9,}> : tensor<50x", text)


def test_initial_positions_are_used():
    initial = {"x": np.full((2, 3), 7.0), "scale": np.zeros(2)}
    kernel = HMC(num_warmup=0, num_integration_steps=1, jitter=0.0, step_size=1e-4)
    draws = sample(TARGET, kernel, num_chains=2, num_draws=1, rng_key=KEY, initial=initial)
    np.testing.assert_allclose(draws.weights["x"][:, 0], 7.0, atol=0.01)


def test_function_is_evaluated_at_probes():
    draws = sample(TARGET, KERNEL, **SETTINGS, probes=np.array([1.0, -2.0]))
    np.testing.assert_allclose(draws.function[..., 1], -2 * draws.weights["x"].sum(-1), rtol=1e-4, atol=1e-4)
    named = sample(TARGET, KERNEL, **SETTINGS, probes="scale")
    np.testing.assert_array_equal(named.function, named.weights["scale"])
    assert named.probes == "scale"


def test_what_is_too_large_is_not_kept(monkeypatch, draws):
    monkeypatch.setattr(programs, "_KEPT_BYTES", 4 * 30 * 3 * 4 - 1)
    with pytest.warns(UserWarning, match=r"would take .* is not kept; keep=Keep\(\w+=True\) keeps it") as said:
        small = sample(TARGET, KERNEL, **SETTINGS)
    assert [str(warning.message).split("'")[1] for warning in said] == ["function", "pointwise"]
    assert small.function is None
    assert small.pointwise is None
    np.testing.assert_array_equal(small.weights["x"], draws.weights["x"])


def test_runs_in_float64():
    with jax.enable_x64(True):
        target = Gaussian.example(3)
        draws = sample(target, KERNEL, **SETTINGS)
        again = sample(target, KERNEL, **SETTINGS)
    assert draws.weights["x"].dtype == np.float64
    np.testing.assert_array_equal(draws.weights["x"], again.weights["x"])


def cut_short(monkeypatch, run_block):
    """A run in short blocks that something in ``run_block`` ends before its time."""
    monkeypatch.setattr(runner, "_SECONDS_A_BLOCK", 1e-4)
    monkeypatch.setattr(programs, "_LONGEST_BLOCK", 20)
    monkeypatch.setattr(runner.Group, "run_block", run_block)
    draws = sample(TARGET, replace(KERNEL, num_warmup=4), **SETTINGS)
    assert draws.interrupted
    assert 0 < draws.num_draws < 30
    return draws


def test_interrupt_keeps_what_all_chains_have(monkeypatch, draws):
    blocks = []

    def stop(self, plan):
        if len(blocks) == 9:
            raise KeyboardInterrupt
        blocks.append(self.number)
        return run_block(self, plan)

    run_block = runner.Group.run_block
    cut = cut_short(monkeypatch, stop)
    assert cut.weights["x"].shape == (4, cut.num_draws, 3)


def test_interrupted_warmup_gives_no_draws(monkeypatch):
    def stop(self, plan):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner.Group, "run_block", stop)
    cut = sample(TARGET, KERNEL, **SETTINGS)
    assert cut.interrupted
    assert cut.weights["x"].shape == (4, 0, 3)


def test_ctrl_c_lets_the_running_blocks_end(monkeypatch):
    """Two signals at once stop the run between blocks and raise nowhere; the usual handler is back afterwards."""
    made = []
    monkeypatch.setattr(runner, "suppress", lambda error: nullcontext())

    def stop(self, plan):
        if len(made) == 30:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
        made.append(self.number)
        return run_block(self, plan)

    run_block = runner.Group.run_block
    cut_short(monkeypatch, stop)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_model_is_no_posterior():
    with pytest.raises(ValueError, match="posterior must be a Posterior"):
        check_posterior(lambda y: None)


POINT = {"x": np.zeros((4, 3)), "scale": np.zeros(4)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_draws": 0}, "num_draws must be a whole number of at least 1, got 0"),
        ({"num_draws": -5}, "num_draws must be"),
        ({"num_chains": 0}, "num_chains must be a whole number of at least 1, got 0"),
        ({"rng_key": jax.random.split(KEY)}, r"rng_key must be one key.* got an array of shape \(2,\)"),
        ({"initial": {"x": POINT["x"]}}, r"initial must have the sites \['scale', 'x'\], got \['x'\]"),
        ({"initial": POINT | {"x": np.zeros((4, 2))}}, r"initial\['x'\] must have the shape \(4, 3\).* got \(4, 2\)"),
        ({"initial": POINT | {"x": np.full((4, 3), np.nan)}}, r"not finite where chains \[0, 1, 2, 3\] start"),
        ({"initial": POINT | {"x": np.diag([np.inf] * 4)[:, :3]}}, r"not finite where chains \[0, 1, 2\] start"),
        ({"devices": 2}, "devices must be between 1 and the 1 devices there are, got 2"),
        ({"devices": []}, "at least one device"),
        ({"run": __file__}, "is a file; give the path of a new folder"),
        ({"run": "."}, "not empty; give a new one"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        sample(TARGET, KERNEL, **SETTINGS | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kernel", [NUTS, "nuts"])
def test_kernel_without_settings_is_refused(kernel):
    with pytest.raises((ValueError, TypeError), match="kernel"):
        sample(TARGET, kernel, **SETTINGS)


def test_starts_where_an_earlier_run_ended():
    earlier = sample(TARGET, KERNEL, **SETTINGS)
    still = HMC(num_warmup=0, num_integration_steps=1, jitter=0.0, step_size=1e-4)
    draws = sample(TARGET, still, num_chains=4, num_draws=1, rng_key=KEY, initial=earlier)
    np.testing.assert_allclose(draws.weights["x"][:, 0], earlier.weights["x"][:, -1], atol=0.01)
    np.testing.assert_allclose(draws.weights["scale"][:, 0], earlier.weights["scale"][:, -1], rtol=0.01)
    with pytest.raises(ValueError, match=r"draws of the sites .*'x': \(2,\).* got draws of .*'x': \(3,\)"):
        sample(Gaussian.example(2), still, num_chains=4, num_draws=1, rng_key=KEY, initial=earlier)


def test_start_without_density_is_refused_by_site():
    bad = {"x": np.zeros((2, 3)), "scale": np.array([0.0, np.nan])}
    with pytest.raises(ValueError, match=r"where chains \[1\] start: the value of 'scale' is not"):
        sample(TARGET, KERNEL, num_chains=2, num_draws=1, rng_key=KEY, initial=bad)
    target = Gaussian(TARGET.mean.at[0].set(np.nan), TARGET.precision)
    with pytest.raises(ValueError, match=r"where chains \[0, 1\] start: the log likelihood of 'y' is not"):
        sample(target, KERNEL, num_chains=2, num_draws=1, rng_key=KEY)


def test_weights_that_would_fill_the_memory_are_thinned(monkeypatch, draws):
    total = draws.num_chains * draws.num_draws * 4 * 4
    monkeypatch.setattr(programs, "_ALL_WEIGHTS_BYTES", total - 1)
    monkeypatch.setattr(programs, "_THINNED_BYTES", total // 5)
    with pytest.warns(UserWarning, match="those of one draw in 5 are kept.*Keep.thin="):
        small = sample(TARGET, KERNEL, **SETTINGS)
    assert small.thin == 5
    np.testing.assert_array_equal(small.weights["x"], draws.weights["x"][:, ::5])
    np.testing.assert_array_equal(small.invariants["log_prior"], draws.invariants["log_prior"])
    np.testing.assert_allclose(small.moments["x"]["mean"], draws.weights["x"].mean((0, 1)), rtol=1e-5, atol=1e-6)
    assert sample(TARGET, KERNEL, **SETTINGS, keep=Keep(thin=1)).weights["x"].shape == draws.weights["x"].shape
    with pytest.raises(ValueError, match="thin must be at least 1.*got 0"):
        Keep(thin=0)
