"""What is compared, what is measured of each system, and what must hold: the scoreboard's data.

A *record* is one measurement as a dictionary; the scoreboard keeps records in a file, a line each, so that a comparison
may be made in several sessions and reported as one.
"""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from arviz_stats.base.array import array_stats

Record = dict[str, Any]


@dataclass(frozen=True)
class System:
    """Something that is measured.

    Attributes:
        peer: whose environment it runs in; None for this library and the machine's limit.
        variant: what its module calls it.
        usual: whether it is measured without being asked for: the bars need it.
        problems: where it is.
    """

    peer: str | None
    variant: str
    usual: bool = True
    problems: tuple[str, ...] = ("P1", "P2", "P3")


ROW, FEATURE, LIBRARY = "limit, row-major", "limit, feature-major", "limit, library's density"
OURS, OUR_NUTS, HMC_32, HMC_64 = "manymodes", "manymodes NUTS", "manymodes HMC 32", "manymodes HMC 64"
NUMPYRO, BLACKJAX, PYMC, NUTPIE, PYSTAN = "NumPyro NUTS", "BlackJAX NUTS, vmap", "PyMC NUTS", "nutpie", "PyStan NUTS"

SYSTEMS = {
    ROW: System(None, "limit-row-major"),
    FEATURE: System(None, "limit-feature-major"),
    LIBRARY: System(None, "limit-library"),
    HMC_32: System(None, "hmc-32"),
    HMC_64: System(None, "hmc-64"),
    OURS: System(None, "recommended"),
    OUR_NUTS: System(None, "nuts", problems=("P1", "P2")),
    NUMPYRO: System("numpyro", "sequential"),
    "NumPyro NUTS, vectorized": System("numpyro", "vectorized", usual=False),
    "NumPyro NUTS, parallel": System("numpyro", "parallel", usual=False),
    BLACKJAX: System("blackjax", "nuts-vmap", problems=("P1", "P2")),
    "BlackJAX NUTS, a device a chain": System("blackjax", "nuts-devices", usual=False),
    "BlackJAX HMC 32, vmap": System("blackjax", "hmc-32", usual=False, problems=("P1", "P2")),
    PYMC: System("pymc", "nuts"),
    NUTPIE: System("nutpie", "nuts"),
    PYSTAN: System("pystan", "nuts", problems=("P1", "P2")),
}
SPEEDS = (ROW, FEATURE, LIBRARY, HMC_32, HMC_64)
"""What the bars of gradients a second need: cheap, so that these have more rounds."""

FBM = "FBM HMC"
FBM_BY_BLACKJAX = 265 / 197
"""FBM's best function ESS a CPU-second on P1 over that of BlackJAX's NUTS under `vmap`, recorded in one earlier run."""


@dataclass(frozen=True)
class Bar:
    """A ratio that must not be lower.

    Attributes:
        problem: on which.
        system: what is compared.
        other: with what; "limit" is the better layout of the two by hand.
        least: the smallest ratio of medians over the rounds.
        key: of what: `ess_cpu`, `ess_cpu_all` or `gradients_wall`.
    """

    problem: str
    system: str
    other: str
    least: float
    key: str = "ess_cpu"


BARS = (
    *(Bar(p, HMC_32, "limit", 0.85, "gradients_wall") for p in ("P1", "P2", "P3")),
    *(Bar(p, HMC_64, "limit", 0.9, "gradients_wall") for p in ("P1", "P2", "P3")),
    *(Bar(p, OUR_NUTS, other, 3.0) for p in ("P1", "P2") for other in (NUMPYRO, PYSTAN)),
    *(Bar(p, OUR_NUTS, other, 1.5) for p in ("P1", "P2") for other in (NUTPIE, PYMC)),
    *(Bar(p, OURS, NUMPYRO, least) for p, least in (("P1", 10.0), ("P2", 10.0), ("P3", 5.0))),
    *(Bar(p, OURS, o, least) for p, least in (("P1", 5.0), ("P2", 3.5), ("P3", 5.0)) for o in (NUTPIE, PYMC)),
    Bar("P1", OURS, FBM, 5.0),
    *(Bar(p, OURS, NUMPYRO, 3.0, "ess_cpu_all") for p in ("P1", "P2", "P3")),
)
LARGEST_RHAT = 1.02
"""Of the recommended kernel's function values."""


