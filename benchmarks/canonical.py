"""What canonical weights cost and whether they are right: `python -m benchmarks.canonical [--quick]`.

Each measurement is a process of its own, in float64. Seconds are those of all cores unless a line says otherwise; the
two sides of a ratio take turns in one process, after compilation. Draws are noisy copies of one network under random
elements of its group, so that there is something to balance and to align.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.peers.exchange import Clock, peak_memory_mib
from bnn_models import networks
from symmetry import Factor, Slot, SymmetryGroup, align_to, balance, barycentre, find_symmetries, min_mass

Figures = dict[str, float]
Draws = dict[str, np.ndarray]

NOISE = 0.2
RELU, DEEPER = "balance and align 16-16-16-16", "balance and align 16-16-16-16-1"
AGAINST, RESNET = "balance 16-64-64-1", "balance ResNet-18"
TWO, THREE = "recover 4-32-32-1", "recover 4-32-32-32-1"
BARS = (
    (AGAINST, "of CVXPY's seconds", "at most", 1e-3),
    (AGAINST, "relative difference of the objectives", "at most", 1e-6),
    (AGAINST, "sweeps", "at most", 25),
    (RESNET, "seconds a draw", "at most", 0.1),
    (RESNET, "sweeps", "at most", 25),
    (RELU, "seconds by the clock", "at most", 60),
    *((name, "peak GiB", "at most", 4) for name in (RELU, DEEPER)),
    *((name, "relative change of the function", "at most", 1e-10) for name in (RELU, DEEPER)),
    *((name, "largest rise of the objective", "at most", 0) for name in (RELU, DEEPER)),
    *((name, "share recovered", "at least", 0.9) for name in (TWO, THREE)),
)
"""What must hold: a measurement, its figure, and the bound."""


def network(widths: tuple[int, ...], activation: str) -> tuple[networks.Network, SymmetryGroup]:
    """A dense network and the group that is found for it."""
    made, x = networks.mlp(widths, activation), np.ones((1, widths[0]))
    params = {name: jax.ShapeDtypeStruct(shape, float) for name, shape in made.shapes(x).items()}
    return made, find_symmetries(made.apply, params, x).likelihood


def copies(group: SymmetryGroup, num_draws: int, seed: int) -> Draws:
    """Noisy copies of one network under random elements."""
    rng = np.random.default_rng(seed)
    centre = {site: rng.normal(size=shape) for site, shape in group.sites.items()}
    noisy = {site: array + NOISE * rng.normal(size=(num_draws, *array.shape)) for site, array in centre.items()}
    return on_host(group.act(group.random(jax.random.key(seed), (num_draws,)), noisy))


def on_host(arrays: dict) -> Draws:
    """NumPy arrays, which are there when this returns."""
    return {name: np.asarray(array) for name, array in arrays.items()}


def against_cvxpy(quick: bool) -> Figures:
    """Seconds a draw of both backends in turns, and the objectives that they reach."""
    _, group = network((16, 64, 64, 1), "relu")
    num_draws = 64
    sweeps, cvxpy, differences, counts = [], [], [], []
    for number in range(2 if quick else 6):
        draws = copies(group, num_draws, number)
        one = {site: array[:1] for site, array in draws.items()}
        counts.append(int(min_mass(draws, group).num_sweeps.max()))
        clock = Clock()
        element = on_host(balance(draws, group))
        sweeps.append(clock()[0] / num_draws)
        clock = Clock()
        oracle = on_host(balance(one, group, backend="cvxpy"))
        cvxpy.append(clock()[0])
        first = {name: values[:1] for name, values in element.items()}
        ours, theirs = (mass(group, each, one) for each in (first, oracle))
        differences.append(abs(ours - theirs) / theirs)
    sweeps, cvxpy = sweeps[1:], cvxpy[1:]  # the first round compiles and imports
    return {
        "seconds a draw": statistics.median(sweeps),
        "seconds a draw of CVXPY": statistics.median(cvxpy),
        "of CVXPY's seconds": statistics.median(ours / theirs for ours, theirs in zip(sweeps, cvxpy, strict=True)),
        "relative difference of the objectives": max(differences),
        "sweeps": max(counts),
    }


def mass(group: SymmetryGroup, element: Draws, weights: Draws) -> float:
    """Prior mass of weights after the action, over the sites that scales move."""
    moved = group.act(element, weights)
    sites = {slot.site for factor in group.factors if factor.kind == "scale" for slot in factor.slots}
    return float(sum(np.square(moved[site]).sum() for site in sites))


def resnet18() -> SymmetryGroup:
    """The scales of a ResNet-18 without normalisation: four streams of channels that blocks share, eight inner axes."""
    sites: dict[str, tuple[int, ...]] = {}
    slots: dict[tuple[str, int], list[Slot]] = defaultdict(list)

    def conv(name: str, window: int, before: tuple[str, int] | None, after: tuple[str, int]) -> None:
        sites[name], sites[f"{name}.bias"] = (window, window, before[1] if before else 3, after[1]), (after[1],)
        slots[after].extend((Slot(name, 3, after[1]), Slot(f"{name}.bias", 0, after[1])))
        if before:
            slots[before].append(Slot(name, 2, before[1], exponent=-1))

    stream = ("stream 0", 64)
    conv("stem", 7, None, stream)
    for stage in range(4):
        for block in range(2):
            before, stream = stream, (f"stream {stage}", 64 * 2**stage)
            inner = f"inner {stage}.{block}", stream[1]
            conv(f"{stage}.{block}.first", 3, before, inner)
            conv(f"{stage}.{block}.second", 3, inner, stream)
            if before != stream:
                conv(f"{stage}.shortcut", 1, before, stream)
    sites["head"] = (stream[1], 1000)
    slots[stream].append(Slot("head", 0, stream[1], exponent=-1))
    factors = (Factor(f"{name}.scale", "scale", name, size, tuple(slots[name, size])) for name, size in slots)
    return SymmetryGroup(sites, tuple(factors))


def balance_resnet(quick: bool) -> Figures:
    """One draw of 11.7 million weights after the other."""
    group, seconds, counts = resnet18(), [], []
    for number in range(2 if quick else 6):
        draw = jax.block_until_ready({site: jax.numpy.asarray(x[0]) for site, x in copies(group, 1, number).items()})
        clock = Clock()
        solution = jax.block_until_ready(min_mass(draw, group))
        seconds.append(clock())
        counts.append(int(solution.num_sweeps))
    cpu, wall = zip(*seconds[1:], strict=True)  # the first call compiles
    return {
        "scales": sum(factor.size for factor in group.factors),
        "seconds a draw": statistics.median(cpu),
        "seconds a draw by the clock": statistics.median(wall),
        "sweeps": max(counts),
    }


def balance_and_align(widths: tuple[int, ...], quick: bool) -> Figures:
    """Canonical weights of many draws, compilation included, and the function at 20 probes before and after."""
    made, group = network(widths, "relu")
    draws = copies(group, 500 if quick else 10_000, 0)
    memory = peak_memory_mib() / 1024
    clock = Clock()
    balanced = on_host(group.act(on_host(balance(draws, group)), draws))
    balancing, begin = clock()[1], time.perf_counter()
    found = barycentre(balanced, group)
    canonical = on_host(group.act(found.element, balanced))
    aligning, (cpu, wall) = time.perf_counter() - begin, clock()
    peak = peak_memory_mib() / 1024
    probes = np.random.default_rng(1).normal(size=(20, widths[0]))
    function = jax.jit(jax.vmap(lambda weights: made.apply(weights, probes)))
    before, after = (
        np.asarray(function(weights)).reshape(len(balanced["head.bias"]), -1) for weights in (draws, canonical)
    )
    return {
        "seconds by the clock": wall,
        "seconds": cpu,
        "balancing, by the clock": balancing,
        "aligning, by the clock": aligning,
        "peak GiB": peak,
        "GiB before": memory,
        "relative change of the function": float((abs(after - before).max(axis=1) / abs(before).max(axis=1)).max()),
        "rounds": len(found.objective),
        "largest rise of the objective": float(np.diff(found.objective).max()),
    }


def recover(widths: tuple[int, ...], quick: bool) -> Figures:
    """Share of 15 pairs of networks in which the planted permutations and signs are undone exactly."""
    _, group = network(widths, "tanh")
    rng, num_runs = np.random.default_rng(0), 5 if quick else 15
    references = {site: rng.normal(size=(num_runs, *shape)) for site, shape in group.sites.items()}
    noisy = {site: array + NOISE * rng.normal(size=array.shape) for site, array in references.items()}
    planted = on_host(group.random(jax.random.key(0), (num_runs,)))
    found = align_to(group.act(planted, noisy), group, references)
    left, neutral = group.compose(found, planted), group.identity()
    undone = [(np.asarray(left[name]) == np.asarray(neutral[name])).reshape(num_runs, -1).all(1) for name in left]
    return {"runs": num_runs, "share recovered": float(np.logical_and.reduce(undone).mean())}


MEASUREMENTS: dict[str, Callable[[bool], Figures]] = {
    AGAINST: against_cvxpy,
    RESNET: balance_resnet,
    RELU: partial(balance_and_align, (16, 16, 16, 16)),
    DEEPER: partial(balance_and_align, (16, 16, 16, 16, 1)),
    TWO: partial(recover, (4, 32, 32, 1)),
    THREE: partial(recover, (4, 32, 32, 32, 1)),
}


def measure(name: str, quick: bool) -> Figures:
    """One measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.canonical", "--measure", name, *(["--quick"] if quick else [])]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"the measurement {name!r} failed:\n{ended.stderr}")
    return json.loads(ended.stdout.splitlines()[-1])


