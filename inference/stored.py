"""A run read back: its manifest, its data, its committed blocks."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import read_checkpoint
from .draws import Block, Draws, draws_from_block, join_blocks
from .online import Moments, summarise
from .store import DATA, FORMAT, FORMAT_VERSION, MANIFEST, block_name, group_name, state_name


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A run's manifest.

    Args:
        path: the run folder.

    Returns:
        The manifest.

    Raises:
        ValueError: the folder is no run, or was written by another version's format.
    """
    file = Path(path) / MANIFEST
    try:
        manifest = json.loads(file.read_text())
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(
            f"{str(path)!r} is not a run folder: it has no readable {MANIFEST}; "
            "give the folder that `sample(..., run=...)` or `manymodes sample -o` wrote."
        )
    if manifest["format_version"] != FORMAT_VERSION:
        advice = "update manymodes" if manifest["format_version"] > FORMAT_VERSION else "sample it anew"
        raise ValueError(
            f"The run {str(path)!r} has format {manifest['format_version']}, but this version reads format "
            f"{FORMAT_VERSION}; {advice}."
        )
    return manifest


def read_run(path: str | os.PathLike[str]) -> tuple[Draws, dict[str, Any]]:
    """A finished, interrupted or killed run, cut to the draws that are committed for all chains.

    Args:
        path: the run folder.

    Returns:
        The draws, without posterior and kernel, and the manifest.

    Raises:
        ValueError: the folder is no run, or no draw is committed for all its chains.
    """
    manifest = read_manifest(path)
    folders = [Path(path) / group_name(group) for group in range(len(manifest["groups"]))]
    groups = [kept_blocks(folder, num_blocks(folder)) for folder in folders]
    if not all(groups):
        raise ValueError(
            f"The run {str(path)!r} has no committed draw for each of its chains: it ended in warm-up; go on with it "
            "by `resume` (`manymodes sample --resume`)."
        )
    thin = manifest["keep"]["thin"]
    moments = [_moments(folder) for folder in folders] if thin > 1 else []
    draws = draws_from_block(
        join_blocks(groups, thin),
        posterior=None,
        kernel=None,
        probes=manifest["probe_site"] or read_data(path).get("probes", {}).get("probes"),
        seconds=manifest.get("seconds", {}),
        interrupted=manifest["status"] != "complete",
        thin=thin,
        moments=all_moments(moments),
    )
    # Files of a complete run can have been removed since.
    is_short = draws.num_draws < manifest["num_draws"]
    return (dataclasses.replace(draws, interrupted=True) if is_short else draws), manifest


def read_data(path: str | os.PathLike[str]) -> Block:
    """The data of a run: `observed_data`, `constant_data` and, where there were any, `probes`.

    Args:
        path: the run folder.

    Returns:
        Arrays by group and name.

    Raises:
        ValueError: the folder is no run.
    """
    data = _read_block(_manifested(path) / DATA)
    data.pop("initial", None)
    return data


def read_initial(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Where the chains of a run start: positions by site, leading axis chain.

    Args:
        path: the run folder.

    Returns:
        The positions.
    """
    return _read_block(_manifested(path) / DATA)["initial"]


def num_blocks(folder: Path) -> int:
    """How many blocks of a group are committed.

    Args:
        folder: the group's.

    Returns:
        The number.
    """
    states = [int(file.stem.removeprefix("state-")) for file in folder.glob("state-*.npz")]
    return max(states, default=-1) + 1


def kept_blocks(folder: Path, count: int) -> list[Block]:
    """The blocks of kept draws among the first ones of a group, up to the first that is missing.

    Args:
        folder: the group's.
        count: how many are committed.

    Returns:
        The blocks.
    """
    blocks: list[Block] = []
    for index in range(count):
        file = folder / block_name(index)
        if not file.exists():
            break
        block = _read_block(file)
        if "weights" in block:
            blocks.append(block)
    return blocks


def all_moments(groups: list[dict[str, Moments]]) -> dict[str, dict[str, np.ndarray]]:
    """Mean, standard deviation and split R-hat by site, over the chains of all groups.

    Args:
        groups: each group's moments.

    Returns:
        The statistics by site.
    """
    sites = groups[0] if groups and all(groups) else {}
    return {site: summarise([group[site] for group in groups]) for site in sites}


def _moments(folder: Path) -> dict[str, Moments]:
    return read_checkpoint(folder / state_name(num_blocks(folder) - 1), ()).moments


def _manifested(path: str | os.PathLike[str]) -> Path:
    read_manifest(path)
    return Path(path)


def _read_block(file: Path) -> Block:
    block: Block = {}
    with np.load(file, allow_pickle=False) as arrays:
        for key in arrays.files:
            group, name = key.split("/", 1)
            block.setdefault(group, {})[name] = arrays[key]
    return block
