import json

import numpy as np
import pytest

from diagnostics import diagnose
from symmetry import Factor, Slot, Symmetries, SymmetryGroup


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(size=(4, 600, 6))


def _stats(values, **changes):
    energy = np.random.default_rng(1).normal(size=values.shape[:2])
    return {"diverging": np.zeros(values.shape[:2], bool), "energy": energy, **changes}


def test_clean_run_has_no_problems_and_arviz_prints_nothing(tree_of, values, capsys):
    result = diagnose(tree_of(values, values, values[..., :2], **_stats(values)))
    assert not result.found
    assert result.messages == ()
    assert str(result).endswith("no problems detected.")
    assert capsys.readouterr().out == ""


def test_raw_weights_that_differ_are_no_problem(tree_of, values):
    weights = values + 10.0 * np.arange(4)[:, None, None]
    assert not diagnose(tree_of(weights, values, values[..., :2], **_stats(values))).found


@pytest.mark.parametrize("name", ["reached_max_treedepth", "reached_max_tree_depth"])
def test_tree_depth_is_counted_under_both_names(tree_of, values, name):
    reached = np.zeros((4, 600), bool)
    reached[0, :12] = True
    result = diagnose(tree_of(values, values, values[..., :2], **_stats(values, **{name: reached})))
    assert result.found
    assert "12 of 2400 (0.5 %) transitions hit the maximum tree depth" in str(result)


def test_divergences_and_low_energy_are_found(tree_of, values):
    diverging = np.zeros((4, 600), bool)
    diverging[1, 5] = True
    walk = np.cumsum(np.random.default_rng(2).normal(size=(4, 600)), axis=1)
    result = diagnose(tree_of(values, values, values[..., :2], **_stats(values, diverging=diverging, energy=walk)))
    assert [check.name for check in result.checks if check.problem] == ["divergences", "energy"]


def _moved(symmetric):
    """Two parameters ``w``, with or without a permutation between them, and another one that nothing moves."""
    factor = Factor("w:permutation", "permutation", "w", 2, (Slot("w", 0, 2),))
    group = SymmetryGroup({"w": (2,), "mu": ()}, (factor,) if symmetric else ())
    return Symmetries(group, group)


@pytest.mark.parametrize(
    ("site", "symmetric", "kind", "found"),
    [
        ("w", False, "pointwise", True),
        ("w", True, "pointwise", False),
        ("mu", True, "pointwise", True),
        ("mu", True, "network", False),
        ("mu", True, "instead", False),
        ("mu", True, "site", False),
    ],
)
def test_parameters_are_checked_that_no_symmetry_moves(tree_of, values, site, symmetric, kind, found):
    """The log likelihood may hardly depend on a parameter whose chains have not mixed."""
    weights = {"w": values[..., :2].copy(), "mu": values[..., 2].copy()}
    weights[site][0] += 3.0
    tree = tree_of(weights, values, values[..., :2], _moved(symmetric))
    tree["function"].attrs["kind"] = kind
    problems = [check for check in diagnose(tree).checks if check.problem]
    assert [check.name for check in problems] == ["R-hat, parameters", "ESS, parameters"] * found
    if found:
        assert "have not mixed in these parameters" in problems[0].message


def test_kernel_without_energy_is_not_asked_for_it(tree_of, values):
    result = diagnose(tree_of(values, values, values[..., :2]))
    assert "energy" not in [check.name for check in result.checks]
    assert not result.found


@pytest.mark.parametrize(("temperature", "found"), [(1.02, False), (1.3, True), (np.nan, True)])
def test_a_chain_that_is_too_warm_is_found(tree_of, values, temperature, found):
    stats = {"kinetic_temperature": np.full((4, 600), temperature)}
    result = diagnose(tree_of(values, values, values[..., :2], **stats))
    assert result.found == found
    assert f"mean {temperature:.3g} where 1 was asked for" in str(result)
    tree = tree_of(values, values, values[..., :2], **stats)
    tree.attrs["kernel"] = json.dumps({"settings": {"temperature": 1.3}})
    assert diagnose(tree).found == (temperature != 1.3)


def test_a_kernel_without_acceptance_rate_is_not_told_to_raise_it(tree_of, values):
    stats = {"diverging": np.ones((4, 600), bool)}
    assert "Lower the step size" in str(diagnose(tree_of(values, values, values[..., :2], **stats)))
    stats["acceptance_rate"] = np.full((4, 600), 0.8)
    assert "Raise the target acceptance rate" in str(diagnose(tree_of(values, values, values[..., :2], **stats)))


def test_functions_that_differ_are_found_by_rhat_ess_and_verdict(tree_of, values):
    function = values.copy()
    function[0] += 2.0
    result = diagnose(tree_of(values, function, values[..., :2]))
    found = [check.name for check in result.checks if check.problem]
    assert found == ["R-hat, function", "ESS, function", "verdict"]


def test_many_quantities_raise_no_false_alarm(tree_of, autoregressive):
    # Some of 100 exceed 1.01 although nothing is wrong.
    function = autoregressive(np.random.default_rng(3), (4, 1000, 100), 0.8)
    result = diagnose(tree_of(function[..., :2], function, function[..., :2]))
    (rhat,) = [check for check in result.checks if check.name == "R-hat, function"]
    assert not rhat.problem
    assert float(rhat.message.split()[1].rstrip(";")) > 1.01


def test_dead_and_broken_chains_are_named(tree_of, values):
    weights = values.copy()
    weights[1] = weights[1, :1]
    weights[3, 7, 0] = np.nan
    result = diagnose(tree_of(weights, values, values[..., :2]))
    assert "not finite in chain 3" in str(result)
    assert "chain 1 never moved" in str(result)
    assert len(result.messages) >= 2


@pytest.mark.parametrize("shape", [(1, 600, 3), (4, 3, 3)])
def test_too_little_to_judge_is_a_problem(tree_of, shape):
    few = np.random.default_rng(4).normal(size=shape)
    result = diagnose(tree_of(few, few, few[..., :2]))
    assert result.found
    assert result.to_dict()["found"]
    assert result.to_dict()["checks"][-1]["name"] == "verdict"
