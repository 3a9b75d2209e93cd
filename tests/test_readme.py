"""Every command and every code block of the README and the docs is carried out, as a reader would."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXECUTED = {"python", "sh"}
SHOWN = {"text", "tex"}


def _blocks(page: Path) -> list[tuple[str, str]]:
    return FENCE.findall(page.read_text())


def _ids(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_every_block_is_executed_or_output(page: Path) -> None:
    assert {language for language, _ in _blocks(page)} <= EXECUTED | SHOWN


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_blocks_run_in_order(page: Path, tmp_path: Path) -> None:
    """Python blocks of a page share one session; a block that begins with a file name becomes that file."""
    blocks = [block for block in _blocks(page) if block[0] in EXECUTED]
    if not blocks:
        pytest.skip("no block to execute on this page")
    session: list[str] = []
    printed = ""
    for language, body in blocks:
        named = re.match(r"# (\w+\.py)\n", body)
        if language == "python" and named:
            (tmp_path / named[1]).write_text(body)
        elif language == "python":
            session.append(body)
        else:
            for command in filter(None, (line.partition("  #")[0].strip() for line in body.splitlines())):
                printed += _run_command(command, tmp_path)
    if session:
        _run([sys.executable, "-c", "\n".join(session)], tmp_path)
    for language, body in _blocks(page):
        if language == "text":
            assert _lines(body) <= _lines(printed)


def _lines(output: str) -> set[str]:
    """The lines of an output with its numbers left out, up to the table of states, in which machines may differ."""
    text = re.sub(r"-?\d+(\.\d+)?(e[-+]\d+)?", "#", output.partition("between chains")[0])
    return {" ".join(line.split()) for line in text.splitlines()}


def _run_command(command: str, folder: Path) -> str:
    if command.startswith("make "):
        recipe = _recipe(command.removeprefix("make "))
        if recipe is None:
            return ""
        command = recipe
    return _run(["bash", "-c", command], folder)


def _recipe(target: str) -> str | None:
    """Return what `make TARGET` runs; None for the tests, which are running now, and for what outlasts them."""
    text = subprocess.run(
        ["make", "--no-print-directory", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    last = text.strip().splitlines()[-1]
    return None if target in {"test", "test-all", "bench"} else last.removeprefix("@").replace(".venv/bin/", "")


def _run(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path, "MPLBACKEND": "Agg"}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_contributing_names_files_that_exist() -> None:
    named = set(re.findall(r"`((?:\w+/)+\w+\.py)`", (ROOT / "CONTRIBUTING.md").read_text()))
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).is_file()] == []
