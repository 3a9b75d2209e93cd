"""The verdict in words: what was found, what it rests on, where it ends, and what would overturn it."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

from .between import BATCH_LENGTH, P_MAX, smallest_p
from .levels import TITLES

if TYPE_CHECKING:
    from .verdict import LevelVerdict, Verdict

WIDTH = 110
_MAX_LISTED = 5
_HEADLINES = {
    "FUNCTIONAL DISAGREEMENT": "the chains disagree in what the model says, not only in labels. Their modes are real "
    "for these chains, and averages over all draws depend on how many chains happened to start in each.",
    "NO VERDICT": "the chains may disagree in what the model says, but these draws cannot tell it from chance.",
    "CHAINS TOO SHORT": "the draws are so autocorrelated that no test of agreement can be trusted; no verdict.",
    "MIXED": "the chains agree, weights included: labels, where there are any, have one arrangement or switch freely "
    "within chains.",
    "SYMMETRY ONLY": "the chains differ in labels, not in functions. With the symmetries of the model removed no "
    "difference between them is left, so a large R-hat of the raw weights is no reason for concern.",
    "FUNCTION AGREES, CANONICAL WEIGHTS DO NOT": "the chains say the same, but their weights differ by more than the "
    "symmetries that were found: a redundancy without a symmetry, or an imperfect alignment.",
}
# What a label claims where the states of its levels support less: (label, level, state).
_WEAKER_HEADLINES = {
    ("MIXED", "raw", "weak"): "the chains agree in what the model says. Of the variance of all raw weights little lies "
    "between chains, but more than by chance: single ones can be far from mixed, as their R-hat tells.",
    ("FUNCTIONAL DISAGREEMENT", "function", "undecided"): "the chains differ in the log likelihood or the log prior, "
    "which no relabelling changes. Whether they differ at the probes too these draws cannot tell from chance.",
    ("FUNCTIONAL DISAGREEMENT", "function", "agree"): "the functions that were compared agree, but not the log "
    "likelihood or the log prior, which no relabelling changes: the chains say different things elsewhere, or the same "
    "with weights of another prior density.",
    ("FUNCTIONAL DISAGREEMENT", "function", None): "the chains differ in the log likelihood or the log prior, which no "
    "relabelling changes.",
    (
        "SYMMETRY ONLY",
        "raw",
        "undecided",
    ): "the functions agree, and so do the weights once the symmetries of the model "
    "are removed. The raw weights seem to differ, in labels then, but these draws cannot tell it from chance.",
    ("SYMMETRY ONLY", "canonical", "weak"): "the chains differ in labels, not in functions. With the symmetries of the "
    "model removed hardly any difference between them is left, so a large R-hat of the raw weights is no reason for "
    "concern.",
    ("FUNCTION AGREES, CANONICAL WEIGHTS DO NOT", "canonical", "undecided"): "the chains say the same. Their weights "
    "seem to differ by more than the symmetries that were found, but these draws cannot tell it from chance.",
    ("FUNCTION AGREES, CANONICAL WEIGHTS DO NOT", "canonical", None): "the chains say the same, but their weights may "
    "differ. No symmetries were looked for, so nobody knows whether in more than labels.",
}
_OVERTURNED = {
    "FUNCTIONAL DISAGREEMENT": "longer chains that move between these modes and then agree.",
    "NO VERDICT": "nothing yet; {draws} would decide.",
    "CHAINS TOO SHORT": "nothing yet; {draws} would decide.",
}
_OVERTURNED_BY_ANOTHER_CHAIN = {
    "network": "one more chain, started elsewhere, or inputs other than the probes, at which the functions or the log "
    "likelihood lie apart.",
    "site": "one more chain, started elsewhere, at which that site or the log likelihood lies apart.",
}
_BY_LIKELIHOOD = "one more chain, started elsewhere, with another log likelihood of some observation."
_REACH = {
    "network": "Functions are compared at the probes only; they must cover the region of use.",
    "pointwise": "The function level sees what the observations see: parameters on which their likelihood hardly "
    "depends show in their own R-hat and ESS alone.",
    "site": "Functions are compared by that one site only.",
    "instead": "The function level sees the training inputs only; predictions elsewhere may differ.",
}
_LEGEND = (
    "'between chains': share of the variance, and the R-hat it amounts to. 'p': how often chains that differ by chance "
    "alone show more. 'invariants': the log likelihood and, where it is known, the log prior."
)
_LIMITS = (
    "Agreement is no proof of convergence: every chain may have missed the same mode.",
    "Canonical weights are as good as the alignment, and a shift of the function can hide in one weight of many: the "
    "canonical level alone decides nothing.",
)


def verdict_text(verdict: Verdict) -> str:
    """All of a verdict as text."""
    lines = [_wrap(f"{verdict.label}: {_headline(verdict)}"), ""]
    if verdict.levels:
        lines += [f"{'':18} {'between chains':>14} {'R-hat eq.':>10} {'p':>7}  {'state':10} groups of chains"]
        lines += [_level_line(level) for level in verdict.levels]
        lines += [_wrap(_LEGEND), ""]
    lines += [_wrap(clause) for clause in _clauses(verdict)]
    kind = verdict.function_kind
    reach = () if kind is None else (_REACH[kind],)
    lines += ["", "Limits"] + [_wrap(limit, "- ") for limit in (_LIMITS[0], *reach, *_LIMITS[1:])]
    overturned = _OVERTURNED.get(verdict.label, _OVERTURNED_BY_ANOTHER_CHAIN.get(kind or "", _BY_LIKELIHOOD))
    lines.append(_wrap(f"What would overturn it: {overturned.format(draws=_draws_needed(verdict))}"))
    return "\n".join(lines)


def _headline(verdict: Verdict) -> str:
    """What the label claims, and no more than the states of the levels support."""
    states = {level.level: str(level.state) for level in verdict.levels}
    for (label, level, state), headline in _WEAKER_HEADLINES.items():
        seen = states.get(level)
        if label == verdict.label and state == ("agree" if level == "function" and seen == "weak" else seen):
            return headline
    return _HEADLINES[verdict.label]


def _clauses(verdict: Verdict) -> list[str]:
    clauses = [_basis(verdict)]
    weak = [_weak(level) for level in verdict.levels if level.state == "weak"]
    if weak:
        clauses.append(f"A real but small difference between chains was found in: {', '.join(weak)}.")
    function = verdict.level("function")
    if function and function.local_where and function.state in ("differ", "undecided"):
        clauses.append(
            f"Largest single function value: {_percent(function.local_beta)} between chains "
            f"(p {_p(function.local_p)}). A quarter or more lies between chains at {_listed(function.local_where)}."
        )
    if math.isfinite(verdict.symmetry_share):
        clauses.append(
            f"Symmetry explains {100 * verdict.symmetry_share:.0f} % of the squared distance between chains in weight "
            "space."
        )
    if verdict.left_out:
        clauses.append(
            f"Left out, for holding values that are not finite: chains {', '.join(map(str, verdict.left_out))}."
        )
    return clauses + list(verdict.notes)


def _weak(level: LevelVerdict) -> str:
    """The level and how small; where only its largest quantity gives it away, that quantity's share and p-value."""
    title = TITLES[level.level]
    if level.p < P_MAX:
        return f"{title} (R-hat below 1.05)"
    return f"{title} (one value, {_percent(level.local_beta)} between chains, p {_p(level.local_p)})"


