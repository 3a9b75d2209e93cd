"""This library beside its peers: `python -m benchmarks.scoreboard [--quick] [--problems P1 ...] [--systems NAME ...]`.

Every measurement is a process of its own, a peer's in its own virtual environment; a round runs every system once, with
the round's seed, so that a change of the machine's load meets all of them. First the log densities are shown to agree.
With `--record FILE` the measurements are kept, a line each, added to those that are there, and the report is of all of
them: a comparison may be made in pieces. Trust the ratios of one machine, not the absolute figures.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks import environments, report
from benchmarks.comparison import SPEEDS, SYSTEMS, Record, judge
from benchmarks.problems import PROBLEMS, relative_difference

# Differences of formulae, not of rounding: all densities are in float64.
_TOLERANCE = 1e-8
# Gradients a second need no more.
_MOST_DRAWS_FOR_SPEED = 500
# Warm-up and draws of a short run. Our own kernels find the length of their trajectories in warm-up, and a few short
# ones would say what it costs to begin a block.
_QUICK, _OWN_RATES = (30, 30), (500, 100)


class Session:
    """One invocation: where problems lie, and what was measured."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self._folder = folder
        self._arguments = arguments
        self._file: Path | None = arguments.record
        self.records: list[Record] = []
        if self._file and self._file.exists():
            self.records = [json.loads(line) for line in self._file.read_text().splitlines()]
        self._logdensities: dict[str, np.ndarray] = {}

    def problem(self, name: str) -> Path:
        """The problem's file."""
        file = self._folder / f"{name}.npz"
        if not file.exists():
            problem, self._logdensities[name] = PROBLEMS[name].exchanged()
            problem.write(file)
        return file

    def agree(self, name: str, peer: str) -> None:
        """Shows that a peer's log density is this library's; once for a file of records."""
        if any(record.get("agreement") == peer and record["problem"] == name for record in self.records):
            return
        module = [str(environments.python(peer)), "-m", f"benchmarks.peers.{peer}", str(self.problem(name))]
        theirs = np.asarray(environments.run([*module, "--agreement"])["logdensities"])
        difference = relative_difference(self._logdensities[name], theirs)
        if not difference < _TOLERANCE:
            raise SystemExit(f"The log density of {peer} on {name} differs by {difference:.1e}: nothing is comparable.")
        self._keep({"problem": name, "agreement": peer, "difference": difference})

    def measure(self, name: str, system: str, seed: int) -> None:
        """One measurement; one that is recorded already is not repeated."""
        known = SYSTEMS[system]
        about: Record = {"problem": name, "system": system, "seed": seed, "rates": self._arguments.rates}
        if any(about.items() <= record.items() for record in self.records):
            return
        warmup, draws = self._arguments.warmup, self._arguments.draws or PROBLEMS[name].num_draws
        if self._arguments.rates and known.peer is None:
            warmup, draws = _OWN_RATES
        if system in SPEEDS:
            draws = min(draws, _MOST_DRAWS_FOR_SPEED)
        function = self._folder / "function.npy"
        function.unlink(missing_ok=True)
        if known.peer is None:
            command = [sys.executable, "-m", "benchmarks.systems", name]
        else:
            command = [str(environments.python(known.peer)), "-m", f"benchmarks.peers.{known.peer}"]
            command.append(str(self.problem(name)))
        sizes = ["--warmup", str(warmup), "--draws", str(draws), "--seed", str(seed)]
        measured = environments.run([*command, "--variant", known.variant, *sizes, "--function", str(function)])
        judged = judge(np.load(function)) if function.exists() else {}
        self._keep(about | {"warmup": warmup, "draws": draws} | measured | judged)

    def _keep(self, record: Record) -> None:
        self.records.append(record)
        if self._file:
            with self._file.open("a") as file:
                file.write(json.dumps(record) + "\n")


def machine() -> str:
    """The machine and the versions, in a line."""
    names = ("jax", "numpyro", "blackjax", "numpy")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    pins = [environments.pinned(peer).read_text().splitlines()[0] for peer in environments.PEERS]
    model = "processor"
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), model)
    cores = len(os.sched_getaffinity(0))
    about = f"{cores} cores of {model}, {platform.machine()}, Python {platform.python_version()}, {versions}"
    return f"{about}; peers: {', '.join(pin.replace('==', ' ') for pin in pins)}"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round, to see that everything runs")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, a seed each (default 3; limits have 5)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first round's seed (default 0)")
    parser.add_argument("--warmup", type=int, default=500, help="warm-up steps a chain (default 500)")
    parser.add_argument("--draws", type=int, help="kept draws a chain (default 500, on P3 2000)")
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=PROBLEMS)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, help="default: those that a bar needs")
    parser.add_argument("--cores", type=int, default=2, help="use so many cores (default 2)")
    parser.add_argument("--record", type=Path, help="file of measurements, to be gone on with")
    parser.add_argument(
        "--rates", action="store_true", help="short runs for the seconds alone, ESS from the long runs in --record"
    )
    parser.add_argument("--report", action="store_true", help="measure nothing, report what --record holds")
    parser.add_argument("--markdown", action="store_true", help="print tables for benchmarks/README.md")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 1
    if arguments.quick or arguments.rates:
        arguments.warmup, arguments.draws = _QUICK
    return arguments


def main() -> None:
    """Runs the comparison and prints it."""
    arguments = parse()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    with tempfile.TemporaryDirectory() as folder:
        session = Session(Path(folder), arguments)
        chosen = arguments.systems or [name for name, system in SYSTEMS.items() if system.usual]
        for problem in [] if arguments.report else arguments.problems:
            compare(session, problem, [name for name in chosen if problem in SYSTEMS[name].problems], arguments)
        report.show(machine(), session.records, arguments.problems, markdown=arguments.markdown)


def compare(session: Session, problem: str, systems: list[str], arguments: argparse.Namespace) -> None:
    """All systems on one problem, round by round."""
    unable = set()
    session.problem(problem)
    for peer in dict.fromkeys(SYSTEMS[name].peer for name in systems):
        if peer is not None:
            try:
                session.agree(problem, peer)
            except environments.PeerError as error:
                unable.add(peer)
                print(f"{peer} is left out: {error}", file=sys.stderr)
    last = arguments.rounds if arguments.quick or arguments.rates else max(arguments.rounds, 5)
    for number in range(last):
        for name in systems:
            if SYSTEMS[name].peer not in unable and (number < arguments.rounds or name in SPEEDS):
                session.measure(problem, name, arguments.first_seed + number)
                print(f"{problem} round {number + 1}: {name}", file=sys.stderr)


if __name__ == "__main__":
    main()
