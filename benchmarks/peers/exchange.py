r"""What the scoreboard and its peers agree on: a problem in a file, one line of JSON, function draws in another file.

Every posterior is given in the same coordinates: weights $z \sim N(0, 1)$, a layer computes
$\phi(h z / \sqrt{n_{in}} + b)$ where the problem is scaled and $\phi(h z + b)$ where it is not, and the scale of a
normal likelihood is half-normal(1), sampled as its logarithm. Only NumPy is needed here.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

NUM_CHAINS = 4

Weights = dict[str, np.ndarray]
"""Arrays by name, `w0`, `b0`, `w1`, ..., and `scale` or its logarithm `log_scale`; any leading axes."""


@dataclass(frozen=True)
class Problem:
    """A posterior as a peer sees it.

    Attributes:
        widths: numbers of units, from input to output.
        activation: `tanh` or `relu`.
        likelihood: `normal` or `categorical`.
        scaled: whether a layer divides by the square root of its number of inputs.
        x: training inputs.
        y: training targets, or classes.
        probes: held-out inputs.
        positions: twenty points (20, ...) at which log densities are compared; `log_scale` instead of `scale`.
    """

    widths: tuple[int, ...]
    activation: str
    likelihood: str
    scaled: bool
    x: np.ndarray
    y: np.ndarray
    probes: np.ndarray
    positions: Weights

    @property
    def layers(self) -> list[tuple[int, int, int, float]]:
        """Each layer's number, inputs, outputs, and the factor of its weights."""
        pairs = zip(self.widths, self.widths[1:], strict=False)
        return [(i, n, m, n**-0.5 if self.scaled else 1.0) for i, (n, m) in enumerate(pairs)]

    def function(self, weights: Weights) -> np.ndarray:
        """What the draws say at the probes: means (chain, draw, probe), or centred logits (chain, draw, probe, class).

        Args:
            weights: draws (chain, draw, ...).

        Returns:
            The values in float32.
        """
        h = np.broadcast_to(self.probes, (*weights["w0"].shape[:2], *self.probes.shape))
        for i, _, _, factor in self.layers:
            h = h @ (factor * weights[f"w{i}"]) + weights[f"b{i}"][..., None, :]
            if i < len(self.layers) - 1:
                h = np.tanh(h) if self.activation == "tanh" else np.maximum(h, 0)
        values = h[..., 0] if self.likelihood == "normal" else h - h.mean(axis=-1, keepdims=True)
        return values.astype(np.float32)

    def write(self, file: Path) -> None:
        """Writes the problem, to be read by `read`."""
        settings = {"widths": list(self.widths), "activation": self.activation}
        settings |= {"likelihood": self.likelihood, "scaled": self.scaled}
        positions = {f"position/{name}": array for name, array in self.positions.items()}
        arrays = {"x": self.x, "y": self.y, "probes": self.probes}
        np.savez(file, allow_pickle=False, settings=json.dumps(settings), **arrays, **positions)


def read(file: Path) -> Problem:
    """The problem in a file."""
    with np.load(file) as arrays:
        settings = json.loads(str(arrays["settings"]))
        positions = {key.removeprefix("position/"): arrays[key] for key in arrays.files if key.startswith("position/")}
        settings["widths"] = tuple(settings["widths"])
        return Problem(**settings, x=arrays["x"], y=arrays["y"], probes=arrays["probes"], positions=positions)


class Clock:
    """CPU and wall seconds since it was made; processes that were waited for count."""

    def __init__(self) -> None:
        self._begin = self._now()

    def __call__(self) -> tuple[float, float]:
        """CPU seconds, wall seconds."""
        now = self._now()
        return now[0] - self._begin[0], now[1] - self._begin[1]

    @staticmethod
    def _now() -> tuple[float, float]:
        usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in usages), time.perf_counter()


@dataclass(frozen=True)
class Run:
    """One measured run of a sampler.

    Attributes:
        gradients: evaluations of the gradient in the kept draws.
        sampling: CPU and wall seconds of the kept draws alone.
        everything: CPU and wall seconds with compilation and warm-up.
        function: what the draws say at the probes, as `Problem.function` gives it.
    """

    gradients: float
    sampling: tuple[float, float]
    everything: tuple[float, float]
    function: np.ndarray


@dataclass(frozen=True)
class Settings:
    """How long to run.

    Attributes:
        variant: which of the peer's samplers.
        num_warmup: warm-up steps a chain.
        num_draws: kept draws a chain.
        seed: of all random numbers.
    """

    variant: str
    num_warmup: int
    num_draws: int
    seed: int


def main(
    description: str | None,
    variants: tuple[str, ...],
    run: Callable[[Problem, Settings], Run],
    logdensities: Callable[[Problem], Any],
) -> None:
    """The command line of a peer: one line of JSON on standard output.

    Args:
        description: what `--help` says first.
        variants: what `--variant` may name, the default first.
        run: one measured run.
        logdensities: the log densities that the sampler follows, at the problem's positions.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("problem", type=Path, help="file written by `Problem.write`")
    parser.add_argument("--variant", default=variants[0], choices=variants)
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--function", type=Path, help="file to write the function draws to")
    parser.add_argument("--agreement", action="store_true", help="print the log densities, and do nothing else")
    arguments = parser.parse_args()
    problem = read(arguments.problem)
    if arguments.agreement:
        print(json.dumps({"logdensities": np.asarray(logdensities(problem), float).tolist()}))
        return
    result = run(problem, Settings(arguments.variant, arguments.warmup, arguments.draws, arguments.seed))
    if arguments.function:
        np.save(arguments.function, result.function)
    print(json.dumps(record(result)))


def record(result: Run) -> dict[str, float]:
    """A run as one line of JSON has it."""
    seconds = {"sampling_cpu": result.sampling[0], "sampling_wall": result.sampling[1]}
    seconds |= {"all_cpu": result.everything[0], "all_wall": result.everything[1]}
    return {"gradients": float(result.gradients), "peak_memory_mib": peak_memory_mib()} | seconds


def peak_memory_mib() -> float:
    """Largest resident size of this process; the operating system's other figure begins with that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
