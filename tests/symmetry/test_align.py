"""Alignment: planted elements, brute force, the barycentre, and what must not happen."""

import jax
import numpy as np
import pytest

from symmetry import Factor, Slot, SymmetryGroup, align_to, barycentre, descent, orbit_distance

FINITE = ("permutation", "sign")


def normal(group, seed, batch=()):
    rng = np.random.default_rng(seed)
    return {site: rng.normal(size=(*batch, *shape)) for site, shape in group.sites.items()}


@pytest.fixture
def planted(draw_element):
    """A reference, and noisy copies of it under random elements."""

    def build(group, seed, num_draws, noise):
        reference, errors = normal(group, seed), normal(group, seed + 1000, (num_draws,))
        element = draw_element(group, seed, (num_draws,))
        noisy = {site: array + noise * errors[site] for site, array in reference.items()}
        return reference, element, group.act(element, noisy)

    return build


def share_recovered(group, element, planted_element):
    """Share of draws whose planted element is undone exactly."""
    remainder = group.compose(element, planted_element)
    neutral = group.identity()
    same = []
    for name, values in remainder.items():
        identical = np.abs(np.asarray(values) - np.asarray(neutral[name])) < 1e-6
        same.append(identical.reshape(len(identical), -1).all(axis=-1))
    return float(np.mean(np.all(same, axis=0)))


def squared_distance(left, right):
    return sum(
        ((left[site] - right[site]) ** 2).reshape(*left[site].shape[: -right[site].ndim or None], -1).sum(-1)
        for site in right
    )


@pytest.mark.parametrize("widths", [(4, 8, 1), (4, 8, 8, 1), (4, 32, 32, 1), (4, 8, 8, 8, 1), (4, 32, 32, 32, 1)])
def test_planted_elements_are_recovered_exactly_without_noise(make_mlp_group, widths, planted):
    group = make_mlp_group(widths, FINITE)
    for seed in range(3):
        reference, element, weights = planted(group, seed, 10, noise=0.0)
        assert share_recovered(group, align_to(weights, group, reference), element) == 1


@pytest.mark.parametrize("widths", [(4, 32, 32, 1), (4, 32, 32, 32, 1)])
def test_planted_elements_are_recovered_through_noise(make_mlp_group, widths, planted):
    group = make_mlp_group(widths, FINITE)
    shares = []
    for seed in range(10):
        reference, element, weights = planted(group, seed, 5, noise=0.2)
        shares.append(share_recovered(group, align_to(weights, group, reference), element))
    assert np.mean(shares) >= 0.9


def test_a_cold_start_does_not_recover_them(make_mlp_group, monkeypatch, planted):
    group = make_mlp_group((4, 32, 32, 1), FINITE)
    reference, element, weights = planted(group, 0, 10, noise=0.0)
    monkeypatch.setattr(descent, "_forward", lambda *arguments: dict(arguments[-1]))
    assert share_recovered(group, align_to(weights, group, reference), element) < 0.9


@pytest.mark.parametrize(
    "name",
    [
        "gated",
        "channels_last",
        "channels_first",
        "two_signs",
        "coloured",
        "mixture",
        "whole_arrays",
        "residual",
        "lstm",
    ],
)
def test_planted_elements_of_other_groups_are_undone(cases, name, planted):
    group = cases[name]().group.restrict(FINITE)
    reference, _, weights = planted(group, 3, 10, noise=0.0)
    aligned = group.act(align_to(weights, group, reference), weights)
    for site, array in reference.items():
        np.testing.assert_allclose(aligned[site], np.broadcast_to(array, aligned[site].shape), atol=1e-12)


def test_classes_that_meet_themselves_are_undone_up_to_noise(cases, planted):
    group = cases["recurrent"]().group
    reference, element, weights = planted(group, 4, 50, noise=0.05)
    assert share_recovered(group, align_to(weights, group, reference), element) == 1


@pytest.mark.parametrize("name", ["recurrent", "two_signs", "gated"])
def test_alignment_never_leaves_draws_farther_away(cases, name):
    group = cases[name]().group.restrict(FINITE)
    weights, reference = normal(group, 5, (40,)), normal(group, 6)
    aligned = group.act(align_to(weights, group, reference), weights)
    assert (squared_distance(aligned, reference) <= squared_distance(weights, reference) + 1e-12).all()


