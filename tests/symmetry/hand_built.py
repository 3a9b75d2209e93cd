"""Groups built by hand, each beside the function that it must leave unchanged; random elements and all elements."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, logsumexp

from symmetry import Factor, Pin, Slot, SymmetryGroup

GATES = {"inner": 1, "recurrent": 1, "bias": 0}
"""Sites of an LSTM with the axis that has its gates behind one another."""

INPUTS = np.linspace(-1.5, 2.0, 14).reshape(7, 2)


@dataclass(frozen=True)
class Case:
    """A group, and the function of one draw of weights that it leaves unchanged."""

    group: SymmetryGroup
    function: Callable[[dict[str, np.ndarray]], np.ndarray]

    def draw(self, seed: int, batch_shape: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
        """Standard normal weights in float64."""
        rng = np.random.default_rng(seed)
        return {site: rng.normal(size=(*batch_shape, *shape)) for site, shape in self.group.sites.items()}

    def element(self, seed: int, batch_shape: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
        """Random elements in float64, drawn by NumPy: nothing has to be compiled."""
        return random_element(self.group, seed, batch_shape)

    def change(self, moved: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> float:
        """Largest relative change of the function."""
        before, after = self.function(weights), self.function(moved)
        return float(np.abs(after - before).max() / np.abs(before).max())


def random_element(group: SymmetryGroup, seed: int, batch_shape: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {factor.name: random_values(factor, rng, batch_shape) for factor in group.factors}


def random_values(factor: Factor, rng: np.random.Generator, batch_shape: tuple[int, ...]) -> np.ndarray:
    shape = (*batch_shape, *factor.shape)
    if factor.kind == "sign":
        return rng.choice(np.array([-1, 1], np.int8), shape)
    if factor.kind == "scale":
        return np.exp(rng.normal(size=shape))
    if factor.kind in ("linear", "orthogonal"):
        left, right = (np.linalg.qr(rng.normal(size=shape))[0] for _ in range(2))
        # Singular values near one, so that rounding stays what it is.
        return (
            left if factor.kind == "orthogonal" else left * np.exp(0.3 * rng.normal(size=shape[:-1]))[..., None] @ right
        )
    colours = np.zeros(factor.size, int) if factor.colours is None else np.array(factor.colours)
    permutations = np.array(np.broadcast_to(np.arange(factor.size, dtype=np.int32), shape))
    for colour in np.unique(colours):
        block = np.flatnonzero(colours == colour)
        permutations[..., block] = rng.permuted(permutations[..., block], axis=-1)
    return permutations


def every_element(group: SymmetryGroup) -> dict[str, np.ndarray]:
    """Every element of a small finite group, batched; permutations without colours."""
    lists = []
    for factor in group.factors:
        one = itertools.permutations(range(factor.size))
        one = one if factor.kind == "permutation" else itertools.product((1, -1), repeat=factor.size)
        lists.append([np.reshape(each, factor.shape) for each in itertools.product(one, repeat=factor.num_copies)])
    combinations = list(itertools.product(*lists))
    assert len(combinations) == math.prod(map(len, lists))
    return {f.name: np.array([each[k] for each in combinations]) for k, f in enumerate(group.factors)}


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def mlp_group(widths: tuple[int, ...], kinds: tuple[str, ...], outgoing: int = -1) -> SymmetryGroup:
    """Hidden units of a dense network; scales have the exponent ``outgoing`` in the kernel after the units."""
    sites = {}
    for layer, (n_in, n_out) in enumerate(zip(widths, widths[1:], strict=False)):
        sites |= {f"kernel_{layer}": (n_in, n_out), f"bias_{layer}": (n_out,)}
    factors = []
    for layer, units in enumerate(widths[1:-1]):
        for kind in kinds:
            slots = (
                Slot(f"kernel_{layer}", 1, units),
                Slot(f"bias_{layer}", 0, units),
                Slot(f"kernel_{layer + 1}", 0, units, exponent=outgoing if kind == "scale" else 1),
            )
            factors.append(Factor(f"hidden_{layer}.{kind}", kind, f"hidden_{layer}", units, slots))
    return SymmetryGroup(sites, tuple(factors), (Pin("kernel_0", 0, "network input"),))


def mlp(widths: tuple[int, ...], activation: Callable, kinds: tuple[str, ...], outgoing: int = -1) -> Case:
    def function(weights: dict[str, np.ndarray]) -> np.ndarray:
        x = INPUTS[:, : widths[0]]
        for layer in range(len(widths) - 1):
            x = (activation(x) if layer else x) @ weights[f"kernel_{layer}"] + weights[f"bias_{layer}"]
        return x

    return Case(mlp_group(widths, kinds, outgoing), function)


def factors_of(axis: str, size: int, **slots: tuple[Slot, ...]) -> tuple[Factor, ...]:
    """One factor a keyword ``kind`` or ``kind_name``."""
    return tuple(Factor(f"{axis}.{name}", name.split("_")[0], axis, size, each) for name, each in slots.items())


def gated() -> Case:
    """A fused kernel, one segment a gate: the sign may change in the tanh segment alone."""
    n = 3
    tanh, gate, head = Slot("fused", 1, n), Slot("fused", 1, n, offset=n), Slot("head", 0, n)
    factors = factors_of("unit", n, permutation=(tanh, gate, head), sign=(tanh, head))

    def function(weights: dict[str, np.ndarray]) -> np.ndarray:
        z = INPUTS @ weights["fused"]
        return (np.tanh(z[:, :n]) * expit(z[:, n : 2 * n]) + 0 * z[:, 2 * n :].sum()) @ weights["head"]

    return Case(SymmetryGroup({"fused": (2, 2 * n + 1), "head": (n, 2)}, factors), function)


def flattened(*, channels_last: bool) -> Case:
    """Two positions of three channels, flattened before the dense layer: outer or stride is 2."""
    n, places = 3, {"outer": 2} if channels_last else {"stride": 2}
    slots = Slot("filters", 1, n), Slot("dense", 0, n, **places)
    factors = factors_of("channel", n, permutation=slots, sign=slots)

    def function(weights: dict[str, np.ndarray]) -> np.ndarray:
        features = np.tanh(np.stack([INPUTS, INPUTS**2], axis=1) @ weights["filters"])
        order = (0, 1, 2) if channels_last else (0, 2, 1)
        return features.transpose(order).reshape(len(INPUTS), -1) @ weights["dense"]

    return Case(SymmetryGroup({"filters": (2, n), "dense": (2 * n, 2)}, factors), function)


def mixture() -> Case:
    n, sites = 4, {"logits": (4,), "means": (4, 2), "log_scales": (4,)}
    factors = factors_of("component", n, permutation=tuple(Slot(site, 0, n) for site in sites))

    def function(weights: dict[str, np.ndarray]) -> np.ndarray:
        z = (INPUTS[:, None] - weights["means"]) / np.exp(weights["log_scales"])[:, None]
        each = weights["logits"] - 2 * weights["log_scales"] - 0.5 * (z**2).sum(axis=-1)
        return logsumexp(each, axis=-1) - logsumexp(weights["logits"])

    return Case(SymmetryGroup(sites, factors), function)


def coloured() -> Case:
    """A constant that multiplies the units leaves the permutations among units of equal constant."""
    constant = np.array([1.0, 2.0, 1.0, 2.0, 2.0])
    slots = Slot("kernel", 1, 5), Slot("head", 0, 5)
    permutation = Factor("permutation", "permutation", "unit", 5, slots, colours=(0, 1, 0, 1, 1))
    group = SymmetryGroup({"kernel": (2, 5), "head": (5, 1)}, (permutation, Factor("sign", "sign", "unit", 5, slots)))
    return Case(group, lambda weights: (np.tanh(INPUTS @ weights["kernel"]) * constant) @ weights["head"])


def two_signs() -> Case:
    """``tanh(x A) * (x B)`` before C: two signs and a scale on one class."""
    a, b, c, shrink = Slot("a", 1, 3), Slot("b", 1, 3), Slot("c", 0, 3), Slot("c", 0, 3, exponent=-1)
    factors = factors_of("unit", 3, permutation=(a, b, c), sign_a=(a, c), sign_b=(b, c), scale=(b, shrink))
    group = SymmetryGroup({"a": (2, 3), "b": (2, 3), "c": (3, 2)}, factors)
    return Case(group, lambda w: (np.tanh(INPUTS @ w["a"]) * (INPUTS @ w["b"])) @ w["c"])


def recurrent() -> Case:
    """The units are both axes of the recurrent kernel."""
    slots = Slot("inner", 1, 3), Slot("recurrent", 0, 3), Slot("recurrent", 1, 3), Slot("head", 0, 3)
    factors = factors_of("state", 3, permutation=slots, sign=slots)

    def function(weights: dict[str, np.ndarray]) -> np.ndarray:
        state = np.tanh(INPUTS @ weights["inner"])
        for _ in range(2):
            state = np.tanh(INPUTS @ weights["inner"] + state @ weights["recurrent"])
        return state @ weights["head"]

    return Case(SymmetryGroup({"inner": (2, 3), "recurrent": (3, 3), "head": (3, 1)}, factors), function)


def residual() -> Case:
    """Two tanh blocks add to a linear stream, whose permutation, signs and scales they share."""
    n, m, sites = 3, 4, {"embed": (2, 3), "head": (3, 1)}
    reads, writes, factors = [Slot("head", 0, n)], [Slot("embed", 1, n)], []
    for block in ("a", "b"):
        sites |= {f"in_{block}": (n, m), f"bias_{block}": (m,), f"out_{block}": (m, n)}
        reads.append(Slot(f"in_{block}", 0, n))
        writes.append(Slot(f"out_{block}", 1, n))
        inner = Slot(f"in_{block}", 1, m), Slot(f"bias_{block}", 0, m), Slot(f"out_{block}", 0, m)
        factors += factors_of(f"inner_{block}", m, permutation=inner, sign=inner)
    stream, down = (*writes, *reads), tuple(replace(slot, exponent=-1) for slot in reads)
    factors += factors_of("stream", n, permutation=stream, sign=stream, scale=(*writes, *down))

    def function(w: dict[str, np.ndarray]) -> np.ndarray:
        x = INPUTS @ w["embed"]
        for block in ("a", "b"):
            x = x + np.tanh(x @ w[f"in_{block}"] + w[f"bias_{block}"]) @ w[f"out_{block}"]
        return x @ w["head"]

    return Case(SymmetryGroup(sites, tuple(factors)), function)


def projected() -> SymmetryGroup:
    """A residual network whose stream is widened by a projection beside a block of convolutions."""
    sites = {"stem": (3, 1, 3), "bias": (3,), "first": (3, 3, 4), "second": (3, 4, 5), "shortcut": (1, 3, 5)}
    down = {"exponent": -1}
    narrow = Slot("stem", 2, 3), Slot("bias", 0, 3), Slot("first", 1, 3, **down), Slot("shortcut", 1, 3, **down)
    inner = Slot("first", 2, 4), Slot("second", 1, 4, **down)
    wide = Slot("second", 2, 5), Slot("shortcut", 2, 5), Slot("head", 0, 5, **down)
    factors = Factor("n", "scale", "n", 3, narrow), Factor("i", "scale", "i", 4, inner)
    return SymmetryGroup(sites | {"head": (5, 2)}, (*factors, Factor("w", "scale", "w", 5, wide)))


def lstm() -> Case:
    """Fused gates: a state changes its sign with its candidate, the second segment, and its rows in the kernels."""
    n, sites = 3, {"inner": (2, 12), "recurrent": (3, 12), "bias": (12,), "head": (3, 1)}
    columns = [Slot(site, axis, n, offset=n * k) for k in range(4) for site, axis in GATES.items()]
    rows = Slot("recurrent", 0, n), Slot("head", 0, n)
    candidate = [slot for slot in columns if slot.offset == n]
    factors = factors_of("state", n, permutation=(*columns, *rows), sign=(*candidate, *rows))

    def function(w: dict[str, np.ndarray]) -> np.ndarray:
        state = cell = np.zeros((len(INPUTS), n))
        for _ in range(2):
            z = INPUTS @ w["inner"] + state @ w["recurrent"] + w["bias"]
            keep, new, write, read = np.split(z, 4, axis=1)
            cell = expit(keep) * cell + expit(write) * np.tanh(new)
            state = expit(read) * np.tanh(cell)
        return state @ w["head"]

    return Case(SymmetryGroup(sites, factors), function)


def whole_arrays() -> Case:
    """A scalar gain times a kernel: scale and sign of whole arrays."""
    gain, kernel = Slot("gain", None, 1), Slot("kernel", None, 1)
    factors = factors_of("global", 1, sign=(gain, kernel), scale=(gain, Slot("kernel", None, 1, exponent=-1)))
    group = SymmetryGroup({"gain": (), "kernel": (2, 3)}, factors)
    return Case(group, lambda weights: weights["gain"] * (INPUTS @ weights["kernel"]))


PLAIN: dict[str, Callable[[], Case]] = {
    "tanh_1": lambda: mlp((2, 5, 2), np.tanh, ("permutation", "sign")),
    "tanh_2": lambda: mlp((2, 4, 3, 1), np.tanh, ("permutation", "sign")),
    "tanh_3": lambda: mlp((2, 3, 4, 3, 2), np.tanh, ("permutation", "sign")),
    "tanh_width_1": lambda: mlp((2, 1, 1), np.tanh, ("permutation", "sign")),
    "relu_1": lambda: mlp((2, 5, 2), relu, ("permutation", "scale")),
    "relu_2": lambda: mlp((2, 4, 3, 1), relu, ("permutation", "scale")),
    "relu_3": lambda: mlp((1, 3, 4, 3, 2), relu, ("permutation", "scale")),
    "square": lambda: mlp((2, 4, 2), np.square, ("permutation", "scale"), outgoing=-2),
    "linear": lambda: mlp((2, 3, 2), lambda x: x, ("permutation", "sign", "scale")),
    "gated": gated,
    "channels_last": lambda: flattened(channels_last=True),
    "channels_first": lambda: flattened(channels_last=False),
    "mixture": mixture,
    "coloured": coloured,
    "two_signs": two_signs,
    "recurrent": recurrent,
    "residual": residual,
    "lstm": lstm,
    "whole_arrays": whole_arrays,
    "trivial": lambda: Case(SymmetryGroup({"slope": (2,)}), lambda weights: INPUTS @ weights["slope"]),
}
