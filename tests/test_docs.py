"""Every code block of the pages in docs/ is carried out, and prints what the page shows below it."""

import doctest
import re
from pathlib import Path

import pytest
from pages import EXECUTED, ROOT, SHOWN, Block, blocks_of, name_of, run_command, run_python, write_files

PAGES = sorted((ROOT / "docs").glob("*.md"))
LINKED = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
SEPARATOR = "---- next block ----"
# A symmetry that failed its certificate is dropped with such a warning.
STRICT = "import warnings; warnings.simplefilter('error', RuntimeWarning)"
# Rounding errors differ between machines.
ROUNDED = re.compile(r"\d\.\d+e[-+]\d\d")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_print_what_is_shown(page: Path, tmp_path: Path) -> None:
    """Python blocks share one session, a block that begins with a file name becomes that file; `...` is any text."""
    blocks = blocks_of(page)
    write_files(blocks, tmp_path)
    printed = iter(_run_session(blocks, tmp_path))
    unseen = ""
    for block in blocks:
        if block.language == "text":
            assert _agree(block.body, unseen), f"shown:\n{block.body}\nprinted:\n{unseen}"
            unseen = ""
        else:
            assert not unseen.strip(), f"printed, but not shown:\n{unseen}"
        if block.language == "sh":
            unseen = "".join(run_command(command, tmp_path) for command in block.commands)
        elif _is_code(block):
            unseen = next(printed)
    assert not unseen.strip(), f"printed, but not shown:\n{unseen}"


def _run_session(blocks: list[Block], folder: Path) -> list[str]:
    """What each Python block prints."""
    code = [block.body for block in blocks if _is_code(block)]
    session = f"\nprint({SEPARATOR!r})\n".join(code)
    return run_python(f"{STRICT}\n{session}", folder).split(f"{SEPARATOR}\n")


def _is_code(block: Block) -> bool:
    return block.language == "python" and not block.file


def _agree(shown: str, printed: str) -> bool:
    shown, printed = (ROUNDED.sub("#", text) for text in (shown, printed))
    return doctest.OutputChecker().check_output(shown, printed, doctest.ELLIPSIS)


@pytest.mark.parametrize(
    ("shown", "printed", "agree"),
    [
        ("error 1.0e-16\n", "error 2.2e-16\n", True),
        ("S_3\n", "S_4\n", False),
        ("first\n...\nlast\n", "first\nand\nlast\n", True),
        ("first\n", "first\nlast\n", False),
    ],
)
def test_outputs_are_told_apart(shown: str, printed: str, agree: bool) -> None:
    assert _agree(shown, printed) is agree


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_blocks_are_executed_or_output(page: Path) -> None:
    assert {block.language for block in blocks_of(page)} <= EXECUTED | SHOWN


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_and_names_of_files_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    links = [page.parent / link for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text)]
    files = [ROOT / name for name in re.findall(r"`((?:\w+/)+\w+\.py)`", text)]
    assert links or files
    assert [str(path) for path in (*links, *files) if not path.exists()] == []
