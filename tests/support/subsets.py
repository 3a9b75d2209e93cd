"""Which cases of a parametrised test `make test` runs; `make test-all` runs all of them."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def only(quick: Collection[Any], values: Iterable[Any]) -> list[Any]:
    """The values as parameters, of which those that are not `quick` are marked slow."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]


def first(keep: int, values: Iterable[Any]) -> list[Any]:
    """The values as parameters, of which all but the first `keep` are marked slow."""
    return [v if i < keep else pytest.param(v, marks=pytest.mark.slow) for i, v in enumerate(values)]
