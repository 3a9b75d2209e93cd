"""R-hat, ESS and Monte Carlo errors of many parameters: `python -m benchmarks.convergence [--quick]`.

At 4 x 1000 draws, R-hat alone and the whole table beside ArviZ's: `az.rhat`, the five calls that make the same
numbers, and `az.summary`, which adds means and intervals. Ours and theirs alternate in every round; what counts is the
CPU time of all threads a parameter, and that the numbers agree. Then tables of 100,000 and of a million parameters are
made from trees on disk, each in a process of its own, whose largest resident size is reported.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import arviz as az
import h5netcdf
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import environments
from benchmarks.peers.exchange import peak_memory_mib
from diagnostics import convergence, load
from diagnostics.estimates import TAILS, Estimates, estimate, rhat

NUM_CHAINS, NUM_DRAWS = 4, 1000
NUM_OURS, NUM_ARVIZ = 2048, 64
"""Parameters at once; ArviZ, which takes them one by one, has a part of them."""
LEAST, AIM = 5.0, 10.0
LARGEST_ERROR = 1e-10
TREES = ((100_000, 1000, 4.0), (1_000_000, 250, None))
QUICK_TREES = ((2_000, 1000, 4.0), (10_000, 250, None))
"""Parameters, draws a chain, and the most GB that the process may hold."""


def main() -> None:
    """Measures and says which bars hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, and small trees")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the median is reported (default 5)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(stream(arguments.measure)))
        return
    rounds = 1 if arguments.quick else arguments.rounds
    console = Console(width=140)
    console.print(
        f"{len(os.sched_getaffinity(0))} cores of {platform.machine()}, Python {platform.python_version()}, numpy "
        f"{np.__version__}, arviz {az.__version__}; median of {rounds} rounds"
    )
    compare(console, rounds)
    for num_quantities, num_draws, most in QUICK_TREES if arguments.quick else TREES:
        console.print(from_disk(num_quantities, num_draws, most), soft_wrap=True)


def compare(console: Console, rounds: int) -> None:
    """Prints the CPU time a parameter of ours and of ArviZ's, their ratios, and the largest difference."""
    draws = np.random.default_rng(0).normal(size=(NUM_CHAINS, NUM_DRAWS, NUM_OURS))
    few = np.ascontiguousarray(draws[:, :, :NUM_ARVIZ])
    tree = az.from_dict({"posterior": {"weights": few}})
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "rhat": (lambda: rhat(draws), NUM_OURS),
        "az.rhat": (lambda: az.rhat(few), NUM_ARVIZ),
        "estimate": (lambda: estimate(draws), NUM_OURS),
        "az.rhat, ess, mcse": (lambda: arviz_estimates(few), NUM_ARVIZ),
        "az.summary": (lambda: az.summary(tree), NUM_ARVIZ),
    }
    spent = [{name: cpu_ms(call) / number for name, (call, number) in calls.items()} for _ in range(rounds)]
    table = Table("", "CPU ms a parameter")
    for name in calls:
        table.add_row(name, f"{statistics.median(one[name] for one in spent):.3f}")
    console.print(table)
    for ours, theirs in (("rhat", "az.rhat"), ("estimate", "az.rhat, ess, mcse"), ("estimate", "az.summary")):
        ratios = [one[theirs] / one[ours] for one in spent]
        ratio = statistics.median(ratios)
        console.print(
            f"{theirs} / {ours} = {ratio:.1f} ({min(ratios):.1f} to {max(ratios):.1f}), at least {LEAST:g}: "
            f"{_verdict(ratio >= LEAST)}; the aim of {AIM:g}: {_verdict(ratio >= AIM)}"
        )
    error = largest_error(estimate(few), arviz_estimates(few))
    console.print(
        f"largest relative difference {error:.1e}, at most {LARGEST_ERROR:g}: {_verdict(error <= LARGEST_ERROR)}"
    )


def arviz_estimates(values: np.ndarray) -> dict[str, np.ndarray]:
    """What `estimate` gives, but for the autocorrelation time."""
    return {
        "rhat": az.rhat(values),
        "ess_bulk": az.ess(values, method="bulk"),
        "ess_tail": az.ess(values, method="tail", prob=TAILS),
        "mcse_mean": az.mcse(values, method="mean"),
        "mcse_sd": az.mcse(values, method="sd"),
    }


def largest_error(found: Estimates, expected: dict[str, np.ndarray]) -> float:
    """Largest relative difference of any number."""
    return max(float(np.max(np.abs(getattr(found, name) / array - 1))) for name, array in expected.items())


def cpu_ms(call: Callable[[], object]) -> float:
    """Milliseconds of all threads."""
    begun = time.process_time()
    call()
    return 1e3 * (time.process_time() - begun)


def from_disk(num_quantities: int, num_draws: int, most: float | None) -> str:
    """Makes a tree on disk, and its table in a process of its own."""
    environments.FOLDER.mkdir(exist_ok=True)  # on the checkout's disk: that of temporary files may be memory itself
    size = 4 * NUM_CHAINS * num_draws * num_quantities
    what = f"{num_quantities} parameters x {NUM_CHAINS} x {num_draws} draws, {size / 1e9:.2f} GB on disk"
    free = shutil.disk_usage(environments.FOLDER).free
    if free < 1.2 * size:
        return f"{what}: left out, for the disk has only {free / 1e9:.1f} GB of room"
    with tempfile.TemporaryDirectory(dir=environments.FOLDER) as folder:
        write(Path(folder) / "tree.nc", num_quantities, num_draws)
        command = [sys.executable, "-m", "benchmarks.convergence", "--measure", str(Path(folder) / "tree.nc")]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(ended.stdout.splitlines()[-1])
    verdict = "" if most is None else f", at most {most:g}: {_verdict(found['peak_gb'] <= most)}"
    return (
        f"{what}: all {found['num_measured']} measured in {found['seconds']:.0f} s, {found['cpu_ms']:.2f} CPU ms each; "
        f"largest resident size {found['peak_gb']:.2f} GB, {found['before_gb']:.2f} before{verdict}"
    )


def write(path: Path, num_quantities: int, num_draws: int) -> None:
    """A tree of normal draws in single precision, laid out as `save` does, a few draws at a time."""
    rng = np.random.default_rng(0)
    step = max(1, 2**24 // num_quantities)
    with h5netcdf.File(path, "w") as file:
        group = file.create_group("posterior")
        group.dimensions = {"chain": NUM_CHAINS, "draw": num_draws, "weight": num_quantities}
        weights = group.create_variable("weights", ("chain", "draw", "weight"), np.float32)
        for chain in range(NUM_CHAINS):
            for begin in range(0, num_draws, step):
                shape = (min(step, num_draws - begin), num_quantities)
                weights[chain, begin : begin + step] = rng.standard_normal(shape, np.float32)


def stream(path: Path) -> dict[str, float]:
    """The table of a tree on disk, and the largest resident size of this process."""
    before = peak_memory_mib()
    begun, cpu_begun = time.perf_counter(), time.process_time()
    tree = load(path, lazy=True)
    row = convergence(tree, max_quantities=None).rows[0]
    tree.close()
    cpu = time.process_time() - cpu_begun
    return {
        "num_measured": row.num_measured,
        "seconds": time.perf_counter() - begun,
        "cpu_ms": 1e3 * cpu / row.num_measured,
        "before_gb": before * 2**20 / 1e9,
        "peak_gb": peak_memory_mib() * 2**20 / 1e9,
    }


def _verdict(holds: bool) -> str:
    return "holds" if holds else "DOES NOT HOLD"


if __name__ == "__main__":
    main()
