"""The main job, as `demo` and `sample` do it: symmetries first, then draws, then the tree, written into one folder."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from xarray import DataTree

    from bnn_models import Posterior
    from inference import Draws
    from symmetry import Symmetries


class Outcome(NamedTuple):
    """What sampling leaves to be judged.

    Attributes:
        posterior: the model and its data.
        draws: those of this process.
        symmetries: of the posterior.
        run: the folder.
    """

    posterior: Posterior
    draws: Draws
    symmetries: Symmetries
    run: str


def conduct(
    posterior: Posterior,
    kernel: Any,
    options: argparse.Namespace,
    *,
    probes: np.ndarray | None,
    attachments: Mapping[str, str] | None = None,
    **where: Any,
) -> Outcome:
    """Find the symmetries, and sample into the run folder."""
    import jax

    from diagnostics import SYMMETRIES_FILE
    from inference import check_settings, sample
    from symmetry import find_symmetries

    sizes = {"num_chains": options.chains, "num_draws": options.draws, "run": options.output}
    placed = {name: value for name, value in where.items() if name in ("devices", "mesh")}
    check_settings(kernel, **sizes, **placed, posterior=posterior)
    symmetries = find_symmetries(posterior)
    if getattr(options, "orbit_moves", False):
        from inference import WithOrbitMoves

        kernel = WithOrbitMoves(kernel=kernel, symmetries=symmetries)
    is_first = jax.process_index() == 0
    if is_first and not options.json:
        print(symmetries.describe(), end="\n\n", flush=True)
    draws = sample(
        posterior,
        kernel,
        **sizes,
        rng_key=jax.random.key(options.seed),
        probes=probes,
        attachments={SYMMETRIES_FILE: symmetries.to_json(), **(attachments or {})},
        progress=not options.json,
        **where,
    )
    return Outcome(posterior, draws, symmetries, options.output)


def go_on(posterior: Posterior, options: argparse.Namespace) -> Outcome:
    """Resume a run."""
    from diagnostics import SYMMETRIES_FILE
    from inference import resume
    from symmetry import Symmetries

    symmetries = Symmetries.from_json((Path(options.resume) / SYMMETRIES_FILE).read_text())
    draws = resume(options.resume, posterior, num_draws=options.draws, progress=not options.json)
    return Outcome(posterior, draws, symmetries, options.resume)


def finish(outcome: Outcome) -> DataTree | None:
    """The tree of all draws, with what needs the model, saved.

    Returns:
        The tree; None in all of several processes but the first.
    """
    import dataclasses

    import jax

    from diagnostics import canonicalize, save_run, to_datatree
    from inference import read_manifest, read_run

    if jax.process_index() > 0:
        return None
    posterior, draws, symmetries, run = outcome
    if jax.process_count() > 1:
        draws = dataclasses.replace(read_run(run)[0], posterior=posterior, kernel=draws.kernel)
    if draws.num_draws == 0:
        raise KeyboardInterrupt(f"before every chain had a draw; manymodes sample --resume {run} goes on")
    tree = _with_modes(canonicalize(to_datatree(draws, symmetries), posterior=posterior))
    tree.attrs["num_draws"] = json.dumps(read_manifest(run)["num_draws"])
    save_run(tree, run)
    return tree


def report(tree: DataTree, *, json: bool, run: str) -> int:
    """Print the table, the verdict, the modes and the problems of a run; return the exit status."""
    from diagnostics import convergence, diagnose, modes, verdict

    table, judgement, tree = convergence(tree), verdict(tree), _with_modes(tree)
    found = modes(tree) if "modes" in tree.children else None
    problems = diagnose(tree, table=table, judgement=judgement)
    if json:
        parts = {"run": str(run), "convergence": table, "verdict": judgement, "modes": found, "diagnosis": problems}
        _print_json(parts)
    else:
        print(_time_spent(tree))
        print(table, end="\n\n")
        print(judgement, end="\n\n")
        if found is not None:
            print(found, end="\n\n")
        print(problems)
    return int(problems.found)


def _with_modes(tree: DataTree) -> DataTree:
    """The tree with its modes; as it is where there are too few draws to look for any, which the verdict tells."""
    from diagnostics import identify_modes

    if "modes" in tree.children:
        return tree
    try:
        return identify_modes(tree)
    except ValueError:
        return tree


def _time_spent(tree: DataTree) -> str:
    """Where the time went: compilation is no part of sampling."""
    seconds = json.loads(tree.attrs.get("seconds", "{}"))
    words = {"compile": "compiling", "warmup": "warming up", "sampling": "sampling"}
    return ", ".join(f"{seconds[phase]:.1f} s {word}" for phase, word in words.items() if phase in seconds) + "\n"


def forget_run(folder: str) -> None:
    """Remove an earlier run at ``folder``; refuse to touch a folder that is no run.

    Raises:
        ValueError: If the folder holds anything but a run.
    """
    path = Path(folder)
    if not path.exists() or not any(path.iterdir()):
        return
    if not (path / "manifest.json").is_file():
        raise ValueError(f"{path} is not empty and holds no run; choose another folder with -o")
    shutil.rmtree(path)


def _print_json(parts: dict[str, Any]) -> None:
    plain = {name: part.to_dict() if hasattr(part, "to_dict") else part for name, part in parts.items()}
    json.dump(plain, sys.stdout, indent=2, allow_nan=False)
    print()
