"""What every test stands on: headless pictures, the modules in `support`, and slow tests only on request."""

import sys
from pathlib import Path

import matplotlib as mpl
import pytest

mpl.use("Agg")
# Not this folder itself: `tests/symmetry` and the like would hide the packages.
sys.path.insert(0, str(Path(__file__).parent / "support"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the full matrices of `make test-all`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="belongs to `make test-all`")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)
