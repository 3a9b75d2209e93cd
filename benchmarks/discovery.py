"""Symmetries of large models: `python -m benchmarks.discovery [--quick]`.

Each search is a process of its own; the median of the rounds is reported. ResNet-50 and GPT-2 are looked at as shapes
alone, the others are run in float64 for their certificates. On a shared machine trust the seconds of all cores.
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

# The names of benchmarks.subjects, which this process does not import: it would hold memory and threads of its own.
SHAPES = ("ResNet-50, shapes", "GPT-2 small, shapes")
ROWS = ("BNN 10-16-1", "BNN 10-50-50-1")
SUBJECTS = (*SHAPES, "GPT, 2 layers of 64", "ResNet-18", *ROWS)
QUICK = (*SHAPES, "GPT, 2 layers of 64", "ResNet-18, width / 8", *ROWS)
BARS = (
    *((name, "seconds", 10.0) for name in SHAPES),
    *((name, "peak_memory_mib", 1024.0) for name in SHAPES),
    *((name, "seconds", 3.0) for name in ROWS),
)
"""What must hold: a subject, what is measured, and the most that it may be."""


def main() -> None:
    """Runs the searches and prints what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, with a narrow ResNet-18")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the median is reported (default 3)")
    parser.add_argument("--subjects", nargs="+", choices=dict.fromkeys((*SUBJECTS, *QUICK)))
    arguments = parser.parse_args()
    names = arguments.subjects or (QUICK if arguments.quick else SUBJECTS)
    rounds = 1 if arguments.quick else arguments.rounds
    console = Console(width=140)
    console.print(
        f"{len(os.sched_getaffinity(0))} cores of {platform.machine()}, Python {platform.python_version()}; median of "
        f"{rounds} rounds"
    )
    results = {}
    for name in names:
        results[name] = median([measure(name) for _ in range(rounds)])
        console.print(f"{name} done")
    report(console, results)


def measure(name: str) -> dict[str, float]:
    """One search in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.subjects", name]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"benchmarks.subjects {name!r} failed:\n{ended.stderr}")
    return json.loads(ended.stdout.splitlines()[-1])


def median(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The medians over the rounds, figure by figure."""
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


def report(console: Console, results: dict[str, dict[str, float]]) -> None:
    """Prints the medians, and whether the bars hold."""
    table = Table("model", "equations", "factors", "seconds", "of all cores", "second call", "largest error")
    table.add_column("least control")
    table.add_column("peak, MiB")
    for name, result in results.items():
        cells = [f"{result[key]:.0f}" for key in ("equations", "factors")]
        cells += [f"{result[key]:.2f}" for key in ("seconds", "cpu_seconds", "seconds_again")]
        cells += [f"{result[key]:.1e}" if key in result else "" for key in ("error", "control")]
        table.add_row(name, *cells, f"{result['peak_memory_mib']:.0f}")
    console.print(table)
    for name, key, most in BARS:
        if name in results:
            verdict = "holds" if results[name][key] <= most else "DOES NOT HOLD"
            console.print(f"{name}: {key} = {results[name][key]:.2f}, at most {most:.0f}: {verdict}")


if __name__ == "__main__":
    main()
