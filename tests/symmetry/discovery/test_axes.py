"""Laws of the union-find on axis trees."""

import pytest

from symmetry.discovery.axes import (
    MISALIGNED,
    atom,
    atoms,
    concatenation,
    find,
    occurrences,
    pin,
    product,
    refine,
    segments,
    unify,
)


def test_atoms_unify_and_join_their_colours():
    a, b, c = atom(4), atom(4), atom(4)
    refine(a, [0, 0, 1, 1], "halves")
    refine(b, [0, 1, 0, 1], "alternating")
    unify(a, b, c)
    assert find(a) is find(b) is find(c)
    assert find(c).colours == (0, 1, 2, 3)
    assert find(c).reasons == ("halves", "alternating")
    assert find(c).pinned


def test_product_splits_an_atom_and_its_colours():
    a, rows, columns = atom(6), atom(2), atom(3)
    refine(a, [0, 1, 1, 0, 1, 1], "first column")
    unify(a, product((rows, columns)))
    assert atoms(a) == (find(rows), find(columns))
    assert find(rows).colours == (0, 0)
    assert find(columns).colours == (0, 1, 1)


def test_products_align_from_the_right():
    a, b, c, d = atom(4), atom(6), atom(8), atom(3)
    unify(product((a, b)), product((c, d)))
    assert [part.size for part in atoms(c)] == [4, 2]
    assert atoms(a) == atoms(c)[:1]
    assert atoms(b) == (atoms(c)[1], find(d))


def test_sums_are_cut_at_the_common_refinement():
    a, b, c, d = atom(2), atom(5), atom(3), atom(4)
    unify(concatenation((a, b)), concatenation((c, d)))
    assert [part.size for part in atoms(b)] == [4]
    assert atoms(c)[:1] == atoms(a)
    assert len(atoms(c)) == 1  # the second segment of c has length one and carries nothing


def test_concatenation_that_cuts_between_rows_of_a_product_keeps_the_columns():
    rows, columns, first, rest = atom(4), atom(3), atom(3), atom(9)
    merged = product((rows, columns))
    unify(merged, concatenation((first, rest)))
    assert find(first) is find(columns)
    assert atoms(rest)[-1] is find(columns)
    assert not find(columns).pinned


def test_what_does_not_align_is_pinned():
    a, b, c, d = atom(2), atom(3), atom(3), atom(2)
    unify(product((a, b)), product((c, d)))
    for axis in (a, b, c, d):
        assert find(axis).pinned
        assert find(axis).reasons == (MISALIGNED,)


def test_two_occurrences_of_one_class_in_one_dimension():
    a = atom(3)
    places = occurrences(product((a, a)))
    assert [(p.atom, p.offset, p.stride, p.outer) for p in places] == [(a, 0, 3, 1), (a, 0, 1, 3)]


def test_a_repeated_sum_is_one_occurrence_per_repetition():
    a, b, outer = atom(2), atom(3), atom(2)
    places = occurrences(product((outer, concatenation((a, b)))))
    assert [(p.atom.size, p.offset, p.stride, p.outer) for p in places] == [
        (2, 0, 5, 1),
        (2, 0, 1, 1),
        (3, 2, 1, 1),
        (2, 5, 1, 1),
        (3, 7, 1, 1),
    ]


def test_segments_of_a_pinned_axis_are_pinned():
    a = pin(atom(5), "data")
    first, second = segments(a, (2, 3))
    assert find(first).pinned
    assert find(second).reasons == ("data",)


def test_length_one_carries_nothing():
    assert atoms(atom(1)) == ()
    assert atoms(product((atom(1), atom(1)))) == ()


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="equal length"):
        unify(atom(2), atom(3))
