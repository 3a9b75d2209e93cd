"""A whole run of bde, as a user calls it: table in, predictive means and scales of every draw out.

Its documentation asks for as many virtual devices as there are cores.
"""

import os

if __name__ == "__main__":  # must precede JAX
    cores = len(os.sched_getaffinity(0))
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={cores}"

import argparse
import json
from pathlib import Path

import numpy as np
from bde import BdeRegressor

from benchmarks.peers.exchange import Clock


def main() -> None:
    """One run, one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="npz of x_train, y_train, x_test, standardised")
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--warmup", type=int, default=50_000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--predictions", type=Path, required=True, help="npy to write: (2, member, draw, test row)")
    arguments = parser.parse_args()
    with np.load(arguments.data) as data:
        x_train, y_train, x_test = data["x_train"], data["y_train"], data["x_test"]
    clock = Clock()
    regressor = BdeRegressor(
        n_members=arguments.members,
        hidden_layers=[16, 16, 16, 16],
        activation="relu",
        seed=arguments.seed,
        epochs=arguments.epochs,
        patience=20,
        warmup_steps=arguments.warmup,
        n_samples=arguments.draws,
        n_thinning=1,
    ).fit(x_train, y_train)
    raw = np.asarray(regressor.predict(x_test, raw=True))
    cpu, wall = clock()
    scale = np.logaddexp(0.0, raw[..., 1]) + 1e-6
    np.save(arguments.predictions, np.stack([raw[..., 0], scale]).astype(np.float32))
    print(json.dumps({"cpu": cpu, "wall": wall}))


if __name__ == "__main__":
    main()
