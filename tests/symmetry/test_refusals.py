"""What is no group, no element of it, or does not fit it, is refused with advice."""

import numpy as np
import pytest

from symmetry import Factor, Slot, SymmetryGroup


def sign_on(site, size, **changes):
    fields = {"name": "s", "kind": "sign", "axis": "a", "size": size, "slots": (Slot(site, 0, size),)}
    return Factor(**(fields | changes))


def fibred(units, *, over, size=None, kind="permutation"):
    """A factor ``g`` of class ``a`` along axis 1 of ``w``, one for each member of ``h`` along axis 0."""
    slot = Slot("w", 1, units, fibre=(Slot("w", 0, over),))
    return Factor("g", kind, "a", units, (slot,), fibre=("h",), fibre_shape=(size or over,))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: sign_on("w", 4, slots=(Slot("w", 0, 3),)), "has 4 members but its slot in 'w' has 3"),
        (lambda: sign_on("w", 3, colours=(0, 0, 1)), "colours restrict permutations only"),
        (lambda: sign_on("w", 3, kind="permutation", colours=(0, 1)), "one colour a member"),
        (lambda: sign_on("w", 3, slots=(Slot("w", -1, 3),)), "axes are counted from 0"),
        (lambda: sign_on("w", 3, slots=(Slot("w", None, 3),)), "sign or scale of size 1"),
        (lambda: sign_on("w", 3, fibre=("h",)), r"one size a fibre class was expected \(1\), got 0"),
        (lambda: fibred(3, over=2, size=4), r"has a fibre of sizes \(4,\), but its slot in 'w' one of \(2,\)"),
        (
            lambda: sign_on("w", 3, kind="linear", slots=(Slot("w", 0, 3, exponent=2),)),
            r"exponent 1 or -1 \(M\^-T\), got 2",
        ),
        (lambda: sign_on("w", 1, kind="linear", slots=(Slot("w", None, 1),)), "sign or scale of size 1, got a linear"),
        (lambda: SymmetryGroup({"w": (3,)}, (sign_on("v", 3),)), "none of the sites: w"),
        (lambda: SymmetryGroup({"w": (2,)}, (sign_on("w", 3),)), "lies outside 'w' of shape"),
        (lambda: SymmetryGroup({"w": (3,)}, (sign_on("w", 3), sign_on("w", 3))), "must differ, got 's' twice"),
        (
            lambda: SymmetryGroup({"w": (3,)}, tuple(sign_on("w", 3, kind="permutation", name=n) for n in "pq")),
            "an axis class has one permutation, got two on 'a'",
        ),
        (
            lambda: SymmetryGroup({"w": (3,), "v": (2,)}, (sign_on("w", 3), sign_on("v", 2, name="t"))),
            "the factors of an axis class have one size",
        ),
        (
            lambda: SymmetryGroup(
                {"w": (3,)}, tuple(sign_on("w", 3, kind=kind, name=kind) for kind in ("sign", "linear"))
            ),
            "matrices act on 'a', so nothing else may, got 'sign'",
        ),
        (
            lambda: SymmetryGroup({"w": (3,)}, tuple(sign_on("w", 3, kind="orthogonal", name=n) for n in "pq")),
            "matrices act on 'a', so nothing else may, got 'p'",
        ),
        (lambda: SymmetryGroup({"w": (2, 3)}, (fibred(3, over=4),)), "lies outside 'w' of shape"),
        (
            lambda: SymmetryGroup({"w": (2, 3)}, (fibred(3, over=2), sign_on("w", 2, kind="linear", axis="h"))),
            "matrices mix 'h', which therefore is no fibre; 'g' has it",
        ),
        (
            lambda: SymmetryGroup({"w": (2, 3)}, (fibred(3, over=2), sign_on("w", 3, slots=(Slot("w", 1, 3),)))),
            "'g' varies over h and carries 's' along, which must vary over the same classes, got no fibre",
        ),
        (
            lambda: SymmetryGroup(
                {"w": (2, 3)},
                (
                    fibred(3, over=2, kind="scale"),
                    sign_on(
                        "w",
                        2,
                        axis="h",
                        slots=(Slot("w", 0, 2, fibre=(Slot("w", 1, 3),)),),
                        fibre=("a",),
                        fibre_shape=(3,),
                    ),
                ),
            ),
            "'a' and 'h' are fibres of each other; only one may be",
        ),
    ],
)
def test_inconsistent_groups_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_unknown_kinds_are_refused():
    factor = sign_on("w", 3)
    # Past the type checker, which runs in tests only.
    object.__setattr__(factor, "kind", "shear")
    with pytest.raises(
        ValueError, match="kind must be one of permutation, sign, scale, linear, orthogonal, got 'shear'"
    ):
        factor.__post_init__()


@pytest.mark.parametrize(
    ("element", "weights", "message"),
    [
        ({"t": np.ones(3)}, {}, "no factor 't'; its factors are: s"),
        ({"s": np.ones(2)}, {}, r"must have shape \(..., 3\), got \(2,\)"),
        ({"s": np.ones(())}, {}, r"must have shape \(..., 3\), got \(\)"),
        ({}, {"w": np.ones((3, 2))}, r"site 'w' must have shape \(..., 3\), got \(3, 2\)"),
        ({}, {"w": np.ones(())}, "site 'w' must have shape"),
    ],
)
def test_what_does_not_fit_is_refused(element, weights, message):
    group = SymmetryGroup({"w": (3,)}, (sign_on("w", 3),))
    with pytest.raises(ValueError, match=message):
        group.act(element, weights)
