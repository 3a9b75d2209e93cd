"""Code blocks of Markdown pages, and the commands in them, carried out as a reader would."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
EXECUTED = {"python", "sh"}
SHOWN = {"text", "tex"}
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\w+\.py)\n")


class Block(NamedTuple):
    language: str
    body: str

    @property
    def file(self) -> str | None:
        """The file that the block is, if it begins with a file name."""
        named = _FILE.match(self.body) if self.language == "python" else None
        return named and named[1]

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block, without the remarks behind them."""
        return [command for line in self.body.splitlines() if (command := line.partition("  #")[0].strip())]


def blocks_of(page: Path) -> list[Block]:
    return [Block(*found) for found in _FENCE.findall(page.read_text())]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def write_files(blocks: list[Block], folder: Path) -> None:
    for block in blocks:
        if block.file:
            (folder / block.file).write_text(block.body)


def run_python(code: str, folder: Path) -> str:
    """What a Python session prints."""
    return run([sys.executable, "-c", code], folder)


def run_command(command: str, folder: Path) -> str:
    """What a shell command prints."""
    if command.startswith("make "):
        recipe = _recipe(command.removeprefix("make "))
        if recipe is None:
            return ""
        command = recipe
    return run(["bash", "-c", command], folder)


def run(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path, "MPLBACKEND": "Agg"}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def _recipe(target: str) -> str | None:
    """What `make TARGET` runs; None for the tests, which are running now, and for what outlasts them."""
    text = subprocess.run(
        ["make", "--no-print-directory", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    last = text.strip().splitlines()[-1]
    return None if target in {"test", "test-all", "bench"} else last.removeprefix("@").replace(".venv/bin/", "")
