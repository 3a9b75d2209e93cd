"""A virtual environment for each peer, made when it is first needed, under `.bench/` beside the checkout's packages.

The pins are in `peers/requirements/`: a peer's own versions, whatever this library needs itself.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".bench"
PEERS = ("numpyro", "blackjax", "pymc", "nutpie", "pystan", "bde")

# Stan's program is built against a pybind11 that knows no later Python.
_PYTHON = {"pystan": "3.12"}


class PeerError(RuntimeError):
    """A peer's environment could not be made, or its process failed; the message is what it printed."""


def python(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made where there is none or its pins have changed.

    Args:
        peer: one of `PEERS`.

    Returns:
        The interpreter.

    Raises:
        PeerError: the environment could not be made.
    """
    folder, pins = FOLDER / peer, pinned(peer)
    stamp = folder / "installed.txt"
    interpreter = folder / "bin" / "python"
    if stamp.is_file() and stamp.read_text() == pins.read_text():
        return interpreter
    print(f"making the environment of {peer} in {folder} (minutes)", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    if uv := shutil.which("uv"):
        _call([uv, "venv", "--quiet", "--python", _PYTHON.get(peer, sys.executable), str(folder)])
        _call([uv, "pip", "install", "--quiet", "--python", str(interpreter), "-r", str(pins)])
    else:
        _call([_interpreter(peer), "-m", "venv", str(folder)])
        _call([str(interpreter), "-m", "pip", "install", "--quiet", "-r", str(pins)])
    stamp.write_text(pins.read_text())
    return interpreter


def pinned(peer: str) -> Path:
    """The file of a peer's pins, the peer itself first."""
    return ROOT / "benchmarks" / "peers" / "requirements" / f"{peer}.txt"


def run(command: list[str], environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Runs a measurement in a process of its own, in the checkout's root.

    Args:
        command: the interpreter and its arguments.
        environment: variables that differ from this process's.

    Returns:
        What the last line of its output says in JSON.

    Raises:
        PeerError: the process failed.
    """
    # A cache that somebody set up for all of JAX would hide what compilation takes.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    return json.loads(_call(command, inherited | (environment or {})).splitlines()[-1])


def _call(command: list[str], environment: dict[str, str] | None = None) -> str:
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise PeerError(f"{' '.join(command[:4])} ... failed with status {ended.returncode}:\n{ended.stderr[-2000:]}")
    return ended.stdout


def _interpreter(peer: str) -> str:
    """A Python of the version that the peer needs, from the path or from pyenv."""
    version = _PYTHON.get(peer)
    if version is None or f"{sys.version_info.major}.{sys.version_info.minor}" == version:
        return sys.executable
    if pyenv := shutil.which("pyenv"):
        found = subprocess.run([pyenv, "prefix", version], capture_output=True, text=True, check=False)
        if not found.returncode:
            return str(Path(found.stdout.strip()) / "bin" / "python")
    if named := shutil.which(f"python{version}"):
        return named
    raise PeerError(f"{peer} needs Python {version}, but there is none; install it, or uv, or leave {peer} out.")
