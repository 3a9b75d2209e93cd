"""All systems on P1 and P2, interleaved: `python -m benchmarks.throughput [--quick]`.

Each measurement is a process of its own; a round runs every system once, so that a change of the machine's load meets
all of them; the median of the rounds is reported. On a shared machine trust the ratios, not the absolute figures.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys

from rich.console import Console
from rich.table import Table

# The names of benchmarks.systems, which this process does not import: it would hold memory and threads of its own.
LIMITS = ("limit, row-major", "limit, feature-major", "limit, library's density")
SAMPLERS = (
    "manymodes HMC 32",
    "BlackJAX HMC 32, vmap",
    "manymodes HMC 64",
    "BlackJAX HMC 64, vmap",
    "manymodes NUTS",
    "NumPyro NUTS",
)
BARS = (
    ("manymodes HMC 32", "limit", 0.75),
    ("manymodes HMC 64", "limit", 0.85),
    ("manymodes HMC 32", "BlackJAX HMC 32, vmap", 1.8),
    ("manymodes HMC 64", "BlackJAX HMC 64, vmap", 1.8),
    ("manymodes NUTS", "NumPyro NUTS", 2.0),
)
"""What must hold of gradients a second: a system, what it is compared with, and the least ratio."""

Results = dict[str, list[dict[str, float]]]
"""System -> one measurement a round."""


def main() -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round, to see that everything runs")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the median is reported (default 5)")
    parser.add_argument("--warmup", type=int, default=300, help="warm-up steps a chain (default 300)")
    parser.add_argument("--draws", type=int, default=500, help="kept draws a chain (default 500)")
    parser.add_argument("--problems", nargs="+", default=["P1", "P2"], choices=["P1", "P2"])
    parser.add_argument("--systems", nargs="+", default=[*LIMITS, *SAMPLERS], choices=[*LIMITS, *SAMPLERS])
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.warmup, arguments.draws = 1, 60, 60
    console = Console(width=140)
    cores = len(os.sched_getaffinity(0))
    console.print(
        f"{cores} cores of {platform.machine()}, Python {platform.python_version()}; 4 chains, {arguments.warmup} + "
        f"{arguments.draws} steps, median of {arguments.rounds} interleaved rounds"
    )
    for problem in arguments.problems:
        report(console, problem, measure(console, problem, arguments))


def measure(console: Console, problem: str, arguments: argparse.Namespace) -> Results:
    """All systems, round by round, after the log densities have been shown to agree."""
    sizes = ["--warmup", str(arguments.warmup), "--draws", str(arguments.draws)]
    agreement = run(["agreement", problem])
    console.print(f"\n[bold]{problem}[/bold]: relative difference of the log densities, float64, from this library's")
    console.print(", ".join(f"{name} {value:.1e}" for name, value in agreement.items()))
    if max(agreement.values()) > 1e-10:
        raise SystemExit(f"The log densities of {problem} differ: nothing below would be comparable.")
    results: Results = {name: [] for name in arguments.systems}
    for number in range(arguments.rounds):
        for name, rounds in results.items():
            rounds.append(run([name, problem, *sizes]))
        console.print(f"round {number + 1} of {arguments.rounds} done")
    return results


def run(command: list[str]) -> dict[str, float]:
    """One measurement in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.systems", *command], capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise SystemExit(f"benchmarks.systems {command} failed:\n{ended.stderr}")
    return json.loads(ended.stdout.splitlines()[-1])


def report(console: Console, problem: str, results: Results) -> None:
    """Prints the medians, and the ratios that must hold: medians of the ratios within a round, with their range."""
    rates = {name: [one["gradients_per_second"] for one in rounds] for name, rounds in results.items()}
    # The limit is that of the best layout a user could have written.
    layouts = [rates[name] for name in LIMITS[:2] if name in rates]
    if layouts:
        rates["limit"] = max(layouts, key=statistics.median)
    table = Table("system", "1000 gradients/s", "of the limit", "min fESS/s", "(all)", "per 1000 gradients")
    table.add_column("first draw, s")
    table.add_column("peak, MiB")
    for name, rounds in results.items():
        median = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        cells = [name, f"{median['gradients_per_second'] / 1000:.1f}"]
        cells.append(f"{statistics.median(_ratios(rates[name], rates['limit'])):.2f}" if "limit" in rates else "")
        cells += [_cell(median, "ess_per_second", "{:.0f}"), _cell(median, "ess_per_second_of_all", "{:.0f}")]
        cells += [_cell(median, "ess_per_1000_gradients", "{:.1f}"), _cell(median, "seconds_to_first_draw", "{:.1f}")]
        table.add_row(*cells, _cell(median, "peak_memory_mib", "{:.0f}"))
    console.print(table)
    for name, other, least in BARS:
        if name in rates and other in rates:
            ratios = _ratios(rates[name], rates[other])
            middle = statistics.median(ratios)
            verdict = "holds" if middle >= least else "DOES NOT HOLD"
            console.print(
                f"{problem}: {name} / {other} = {middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
                f"at least {least}: {verdict}"
            )


def _ratios(rates: list[float], others: list[float]) -> list[float]:
    """Round by round: what slows the machine down slows both."""
    return [rate / other for rate, other in zip(rates, others, strict=True)]


def _cell(result: dict[str, float], key: str, form: str) -> str:
    return form.format(result[key]) if key in result else ""


if __name__ == "__main__":
    main()
