"""The main job, as `demo` and `sample` do it: symmetries first, then draws, then the tree, written into one folder."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from xarray import DataTree

    from bnn_models import Posterior


def conduct(
    posterior: Posterior,
    kernel: Any,
    options: argparse.Namespace,
    *,
    probes: np.ndarray | None,
    devices: int | None = None,
) -> DataTree:
    """Find the symmetries, sample into the run folder, canonicalise, and save the tree there."""
    import jax

    from diagnostics import canonicalize, save_run, to_datatree
    from inference import check_settings, sample
    from symmetry import find_symmetries

    check_settings(kernel, num_chains=options.chains, num_draws=options.draws, run=options.output, devices=devices)
    symmetries = find_symmetries(posterior)
    if not options.json:
        print(symmetries.describe(), end="\n\n", flush=True)
    draws = sample(
        posterior,
        kernel,
        num_chains=options.chains,
        num_draws=options.draws,
        rng_key=jax.random.key(options.seed),
        probes=probes,
        devices=devices,
        run=options.output,
        attachments={"symmetries.json": symmetries.to_json()},
        progress=not options.json,
    )
    if draws.num_draws == 0:
        raise KeyboardInterrupt(f"before every chain had a draw; {options.output} holds nothing to judge")
    tree = canonicalize(to_datatree(draws, symmetries), posterior=posterior)
    save_run(tree, options.output)
    return tree


def report(tree: DataTree, *, json: bool, run: str) -> int:
    """Print the table, the verdict and the problems of a run; return the exit status."""
    from diagnostics import convergence, diagnose, verdict

    table, judgement = convergence(tree), verdict(tree)
    problems = diagnose(tree, table=table, judgement=judgement)
    if json:
        _print_json({"run": str(run), "convergence": table, "verdict": judgement, "diagnosis": problems})
    else:
        print(table, end="\n\n")
        print(judgement, end="\n\n")
        print(problems)
    return int(problems.found)


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
    plain = {name: part if isinstance(part, str) else part.to_dict() for name, part in parts.items()}
    json.dump(plain, sys.stdout, indent=2, allow_nan=False)
    print()
