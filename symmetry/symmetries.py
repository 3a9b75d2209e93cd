"""What symmetry discovery answers: the groups of the posterior and of the likelihood, and what the prior breaks."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace

from . import serialize
from .factor import Factor
from .group import SymmetryGroup


@dataclass(frozen=True)
class Broken:
    """A factor of the likelihood's group that the posterior's lacks: the sites whose prior breaks it, and how.

    Without sites no prior was seen to change: the factor may hold for the posterior, but could not be proved.
    """

    factor: str
    sites: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Symmetries:
    """What `find_symmetries` found: symmetries of the log joint, of the log likelihood, and what the prior breaks.

    Args:
        posterior: Exact symmetries of the log joint that leave each observation's log probability as it is; None where
            there is no prior (a bare function).
        likelihood: Symmetries of the log likelihood, or of the function.
        broken: Factors of ``likelihood`` that ``posterior`` lacks: broken by the prior, or not proved.
        approximate: Scales under which the likelihood changes by small constants alone, such as the epsilon of a
            normalisation; the error of their certificates is that change. They are no symmetries, and nothing moves
            weights by them.
    """

    posterior: SymmetryGroup | None
    likelihood: SymmetryGroup
    broken: tuple[Broken, ...] = ()
    approximate: tuple[Factor, ...] = ()

    def describe(self) -> str:
        """Both groups and what the prior breaks, as text."""
        parts = [] if self.posterior is None else ["Symmetries of the posterior", _indent(self.posterior.describe())]
        if self.posterior is not None and _act_alike(self.posterior, self.likelihood):
            parts.append("Symmetries of the likelihood: the same; the prior breaks none of them.")
        else:
            parts += ["Symmetries of the likelihood", _indent(self.likelihood.describe())]
        broken = [f"{item.factor} through {', '.join(item.sites)}: {item.note}" for item in self.broken if item.sites]
        unproved = [f"{item.factor}: {item.note}" for item in self.broken if not item.sites]
        almost = [_approximation(factor, self.likelihood) for factor in self.approximate]
        sections = {
            "Broken by the prior": broken,
            "Neither broken nor proved": unproved,
            "Approximate symmetries of the likelihood, exact but for small constants; nothing moves by them": almost,
        }
        for title, lines in sections.items():
            parts += [title, *map(_indent, lines)] if lines else []
        return "\n".join(parts)

    def __str__(self) -> str:
        return self.describe()

    def to_json(self) -> str:
        """Both groups as JSON, lossless."""
        return serialize.dump(self)

    @classmethod
    def from_json(cls, text: str) -> Symmetries:
        """What `to_json` wrote."""
        document = serialize.parse(text)
        posterior = document["posterior"]
        return cls(
            None if posterior is None else SymmetryGroup(**serialize.group_fields(posterior)),
            SymmetryGroup(**serialize.group_fields(document["likelihood"])),
            tuple(Broken(item["factor"], tuple(item["sites"]), item["note"]) for item in document["broken"]),
            serialize.factors_of(document.get("approximate", [])),
        )


def _approximation(factor: Factor, group: SymmetryGroup) -> str:
    known = "" if factor.certificate is None else f": deviation {factor.certificate.error:.1e}"
    return f"{serialize.describe_factor(factor, group.sites)}{known}"


def _act_alike(first: SymmetryGroup, second: SymmetryGroup) -> bool:
    """Whether two groups have the same factors, whatever their certificates."""
    bare = ([replace(factor, certificate=None) for factor in group.factors] for group in (first, second))
    return next(bare) == next(bare) and first.shifts == second.shifts


def _indent(text: str) -> str:
    return textwrap.indent(text, "    ")