def report(console: Console, results: dict[str, Figures]) -> None:
    """Prints all figures, and whether the bars hold."""
    table = Table("measurement", "figure", "value")
    for name, figures in results.items():
        for number, (figure, value) in enumerate(figures.items()):
            table.add_row("" if number else name, figure, f"{value:.3g}", end_section=number == len(figures) - 1)
    console.print(table)
    for name, figure, side, bound in BARS:
        if name in results:
            value = results[name][figure]
            holds = value <= bound if side == "at most" else value >= bound
            verdict = "holds" if holds else "DOES NOT HOLD"
            console.print(f"{name}: {figure} = {value:.3g}, {side} {bound:g}: {verdict}")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few draws, to see that everything runs")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=list(MEASUREMENTS))
    parser.add_argument("--measure", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        with jax.enable_x64(True):
            print(json.dumps(MEASUREMENTS[arguments.measure](arguments.quick)))
        return
    console = Console(width=140)
    cores, versions = len(os.sched_getaffinity(0)), f"Python {platform.python_version()}, jax {jax.__version__}"
    console.print(f"{cores} cores of {platform.machine()}, {versions}; load {os.getloadavg()[0]:.1f}")
    results = {}
    for name in arguments.only:
        results[name] = measure(name, arguments.quick)
        console.print(f"{name} done")
    report(console, results)


if __name__ == "__main__":
    main()
