"""Every command and every code block of the README and of CONTRIBUTING is carried out, as a reader would."""

import re
from pathlib import Path

import pytest
from pages import ROOT, blocks_of, name_of, run_command, run_python, write_files

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_run_in_order(page: Path, tmp_path: Path) -> None:
    """Python blocks of a page share one session; a block that begins with a file name becomes that file."""
    blocks = blocks_of(page)
    write_files(blocks, tmp_path)
    commands = [command for block in blocks if block.language == "sh" for command in block.commands]
    session = [block.body for block in blocks if block.language == "python" and not block.file]
    if not commands and not session:
        pytest.skip("no block to execute on this page")
    printed = "".join(run_command(command, tmp_path) for command in commands)
    if session:
        run_python("\n".join(session), tmp_path)
    for block in blocks:
        if block.language == "text":
            assert _lines(block.body) <= _lines(printed)


def _lines(output: str) -> set[str]:
    """The lines of an output with its numbers left out, up to the table of states, in which machines may differ."""
    text = re.sub(r"-?\d+(\.\d+)?(e[-+]\d+)?", "#", output.partition("between chains")[0])
    return {" ".join(line.split()) for line in text.splitlines()}


def test_contributing_names_files_that_exist() -> None:
    named = set(re.findall(r"`((?:\w+/)+\w+\.py)`", (ROOT / "CONTRIBUTING.md").read_text()))
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).is_file()] == []