@pytest.mark.parametrize("seed", range(10))
def test_one_hidden_layer_equals_brute_force(make_mlp_group, all_elements, seed):
    group = make_mlp_group((2, 3, 2), FINITE)
    weights, reference = normal(group, seed), normal(group, seed + 50)
    every = group.act(all_elements(group), weights)
    assert every["bias_0"].shape == (48, 3)
    best = squared_distance(every | {"bias_1": np.broadcast_to(weights["bias_1"], (48, 2))}, reference).min()
    aligned = group.act(align_to(weights, group, reference), weights)
    assert float(squared_distance(aligned, reference)) == pytest.approx(float(best), rel=1e-12)
    assert float(orbit_distance(weights, group, reference)) == pytest.approx(float(best) ** 0.5, rel=1e-12)


def test_draws_are_aligned_to_themselves_by_the_identity(case):
    group = case.group.restrict(FINITE)
    weights = normal(group, 7)
    identity = group.identity()
    for name, value in align_to(weights, group, weights).items():
        np.testing.assert_allclose(value, identity[name], atol=1e-12)


def test_alignment_leaves_the_function_unchanged(case):
    weights = case.draw(8)
    moved = case.group.act(align_to(weights, case.group, case.draw(9)), weights)
    assert case.change(moved, weights) <= 1e-10


def test_colours_are_honoured(cases):
    group = cases["coloured"]().group
    element = align_to(normal(group, 9, (30,)), group, normal(group, 10))
    colours = np.array(group.factor("permutation").colours)
    assert (colours[element["permutation"]] == colours).all()


def test_signs_are_aligned_where_nothing_is_permuted(make_mlp_group, planted):
    group = make_mlp_group((2, 4, 1), ("sign",))
    reference, element, weights = planted(group, 11, 20, noise=0.3)
    recovered = align_to(weights, group, reference)
    assert recovered.keys() == {"hidden_0.sign"}
    assert share_recovered(group, recovered, element) >= 0.9


def test_a_reference_for_every_draw(make_mlp_group):
    group = make_mlp_group((2, 5, 4, 1), FINITE)
    weights, references = normal(group, 12, (3, 2)), normal(group, 13, (3, 2))
    together = align_to(weights, group, references)
    distances = orbit_distance(weights, group, references)
    assert distances.shape == (3, 2)
    for index in np.ndindex(3, 2):
        one, reference = ({site: array[index] for site, array in each.items()} for each in (weights, references))
        for name, value in align_to(one, group, reference).items():
            np.testing.assert_array_equal(together[name][index], value)
        assert float(orbit_distance(one, group, reference)) == pytest.approx(float(distances[index]))


def test_chunks_change_nothing(make_mlp_group, monkeypatch):
    group = make_mlp_group((2, 5, 4, 1), FINITE)
    weights, reference = normal(group, 14, (9,)), normal(group, 15, (9,))
    whole = align_to(weights, group, reference)
    monkeypatch.setattr(descent, "_CHUNK_NUMBERS", 200)
    for name, value in align_to(weights, group, reference).items():
        np.testing.assert_array_equal(value, whole[name])


def test_the_orbit_distance_of_copies_is_zero(make_mlp_group, planted):
    group = make_mlp_group((3, 6, 1), FINITE)
    reference, _, weights = planted(group, 16, 8, noise=0.0)
    np.testing.assert_allclose(orbit_distance(weights, group, reference), 0, atol=1e-12)
    assert (orbit_distance(normal(group, 17, (8,)), group, reference) > 1).all()


@pytest.mark.parametrize("widths", [(3, 8, 1), (2, 6, 6, 1)])
@pytest.mark.parametrize("noise", [0.1, 0.5, 2.0])
def test_the_objective_of_the_barycentre_never_rises(make_mlp_group, widths, noise, planted):
    group = make_mlp_group(widths, FINITE)
    _, _, weights = planted(group, 18, 60, noise)
    found = barycentre(weights, group)
    assert (np.diff(found.objective) <= 1e-12 * found.objective[0]).all()
    aligned = group.act(found.element, weights)
    assert found.objective[-1] == pytest.approx(float((found.distances**2).mean()))
    for site, array in found.reference.items():
        np.testing.assert_allclose(aligned[site].mean(axis=0), array, atol=1e-12)


