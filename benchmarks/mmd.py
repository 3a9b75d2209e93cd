"""Distances for the maximum mean discrepancy: `python -m benchmarks.mmd [--quick]`.

All pairs of 2000 + 2000 draws of many weights, in float32, beside the machine's matrix multiplication: NumPy's
`X @ Y.T`, and `X @ X.T`, which computes only a half, of as many rows and one chunk of columns. The three alternate. All
count 2 flop a term of the full product, `2 N^2 d`. The draws of the larger case are memory-mapped.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from diagnostics.mmd import squared_distances

NUM_CHAINS = 8
CASES = ((250, 10_000, False), (250, 100_000, True))
QUICK = ((25, 1_000, False), (25, 10_000, True))
"""Draws a chain, quantities, and whether the draws are read from disk."""
COLUMNS = 4096  # of the plain products
LEAST = 0.5  # of the rate of `X @ Y.T`


def main() -> None:
    """Measures every case and prints the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of small cases")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the median is reported (default 3)")
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else arguments.rounds
    console = Console(width=140)
    console.print(
        f"{len(os.sched_getaffinity(0))} cores of {platform.machine()}, Python {platform.python_version()}, numpy "
        f"{np.__version__}; median of {rounds} rounds"
    )
    table = Table("draws", "quantities", "from", "seconds", "GFLOP/s", "X @ Y.T", "ratio", "X @ X.T", "ratio")
    verdicts = []
    for num_draws, num_quantities, on_disk in QUICK if arguments.quick else CASES:
        with tempfile.TemporaryDirectory() as folder:
            sides = [make(num_draws, num_quantities, Path(folder) / f"{k}.npy" if on_disk else None) for k in range(2)]
            rates = [measure(*sides) for _ in range(rounds)]
        seconds, ours, product, square = (statistics.median(one[k] for one in rates) for k in range(4))
        ratios = [statistics.median(one[1] / one[k] for one in rates) for k in (2, 3)]
        pooled = 2 * NUM_CHAINS * num_draws
        cells = [str(pooled), str(num_quantities), "disk" if on_disk else "memory", f"{seconds:.2f}", f"{ours:.1f}"]
        table.add_row(*cells, f"{product:.1f}", f"{ratios[0]:.2f}", f"{square:.1f}", f"{ratios[1]:.2f}")
        verdict = "holds" if ratios[0] >= LEAST else "DOES NOT HOLD"
        verdicts.append(f"{num_quantities} quantities: {ratios[0]:.2f} of X @ Y.T, at least {LEAST}: {verdict}")
    console.print(table, *verdicts, sep="\n")


def make(num_draws: int, num_quantities: int, file: Path | None) -> np.ndarray:
    """Normal draws of one side, in memory or mapped from a file."""
    rng = np.random.default_rng(0)
    shape = (NUM_CHAINS, num_draws, num_quantities)
    if file is None:
        return rng.standard_normal(shape, np.float32)
    written = np.lib.format.open_memmap(file, "w+", np.float32, shape)
    for chain in written:
        chain[:] = rng.standard_normal(chain.shape, np.float32)
    written.flush()
    return np.load(file, mmap_mode="r")


def measure(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float, float]:
    """Seconds of the distances; GFLOP/s of these and of the two products, which are timed before and after them."""
    pooled = 2 * first.shape[0] * first.shape[1]
    x, y = np.random.default_rng(1).standard_normal((2, pooled, COLUMNS), np.float32)
    steps = np.arange(first.shape[1])
    before = [seconds_of(lambda: x @ y.T), seconds_of(lambda: x @ x.T)]
    ours = seconds_of(lambda: squared_distances(first, second, steps))
    after = [seconds_of(lambda: x @ y.T), seconds_of(lambda: x @ x.T)]
    product, square = (4e-9 * pooled**2 * COLUMNS / (a + b) for a, b in zip(before, after, strict=True))
    return ours, 2e-9 * pooled**2 * first.shape[2] / ours, product, square


def seconds_of(action: Callable[[], object]) -> float:
    """Wall-clock seconds."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
