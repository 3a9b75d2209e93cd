"""One of two processes with two virtual CPU devices each, in double precision.

Arguments: its number, the port of process 0, a folder for the runs, and what to do: a function of this file.
"""

# ruff: noqa: E402 - JAX must be told of the processes before anything asks it for devices.

import os
import sys
import threading
import time
from pathlib import Path

# Programs run for milliseconds: most of the time would go into making them fast.
os.environ |= {
    "XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true",
    "JAX_ENABLE_X64": "1",
}
NUMBER, PORT, FOLDER = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])

from manymodes import distributed

distributed.start(f"127.0.0.1:{PORT}", 2, NUMBER)

import jax
import numpy as np
from sharding import Ascent, network_posterior, reference, starts

from inference import HMC, programs, resume, sample

POSTERIOR = network_posterior()
SETTINGS = {"num_chains": 8, "rng_key": jax.random.key(0), "progress": False, "initial": starts(POSTERIOR)[1]}
RESUMED = {"kernel": HMC(num_warmup=20, num_integration_steps=2), "num_draws": 300, "mesh": (2, 2)}
programs._LONGEST_BLOCK = 5  # so that a job has many blocks to die between


def kill_after_three_blocks(run):
    """Process 1 kills itself, at no point in particular."""

    def wait():
        while not (run / "group-0001" / "block-000003.npz").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), 9)

    if NUMBER == 1:
        threading.Thread(target=wait, daemon=True).start()


def short_and_killed():
    """Two short runs to their end, and a long one in which process 1 dies."""
    for name, mesh in (("shards", (2, 2)), ("threads", None)):
        draws = sample(POSTERIOR, Ascent(), **SETTINGS, num_draws=5, mesh=mesh, run=FOLDER / name)
        assert draws.num_chains == 4
    if NUMBER == 0:
        np.save(FOLDER / "reference.npy", reference(Ascent(), POSTERIOR))
    print("finished", flush=True)
    killed(Ascent(), num_draws=10**6, mesh=(2, 2))


def killed(kernel=RESUMED["kernel"], num_draws=RESUMED["num_draws"], mesh=RESUMED["mesh"]):
    """A run in which process 1 dies."""
    with distributed.ends_together("test"):
        kill_after_three_blocks(FOLDER / "killed")
        sample(POSTERIOR, kernel, **SETTINGS, num_draws=num_draws, mesh=mesh, run=FOLDER / "killed")


def resumed():
    """The run that was killed, to its end; and one that nobody disturbs."""
    resume(FOLDER / "killed", POSTERIOR, progress=False)
    sample(POSTERIOR, **SETTINGS, **RESUMED, run=FOLDER / "whole")


if __name__ == "__main__":
    {"short_and_killed": short_and_killed, "killed": killed, "resumed": resumed}[sys.argv[4]]()
