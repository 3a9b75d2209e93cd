"""What is wrong with a run, in the manner of CmdStan's ``diagnose``.

`arviz.diagnose` counts divergences, saturated trees and energy failures, and looks for a small effective sample size.
What it misses is added, and what misleads in models with symmetries is left out:

* it is run on function and invariants, never on weights that a symmetry moves: label switching is no error, and
  "regularise your model" is no advice for a permuted unit. The other parameters of a model that is no network are what
  its user asks for, and are checked too;
* its ``R-hat > 1.01`` for any of many quantities is raised by chance alone; here a quantity must exceed 1.01 *and*
  what the largest of them all exceeds by chance in 1 % of runs (`convergence.py`);
* a NaN is never larger than a threshold: draws that are not finite and chains that never moved are looked for by name;
* the verdict counts: FUNCTIONAL DISAGREEMENT, NO VERDICT and CHAINS TOO SHORT are problems, the others are not.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import arviz as az
import numpy as np
import xarray as xr

from .convergence import RHAT_MAX, Convergence, Row, convergence, measure
from .levels import TITLES, count_draws, finite_chains, identified_parameters, restrict_chains
from .record import Record
from .verdict import Verdict, verdict

TEMPERATURE_TOLERANCE = 0.1  # relative; beyond it the widths of what is sampled are off by 5 % and more


@dataclass(frozen=True)
class Check(Record):
    """One check: what was looked at, whether something was found, and a sentence on it."""

    name: str
    problem: bool
    message: str


@dataclass(frozen=True)
class Diagnosis(Record):
    """All checks of a run; ``print`` it."""

    checks: tuple[Check, ...]

    @property
    def found(self) -> bool:
        """Whether any problem was found."""
        return any(check.problem for check in self.checks)

    @property
    def messages(self) -> tuple[str, ...]:
        """The sentences on the problems found."""
        return tuple(check.message for check in self.checks if check.problem)

    def to_dict(self) -> dict[str, Any]:
        """The checks, and whether any found a problem."""
        return {"found": self.found, **super().to_dict()}

    def __str__(self) -> str:
        lines = [f"{'PROBLEM' if check.problem else 'ok':8} {check.name}: {check.message}" for check in self.checks]
        lines.append(
            f"{len(self.messages)} problem{'s' * (len(self.messages) != 1)} found."
            if self.found
            else "Processing complete, no problems detected."
        )
        return "\n".join(lines)


def diagnose(
    tree: xr.DataTree,
    *,
    table: Convergence | None = None,
    judgement: Verdict | None = None,
    ess_min: int = 400,
) -> Diagnosis:
    """Look for everything that makes a run unfit for use.

    Args:
        tree: As `to_datatree` or `canonicalize` returns it.
        table: ``convergence(tree)``, if it is at hand.
        judgement: ``verdict(tree)``, if it is at hand.
        ess_min: Effective draws that every function value, invariant and such parameter must have, bulk and tail. The
            default is the number from which Vehtari et al. (2021) trust R-hat and ESS themselves; it does not grow with
            the chains.

    Returns:
        The checks. ``found`` is the exit status of ``manymodes diagnose``.
    """
    table = convergence(tree) if table is None else table
    judgement = verdict(tree) if judgement is None else judgement
    rows = [row for row in (table.row("function"), table.row("invariants"), _parameters(tree)) if row]
    return Diagnosis(
        (
            *_sampler_checks(tree),
            *_temperature_checks(tree),
            *_chain_checks(tree),
            *(check for row in rows if np.isfinite(row.rhat_max) for check in _row_checks(row, ess_min)),
            Check("verdict", judgement.problem, f"{judgement.label}."),
        )
    )


def _parameters(tree: xr.DataTree) -> Row | None:
    """Convergence of the parameters that a user asks for, where there are some."""
    parameters = identified_parameters(tree)
    return None if parameters is None else measure("parameters", restrict_chains(parameters, finite_chains(tree)))


def _sampler_checks(tree: xr.DataTree) -> Iterator[Check]:
    """Divergences, tree depth and energy, as `arviz.diagnose` counts them."""
    found = _arviz(tree)
    if "divergent" in found:
        count, total = found["divergent"]["n_divergent"], int(found["divergent"]["total_samples"])
        yield Check(
            "divergences",
            count > 0,
            f"{_of(count, total)} transitions ended with a divergence: the sampler could not follow the posterior "
            f"there. {_remedy(tree)}; if divergences stay, reparameterise."
            if count
            else "no divergent transitions.",
        )
    if "treedepth" in found:
        count, total = found["treedepth"]["n_max"], int(found["treedepth"]["total_samples"])
        yield Check(
            "tree depth",
            count > 0,
            f"{_of(count, total)} transitions hit the maximum tree depth: draws are right but slow. Raise the limit."
            if count
            else "no transition hit the limit.",
        )
    if "bfmi" in found:
        values, failed = found["bfmi"]["bfmi_values"], found["bfmi"]["failed_chains"]
        yield Check(
            "energy",
            bool(failed),
            f"E-BFMI {np.nanmin(values):.2f} in {_chains(failed)} is below {found['bfmi']['threshold']:.1f}: energies "
            "are explored slowly, tails may be missed. Reparameterise."
            if failed
            else "E-BFMI satisfactory for all chains.",
        )


def _remedy(tree: xr.DataTree) -> str:
    """What makes steps smaller: the wanted acceptance rate, for kernels that have one."""
    has_rate = "acceptance_rate" in tree["sample_stats"].data_vars
    return "Raise the target acceptance rate" if has_rate else "Lower the step size"


def _temperature_checks(tree: xr.DataTree) -> Iterator[Check]:
    """Kernels without an acceptance rate: whether the momentum is as warm as it should be."""
    stats = tree["sample_stats"].data_vars if "sample_stats" in tree.children else {}
    if "kinetic_temperature" not in stats:
        return
    kernel = json.loads(tree.attrs.get("kernel", "{}"))
    wanted, found = kernel.get("settings", {}).get("temperature", 1.0), float(stats["kinetic_temperature"].mean())
    is_off = not abs(found / wanted - 1) <= TEMPERATURE_TOLERANCE
    said = f"mean {found:.3g} where {wanted:.3g} was asked for"
    yield Check(
        "kinetic temperature",
        is_off,
        f"{said}: the noise of the batches, or a large step, moves the chain as another temperature would. "
        "Lower the step size, or take larger batches."
        if is_off
        else f"{said}.",
    )


def _arviz(tree: xr.DataTree) -> dict[str, Any]:
    """What `arviz.diagnose` counts; silent, and also where NumPyro's name of the tree-depth statistic is used."""
    if not {"sample_stats", "invariants"} <= set(tree.children):
        return {}
    stats = tree["sample_stats"].to_dataset()
    if "reached_max_tree_depth" in stats:
        stats = stats.rename(reached_max_tree_depth="reached_max_treedepth")
    looked_at = xr.DataTree.from_dict({"invariants": tree["invariants"].to_dataset(), "sample_stats": stats})
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # statistics of constants and NaN; both are looked for by name
        _, found = az.diagnose(looked_at, group="invariants", show_diagnostics=False, return_diagnostics=True)
    return found


