"""The hand-built groups as fixtures; their modules are importable from the tests beside them."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from symmetry import SymmetryGroup

sys.path.insert(0, str(Path(__file__).parent))

from hand_built import PLAIN, Case, every_element, mlp_group, random_element  # noqa: E402
from hand_built_fibres import FIBRED  # noqa: E402

CASES = PLAIN | FIBRED


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """Every hand-built group in turn."""
    return CASES[request.param]()


@pytest.fixture
def cases() -> dict[str, Callable[[], Case]]:
    """The hand-built groups by name."""
    return CASES


@pytest.fixture
def make_mlp_group() -> Callable[..., SymmetryGroup]:
    """The group of a dense network from its widths and kinds."""
    return mlp_group


@pytest.fixture
def draw_element() -> Callable[..., dict[str, np.ndarray]]:
    """Random elements of a group, from a seed and a batch shape."""
    return random_element


@pytest.fixture
def all_elements() -> Callable[[SymmetryGroup], dict[str, np.ndarray]]:
    """Every element of a small finite group, batched; permutations without colours."""
    return every_element
