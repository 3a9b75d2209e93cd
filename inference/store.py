r"""A run on disk: a folder of plain arrays and JSON that outlives a crash and is read without executing anything.

    run/
      manifest.json              settings, key, sites, versions, hashes of the data, status
      data.npz                   observed and constant data, and the probes
      group-0000/                chains that advance together: one on a CPU, all on a mesh
        block-000000.npz         a block's arrays, axes (chain, draw, ...), named `group/name`
        state-000000.npz         the kernel's whole State after it

Every file is written under another name, flushed to the disk and renamed. A block's draws are written before its state,
and **a block counts only when its state exists**: whatever a crash leaves behind is either complete or ignored, and the
last state is what sampling goes on from, inside warm-up too.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

from .draws import Block, Draws, draws_from_block, join_blocks

FORMAT = "manymodes run"
"""What a manifest calls itself."""

FORMAT_VERSION = 1
"""Raised when older readers could not read a run any more."""

_MANIFEST, _DATA = "manifest.json", "data.npz"


def check_run_folder(path: str | os.PathLike[str]) -> None:
    """Refuses a folder that holds something, before any work is done for it.

    Args:
        path: where the run is to be written.

    Raises:
        ValueError: the path or one above it is a file, or the folder is not empty.
    """
    folder = Path(path)
    above = next((parent for parent in folder.parents if parent.exists()), folder)
    if above.exists() and not above.is_dir():
        raise ValueError(f"run={str(path)!r} lies below the file {str(above)!r}; give the path of a new folder.")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"run={str(path)!r} is a file; give the path of a new folder.")
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"The run folder {str(path)!r} is not empty; give a new one, or remove it first.")


class RunWriter:
    """Writes one run; each group of chains may be written from its own thread.

    Args:
        path: the folder; created, with its parents, if it is not there.
        manifest: what describes the run, apart from format and status.
        data: arrays by group and name, as in a block.
        attachments: texts written beside the manifest, by file name.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        manifest: Mapping[str, Any],
        data: Block,
        attachments: Mapping[str, str],
    ):
        self._folder = Path(path)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._manifest = {"format": FORMAT, "format_version": FORMAT_VERSION, "status": "running", **manifest}
        for name, text in attachments.items():
            _write(self._folder / name, lambda file, text=text: file.write(text.encode()))
        _write_arrays(self._folder / _DATA, _flatten(data))
        self._write_manifest()

    def write_block(self, group: int, index: int, block: Block, state: Any) -> None:
        """Commits one block of one group of chains.

        Args:
            group: number of the group.
            index: number of the block in its group, from 0.
            block: the block's arrays.
            state: the kernel's State after the block, leading axis chain.
        """
        folder = self._folder / f"group-{group:04d}"
        folder.mkdir(exist_ok=True)
        leaves, _ = jax.tree.flatten_with_path(state)
        _write_arrays(folder / f"block-{index:06d}.npz", _flatten(block))
        _write_arrays(
            folder / f"state-{index:06d}.npz", {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}
        )

    def finish(self, status: str, seconds: Mapping[str, float]) -> None:
        """Says in the manifest how the run ended: `complete` or `interrupted`."""
        self._manifest |= {"status": status, "seconds": dict(seconds)}
        self._write_manifest()

    def _write_manifest(self) -> None:
        text = json.dumps(self._manifest, indent=2)
        _write(self._folder / _MANIFEST, lambda file: file.write(text.encode()))


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A run's manifest.

    Args:
        path: the run folder.

    Returns:
        The manifest.

    Raises:
        ValueError: the folder is no run, or was written by a newer version.
    """
    file = Path(path) / _MANIFEST
    try:
        manifest = json.loads(file.read_text())
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(
            f"{str(path)!r} is not a run folder: it has no readable {_MANIFEST}; "
            "give the folder that `sample(..., run=...)` or `manymodes sample -o` wrote."
        )
    if manifest["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"The run {str(path)!r} has format {manifest['format_version']}, but this version reads formats up to "
            f"{FORMAT_VERSION}; update manymodes."
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
    folders = [Path(path) / f"group-{group:04d}" for group in range(len(manifest["groups"]))]
    groups = [[block for block in map(_read_block, _committed(folder)) if "weights" in block] for folder in folders]
    if not all(groups):
        raise ValueError(f"The run {str(path)!r} has no committed draw for each of its chains: it ended in warm-up.")
    draws = draws_from_block(
        join_blocks(groups),
        posterior=None,
        kernel=None,
        probes=manifest["probe_site"] or read_data(path).get("probes", {}).get("probes"),
        seconds=manifest.get("seconds", {}),
        interrupted=manifest["status"] != "complete",
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
    read_manifest(path)
    return _read_block(Path(path) / _DATA)


def _committed(folder: Path) -> list[Path]:
    """The block files of a group up to the first one without its state."""
    blocks = []
    while (folder / f"state-{len(blocks):06d}.npz").exists():
        blocks.append(folder / f"block-{len(blocks):06d}.npz")
    return blocks


def _read_block(file: Path) -> Block:
    block: Block = {}
    with np.load(file, allow_pickle=False) as arrays:
        for key in arrays.files:
            group, name = key.split("/", 1)
            block.setdefault(group, {})[name] = arrays[key]
    return block


def _flatten(block: Block) -> dict[str, np.ndarray]:
    return {f"{group}/{name}": array for group, arrays in block.items() for name, array in arrays.items()}


def _write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    _write(file, lambda stream: np.savez(stream, allow_pickle=False, **arrays))


def _write(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that it is there either whole or not at all, after a power cut too."""
    unfinished = file.with_name(f"{file.name}.tmp")
    with unfinished.open("wb") as stream:
        write(stream)
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
