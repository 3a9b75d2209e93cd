import json

import numpy as np
import pytest
import xarray as xr

from diagnostics import Label, canonicalize, convergence, summary, verdict
from diagnostics.levels import check_tree
from diagnostics.verdict import LevelVerdict, State, Verdict

_NUM_CHAINS = 8
_NUM_PROBES = 50


def _label_counts(autoregressive, tree_of, num_repetitions, num_draws, phi, change=lambda function: None):
    """Verdicts on stationary AR(1) chains whose function values were changed."""
    labels = []
    for repetition in range(num_repetitions):
        rng = np.random.default_rng(repetition)
        function = autoregressive(rng, (_NUM_CHAINS, num_draws, _NUM_PROBES), phi)
        if repetition % 2:  # strongly correlated probes every other time
            function = 0.3 * function + 0.95 * autoregressive(rng, (_NUM_CHAINS, num_draws, 1), phi)
        invariants = autoregressive(rng, (_NUM_CHAINS, num_draws, 2), phi)
        change(function)
        labels.append(verdict(tree_of(function[..., :2].copy(), function, invariants)).label)
    return {label: labels.count(label) for label in set(labels)}


@pytest.mark.parametrize(
    "num_repetitions", [20, pytest.param(200, marks=pytest.mark.slow)], ids=["20 repetitions", "200 repetitions"]
)
@pytest.mark.parametrize(("num_draws", "phi"), [(500, 0.9), (1000, 0.95)])
def test_stationary_chains_are_rarely_called_in_disagreement(autoregressive, tree_of, num_repetitions, num_draws, phi):
    # Effective draws a chain: 25.
    counts = _label_counts(autoregressive, tree_of, num_repetitions, num_draws, phi)
    assert counts.get(Label.FUNCTIONAL_DISAGREEMENT, 0) <= 0.01 * num_repetitions
    assert counts.get(Label.MIXED, 0) >= 0.9 * num_repetitions


