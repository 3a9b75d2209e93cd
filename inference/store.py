r"""A run on disk: a folder of plain arrays and JSON that outlives a crash and is read without executing anything.

    run/
      manifest.json              settings, key, sites, versions, hashes of model and data, status
      data.npz                   observed and constant data, the probes, and where the chains start
      stop                       made by anybody who wants the run to stop after the running blocks
      done-0000                  one of several processes has ended its chains and waits for the others
      group-0000/                chains that advance together: one on a CPU, a process's own on a mesh
        block-000000.npz         a block's arrays, axes (chain, draw, ...), named `group/name`
        state-000000.npz         all that the step after it needs; the last two are kept

Every file is written under another name, flushed to the disk and renamed; the folder itself gets its name when all that
a run needs is in it. A block's draws are written before its state, and **a block counts only when a state as late
exists**: whatever a crash leaves behind is either complete or ignored, and the last state is what sampling goes on
from, inside warm-up too.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .draws import Block

FORMAT = "manymodes run"
"""What a manifest calls itself."""

FORMAT_VERSION = 2
"""Raised when older readers could not read a run any more."""

MANIFEST, DATA = "manifest.json", "data.npz"
# Processes that advance together are at most one block apart when they are killed.
_KEPT_STATES = 2


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
        hint = "go on with it by `resume` (`manymodes sample --resume`), " if (folder / MANIFEST).exists() else ""
        raise ValueError(f"The run folder {str(path)!r} is not empty; {hint}give a new one, or remove it first.")


def create_run(
    path: str | os.PathLike[str], manifest: Mapping[str, Any], data: Block, attachments: Mapping[str, str]
) -> None:
    """Makes a run's folder with all that is known before its first block, or nothing.

    Args:
        path: the folder; created with its parents, or there and empty.
        manifest: what describes the run, apart from format and status.
        data: arrays by group and name, as in a block.
        attachments: texts written beside the manifest, by file name.
    """
    folder = Path(path)
    unfinished = folder.with_name(f".unfinished.{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        for name, text in attachments.items():
            write_file(unfinished / name, lambda file, text=text: file.write(text.encode()))
        write_arrays(unfinished / DATA, _flatten(data))
        RunWriter(unfinished, manifest).say("running")
        unfinished.replace(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


class RunWriter:
    """Writes blocks into a run's folder; each group of chains may be written from its own thread.

    Args:
        path: the run's folder.
        manifest: what describes the run, apart from format and status.
    """

    def __init__(self, path: str | os.PathLike[str], manifest: Mapping[str, Any]):
        self.folder = Path(path)
        self._manifest = {**manifest, "format": FORMAT, "format_version": FORMAT_VERSION}

    def write_block(self, group: int, index: int, block: Block, state: Mapping[str, np.ndarray]) -> None:
        """Commits one block of one group of chains.

        Args:
            group: number of the group.
            index: number of the block in its group, from 0.
            block: the block's arrays.
            state: all that the step after the block needs, by name.
        """
        folder = self.folder / group_name(group)
        folder.mkdir(exist_ok=True)
        write_arrays(folder / block_name(index), _flatten(block))
        write_arrays(folder / state_name(index), state)
        (folder / state_name(index - _KEPT_STATES)).unlink(missing_ok=True)

    def say(self, status: str, **more: Any) -> None:
        """Writes the manifest: `running`, `complete` or `interrupted`, and what else there is to say."""
        self._manifest |= {"status": status, **more}
        text = json.dumps(self._manifest, indent=2)
        write_file(self.folder / MANIFEST, lambda file: file.write(text.encode()))


def group_name(group: int) -> str:
    """Folder of a group of chains."""
    return f"group-{group:04d}"


def block_name(index: int) -> str:
    """File of a block's draws."""
    return f"block-{index:06d}.npz"


def state_name(index: int) -> str:
    """File of the state after a block."""
    return f"state-{index:06d}.npz"


def forget_blocks(folder: Path, count: int) -> None:
    """Removes what was committed after the first blocks: they are made again, perhaps of another length.

    Args:
        folder: of a group of chains.
        count: blocks that stay.
    """
    for prefix in ("state", "block"):  # a block without a state does not count
        for file in folder.glob(f"{prefix}-*.npz"):
            if int(file.stem.removeprefix(f"{prefix}-")) >= count:
                file.unlink()


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name, whole or not at all."""
    write_file(file, lambda stream: np.savez(stream, allow_pickle=False, **arrays))


def write_file(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that it is there either whole or not at all, after a power cut too.

    Args:
        file: its path.
        write: writes the content.
    """
    unfinished = file.with_name(f"{file.name}.tmp")
    try:
        with unfinished.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(file)
    except OSError as error:
        # Half a file on a full disk is room that the next attempt needs.
        _remove_if_possible(unfinished)
        raise OSError(error.errno, error.strerror, str(file)) from error
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _remove_if_possible(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError:
        return


def _flatten(block: Block) -> dict[str, np.ndarray]:
    return {f"{group}/{name}": array for group, arrays in block.items() for name, array in arrays.items()}
