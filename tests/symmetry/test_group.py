"""Laws of the group and of its action, over all hand-built groups."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from subsets import first

from symmetry import Factor, Pin, Slot, SymmetryGroup
from symmetry.factor import KINDS

# Where a test has to compile, these stand for all.
STANDING_FOR_ALL = ["relu_1", "two_signs", "nested", "views", "channels_first", "fused_attention", "tied_units"]
compiled = pytest.mark.parametrize("case", first(4, STANDING_FOR_ALL), indirect=True)


def close(left, right, tolerance=1e-11):
    assert left.keys() == right.keys()
    for site in left:
        np.testing.assert_allclose(left[site], right[site], rtol=tolerance, atol=tolerance)


def test_every_element_leaves_the_function_unchanged(case):
    weights = case.draw(0)
    for seed in range(5):
        assert case.change(case.group.act(case.element(seed), weights), weights) <= 1e-12


def test_an_element_moves_the_weights(case):
    weights = case.draw(0)
    moved = case.group.act(case.element(3, (20,)), weights)
    for factor in case.group.factors:
        for slot in factor.slots:
            assert factor.size == 1 or np.abs(moved[slot.site] - weights[slot.site]).max() > 0.1


def test_leaving_out_one_slot_changes_the_function(case):
    weights = case.draw(1)
    for factor in case.group.factors:
        if (factor.kind, factor.size) == ("permutation", 1):
            continue
        elements = case.element(1, (8,))
        for left_out in factor.slots:
            slots = tuple(slot for slot in factor.slots if slot != left_out)
            wrong = SymmetryGroup(case.group.sites, (dataclasses.replace(factor, slots=slots),))
            moved = [wrong.act({factor.name: value}, weights) for value in elements[factor.name]]
            assert max(case.change(each, weights) for each in moved) > 1e-3


def test_scaling_a_bias_like_a_weight_changes_the_function(cases):
    case = cases["relu_2"]()
    weights = case.draw(2)
    scales = {"hidden_0.scale": np.full(4, 3.0), "hidden_1.scale": np.full(3, 0.5)}
    moved = case.group.act(scales, weights)
    assert case.change(moved, weights) <= 1e-12
    assert case.change(moved | {"bias_1": moved["bias_1"] / 3.0}, weights) > 0.01


def test_the_identity_moves_nothing(case):
    weights = case.draw(3)
    close(case.group.act(case.group.identity(), weights), weights, 0)
    close(case.group.act({}, weights), weights, 0)


def test_the_inverse_undoes(case):
    element, weights = case.element(4, (6,)), case.draw(4, (6,))
    inverse = case.group.inverse(element)
    close(case.group.act(inverse, case.group.act(element, weights)), weights)
    neutral = {name: np.broadcast_to(value, (6, *value.shape)) for name, value in case.group.identity().items()}
    close(case.group.compose(element, inverse), neutral)
    close(case.group.compose(inverse, element), neutral)


def test_composition_is_action_after_action(case):
    first, second, weights = case.element(5, (6,)), case.element(6, (6,)), case.draw(5, (6,))
    twice = case.group.act(second, case.group.act(first, weights))
    close(case.group.act(case.group.compose(second, first), weights), twice)


def test_composition_is_associative(case):
    a, b, c = (case.element(seed, (4,)) for seed in (7, 8, 9))
    compose = case.group.compose
    close(compose(c, compose(b, a)), compose(compose(c, b), a))


@pytest.mark.parametrize("missing", KINDS)
def test_partial_elements_act_as_if_completed_by_the_identity(case, missing):
    first, second, weights = case.element(10), case.element(11), case.draw(10)
    part = {name: value for name, value in second.items() if case.group.factor(name).kind != missing}
    full = {name: np.asarray(value) for name, value in case.group.identity().items()} | part
    act, compose = case.group.act, case.group.compose
    close(act(part, weights), act(full, weights))
    close(act(compose(part, first), weights), act(compose(full, first), weights))
    close(act(compose(first, part), weights), act(compose(first, full), weights))
    close(act(case.group.inverse(part), act(part, weights)), weights)


@compiled
def test_batched_action_is_the_vmapped_action(case):
    element, weights = case.element(12, (3, 2)), case.draw(12, (3, 2))
    vmapped = jax.jit(jax.vmap(jax.vmap(case.group.act)))
    with jax.enable_x64(True):
        close(case.group.act(element, weights), vmapped(element, weights))
        close(jax.jit(case.group.act)(element, weights), vmapped(element, weights))


def test_batch_dims_broadcast(case):
    one, many, element = case.draw(13), case.draw(13, (4, 5)), case.element(13, (4, 1))
    full = {name: np.broadcast_to(value, (4, 5, *value.shape[2:])) for name, value in element.items()}
    close(case.group.act(element, many), case.group.act(full, many), 1e-12)
    moved = case.group.act(full, one)
    for factor in case.group.factors:
        for slot in factor.slots:
            assert moved[slot.site].shape == (4, 5, *case.group.sites[slot.site])


def test_numpy_weights_stay_numpy_and_keep_their_precision(case):
    weights, element = case.draw(14, (3,)), case.element(14, (3,))
    moved = case.group.act(jax.tree.map(jnp.asarray, element), weights)
    assert all(type(array) is np.ndarray and array.dtype == np.float64 for array in moved.values())


@compiled
def test_a_second_call_does_not_compile_again(case):
    act = jax.jit(lambda group, element, weights: group.act(element, weights))
    for seed in (15, 16):
        act(SymmetryGroup.from_json(case.group.to_json()), case.element(seed), case.draw(seed))
    assert act._cache_size() == 1


def test_the_order_counts_the_distinct_elements(cases, all_elements):
    group = cases["tanh_width_1"]().group
    assert group.order == 2
    group = SymmetryGroup({"w": (3,)}, (Factor("p", "permutation", "a", 3, (Slot("w", 0, 3),)), sign_on("w", 3)))
    moved = group.act(all_elements(group), {"w": np.array([1.0, 2.0, 3.0])})["w"]
    assert len(np.unique(moved, axis=0)) == group.order == 48


def test_the_logarithm_of_the_order(case):
    assert case.group.log_order == pytest.approx(math.log(case.group.order), abs=1e-12)


def test_colours_count_in_the_order(cases):
    assert cases["coloured"]().group.order == 2 * 6 * 2**5


@compiled
def test_random_elements_are_elements(case):
    element = case.group.random(jax.random.key(16), (50,))
    for factor in case.group.factors:
        values = np.asarray(element[factor.name])
        assert values.shape == (50, *factor.shape)
        if factor.kind == "permutation":
            assert (np.sort(values, axis=-1) == np.arange(factor.size)).all()
        if factor.kind == "sign":
            assert set(np.unique(values)) == {-1, 1}
        if factor.kind == "scale":
            assert (values > 0).all()
            assert 0.7 < np.log(values).std() < 1.3
        if factor.kind == "orthogonal":
            np.testing.assert_allclose(
                values @ values.swapaxes(-1, -2), np.broadcast_to(np.eye(factor.size), values.shape), atol=1e-5
            )
        if factor.kind == "linear":
            assert 0.2 < np.log(np.linalg.svd(values)[1]).std() < 0.4
    weights = case.draw(16)
    first = {name: values[0] for name, values in element.items()}
    assert case.change(case.group.act(first, weights), weights) <= 1e-5


def test_random_permutations_are_uniform_within_colours(cases):
    group = cases["coloured"]().group
    draws = np.asarray(group.random(jax.random.key(17), (24_000,))["permutation"])
    colours = np.array(group.factor("permutation").colours)
    assert (colours[draws] == colours).all()
    _, counts = np.unique(draws, axis=0, return_counts=True)
    assert len(counts) == 12
    assert np.abs(counts - 2000).max() < 5 * math.sqrt(2000)


def test_sites_unknown_to_the_group_pass_through(cases):
    case = cases["tanh_1"]()
    weights = case.draw(18) | {"noise": np.array(0.3)}
    assert case.group.act(case.element(18), weights)["noise"] is weights["noise"]


def test_restriction_keeps_kinds_and_names_of_axes(cases):
    group = cases["linear"]().group
    finite = group.restrict(("permutation", "sign"))
    assert [factor.kind for factor in finite.factors] == ["permutation", "sign"]
    assert (
        finite.axes
        == group.axes
        == {
            "kernel_0": (None, "hidden_0"),
            "bias_0": ("hidden_0",),
            "kernel_1": ("hidden_0", None),
            "bias_1": (None,),
        }
    )


def test_axes_name_whole_axes_only(cases):
    assert cases["gated"]().group.axes == {"fused": (None, None), "head": ("unit", None)}
    assert cases["channels_last"]().group.axes["dense"] == (None, None)


def test_gradients_pass_through_the_action(cases):
    case = cases["relu_1"]()
    element, weights = case.element(19), jax.tree.map(jnp.asarray, case.draw(19))
    norm = jax.grad(lambda w: sum((array**2).sum() for array in case.group.act(element, w).values()))(weights)
    assert all(np.isfinite(array).all() for array in norm.values())


def sign_on(site, size, **changes):
    fields = {"name": "s", "kind": "sign", "axis": "a", "size": size, "slots": (Slot(site, 0, size),)}
    return Factor(**(fields | changes))


def test_groups_are_values():
    one, other = (SymmetryGroup({"w": (3,)}, (sign_on("w", 3),), (Pin("w", 0, "why"),)) for _ in range(2))
    assert one == other
    assert len({one, other}) == 1
    assert one != SymmetryGroup({"w": (3,)})
