"""Groups as JSON, lossless, and as text."""

import json

import pytest

from symmetry import Broken, Certificate, Factor, Pin, Slot, Symmetries, SymmetryGroup


def certified_group():
    slots = Slot("kernel", 1, 3), Slot("bias", 0, 3), Slot("head", 0, 3, offset=3, stride=2, outer=4, exponent=-2)
    certificate = Certificate(3.1e-16, 0.1 + 0.2, 4)
    factors = (
        Factor("p", "permutation", "hidden_0", 3, slots, (0, 1, 0), certificate),
        Factor("r", "scale", "hidden_0", 3, slots),
        Factor("g", "sign", "global", 1, (Slot("bias", None, 1),)),
    )
    pinned = (Pin("kernel", 0, "network input"),)
    return SymmetryGroup({"kernel": (2, 3), "bias": (3,), "head": (30, 1)}, factors, pinned, {"bias": ("own name",)})


def test_json_is_lossless_for_every_group(case):
    again = SymmetryGroup.from_json(case.group.to_json())
    assert again == case.group
    assert hash(again) == hash(case.group)
    assert again.to_json() == case.group.to_json()


def test_json_keeps_every_field():
    group = certified_group()
    again = SymmetryGroup.from_json(group.to_json())
    assert again == group
    assert again.factors == group.factors
    assert again.pinned == group.pinned
    assert again.axes["bias"] == ("own name",)
    assert isinstance(again.factors[0].slots[0], Slot)
    assert isinstance(again.factors[0].certificate, Certificate)


@pytest.mark.parametrize("posterior", [None, certified_group()])
def test_symmetries_are_lossless(posterior):
    symmetries = Symmetries(posterior, certified_group(), (Broken("r", ("kernel", "head"), "normal prior"),))
    assert Symmetries.from_json(symmetries.to_json()) == symmetries


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "no JSON"),
        ("[1]", "a JSON object was expected"),
        ('{"sites": {}}', "not one that a symmetry group"),
    ],
)
def test_other_text_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        SymmetryGroup.from_json(text)


def test_the_text_of_a_tanh_layer(cases):
    text = cases["tanh_1"]().group.describe()
    assert "S_5 x Z_2^5 on hidden_0" in text
    assert "kernel_0[axis 1], bias_0[axis 0], kernel_1[axis 0]" in text
    assert "kernel_0[axis 0]: network input" in text
    assert "order of the finite part: 3840 = 10^3.58" in text


def test_the_text_of_certificates_colours_and_segments():
    text = certified_group().describe()
    assert "S_2 x R_+^3 on hidden_0" in text
    assert "head[axis 0, 3:27, stride 2]^-2" in text
    assert "relative error 3.1e-16 under 4 random elements, 3.0e-01 when one member is left out" in text
    assert "Z_2 on global" in text
    assert "bias[all]" in text
    assert "dimension of the continuous part: 3" in text


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("multi_head", ["(GL(3))^2 on qk", "q[axis 2], k[axis 2]^-1, one for each head", "S_2 on head", "part: 26"]),
        (
            "views",
            ["(O(2))^3 on factor", "scores[axis 2], loadings[axis 1], one for each view", "S_3 on view", "part: 3"],
        ),
        (
            "nested",
            ["R_+^8 x (S_2)^4 on unit", "one for each member and branch", "(S_2)^2 on branch", "finite part: 128"],
        ),
        ("coloured_members", ["(S_2 x S_2)^2 x Z_2^8 on unit"]),
        ("groups_first", ["filters[axis 1, 0:6, stride 3]", "filters[axis 1, 0:6], head[axis 1], one for each group"]),
    ],
)
def test_the_text_of_fibres_and_matrices(cases, name, lines):
    text = cases[name]().group.describe()
    for line in lines:
        assert line in text


def test_a_large_order_is_given_as_a_power(make_mlp_group):
    text = make_mlp_group((2, 500, 1), ("permutation", "sign")).describe()
    assert "order of the finite part: 10^1284.60" in text


def test_the_text_of_both_groups():
    group = certified_group()
    text = str(Symmetries(group.restrict(("permutation",)), group, (Broken("r", ("kernel",), "normal prior"),)))
    assert "Symmetries of the posterior" in text
    assert "Symmetries of the likelihood" in text
    assert "r through kernel: normal prior" in text
    assert "trivial group" in str(Symmetries(None, SymmetryGroup({"slope": (2,)})))


def test_equal_groups_are_written_once():
    group = certified_group()
    text = str(Symmetries(group, SymmetryGroup.from_json(group.to_json())))
    assert "the same; the prior breaks none of them" in text
    assert text.count("S_2 x R_+^3") == 1


def test_json_is_plain():
    assert json.loads(certified_group().to_json())["factors"][0]["colours"] == [0, 1, 0]