def _basis(verdict: Verdict) -> str:
    if verdict.num_chains < 2:
        return f"{verdict.num_chains} usable chain: one chain cannot disagree with itself; run four or more."
    text = f"{verdict.num_chains} chains x {verdict.num_draws} draws"
    if not verdict.levels:
        return f"{text}: too few to compare."
    text += f", autocorrelation time {verdict.tau:.1f} draws"
    if not verdict.num_batches:
        return f"{text}; at least {math.ceil(2 * BATCH_LENGTH * verdict.tau)} draws a chain are needed."
    text += f", permutation test on {verdict.num_batches} batch means a chain."
    floor = smallest_p(verdict.num_chains, verdict.num_batches)
    return text if floor < P_MAX else f"{text} With so few of them no p-value below {floor:.2g} is possible."


def _level_line(level: LevelVerdict) -> str:
    groups = ""
    if len(level.groups) > 1:
        groups = " ".join("{" + " ".join(map(str, group)) + "}" for group in level.groups)
    return (
        f"{TITLES[level.level]:18} {_percent(level.beta):>14} {level.rhat:>10.3f} {_p(level.p):>7}  "
        f"{level.state:10} {groups}"
    ).rstrip()


def _draws_needed(verdict: Verdict) -> str:
    if not math.isfinite(verdict.tau):
        return "more chains and more draws"
    draws = max(8 * BATCH_LENGTH * verdict.tau, 2 * verdict.num_draws)
    return f"about {math.ceil(draws / 100) * 100} draws a chain, or twice as many chains,"


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _p(p: float) -> str:
    return "-" if math.isnan(p) else f"{p:.3f}"


def _wrap(text: str, bullet: str = "") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet))
