r"""Do the chains disagree, and if so, only in labels?

At each level (raw weights, canonical weights, function, invariants) the share ``beta`` of the variance that lies
between chains and its permutation p-value (`between.py`) give one of four states,

    agree       p >= .01  and  beta <  .093          weak    p < .01  and  beta <  .093   (real but small)
    undecided   p >= .01  and  beta >= .093          differ  p < .01  and  beta >= .093

where .093 corresponds to R-hat 1.05. At function level the largest single quantity counts as well (``beta >= .25``,
with the p-value of the maximum), since a sum over all probes dilutes a disagreement at a few. The worse of function
and invariants decides first:

    differ                              FUNCTIONAL DISAGREEMENT
    undecided                           NO VERDICT
    else, raw weights agree or weak     MIXED
    else, canonical agree or weak       SYMMETRY ONLY
    else                                FUNCTION AGREES, CANONICAL WEIGHTS DO NOT

Batch means must each be six autocorrelation times long for the p-value to hold its size; chains of fewer than twelve
give no verdict. Every quantity is divided by its pooled standard deviation first, for a model's sites need not share a
unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import xarray as xr
from jaxtyping import Float

from . import sentences
from .between import (
    P_MAX,
    autocorrelation_time,
    decompose,
    num_batches,
    permutation_test,
    smallest_p,
    standardise,
    varying,
)
from .estimates import MIN_DRAWS
from .levels import (
    FunctionKind,
    Quantities,
    check_tree,
    count_draws,
    finite_chains,
    function_kind,
    levels,
    restrict_chains,
    scale_factors,
)
from .quotient import canonicalize
from .record import Record

BETA_MIN = 0.093  # R-hat 1.05
LOCAL_BETA_MIN = 0.25
_NUM_PROBES = 5  # function values whose autocorrelation time is looked at
_NAN = float("nan")


class State(StrEnum):
    """What one level says about the chains, from good to bad."""

    AGREE = "agree"
    WEAK = "weak"
    UNDECIDED = "undecided"
    DIFFER = "differ"


class Label(StrEnum):
    """The verdicts."""

    FUNCTIONAL_DISAGREEMENT = "FUNCTIONAL DISAGREEMENT"
    NO_VERDICT = "NO VERDICT"
    TOO_SHORT = "CHAINS TOO SHORT"
    MIXED = "MIXED"
    SYMMETRY_ONLY = "SYMMETRY ONLY"
    WEIGHTS_DIFFER = "FUNCTION AGREES, CANONICAL WEIGHTS DO NOT"


@dataclass(frozen=True)
class LevelVerdict(Record):
    """One level: share of variance between chains, its R-hat equivalent, p-value, state and groups of chains.

    ``local_beta``, ``local_p`` and ``local_where`` are the largest share of a single quantity, the p-value of that
    maximum, and the quantities with a share of .25 or more; they count at function level only.
    """

    level: str
    num_quantities: int
    beta: float
    rhat: float
    p: float
    state: State
    groups: tuple[tuple[int, ...], ...]
    local_beta: float
    local_p: float
    local_where: tuple[str, ...]


@dataclass(frozen=True)
class Verdict(Record):
    """The verdict and every number it rests on; ``print`` it."""

    label: Label
    levels: tuple[LevelVerdict, ...]
    symmetry_share: float
    num_chains: int
    num_draws: int
    tau: float
    num_batches: int
    left_out: tuple[int, ...]
    function_kind: FunctionKind | None
    notes: tuple[str, ...]

    def level(self, name: str) -> LevelVerdict | None:
        """One level (``raw``, ``canonical``, ``function``, ``invariants``), if it was looked at."""
        return next((level for level in self.levels if level.level == name), None)

    @property
    def problem(self) -> bool:
        """Whether the run should not be used as it is; chains that differ in labels alone are no problem."""
        return self.label in (Label.FUNCTIONAL_DISAGREEMENT, Label.NO_VERDICT, Label.TOO_SHORT)

    def __str__(self) -> str:
        return sentences.verdict_text(self)


def verdict(tree: xr.DataTree) -> Verdict:
    """Say whether the chains disagree in what the model says, in labels only, or not at all.

    Args:
        tree: As `canonicalize` returns it; a tree with symmetries that is not canonical yet is made so.

    Returns:
        The verdict. Chains with values that are not finite are left out and named.
    """
    check_tree(tree)
    if "symmetries" in tree.attrs and "canonical_posterior" not in tree.children:
        tree = canonicalize(tree)
    finite = finite_chains(tree)
    found = {level: restrict_chains(quantities, finite) for level, quantities in levels(tree)}
    num_chains, num_draws = int(finite.sum()), count_draws(tree)
    comparable = num_chains >= 2 and num_draws >= MIN_DRAWS
    tau = _slowest(found) if comparable else _NAN
    batches = num_batches(num_draws, tau) if comparable else 0
    chains = np.flatnonzero(finite)
    judged = tuple(_judge(level, quantities, batches, chains) for level, quantities in found.items() if comparable)
    return Verdict(
        label=_label(found, {level.level: level.state for level in judged}, batches),
        levels=judged,
        symmetry_share=_symmetry_share(found, judged),
        num_chains=num_chains,
        num_draws=num_draws,
        tau=tau,
        num_batches=batches,
        left_out=tuple(int(c) for c in np.flatnonzero(~finite)),
        function_kind=function_kind(tree),
        notes=_notes(tree, found),
    )


def _notes(tree: xr.DataTree, found: Mapping[str, Quantities]) -> tuple[str, ...]:
    """What a reader must know about how the levels came about."""
    notes = []
    if "function" in found:
        notes.append(f"Function: {tree['function'].attrs.get('meaning', 'as the tree holds it')}.")
    elif "invariants" not in found:
        notes.append("The tree holds neither function values nor invariants: weights alone decide nothing.")
    if "symmetries" not in tree.attrs:
        notes.append(
            "No symmetries were looked for; pass them, to_datatree(draws, find_symmetries(posterior)), to have the "
            "weights made canonical."
        )
    elif tree["canonicalization"].attrs["trivial"]:
        notes.append("No permutation, sign or scale symmetry was found: canonical weights are the raw weights.")
    else:
        attrs = tree["canonicalization"].attrs
        notes.append(
            "Alignment: the mean squared distance of a draw to the barycentre fell from "
            f"{attrs['spread_before']:.4g} to {attrs['spread_after']:.4g}."
        )
        if scale_factors(tree) and not attrs["unbalanced"]:
            notes.append(
                "Canonical weights stand for all their rescaled copies, which the prior weighs differently: they are "
                "no draws from the posterior, and their means and intervals are not posterior summaries."
            )
        if attrs["unbalanced"]:
            notes.append(f"Scales were left as they are: {attrs['unbalanced'].rstrip('.')}.")
    if "invariants" in found and "log_prior" not in "".join(name for name, _ in found["invariants"].shapes):
        thinned = count_draws(tree) > tree["posterior"].sizes["draw"]
        remedy = "keep the weights of all draws" if thinned else "canonicalize(tree, posterior=posterior) adds it"
        notes.append(
            "The log prior at the canonical weights is not known, so the invariants are the log likelihood alone; "
            f"{remedy}."
        )
    return tuple(notes)


def _slowest(found: Mapping[str, Quantities]) -> float:
    """Autocorrelation time of the slowest of the invariants and of a few function values, evenly spaced.

    The largest of several noisy estimates is too large by about what each uncorrected one is too small.
    """
    taus = [1.0]
    for level in ("invariants", "function"):
        if level in found:
            moving = np.flatnonzero(varying(found[level].values))
            if level == "function":
                moving = moving[np.linspace(0, len(moving) - 1, min(len(moving), _NUM_PROBES)).astype(int)]
            values = standardise(found[level].values[:, :, moving])
            taus += list(autocorrelation_time(values, num_corrections=0))
    return float(max(taus))


def _judge(level: str, quantities: Quantities, batches: int, chains: np.ndarray) -> LevelVerdict:
    moving = np.flatnonzero(varying(quantities.values))
    values = standardise(quantities.values)
    parts = decompose(values)
    # Thinned weights can have fewer draws than there are batches.
    batches = min(batches, values.shape[1])
    pooled, local = permutation_test(values, batches) if batches else (_NAN, _NAN)
    local_beta = float(parts.beta_each.max(initial=0.0))
    where = tuple(quantities.label(int(moving[j])) for j in np.flatnonzero(parts.beta_each >= LOCAL_BETA_MIN))
    state = _state(parts.beta, pooled, BETA_MIN)
    if level == "function":
        state = _worst(state, _state(local_beta, local, LOCAL_BETA_MIN))
    groups = tuple(tuple(int(chains[c]) for c in group) for group in parts.groups)
    return LevelVerdict(level, len(moving), parts.beta, parts.rhat, pooled, state, groups, local_beta, local, where)


def _state(beta: float, p: float, threshold: float) -> State:
    """A state from a share and its p-value; a p that could not be had (NaN) decides nothing."""
    if beta >= threshold:
        return State.DIFFER if p < P_MAX else State.UNDECIDED
    return State.WEAK if p < P_MAX else State.AGREE


def _worst(*states: State) -> State:
    return max(states, key=list(State).index)


def _label(found: Mapping[str, Quantities], states: Mapping[str, State], batches: int) -> Label:
    decisive = [level for level in ("function", "invariants") if level in found]
    if not decisive or len(found["raw"].values) < 2:
        return Label.NO_VERDICT
    if batches == 0:
        return Label.TOO_SHORT
    if smallest_p(len(found["raw"].values), batches) >= P_MAX:
        return Label.NO_VERDICT  # no disagreement, however large, could be told from chance
    function = _worst(*(states[level] for level in decisive))
    if function is State.DIFFER:
        return Label.FUNCTIONAL_DISAGREEMENT
    if function is State.UNDECIDED:
        return Label.NO_VERDICT
    fine = (State.AGREE, State.WEAK)
    if states["raw"] in fine:
        return Label.MIXED
    return Label.SYMMETRY_ONLY if states.get("canonical") in fine else Label.WEIGHTS_DIFFER


def _symmetry_share(found: Mapping[str, Quantities], judged: tuple[LevelVerdict, ...]) -> float:
    """Share of the squared distance between chains that canonicalisation removes, ``1 - (b - w)_can / (b - w)_raw``.

    Weights are measured in units of their site's spread, which no permutation or sign changes. Without a clear
    disagreement of the raw weights it would be a ratio of noise, hence NaN.
    """
    states = {level.level: level.state for level in judged}
    if states.get("raw") is not State.DIFFER or "canonical" not in found:
        return _NAN
    raw, canonical = (decompose(found[level].values / _site_spread(found["raw"])) for level in ("raw", "canonical"))
    return 1.0 - (canonical.between - canonical.within) / (raw.between - raw.within)


def _site_spread(quantities: Quantities) -> Float[np.ndarray, " quantity"]:
    """Root mean square standard deviation of each site's entries, repeated for every entry; 1 for a constant site."""
    variance = quantities.values.astype(np.float64).var((0, 1))
    sizes = [math.prod(shape) for _, shape in quantities.shapes]
    starts = np.cumsum([0, *sizes[:-1]])
    mean = np.add.reduceat(variance, starts) / sizes
    return np.repeat(np.sqrt(np.where(mean > 0, mean, 1.0)), sizes)
