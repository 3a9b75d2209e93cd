"""Balance of fibred scales: one and the same value all over the fibre."""

import jax
import numpy as np
import pytest

from symmetry import balance
from symmetry.fibre import uniform


@pytest.mark.parametrize("backend", ["sweeps", "cvxpy"])
@pytest.mark.parametrize("name", ["nested", "layers"])
def test_over_a_fibre_the_scales_are_those_of_the_uniform_subgroup(cases, name, backend):
    case = cases[name]()
    group, weights = case.group, case.draw(20, (2,))
    with jax.enable_x64(True):
        element, alone = (balance(weights, each, backend=backend) for each in (group, uniform(group)))
    scales = [factor for factor in group.factors if factor.kind == "scale"]
    assert element.keys() == {factor.name for factor in scales}
    for factor in scales:
        values = np.asarray(element[factor.name])
        assert values.shape == (2, *factor.shape)
        flat = values.reshape(2, -1, factor.size)
        np.testing.assert_array_equal(flat, np.broadcast_to(np.asarray(alone[factor.name])[:, None], flat.shape))
        assert np.abs(np.log(flat)).max() > 0.01
    moved = group.act(element, weights)
    for draw in range(2):
        one, before = ({site: array[draw] for site, array in each.items()} for each in (moved, weights))
        assert case.change(one, before) <= 1e-12