def _chain_checks(tree: xr.DataTree) -> Iterator[Check]:
    """What ArviZ cannot see: an early end, values that are not finite, and chains that never moved."""
    if json.loads(tree.attrs.get("interrupted", "false")):
        yield Check(
            "end",
            problem=False,
            message=f"the run was cut short; {count_draws(tree)} draws a chain were kept.",
        )
    broken = np.flatnonzero(~finite_chains(tree)).tolist()
    yield Check(
        "finite values",
        bool(broken),
        f"values that are not finite in {_chains(broken)}, left out below." if broken else "all draws are finite.",
    )
    weights = [array.transpose("chain", "draw", ...).values for array in tree["posterior"].data_vars.values()]
    moves = np.logical_or.reduce([(w != w[:, :1]).reshape(len(w), -1).any(1) for w in weights])
    stuck = [c for c in np.flatnonzero(~moves).tolist() if c not in broken and tree["posterior"].sizes["draw"] > 1]
    yield Check(
        "movement",
        bool(stuck),
        f"{_chains(stuck)} never moved: every proposal was rejected. Lower the step size or start elsewhere."
        if stuck
        else "every chain moved.",
    )


def _row_checks(row: Row, ess_min: int) -> Iterator[Check]:
    """R-hat and ESS of one level that has them; too few chains or draws for either is the verdict's to say."""
    title = TITLES.get(row.level, row.level)
    where = "these parameters" if row.level == "parameters" else "what the model says"
    yield Check(
        f"R-hat, {title}",
        row.rhat_beyond > 0,
        f"{_of(row.rhat_beyond, row.num_measured)} quantities exceed {RHAT_MAX} by more than chance; the largest R-hat "
        f"is {row.rhat_max:.3f} at {row.worst}. The chains have not mixed in {where}; run them longer."
        if row.rhat_beyond
        else f"largest {row.rhat_max:.3f}; none exceeds {RHAT_MAX} by more than chance.",
    )
    smallest = min(row.ess_bulk_min, row.ess_tail_min)
    yield Check(
        f"ESS, {title}",
        smallest < ess_min,
        f"the smallest effective sample size is {smallest:.0f}, fewer than {ess_min}. Run the chains longer."
        if smallest < ess_min
        else f"smallest {smallest:.0f}.",
    )


def _of(count: int, total: int) -> str:
    return f"{count} of {total} ({100 * count / total:.2g} %)"


def _chains(chains: list[int]) -> str:
    return ("chain " if len(chains) == 1 else "chains ") + ", ".join(map(str, chains))
