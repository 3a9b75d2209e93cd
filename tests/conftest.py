"""What every test stands on: headless pictures, the modules in `support`, and slow tests only on request.

Compiled programs are shared by all processes of a run, those that tests start included, and forgotten after it.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import matplotlib as mpl
import pytest

mpl.use("Agg")
# Not this folder itself: `tests/symmetry` and the like would hide the packages.
sys.path.insert(0, str(Path(__file__).parent / "support"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the full matrices of `make test-all`")


def pytest_configure(config: pytest.Config) -> None:
    """Before the workers of pytest-xdist start, which inherit the environment."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="programs-")
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3"}
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="belongs to `make test-all`")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)
