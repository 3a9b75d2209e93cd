"""Groups with fibres, invertible matrices and rotations, each beside the function that it must leave unchanged."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from hand_built import INPUTS, Case, relu
from scipy.special import softmax

from symmetry import Factor, Slot, SymmetryGroup


def over(fibre: tuple[Slot, ...], slot: Slot) -> Slot:
    """The slot with its fibre."""
    return replace(slot, fibre=fibre)


def fibred(axis: str, name: str, fibre: tuple[str, ...], *slots: Slot, **fields: object) -> Factor:
    """A factor ``axis.name`` whose kind is the name up to ``_``, of the sizes of its slots."""
    sizes = tuple(place.size for place in slots[0].fibre)
    kind = name.split("_")[0]
    return Factor(f"{axis}.{name}", kind, axis, slots[0].size, slots, fibre=fibre, fibre_shape=sizes, **fields)


def multi_head() -> Case:
    """Attention, heads as an axis of their own: S_2 wr (GL(3) x GL(2)), queries with keys, values with outputs."""
    q, k, v, o = (Slot(site, axis, 2) for site, axis in (("q", 1), ("k", 1), ("v", 1), ("o", 0)))
    factors = (
        fibred("qk", "linear", ("head",), over((q,), Slot("q", 2, 3)), over((k,), Slot("k", 2, 3, exponent=-1))),
        fibred("vo", "linear", ("head",), over((v,), Slot("v", 2, 2)), over((o,), Slot("o", 1, 2, exponent=-1))),
        fibred("head", "permutation", (), q, k, v, o),
    )

    def function(w: dict[str, np.ndarray]) -> np.ndarray:
        return attend(*(np.einsum("td,dhi->thi", INPUTS, w[name]) for name in "qkv"), w["o"])

    return Case(SymmetryGroup({"q": (2, 2, 3), "k": (2, 2, 3), "v": (2, 2, 2), "o": (2, 2, 2)}, factors), function)


def fused_attention() -> Case:
    """Queries, keys and values of all heads in one axis: segments of (head, width) products; outputs have two axes."""
    heads, width = 2, 3
    q, k, v = (Slot("qkv", 1, heads, offset=part * heads * width, stride=width) for part in range(3))
    inner = [Slot("qkv", 1, width, offset=part * heads * width, outer=heads) for part in range(3)]
    o = Slot("o", 0, heads)
    last = over((o,), Slot("o", 1, width, exponent=-1))
    factors = (
        fibred("head", "permutation", (), q, k, v, o),
        fibred("qk", "linear", ("head",), over((q,), inner[0]), over((k,), replace(inner[1], exponent=-1))),
        fibred("vo", "linear", ("head",), over((v,), inner[2]), last),
    )

    def function(w: dict[str, np.ndarray]) -> np.ndarray:
        parts = (INPUTS @ w["qkv"]).reshape(len(INPUTS), 3, heads, width)
        return attend(parts[:, 0], parts[:, 1], parts[:, 2], w["o"])

    return Case(SymmetryGroup({"qkv": (2, 3 * heads * width), "o": (heads, width, 2)}, factors), function)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, o: np.ndarray) -> np.ndarray:
    weights = softmax(np.einsum("thi,shi->hts", q, k), axis=-1)
    return np.einsum("hts,shi,hid->td", weights, v, o)


def ensemble() -> Case:
    """The mean of tanh networks: S_3 wr (Z_2 wr S_4)."""
    members, n = 3, 4
    kernel, bias, head = (Slot(site, 0, members) for site in ("kernel", "bias", "head"))
    units = over((kernel,), Slot("kernel", 2, n)), over((bias,), Slot("bias", 1, n)), over((head,), Slot("head", 1, n))
    factors = (
        fibred("unit", "permutation", ("member",), *units),
        fibred("unit", "sign", ("member",), *units),
        fibred("member", "permutation", (), kernel, bias, head),
    )

    def function(w: dict[str, np.ndarray]) -> np.ndarray:
        hidden = np.tanh(INPUTS @ w["kernel"] + w["bias"][:, None])
        return (hidden @ w["head"]).mean(axis=0)

    return Case(
        SymmetryGroup({"kernel": (members, 2, n), "bias": (members, n), "head": (members, n, 1)}, factors), function
    )


def nested() -> Case:
    """An ensemble of sums of relu networks: units over branches over members, S_2 wr (S_2 wr (R_+ wr S_2))."""
    member_in, branch_in, unit_in = Slot("kernel", 2, 2), Slot("kernel", 0, 2), Slot("kernel", 3, 2)
    member_out, branch_out, unit_out = Slot("head", 0, 2), Slot("head", 1, 2), Slot("head", 2, 2)
    # Of the two factors of the units one names its fibre in the other order.
    inwards, outwards = over((member_in, branch_in), unit_in), over((member_out, branch_out), unit_out)
    down = replace(over((branch_out, member_out), unit_out), exponent=-1)
    factors = (
        fibred("unit", "scale", ("branch", "member"), over((branch_in, member_in), unit_in), down),
        fibred("unit", "permutation", ("member", "branch"), inwards, outwards),
        fibred("branch", "permutation", ("member",), over((member_in,), branch_in), over((member_out,), branch_out)),
        fibred("member", "permutation", (), member_in, member_out),
    )

    def function(w: dict[str, np.ndarray]) -> np.ndarray:
        hidden = relu(np.einsum("td,hden->tehn", INPUTS, w["kernel"]))
        return np.sin(np.einsum("tehn,ehno->teho", hidden, w["head"]).sum(axis=2)).sum(axis=1)

    return Case(SymmetryGroup({"kernel": (2, 2, 2, 2), "head": (2, 2, 2, 1)}, factors), function)


def grouped_channels(*, groups_first: bool) -> Case:
    """Channels in groups, both in one axis of the filters, two axes of the head: S_2 wr (Z_2 wr S_3)."""
    groups, n = 2, 3
    group, channel = Slot("filters", 1, groups, stride=n), Slot("filters", 1, n, outer=groups)
    if not groups_first:
        group, channel = Slot("filters", 1, groups, outer=n), Slot("filters", 1, n, stride=groups)
    head = Slot("head", 0, groups)
    slots = over((group,), channel), over((head,), Slot("head", 1, n))
    factors = (
        fibred("group", "permutation", (), group, head),
        fibred("channel", "permutation", ("group",), *slots),
        fibred("channel", "sign", ("group",), *slots),
    )

    def function(w: dict[str, np.ndarray]) -> np.ndarray:
        flat = np.tanh(INPUTS @ w["filters"])
        features = flat.reshape(-1, groups, n) if groups_first else flat.reshape(-1, n, groups).swapaxes(1, 2)
        normalised = features / (1 + (features**2).sum(axis=-1, keepdims=True))
        return np.einsum("tgc,gco->to", normalised, w["head"])

    return Case(SymmetryGroup({"filters": (2, groups * n), "head": (groups, n, 2)}, factors), function)


def layers() -> Case:
    """Residual layers stacked in one array, as a scan has them: each has its own R_+ wr S_4, their order is fixed."""
    places = Slot("inner", 0, 3), Slot("bias", 0, 3), Slot("outer", 0, 3)
    units = Slot("inner", 2, 4), Slot("bias", 1, 4), Slot("outer", 1, 4)
    slots = tuple(over((place,), unit) for place, unit in zip(places, units, strict=True))
    factors = (
        fibred("unit", "permutation", ("layer",), *slots),
        fibred("unit", "scale", ("layer",), *slots[:2], replace(slots[2], exponent=-1)),
    )

    def function(w: dict[str, np.ndarray]) -> np.ndarray:
        x = INPUTS
        for inner, bias, outer in zip(w["inner"], w["bias"], w["outer"], strict=True):
            x = np.tanh(x) + relu(x @ inner + bias) @ outer
        return x

    return Case(SymmetryGroup({"inner": (3, 2, 4), "bias": (3, 4), "outer": (3, 4, 2)}, factors), function)


def low_rank() -> Case:
    """A kernel plus a product of two: GL(3)."""
    factor = fibred("rank", "linear", (), Slot("a", 1, 3), Slot("b", 0, 3, exponent=-1))
    group = SymmetryGroup({"kernel": (2, 2), "a": (2, 3), "b": (3, 2)}, (factor,))
    return Case(group, lambda w: INPUTS @ (w["kernel"] + w["a"] @ w["b"]))


def factor_model() -> Case:
    """Scores times loadings, both under isotropic priors: O(3)."""
    factor = fibred("factor", "orthogonal", (), Slot("scores", 1, 3), Slot("loadings", 1, 3))
    group = SymmetryGroup({"scores": (6, 3), "loadings": (4, 3)}, (factor,))

    def function(w: dict[str, np.ndarray]) -> np.ndarray:
        means = w["scores"] @ w["loadings"].T
        return np.concatenate([means.ravel(), [(w[site] ** 2).sum() for site in ("scores", "loadings")]])

    return Case(group, function)


def views() -> Case:
    """Factor models of several views, each with rotations of its own, the views alike: S_3 wr O(2)."""
    scores, loadings = Slot("scores", 1, 3), Slot("loadings", 0, 3)
    slots = over((scores,), Slot("scores", 2, 2)), over((loadings,), Slot("loadings", 1, 2))
    factors = fibred("factor", "orthogonal", ("view",), *slots), fibred("view", "permutation", (), scores, loadings)

    def function(w: dict[str, np.ndarray]) -> np.ndarray:
        return np.sin(np.einsum("ivk,vkd->vid", w["scores"], w["loadings"])).sum(axis=0)

    return Case(SymmetryGroup({"scores": (6, 3, 2), "loadings": (3, 2, 4)}, factors), function)


def coloured_members() -> Case:
    """A constant along the units of every member: permutations among those of equal constant, member by member."""
    constant = np.array([1.0, 2.0, 1.0, 2.0])
    kernel, head = Slot("kernel", 0, 2), Slot("head", 0, 2)
    units = over((kernel,), Slot("kernel", 2, 4)), over((head,), Slot("head", 1, 4))
    factors = (
        fibred("member", "permutation", (), kernel, head),
        fibred("unit", "permutation", ("member",), *units, colours=(0, 1, 0, 1)),
        fibred("unit", "sign", ("member",), *units),
    )
    group = SymmetryGroup({"kernel": (2, 2, 4), "head": (2, 4, 1)}, factors)
    return Case(group, lambda w: ((np.tanh(INPUTS @ w["kernel"]) * constant) @ w["head"]).sum(axis=0))


def tied_units() -> Case:
    """Members share a gain of their units: one permutation of units for all members, but signs for each."""
    kernel, head = Slot("kernel", 0, 2), Slot("head", 0, 2)
    units = Slot("kernel", 2, 3), Slot("head", 1, 3)
    factors = (
        fibred("unit", "permutation", (), *units, Slot("gain", 0, 3)),
        fibred("unit", "sign", ("member",), over((kernel,), units[0]), over((head,), units[1])),
        fibred("member", "permutation", (), kernel, head),
    )

    def function(w: dict[str, np.ndarray]) -> np.ndarray:
        return np.einsum("etn,en,n->t", np.tanh(INPUTS @ w["kernel"]), w["head"], np.exp(w["gain"]))

    return Case(SymmetryGroup({"kernel": (2, 2, 3), "head": (2, 3), "gain": (3,)}, factors), function)


FIBRED: dict[str, Callable[[], Case]] = {
    "multi_head": multi_head,
    "fused_attention": fused_attention,
    "ensemble": ensemble,
    "nested": nested,
    "groups_first": lambda: grouped_channels(groups_first=True),
    "groups_last": lambda: grouped_channels(groups_first=False),
    "layers": layers,
    "low_rank": low_rank,
    "factor_model": factor_model,
    "views": views,
    "coloured_members": coloured_members,
    "tied_units": tied_units,
}