def judge(function: np.ndarray) -> dict[str, float]:
    """Smallest rank-normalised bulk ESS and largest rank-normalised R-hat of the function values.

    Args:
        function: draws (chain, draw, ...).

    Returns:
        `ess` and `rhat`.
    """
    values = np.moveaxis(function.reshape(*function.shape[:2], -1).astype(np.float64), -1, 0)
    by: Any = array_stats  # ArviZ's annotations deny that one array gives one number
    ess = min(float(by.ess(one, chain_axis=0, draw_axis=1, method="bulk")) for one in values)
    rhat = max(float(by.rhat(one, chain_axis=0, draw_axis=1, method="rank")) for one in values)
    return {"ess": ess, "rhat": rhat}


def figures(record: Record) -> dict[str, float]:
    """What a record says: gradients and ESS a second, with CPU or wall seconds, of the draws or of everything."""
    found = {f"gradients_{clock}": record["gradients"] / record[f"sampling_{clock}"] for clock in ("cpu", "wall")}
    if "ess" in record:
        found |= {f"ess_{clock}": record["ess"] / record[f"sampling_{clock}"] for clock in ("cpu", "wall")}
        found |= {f"ess_{clock}_all": record["ess"] / record[f"all_{clock}"] for clock in ("cpu", "wall")}
        found["ess_gradients"] = 1000 * record["ess"] / record["gradients"]
        found["leapfrogs"] = record["gradients"] / (4 * record["draws"])
        found["rhat"] = record["rhat"]
    return found | ({"peak": record["peak_memory_mib"]} if "peak_memory_mib" in record else {})


def rounds(records: Iterable[Record], problem: str) -> dict[str, dict[int, dict[str, float]]]:
    """The figures of one problem: system -> seed -> figure -> value, with the quotient for FBM where it can be had.

    A record of a short run for rates alone sets the seconds of the long ones: theirs were measured on a busy machine.
    """
    mine = [record for record in records if record.get("problem") == problem and "agreement" not in record]
    speeds: dict[str, list[Record]] = {}
    for record in mine:
        if record.get("rates"):
            speeds.setdefault(record["system"], []).append(record)
    table: dict[str, dict[int, dict[str, float]]] = {}
    for record in mine:
        if not record.get("rates"):
            full = _at_speed(record, speeds.get(record["system"], []))
            table.setdefault(record["system"], {})[record["seed"]] = figures(full)
    layouts = [table[name] for name in (ROW, FEATURE) if name in table]
    if layouts:
        table["limit"] = max(layouts, key=lambda seeds: median(seeds, "gradients_wall"))
    if problem == "P1" and BLACKJAX in table:
        scaled = {"ess_cpu": FBM_BY_BLACKJAX}
        table[FBM] = {seed: {k: f[k] * c for k, c in scaled.items()} for seed, f in table[BLACKJAX].items()}
    return table


def median(seeds: dict[int, dict[str, float]], key: str) -> float:
    """Over the seeds."""
    return statistics.median(figure[key] for figure in seeds.values())


def ratios(table: dict[str, dict[int, dict[str, float]]], bar: Bar) -> list[float]:
    """Round by round, because what slows the machine down slows both; of medians where no round has both."""
    if bar.system not in table or bar.other not in table:
        return []
    ours, theirs = table[bar.system], table[bar.other]
    shared = sorted(set(ours) & set(theirs))
    if not shared:
        return [median(ours, bar.key) / median(theirs, bar.key)]
    return [ours[seed][bar.key] / theirs[seed][bar.key] for seed in shared]


def _at_speed(record: Record, speeds: list[Record]) -> Record:
    """The record with the seconds that its gradients take at the median rate of the short runs."""
    if not speeds:
        return record
    changed = dict(record)
    for clock in ("cpu", "wall"):
        rate = statistics.median(speed["gradients"] / speed[f"sampling_{clock}"] for speed in speeds)
        factor = record["gradients"] / rate / record[f"sampling_{clock}"]
        changed |= {f"{phase}_{clock}": record[f"{phase}_{clock}"] * factor for phase in ("sampling", "all")}
    return changed
