"""Modes in words: how many, how heavy, who visited them, and what may be missing."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass

import numpy as np
import xarray as xr

from .levels import TITLES
from .mode_search import GROUP, LEVELS, identify_modes
from .record import Record
from .unseen import chains_to_see, unseen

WIDTH = 110
SMALL_WEIGHT = 0.05
"""Weight of the modes for which it is said how many chains would see them all, with 95 % probability."""

STABILITY_MIN = 0.75  # Hennig 2007
_MAX_LISTED = 12


@dataclass(frozen=True)
class Mode(Record):
    """One mode of one level; NaN for what cannot be known.

    Attributes:
        share: of all draws.
        standard_error: of the share as a weight, where chains cross between modes.
        stacking: weight that predicts best, where they do not, with its standard error.
        chains: that reached the core of the mode.
        representative: chain and draw nearest to the mode's mean.
        log_likelihood: its mean.
        rhat: the largest within the mode.
        ess: the smallest bulk ESS within the mode.
        stability: mean Jaccard similarity with the mode found again in half of the draws.
    """

    share: float
    standard_error: float
    stacking: float
    stacking_error: float
    chains: tuple[int, ...]
    representative: tuple[int, int]
    log_likelihood: float
    rhat: float
    ess: float
    stability: float


@dataclass(frozen=True)
class LevelModes(Record):
    """The modes of one level, the heaviest first.

    Attributes:
        level: ``canonical`` or ``function``; ``raw`` where no symmetries were looked for.
        modes: the modes.
        transitions: moves from one mode (row) to another, all chains together.
        round_trips: returns of each chain to the mode that it began in.
        crosses: whether shares are weights.
        new: modes that one more chain finds on average (Good and Turing), with its standard error.
        missable: weight of a mode that all chains miss with 5 % probability.
        further_chains: so many more see every mode of weight 0.05 or more with 95 % probability.
    """

    level: str
    modes: tuple[Mode, ...]
    transitions: tuple[tuple[int, ...], ...]
    round_trips: tuple[int, ...]
    crosses: bool
    new: float
    new_error: float
    missable: float
    further_chains: int


@dataclass(frozen=True)
class Modes(Record):
    """The modes of a run; ``print`` it.

    Attributes:
        num_chains: chains that were looked at; those with draws that are not finite are left out.
        num_draws: draws a chain.
        num_modes: of each level, raw weights included.
        levels: the modes of the canonical weights and of the function.
        label_switching: share of steps at which the labelling changes, mean over chains; NaN without labels.
        copies: different labellings that were seen.
    """

    num_chains: int
    num_draws: int
    num_modes: dict[str, int]
    levels: tuple[LevelModes, ...]
    label_switching: float
    copies: int

    def level(self, name: str) -> LevelModes | None:
        """The modes of a level (``canonical`` or ``function``), if the tree holds it."""
        return next((level for level in self.levels if level.level == name), None)

    def __str__(self) -> str:
        lines = [_wrap(f"MODES: {_headline(self)}")]
        for level in self.levels:
            lines += ["", *_level_lines(level, self.num_chains)]
        lines += ["", *map(_wrap, _closing(self))]
        return "\n".join(lines)


def modes(tree: xr.DataTree) -> Modes:
    """The modes of a posterior that are left once symmetries are removed: how many, how heavy, and what may be missing.

    Args:
        tree: As `identify_modes` returns it; one whose modes were not looked for yet is looked at now.

    Returns:
        The modes, by level.

    Raises:
        ValueError: As in `identify_modes`.
    """
    if not isinstance(tree, xr.DataTree) or GROUP not in tree.children:
        tree = identify_modes(tree)
    group = tree[GROUP].to_dataset()
    present = [level for level in LEVELS if level in group.data_vars]
    looked_at = [level for level in present if f"{level}_stability" in group.data_vars]
    chains = (group[present[0]].values >= 0).any(1)
    return Modes(
        num_chains=int(chains.sum()),
        num_draws=group.sizes["draw"],
        num_modes={level: group.sizes[f"{level}_mode"] for level in present},
        levels=tuple(_level_modes(group, level, chains) for level in looked_at),
        label_switching=float(group["label_switching"].values[chains].mean())
        if "label_switching" in group
        else math.nan,
        copies=int(group.attrs.get("copies", 1)),
    )


def _level_modes(group: xr.Dataset, level: str, chains: np.ndarray) -> LevelModes:
    def column(name: str) -> np.ndarray:
        return group[f"{level}_{name}"].values

    visited = column("visited").astype(bool)
    names = group.coords["chain"].values
    numbers = ("share", "standard_error", "stacking", "stacking_error", "log_likelihood", "rhat", "ess", "stability")
    found = tuple(
        Mode(
            chains=tuple(int(name) for name in names[visited[mode]]),
            representative=(int(place[0]), int(place[1])),
            **{name: float(column(name)[mode]) for name in numbers},
        )
        for mode, place in enumerate(column("representative"))
    )
    missed = unseen(visited[:, chains])
    return LevelModes(
        level=level,
        modes=found,
        transitions=tuple(tuple(int(count) for count in row) for row in column("transitions")),
        round_trips=tuple(int(count) for count in column("round_trips")),
        crosses=bool(np.isfinite(column("standard_error")).all()),
        new=missed.new,
        new_error=missed.standard_error,
        missable=missed.missable,
        further_chains=max(0, chains_to_see(SMALL_WEIGHT) - int(chains.sum())),
    )


def _headline(found: Modes) -> str:
    number = found.num_modes
    what = [f"{number['function']} in the function"] if "function" in number else []
    if "canonical" in number:
        left = f"{number['canonical']} once symmetries are removed"
        what = [f"{number['raw']} in the raw weights", left, *what]
    else:
        what = [f"{number['raw']} in the weights, whose symmetries were not looked for", *what]
    return f"{', '.join(what)} ({found.num_chains} chains x {found.num_draws} draws)."


def _level_lines(level: LevelModes, num_chains: int) -> list[str]:
    lines = [
        f"{TITLES[level.level] + ':':18} {'share':>7} {'+- s.e.':>8} {'stacking':>9} {'+- s.e.':>8} {'R-hat':>6} "
        f"{'ESS':>6} {'stability':>9} {'log lik.':>9}  chains"
    ]
    lines += [_mode_line(number, mode, num_chains) for number, mode in enumerate(level.modes[:_MAX_LISTED])]
    if len(level.modes) > _MAX_LISTED:
        lines.append(f"  and {len(level.modes) - _MAX_LISTED} smaller ones")
    lines += [_wrap(sentence) for sentence in (*_movement(level), *(_missing(level) if num_chains > 1 else ()))]
    return lines


def _mode_line(number: int, mode: Mode, num_chains: int) -> str:
    chains = "all" if len(mode.chains) == num_chains else " ".join(map(str, mode.chains)) or "none for long"
    return (
        f"  mode {number:<11} {100 * mode.share:6.1f}% {_percent(mode.standard_error):>8} {_percent(mode.stacking):>9} "
        f"{_percent(mode.stacking_error):>8} {_number(mode.rhat, '.3f'):>6} {_number(mode.ess, '.0f'):>6} "
        f"{_number(mode.stability, '.2f'):>9} {_number(mode.log_likelihood, '.1f'):>9}  {chains}"
    )


def _movement(level: LevelModes) -> list[str]:
    if len(level.modes) == 1:
        return []
    moves, returns = sum(map(sum, level.transitions)), sum(level.round_trips)
    moved = f"The chains went from mode to mode {moves} times and came back to where they began {returns} times"
    if level.crosses:
        sentences = [f"{moved}: the shares are the weights, with the error of so many visits."]
    else:
        stays = moved if moves else "No chain went from one mode to another"
        sentences = [f"{stays}: the shares say where the chains started, not how heavy the modes are."]
        if not math.isfinite(level.modes[0].stacking):
            sentences.append("No weights are known; use a sampler that crosses, such as ParallelTempering.")
    shaky = [str(number) for number, mode in enumerate(level.modes) if mode.stability < STABILITY_MIN]
    if shaky:
        sentences.append(
            f"Not to be relied on, for other draws give other modes (stability below {STABILITY_MIN}): "
            f"mode {', '.join(shaky)}."
        )
    return sentences


def _missing(level: LevelModes) -> list[str]:
    alone = sum(len(mode.chains) == 1 for mode in level.modes)
    if not alone:
        return ["Every mode was seen by two chains or more."]
    subject = "One mode was" if alone == 1 else f"{alone} modes were"
    return [
        f"{subject} seen by one chain only, so one more chain finds {level.new:.2g} +- {level.new_error:.2g} new ones "
        "on average (Good-Turing)."
    ]


def _closing(found: Modes) -> list[str]:
    sentences = []
    if any(math.isfinite(level.modes[0].stacking) for level in found.levels):
        sentences.append(
            "'stacking': the weights with which the modes predict best together, by leave-one-out cross-validation; "
            "the errors are those of other data of the same kind. They are no posterior masses: for these use a "
            "sampler that crosses, such as ParallelTempering."
        )
    if found.num_chains < 2:
        sentences.append("One chain alone says nothing about the modes that it has not seen; run four or more.")
    elif found.levels:
        level = found.levels[-1]
        sentences.append(
            f"Modes may be missing: one in which fewer than {100 * level.missable:.0f} % of the chains end up can have "
            f"been missed by all {found.num_chains}. To see every mode of {100 * SMALL_WEIGHT:.0f} % or more with 95 % "
            f"probability takes {level.further_chains} further chains."
        )
    if math.isfinite(found.label_switching):
        sentences.append(
            f"Labels: {found.copies} labellings were seen; they change in {100 * found.label_switching:.2g} % of the "
            "steps from draw to draw."
        )
    sentences.append(
        "'R-hat' and 'ESS': the worst within the mode. 'stability': how well half of the draws find the mode again (1: "
        "draw for draw). 'chains': which of them were there. A mode is a region with a valley around it, half as high "
        "as its peak at most; chains can disagree within one, which the verdict tells."
    )
    return sentences


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%" if math.isfinite(share) else "-"


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH)
