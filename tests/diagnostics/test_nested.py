"""Nested and chain-wise R-hat, against ArviZ and against what they are for."""

import arviz as az
import numpy as np
import pytest

from diagnostics import convergence
from diagnostics.nested import chainwise_rhat, nested_rhat


@pytest.mark.parametrize("superchains", [[0, 0, 0, 0, 1, 1, 1, 1], [2, 0, 1, 0, 3, 2, 1, 3], list(range(8))])
def test_nested_rhat_is_that_of_arviz(autoregressive, superchains):
    values = autoregressive(np.random.default_rng(0), (8, 101, 4), 0.5)
    values[:4, :, 1] += 1.0
    values[:, :, 2] = np.round(values[:, :, 2])  # ties
    expected = [az.rhat_nested(values[:, :, k], superchain_ids=np.array(superchains)) for k in range(4)]
    assert nested_rhat(values, superchains) == pytest.approx(np.array(expected), rel=1e-10)


def test_chains_that_mix_within_modes_are_told_from_chains_that_do_not_mix(autoregressive, tree_of):
    rng = np.random.default_rng(0)
    apart = autoregressive(rng, (8, 400, 20), 0.3) + 5.0 * (np.arange(8) % 2)[:, None, None]
    drifting = np.cumsum(rng.normal(size=(8, 400, 20)), axis=1)
    assert chainwise_rhat(apart).max() < 1.1
    assert np.median(chainwise_rhat(drifting)) > 1.3
    row = convergence(tree_of(apart, apart)).row("function")
    assert row.rhat_median > 1.5
    assert row.rhat_chainwise < 1.02
    assert "Each chain by itself (chain-wise split R-hat" in str(convergence(tree_of(apart, apart)))


def test_superchains_are_compared_with_each_other(autoregressive, tree_of):
    values = autoregressive(np.random.default_rng(0), (8, 300, 5), 0.0)
    values[4:] += 2.0
    tree = tree_of(values, values)
    assert convergence(tree).row("raw").rhat_nested is None
    table = convergence(tree, superchains=[0, 0, 0, 0, 1, 1, 1, 1])
    assert table.row("raw").rhat_nested > 1.5
    assert convergence(tree, superchains=[0, 1, 0, 1, 0, 1, 0, 1]).row("raw").rhat_nested < 1.1
    assert "Between superchains (largest nested R-hat): raw weights" in str(table)


@pytest.mark.parametrize("superchains", [[0] * 8, [0, 1], [0, 0, 0, 1, 1, 1, 1, 1]])
def test_superchains_are_two_or_more_of_one_size(tree_of, superchains):
    with pytest.raises(ValueError, match="superchains should give each of the 8 chains a number, two numbers at least"):
        convergence(tree_of(np.zeros((8, 10, 2))), superchains=superchains)
