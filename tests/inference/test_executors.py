"""Both ways to run chains give the same draws; kernels across chains run on a mesh, of one device if need be."""

import subprocess
import sys
from pathlib import Path

import pytest

PROCESS = """
import os, sys
os.environ |= {{"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_ENABLE_X64": "1"}}
sys.path.insert(0, {here!r})
import jax, numpy as np
from sharding import Ascent
from targets import Gaussian
from inference import HMC, executors, sample

assert jax.device_count() == 4
assert isinstance(executors.choose_executor(None, 8), executors.Threads)
assert isinstance(executors.choose_executor(1, 8), executors.Devices)
assert isinstance(executors.choose_executor(None, 8, mesh=(4, 1)), executors.Devices)
crossing = executors.choose_executor(None, 6, crosses_chains=True)
assert isinstance(crossing, executors.Devices) and crossing.mesh.size == 3

target = Gaussian.example(4)
settings = dict(num_chains=8, num_draws=2, rng_key=jax.random.key(0))
kernel = HMC(num_warmup=3, num_integration_steps=4)
threads = sample(target, kernel, **settings)
mesh = sample(target, kernel, **settings, devices=jax.devices()[1:3])
for site in threads.weights:
    np.testing.assert_allclose(mesh.weights[site], threads.weights[site], rtol=1e-8)
np.testing.assert_array_equal(mesh.sample_stats["n_steps"], threads.sample_stats["n_steps"])

kernel = Ascent(crosses_chains=True)
wanted = [sample(target, kernel, **settings, devices=devices).weights["x"] for devices in (None, 1, 4)]
np.testing.assert_allclose(wanted[0], wanted[1], rtol=1e-8)
np.testing.assert_allclose(wanted[2], wanted[1], rtol=1e-8)
alone = sample(target, Ascent(), **settings, devices=1).weights["x"]
together = wanted[1][:, 0] - (0.9 * alone[:, 0] + 0.1 * alone[:, 0].mean(axis=0))
assert np.abs(together).max() < 1e-8 and np.abs(alone[:, 0] - wanted[1][:, 0]).max() > 1e-2

run = sys.argv[1]
stored = sample(target, kernel, **settings, devices=4, run=run)
from inference import read_run
draws, manifest = read_run(run)
np.testing.assert_array_equal(draws.weights["x"], stored.weights["x"])
assert manifest["executor"] == "mesh" and manifest["groups"] == [list(range(8))]

try:
    sample(target, kernel, **settings, devices=3)
except ValueError as error:
    assert "3 devices cannot hold 8 chains" in str(error), error
else:
    raise AssertionError
"""


@pytest.mark.slow
def test_mesh_of_virtual_devices_gives_the_threads_draws(tmp_path):
    """In a process of its own: the number of devices is fixed when JAX starts."""
    program = PROCESS.format(here=str(Path(__file__).parent))
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path / "run")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
