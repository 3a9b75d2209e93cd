"""Subgroups: of matrices with one entry a row, and of elements that are the same along their fibres."""

import itertools

import numpy as np
import pytest
from hand_built import every_element, random_element
from hand_built_fibres import FIBRED

from symmetry import ISOMETRIES, Factor, Slot, SymmetryGroup
from symmetry.fibre import expand, uniform, with_common_fibres

MATRICES = ("multi_head", "fused_attention", "low_rank", "factor_model", "views")
SUBGROUPS = {"uniform": uniform, "with_common_fibres": with_common_fibres}


def close(left, right, tolerance=1e-12):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=tolerance, atol=tolerance)


def as_matrices(group, element):
    """A monomial element as an element of the group: ``M[j, sigma(j)] = s_j lambda_j``."""
    result = {name: value for name, value in element.items() if name in {factor.name for factor in group.factors}}
    for factor in group.factors:
        if factor.kind in ("linear", "orthogonal"):
            rows = np.eye(factor.size)[element[f"{factor.axis}:permutation"]]
            for kind in ("sign", "scale"):
                rows = rows * element.get(f"{factor.axis}:{kind}", np.ones(1))[..., None]
            result[factor.name] = rows
    return result


@pytest.mark.parametrize("name", MATRICES)
def test_monomial_elements_act_like_matrices(cases, name):
    case = cases[name]()
    group, monomial = case.group, case.group.monomial()
    assert not {factor.kind for factor in monomial.factors} & {"linear", "orthogonal"}
    first, second = (random_element(monomial, seed, (5,)) for seed in (1, 2))
    weights = case.draw(1, (5,))
    moved = monomial.act(first, weights)
    close(moved, group.act(as_matrices(group, first), weights))
    for index in range(5):
        one, before = ({site: array[index] for site, array in each.items()} for each in (moved, weights))
        assert case.change(one, before) <= 1e-12
    product = as_matrices(group, monomial.compose(second, first))
    close(product, group.compose(as_matrices(group, second), as_matrices(group, first)))
    close(as_matrices(group, monomial.inverse(first)), group.inverse(as_matrices(group, first)))


def test_monomials_of_rotations_have_no_scales(cases):
    monomial = cases["views"]().group.monomial()
    assert [(f.name, f.kind, f.shape) for f in monomial.factors] == [
        ("factor:permutation", "permutation", (3, 2)),
        ("factor:sign", "sign", (3, 2)),
        ("view.permutation", "permutation", (3,)),
    ]
    assert monomial.order == 2**3 * 4**3 * 6
    assert monomial.dimension == 0


def test_a_group_without_matrices_is_monomial(cases):
    group = cases["nested"]().group
    assert group.monomial() == group


@pytest.mark.parametrize("subgroup_of", SUBGROUPS.values(), ids=SUBGROUPS)
@pytest.mark.parametrize("name", FIBRED)
def test_elements_of_a_subgroup_expand_to_elements_of_the_group(cases, name, subgroup_of):
    case = cases[name]()
    group, subgroup = case.group, subgroup_of(case.group)
    first, second = (random_element(subgroup, seed, (2, 3)) for seed in (3, 4))
    weights = case.draw(3, (2, 3))
    close(subgroup.act(first, weights), group.act(expand(group, subgroup, first), weights))
    close(
        expand(group, subgroup, subgroup.compose(second, first)),
        group.compose(expand(group, subgroup, second), expand(group, subgroup, first)),
    )
    close(expand(group, subgroup, subgroup.inverse(first)), group.inverse(expand(group, subgroup, first)))


@pytest.mark.parametrize("name", FIBRED)
def test_uniform_elements_are_the_same_along_their_fibres(cases, name):
    group = cases[name]().group
    assert all(factor.fibre == () and factor.num_copies == 1 for factor in uniform(group).factors)
    element = expand(group, uniform(group), random_element(uniform(group), 5))
    for factor in group.factors:
        copies = element[factor.name].reshape(factor.num_copies, -1)
        assert (copies == copies[0]).all()


def test_common_fibres_are_those_of_all_factors_of_a_class(cases):
    common = with_common_fibres(cases["tied_units"]().group)
    assert [factor.fibre for factor in common.factors] == [(), (), ()]
    common = with_common_fibres(cases["nested"]().group)
    assert [factor.fibre for factor in common.factors if factor.axis == "unit"] == [("branch", "member")] * 2
    assert uniform(common) == uniform(cases["nested"]().group)


@pytest.mark.parametrize(
    ("name", "kinds", "order"),
    [
        ("nested", ("permutation",), 2 * 2**2 * 2**4),
        ("views", ISOMETRIES, 6 * 2**3 * 4**3),
        ("tied_units", ("permutation", "sign"), 6 * 2**6 * 2),
    ],
)
def test_the_order_counts_the_distinct_elements_that_leave_the_function_unchanged(cases, name, kinds, order):
    case = cases[name]()
    group = case.group.monomial().restrict(kinds)
    weights = case.draw(6)
    moved = group.act(every_element(group), weights)
    flat = np.concatenate([array.reshape(order, -1) for array in moved.values() if len(array) == order], axis=1)
    assert len(np.unique(flat, axis=0)) == order == group.order
    for index in range(0, order, 97):
        one = {site: np.broadcast_to(array, (order, *weights[site].shape))[index] for site, array in moved.items()}
        assert case.change(one, weights) <= 1e-12


def test_products_of_elements_are_elements():
    """A wreath product by enumeration, S_2 wr S_2 of order 8: each row of its table is a permutation of it."""
    slot, outer = Slot("w", 1, 2, fibre=(Slot("w", 0, 2),)), Slot("w", 0, 2)
    inner = Factor("inner", "permutation", "unit", 2, (slot,), fibre=("member",), fibre_shape=(2,))
    group = SymmetryGroup({"w": (2, 2)}, (inner, Factor("outer", "permutation", "member", 2, (outer,))))
    every = every_element(group)
    elements = [{name: values[index] for name, values in every.items()} for index in range(8)]
    weights = {"w": np.arange(4.0).reshape(2, 2)}
    images = [group.act(element, weights)["w"].tobytes() for element in elements]
    assert len(set(images)) == group.order == 8
    for second, first in itertools.product(elements, elements):
        assert group.act(group.compose(second, first), weights)["w"].tobytes() in images
    rows = [{group.act(group.compose(one, other), weights)["w"].tobytes() for other in elements} for one in elements]
    assert all(row == set(images) for row in rows)


def test_heads_carry_what_is_theirs():
    """Known answer: heads are exchanged first, the units of the new first head reversed then."""
    slot, outer = Slot("w", 1, 3, fibre=(Slot("w", 0, 2),)), Slot("w", 0, 2)
    units = Factor("units", "permutation", "unit", 3, (slot,), fibre=("head",), fibre_shape=(2,))
    group = SymmetryGroup({"w": (2, 3)}, (units, Factor("heads", "permutation", "head", 2, (outer,))))
    element = {"units": np.array([[2, 1, 0], [0, 1, 2]]), "heads": np.array([1, 0])}
    weights = {"w": np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])}
    np.testing.assert_array_equal(group.act(element, weights)["w"], [[6, 5, 4], [1, 2, 3]])
    np.testing.assert_array_equal(group.inverse(element)["units"], [[0, 1, 2], [2, 1, 0]])