def _half_the_chains(function):
    function[: _NUM_CHAINS // 2] += 1.0


def _a_few_probes(function):
    function[: _NUM_CHAINS // 2, :, :5] += 2.0


def _one_chain(function):
    function[3] += 2.0


@pytest.mark.parametrize("num_repetitions", [6, pytest.param(60, marks=pytest.mark.slow)], ids=["6 times", "60 times"])
@pytest.mark.parametrize("change", [_half_the_chains, _a_few_probes, _one_chain])
def test_disagreement_is_found(autoregressive, tree_of, num_repetitions, change):
    counts = _label_counts(autoregressive, tree_of, num_repetitions, 500, 0.9, change)
    assert counts.get(Label.FUNCTIONAL_DISAGREEMENT, 0) >= 0.95 * num_repetitions


def test_places_of_a_local_disagreement_are_named(autoregressive, tree_of):
    function = autoregressive(np.random.default_rng(0), (8, 500, 50), 0.5)
    _a_few_probes(function)
    result = verdict(tree_of(function[..., 10:12], function))
    assert result.level("function").local_where == tuple(f"function[{probe}]" for probe in range(5))
    assert "function[4]" in str(result)


def test_invariants_alone_show_a_disagreement(tree_of):
    rng = np.random.default_rng(1)
    invariants = rng.normal(size=(8, 500, 2))
    invariants[:4, :, 0] += 1.0
    weights = rng.normal(size=(8, 500, 3))
    assert verdict(tree_of(weights, weights, invariants)).label == Label.FUNCTIONAL_DISAGREEMENT


def test_weights_that_differ_without_a_symmetry_are_not_called_one(tree_of):
    rng = np.random.default_rng(2)
    weights, function = rng.normal(size=(4, 400, 3)), rng.normal(size=(4, 400, 10))
    weights[0] += 4.0
    result = verdict(tree_of(weights, function))
    assert result.label == Label.WEIGHTS_DIFFER
    assert not result.problem
    assert result.level("raw").groups == ((0,), (1, 2, 3))
    assert "No symmetries were looked for" in str(result)
    assert np.isnan(result.symmetry_share)


def test_large_share_that_chance_can_explain_is_no_verdict(autoregressive, tree_of):
    # Two chains of two batches: no p below 1/3 exists, whatever the shift.
    function = autoregressive(np.random.default_rng(3), (2, 320, 5), 0.9)
    function[0] += 3.0
    result = verdict(tree_of(function, function))
    assert result.num_batches == 2
    assert result.label == Label.NO_VERDICT
    assert result.problem
    assert "0.33" in str(result)


def test_chains_of_fewer_than_twelve_autocorrelation_times_give_no_verdict(autoregressive, tree_of):
    function = autoregressive(np.random.default_rng(4), (8, 200, 5), 0.98)
    result = verdict(tree_of(function, function))
    assert result.label == Label.TOO_SHORT
    assert result.problem
    assert np.isnan(result.level("function").p)
    assert "draws a chain are needed" in str(result)


@pytest.mark.parametrize("shape", [(1, 500, 3), (4, 3, 3)])
def test_one_chain_or_three_draws_give_no_verdict(tree_of, shape):
    values = np.random.default_rng(5).normal(size=shape)
    result = verdict(tree_of(values, values))
    assert result.label == (Label.NO_VERDICT if shape[0] == 1 else Label.TOO_SHORT)
    assert result.levels == ()
    assert str(result)


def test_weights_alone_decide_nothing(tree_of):
    result = verdict(tree_of(np.random.default_rng(6).normal(size=(4, 200, 3))))
    assert result.label == Label.NO_VERDICT
    assert "neither function values nor invariants" in str(result)


def test_chain_that_is_not_finite_is_left_out_and_named(tree_of):
    values = np.random.default_rng(7).normal(size=(5, 300, 4))
    function = values.copy()
    function[1, 30:] = np.nan
    function[1, 5] = np.inf
    result = verdict(tree_of(values, function))
    assert result.label == Label.MIXED
    assert result.left_out == (1,)
    assert "chains 1" in str(result)
    assert {c for group in result.level("raw").groups for c in group} == {0, 2, 3, 4}


def test_constant_quantities_change_nothing(tree_of):
    rng = np.random.default_rng(8)
    values, invariants = rng.normal(size=(4, 300, 4)), rng.normal(size=(4, 300, 2))
    padded = np.concatenate([values, np.full((4, 300, 3), 2.5)], axis=2)
    plain, with_constants = verdict(tree_of(values, values, invariants)), verdict(tree_of(padded, padded, invariants))
    assert [level.beta for level in plain.levels] == [level.beta for level in with_constants.levels]
    assert with_constants.level("raw").num_quantities == 4


def test_small_difference_is_a_clause_and_no_other_verdict(tree_of):
    rng = np.random.default_rng(9)
    function = rng.normal(size=(8, 2000, 10))
    function[:4] += 0.2
    result = verdict(tree_of(rng.normal(size=(8, 2000, 3)), function))
    assert result.level("function").state == "weak"
    assert result.label == Label.MIXED
    assert "real but small" in str(result)


def test_units_do_not_matter(tree_of):
    rng = np.random.default_rng(10)
    function = rng.normal(size=(8, 300, 10))
    function[:4, :, 0] += 2.0
    scaled = function * 10.0 ** np.arange(-5, 5) + 3.0
    first, second = (verdict(tree_of(values, values)) for values in (function, scaled))
    assert first.label == second.label == Label.FUNCTIONAL_DISAGREEMENT
    assert first.level("function").beta == pytest.approx(second.level("function").beta)


def _noise(seed, shape):
    return np.random.default_rng(seed).normal(size=shape)


def _text(label, **states):
    """What is printed of given states."""
    levels = tuple(
        LevelVerdict(name, 3, 0.2, 1.1, 0.05, state, ((0, 1),), 0.2, 0.001, ()) for name, state in states.items()
    )
    numbers = {"symmetry_share": np.nan, "num_chains": 4, "num_draws": 50, "tau": 2.0, "num_batches": 4}
    result = Verdict(label, levels, **numbers, left_out=(), function_kind="network", notes=())
    return " ".join(str(result).split())


def test_what_only_the_invariants_show_is_said_so(tree_of):
    values, invariants = _noise(12, (8, 300, 10)), _noise(13, (8, 300, 2))
    invariants[:4] += 2.0
    result = verdict(tree_of(values, values, invariants))
    assert result.label == Label.FUNCTIONAL_DISAGREEMENT
    assert "the functions that were compared agree, but not the log likelihood" in " ".join(str(result).split())
    values[:4] += 2.0
    assert "disagree in what the model says" in " ".join(str(verdict(tree_of(values, values, invariants))).split())


@pytest.mark.parametrize(
    ("label", "states", "said"),
    [
        (Label.FUNCTIONAL_DISAGREEMENT, {"function": State.UNDECIDED}, "Whether they differ at the probes too"),
        (Label.FUNCTIONAL_DISAGREEMENT, {"function": State.WEAK}, "the functions that were compared agree"),
        (Label.FUNCTIONAL_DISAGREEMENT, {"invariants": State.DIFFER}, "the chains differ in the log likelihood"),
        (Label.FUNCTIONAL_DISAGREEMENT, {"function": State.DIFFER}, "the chains disagree in what the model says"),
        (Label.SYMMETRY_ONLY, {"raw": State.UNDECIDED, "canonical": State.AGREE}, "The raw weights seem to differ"),
        (Label.SYMMETRY_ONLY, {"raw": State.DIFFER, "canonical": State.WEAK}, "hardly any difference"),
        (Label.SYMMETRY_ONLY, {"raw": State.DIFFER, "canonical": State.AGREE}, "no difference between them is left"),
        (Label.WEIGHTS_DIFFER, {"canonical": State.UNDECIDED}, "cannot tell it from chance"),
        (Label.WEIGHTS_DIFFER, {"raw": State.DIFFER}, "No symmetries were looked for"),
        (Label.WEIGHTS_DIFFER, {"canonical": State.DIFFER}, "their weights differ by more than the symmetries"),
    ],
)
def test_headlines_claim_no_more_than_the_states(label, states, said):
    assert said in _text(label, **states)


def test_a_weak_difference_is_bounded_as_it_was_seen():
    assert "found in: function (one value, 20.0 % between chains, p 0.001)" in _text(Label.MIXED, function=State.WEAK)


@pytest.mark.parametrize(
    ("kind", "reach"),
    [("network", "probes only"), ("pointwise", "what the observations see"), ("instead", "training inputs only")],
)
def test_limits_fit_the_function_level(tree_of, kind, reach):
    values = _noise(14, (4, 200, 3))
    tree = tree_of(values, values)
    tree["function"].attrs["kind"] = kind
    assert reach in str(verdict(tree))


@pytest.mark.parametrize("judge", [verdict, convergence, canonicalize, summary])
def test_what_is_no_tree_of_draws_is_refused(judge):
    with pytest.raises(ValueError, match="a tree of draws was expected, got a tree without a posterior group"):
        judge(xr.DataTree())
    with pytest.raises(ValueError, match="a tree of draws was expected, got ndarray"):
        check_tree(np.zeros((4, 100)))


def test_verdict_is_json_and_states_its_limits(tree_of):
    values = np.random.default_rng(11).normal(size=(4, 200, 3))
    result = verdict(tree_of(values, values))
    parsed = json.loads(result.to_json())
    assert parsed["label"] == "MIXED"
    assert parsed["levels"][0]["level"] == "raw"
    assert parsed["symmetry_share"] is None
    for part in ("Limits", "no proof of convergence", "What would overturn it"):
        assert part in str(result)