def test_the_barycentre_of_copies_is_one_of_them(make_mlp_group, planted):
    group = make_mlp_group((3, 8, 8, 1), FINITE)
    reference, _, weights = planted(group, 19, 40, noise=0.05)
    found = barycentre({site: array.reshape(4, 10, *array.shape[1:]) for site, array in weights.items()}, group)
    assert found.distances.shape == (4, 10)
    assert found.element["hidden_0.sign"].shape == (4, 10, 8)
    assert float(orbit_distance(found.reference, group, reference)) < 0.3
    assert found.objective[-1] < 1.2 * 0.05**2 * sum(array.size for array in reference.values())


def test_the_first_reference_is_the_best_draw(make_mlp_group, planted):
    group = make_mlp_group((3, 5, 1), FINITE)
    _, _, weights = planted(group, 20, 12, noise=0.01)
    logdensity = np.full(12, np.nan)
    logdensity[[2, 7]] = -3.0, -1.0
    element = barycentre(weights, group, logdensity).element
    identity = group.identity()
    assert all((element[name][7] == identity[name]).all() for name in element)
    assert not all((element[name][2] == identity[name]).all() for name in element)


def test_draws_that_are_not_finite_take_no_part(make_mlp_group, planted):
    group = make_mlp_group((3, 5, 4, 1), FINITE)
    _, _, weights = planted(group, 21, 12, noise=0.1)
    expected = barycentre({site: array[1:] for site, array in weights.items()}, group)
    weights = {site: array.copy() for site, array in weights.items()}
    weights["kernel_1"][0, 1, 1] = np.nan
    weights["bias_2"][0] = np.inf
    found = barycentre(weights, group)
    assert np.isnan(found.distances[0])
    assert np.isnan(orbit_distance(weights, group, found.reference)[0])
    np.testing.assert_allclose(found.distances[1:], expected.distances)
    for name, value in found.element.items():
        np.testing.assert_array_equal(value[0], group.identity()[name])
        np.testing.assert_array_equal(value[1:], expected.element[name])


def test_single_precision_and_jax_arrays(make_mlp_group, planted):
    group = make_mlp_group((3, 6, 5, 1), FINITE)
    reference, element, weights = planted(group, 22, 10, noise=0.05)
    single = {site: jax.numpy.asarray(array, dtype="float32") for site, array in weights.items()}
    found = align_to(single, group, reference)
    assert share_recovered(group, found, element) == 1
    assert {name: value.dtype.name for name, value in found.items()} == {
        name: "int32" if name.endswith("permutation") else "int8" for name in found
    }


def test_a_group_without_permutations_and_signs_aligns_nothing(make_mlp_group):
    group = make_mlp_group((2, 3, 1), ("scale",))
    weights = normal(group, 23, (4,))
    assert align_to(weights, group, weights) == {}
    assert barycentre(weights, group).objective[-1] > 0


def test_bad_arguments_are_refused(make_mlp_group):
    group = make_mlp_group((2, 3, 1), FINITE)
    one, many = normal(group, 24), normal(group, 24, (4,))
    with pytest.raises(ValueError, match="the weights and the reference of bias_0, kernel_0"):
        align_to(one, group, {"kernel_1": one["kernel_1"]})
    with pytest.raises(ValueError, match="site 'bias_0' must have shape"):
        align_to(one | {"bias_0": np.ones(4)}, group, one)
    with pytest.raises(ValueError, match="no batch dims"):
        barycentre(one, group)
    with pytest.raises(ValueError, match="one log density a draw"):
        barycentre(many, group, np.zeros(3))
    with pytest.raises(ValueError, match="at least one draw of finite weights"):
        barycentre(many | {"bias_0": np.full((4, 3), np.nan)}, group)


def test_a_mixture_is_aligned_by_its_labels():
    slots = Slot("means", 0, 3), Slot("weights", 0, 3)
    factor = Factor("labels", "permutation", "component", 3, slots)
    group = SymmetryGroup({"means": (3,), "weights": (3,)}, (factor,))
    draws = {
        "means": np.array([[0.0, 5.0, 9.0], [9.1, 0.1, 5.1], [5.2, 9.2, 0.2]]),
        "weights": np.array([[0.2, 0.3, 0.5], [0.5, 0.2, 0.3], [0.3, 0.5, 0.2]]),
    }
    aligned = group.act(barycentre(draws, group).element, draws)
    np.testing.assert_allclose(aligned["means"], [[0, 5, 9], [0.1, 5.1, 9.1], [0.2, 5.2, 9.2]])
