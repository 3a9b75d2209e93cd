"""What every test stands on: headless pictures, checked shapes, `support`, Ctrl-C, and slow tests only on request."""

import signal
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
from jaxtyping import install_import_hook

mpl.use("Agg")
# A background job of a shell is begun with Ctrl-C ignored, and so would be every process that a test begins.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Not this folder itself: `tests/symmetry` and the like would hide the packages.
sys.path.insert(0, str(Path(__file__).parent / "support"))


ROOT = Path(__file__).parents[1]
_CHECKED = ["bnn_models", "diagnostics", "inference"]
# Here already: a folder's own conftest.py imports packages before `pytest_configure` when it is the one to be tested.
# Discovery, which calls a million small functions, is checked in `make test-all`.
install_import_hook(
    [*_CHECKED, *(f"symmetry.{file.stem}" for file in (ROOT / "symmetry").glob("*.py"))], "typechecks.outermost"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the full matrices of `make test-all`")


def pytest_configure(config: pytest.Config) -> None:
    """All shapes and types are checked in `make test-all`."""
    if config.getoption("--slow"):
        install_import_hook([*_CHECKED, "symmetry"], "beartype.beartype")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="belongs to `make test-all`")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)
