"""Rows dealt out over devices: the same draws as on one, a wrong gradient refused. In processes of eight devices."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jax.sharding import PartitionSpec
from kernels import KERNELS
from sharding import network_posterior
from targets import Gaussian

from inference.shards import shard_rows

SCRIPTS = Path(__file__).parent


def run(*parts, timeout=600):
    """What the parts of `sharded_process.py` print."""
    command = [sys.executable, "-W", "error", str(SCRIPTS / "sharded_process.py"), *parts]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def controls():
    return run("controls")["controls"]


def test_draws_are_those_of_one_device_and_a_plain_psum_gives_others(controls):
    assert controls["right"] < 1e-6
    assert controls["one row"] < 1e-6
    assert controls["wrong"] > 1e-2


def test_a_wrong_gradient_is_refused_when_sampling_starts(controls):
    assert controls["accepted"] is None
    assert controls["whole"] is None
    assert "summed over 4 shards of the data is not that of the whole data" in controls["refused"]


def test_rows_are_dealt_out_evenly_and_filled_up_with_rows_of_their_own():
    posterior = network_posterior(10)
    target = shard_rows(posterior, 4)
    assert target.is_row.tolist() == [True] * 6 + [True, True, False] * 2
    x, y = target.arrays
    rows = [0, 1, 2, 3, 4, 5, 6, 7, 6, 8, 9, 8]
    np.testing.assert_array_equal(x, np.asarray(posterior.args[0])[rows])
    np.testing.assert_array_equal(y, np.asarray(posterior.args[1])[rows])
    assert target.partition().arrays == (PartitionSpec("data"),) * 2


def test_posteriors_whose_rows_cannot_be_dealt_out_are_refused():
    with pytest.raises(ValueError, match=r"3 rows of data cannot be dealt out over a data axis of 4; .* at most 3"):
        shard_rows(network_posterior(3), 4)
    with pytest.raises(ValueError, match=r"needs a posterior with rows.* mesh=\(chains, 1\)"):
        shard_rows(Gaussian.example(3), 2)


@pytest.mark.slow
def test_derivatives_are_those_of_the_whole_posterior():
    """Of all orders that JAX can take here; the one that it cannot take, it refuses."""
    derivatives = run("derivatives")["derivatives"]
    assert "forward-mode" in derivatives.pop("refusal")
    assert set(derivatives) == {"reverse", "forward", "twice"}
    assert max(derivatives.values()) < 1e-12


@pytest.mark.slow
def test_minibatches_are_unbiased_over_shards_of_different_lengths():
    estimates = run("estimates")["estimates"]
    assert "batch_size must be a multiple of the 4 data shards" in estimates.pop("refused")
    everything = estimates.pop("21 of 21")
    assert max(everything["spread"]) == 0
    assert max(map(abs, everything["scores"])) < 1e-6
    for drawn in estimates.values():
        assert min(drawn["spread"]) > 1
        assert max(map(abs, drawn["scores"])) < 4.5


@pytest.mark.slow
def test_rungs_on_many_devices_are_those_on_one():
    """The draws, and everything that is told of the ladder, also of a run that was resumed after its first draw."""
    found = run("rungs")["rungs"]
    assert "A mesh of 2 x 1 x 4 cannot hold 1 rungs" in found.pop("refused")
    assert {"(2, 1, 4)", "(1, 2, 4)", "(1, 1, 2)", "replica", "log_evidence", "rejection_rate"} < set(found)
    assert max(found.values()) < 1e-6


@pytest.mark.slow
def test_sample_observes_on_a_mesh_what_it_observes_on_one_device():
    found = run("whole_runs")["whole_runs"]
    assert "3 rows of data cannot be dealt out" in found.pop("refused")
    assert {"function", "pointwise.y", "invariants.log_likelihood", "stats.lp"} < set(found)
    assert max(found.values()) < 1e-6


@pytest.mark.slow
def test_a_hundred_draws_of_nuts_on_two_by_four_devices_do_not_lock():
    assert run("no_dead_lock")["no_dead_lock"] == {"finite": True, "shape": [8, 100, 21]}


@pytest.mark.slow
def test_nuts_with_the_gradient_of_a_plain_psum_locks_or_draws_something_else():
    """The control of the test before: XLA aborts a process whose devices wait for each other, after a minute."""
    command = [sys.executable, str(SCRIPTS / "sharded_process.py"), "naive_nuts"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return
    if ended.returncode == 0:
        assert json.loads(ended.stdout.splitlines()[-1])["naive_nuts"] > 1e-2
    else:
        assert "rendezvous" in ended.stderr.lower(), ended.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_draws_the_same_on_every_mesh(kernel):
    differences = run(kernel)["differences"]
    assert len(differences) == 5
    assert max(differences.values()) < 1e-6
