"""Both ways to run chains give the same draws, and devices are dealt out by rule or refused in one sentence."""

import subprocess
import sys
from pathlib import Path

PROCESS = """
import os, sys
os.environ |= {{"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_ENABLE_X64": "1"}}
sys.path.insert(0, {here!r})
import jax, numpy as np
from targets import Gaussian
from inference import HMC, NUTS, executors, sample
from inference.mesh import chain_mesh

assert jax.device_count() == 4
assert isinstance(executors.choose_executor(None, 8), executors.Threads)
assert isinstance(executors.choose_executor(1, 8), executors.Devices)
assert [chain_mesh(None, chains).size for chains in (1, 3, 4, 6, 7, 8)] == [1, 3, 4, 3, 1, 4]

target = Gaussian.example(4)
for kernel, devices in (
    (HMC(num_warmup=3, num_integration_steps=4), jax.devices()[1:3]),
    (NUTS(num_warmup=0, max_tree_depth=3, step_size=0.1), 4),
):
    settings = dict(num_chains=8, num_draws=5 - kernel.num_warmup, rng_key=jax.random.key(0))
    threads = sample(target, kernel, **settings)
    mesh = sample(target, kernel, **settings, devices=devices)
    for site in threads.weights:
        np.testing.assert_allclose(mesh.weights[site], threads.weights[site], rtol=1e-8)
    np.testing.assert_array_equal(mesh.sample_stats["n_steps"], threads.sample_stats["n_steps"])

run = sys.argv[1]
stored = sample(target, kernel, **settings, devices=4, run=run)
from inference import read_run
draws, manifest = read_run(run)
np.testing.assert_array_equal(draws.weights["x"], stored.weights["x"])
assert manifest["executor"] == "mesh" and manifest["groups"] == [list(range(8))]

for devices, sentence in ((3, "3 devices cannot hold 8 chains"), (5, "between 1 and the 4 devices"), (0, "between 1")):
    try:
        sample(target, kernel, **settings, devices=devices)
    except ValueError as error:
        assert sentence in str(error), error
    else:
        raise AssertionError(devices)
try:
    sample(target, kernel, num_chains=2, num_draws=1, rng_key=jax.random.key(0), devices=4)
except ValueError as error:
    assert "4 devices were asked for but there are only 2 chains" in str(error), error
else:
    raise AssertionError
"""


def test_mesh_of_virtual_devices_gives_the_threads_draws(tmp_path):
    """In a process of its own: the number of devices is fixed when JAX starts."""
    program = PROCESS.format(here=str(Path(__file__).parent))
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path / "run")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
