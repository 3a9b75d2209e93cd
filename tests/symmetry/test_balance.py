"""The balanced representative: against the convex program, autodiff through the action, and its own laws."""

import importlib

import jax
import numpy as np
import pytest
from hand_built import projected
from subsets import only

from symmetry import Factor, Slot, SymmetryGroup, balance, min_mass

# The package's attribute of this name is the function.
balance_module = importlib.import_module("symmetry.balance")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def draw(group, seed, batch=(), spread=1.0):
    """Normal weights, moved along the orbit by log-normal scales."""
    rng = np.random.default_rng(seed)
    weights = {site: rng.normal(size=(*batch, *shape)) for site, shape in group.sites.items()}
    return group.act(scales(group, rng, batch, spread), weights)


def scales(group, rng, batch=(), spread=1.0):
    return {f.name: np.exp(spread * rng.normal(size=(*batch, f.size))) for f in group.factors if f.kind == "scale"}


def mass(group, element, weights, precisions):
    """Prior mass after the action: by the action alone, and in NumPy."""
    moved = group.act({name: np.asarray(value) for name, value in element.items()}, weights)
    touched = {slot.site for factor in group.factors if factor.kind == "scale" for slot in factor.slots}
    return sum(np.sum(precisions.get(site, 1.0) * moved[site] ** 2) for site in touched)


def slope(group, element, weights, precisions, step=1e-4):
    """Largest derivative of the mass along a log-scale, relative to the mass, by central differences."""
    slopes = []
    for name, value in element.items():
        for unit in range(value.shape[-1]):
            shift = np.exp(step * (np.arange(value.shape[-1]) == unit))
            up, down = (element | {name: np.asarray(value) * factor} for factor in (shift, 1 / shift))
            slopes.append(mass(group, up, weights, precisions) - mass(group, down, weights, precisions))
    return np.abs(slopes).max() / (2 * step * mass(group, element, weights, precisions))


def exponential(solution):
    return {name: np.exp(log_scale) for name, log_scale in solution.log_scales.items()}


def conv_and_dense():
    """Two convolutions, the second flattened into a dense layer."""
    sites = {"conv_0": (3, 1, 4), "bias_0": (4,), "conv_1": (3, 4, 3), "bias_1": (3,), "dense": (6, 2)}
    first = Slot("conv_0", 2, 4), Slot("bias_0", 0, 4), Slot("conv_1", 1, 4, exponent=-1)
    second = Slot("conv_1", 2, 3), Slot("bias_1", 0, 3), Slot("dense", 0, 3, outer=2, exponent=-1)
    return SymmetryGroup(sites, (Factor("c0", "scale", "c0", 4, first), Factor("c1", "scale", "c1", 3, second)))


def residual():
    """Two blocks write to one stream, whose scale they share."""
    sites = {"embed": (2, 3), "in_0": (3, 4), "out_0": (4, 3), "in_1": (3, 5), "out_1": (5, 3), "head": (3, 1)}
    down = {"exponent": -1}
    stream = Slot("embed", 1, 3), Slot("in_0", 0, 3, **down), Slot("out_0", 1, 3)
    stream += Slot("in_1", 0, 3, **down), Slot("out_1", 1, 3), Slot("head", 0, 3, **down)
    inner_0 = Slot("in_0", 1, 4), Slot("out_0", 0, 4, **down)
    inner_1 = Slot("in_1", 1, 5), Slot("out_1", 0, 5, **down)
    factors = Factor("stream", "scale", "stream", 3, stream), Factor("i0", "scale", "i0", 4, inner_0)
    return SymmetryGroup(sites, (*factors, Factor("i1", "scale", "i1", 5, inner_1)))


GROUPS = {
    "mlp_1": lambda make: make((3, 5, 2), ("permutation", "scale")),
    "mlp_2": lambda make: make((2, 4, 5, 1), ("scale",)),
    "mlp_3": lambda make: make((2, 3, 4, 3, 1), ("scale", "sign")),
    "width_1": lambda make: make((2, 1, 1, 1), ("scale",)),
    "square": lambda make: make((2, 4, 3, 1), ("scale",), -2),
    "conv": lambda make: conv_and_dense(),
    "residual": lambda make: residual(),
    "projected": lambda make: projected(),
}


@pytest.fixture(params=only(set(GROUPS) - {"projected"}, GROUPS))
def group(request, make_mlp_group):
    return GROUPS[request.param](make_mlp_group)


@pytest.fixture(params=only(("unit", "each_weight"), ("unit", "each_site", "each_weight")))
def precisions(request, group):
    rng = np.random.default_rng(11)
    if request.param == "unit":
        return {}
    shapes = group.sites if request.param == "each_weight" else dict.fromkeys(group.sites, (1,))
    return {site: np.exp(rng.normal(size=shape)) for site, shape in shapes.items()}


def test_the_prior_mass_is_stationary_along_every_scale(group, precisions):
    weights = draw(group, 0)
    element = balance(weights, group, precisions or None)
    assert slope(group, element, weights, precisions) <= 1e-6
    assert slope(group, {name: np.ones_like(value) for name, value in element.items()}, weights, precisions) > 1e-2


def test_units_are_balanced_and_the_objective_is_the_mass(group, precisions):
    weights = draw(group, 1)
    solution = min_mass(weights, group, precisions)
    assert float(solution.residual) <= 1e-6
    assert float(solution.objective) == pytest.approx(float(mass(group, exponential(solution), weights, precisions)))


def test_the_mass_equals_that_of_the_convex_program(group, precisions):
    weights = draw(group, 2)
    sweeps, oracle = (balance(weights, group, precisions, backend=b) for b in ("sweeps", "cvxpy"))
    masses = [mass(group, element, weights, precisions) for element in (sweeps, oracle)]
    assert float(masses[0]) == pytest.approx(float(masses[1]), rel=1e-6)
    for name, value in sweeps.items():
        np.testing.assert_allclose(np.log(value), np.log(oracle[name]), atol=2e-3)


def test_balancing_leaves_the_function_unchanged(cases):
    for name in ("relu_2", "square", "two_signs", "nested", "layers"):
        case = cases[name]()
        weights = case.draw(3)
        assert case.change(case.group.act(balance(weights, case.group), weights), weights) <= 1e-12


def test_balanced_weights_are_balanced_already(group):
    weights = draw(group, 4)
    weights = group.act(balance(weights, group), weights)
    for value in balance(weights, group).values():
        np.testing.assert_allclose(value, 1, atol=1e-6)


def test_all_points_of_an_orbit_have_one_representative(group, precisions):
    weights = draw(group, 5)
    moved = group.act(scales(group, np.random.default_rng(6), spread=2.0), weights)
    canonical, again = (group.act(balance(w, group, precisions), w) for w in (weights, moved))
    for site in weights:
        np.testing.assert_allclose(canonical[site], again[site], rtol=1e-6)


@pytest.mark.parametrize("depth", only((1, 8), (1, 2, 3, 4, 8, 16, 32)))
@pytest.mark.parametrize("has_bias", [True, False])
def test_the_number_of_sweeps_does_not_grow_with_the_depth(make_mlp_group, depth, has_bias):
    group = make_mlp_group((2, *[16] * depth, 1), ("scale",))
    weights = draw(group, 7, (4,))
    precisions = {} if has_bias else {site: np.zeros(1) for site in group.sites if site.startswith("bias")}
    solution = min_mass(weights, group, precisions)
    assert int(solution.num_sweeps.max()) <= (2 if depth == 1 else 14)
    assert float(solution.residual.max()) <= 1e-6


def test_one_hidden_layer_is_the_closed_form(make_mlp_group):
    group = make_mlp_group((3, 5, 2), ("scale",))
    w = draw(group, 8)
    inflow = (w["kernel_0"] ** 2).sum(axis=0) + w["bias_0"] ** 2
    outflow = (w["kernel_1"] ** 2).sum(axis=1)
    np.testing.assert_allclose(balance(w, group)["hidden_0.scale"], (outflow / inflow) ** 0.25, rtol=1e-12)


@pytest.mark.parametrize("group", ["mlp_2", "conv"], indirect=True)
def test_batches_are_solved_draw_by_draw(group):
    rng = np.random.default_rng(9)
    weights = draw(group, 9, (3, 2))
    precisions = {site: np.exp(rng.normal(size=(3, 1, *shape))) for site, shape in group.sites.items()}
    together = balance(weights, group, precisions)
    for index in np.ndindex(3, 2):
        alone = balance(
            {site: array[index] for site, array in weights.items()},
            group,
            {site: array[index[0], 0] for site, array in precisions.items()},
        )
        for name, value in together.items():
            np.testing.assert_allclose(value[index], alone[name], rtol=1e-6)


def test_many_draws_are_solved_in_turns(make_mlp_group, monkeypatch):
    group = make_mlp_group((2, 3, 4, 1), ("scale",))
    weights = draw(group, 10, (7,))
    together = balance(weights, group)
    monkeypatch.setattr(balance_module, "_LANE_NUMBERS", 60)
    balance_module._min_mass.clear_cache()
    in_turns = balance(weights, group)
    balance_module._min_mass.clear_cache()
    for name, value in in_turns.items():
        np.testing.assert_allclose(value, together[name], rtol=1e-9)


def test_a_second_call_does_not_compile_again(make_mlp_group):
    group = make_mlp_group((2, 6, 1), ("scale",))
    balance(draw(group, 11, (3,)), group)
    size = balance_module._min_mass._cache_size()
    balance(draw(group, 12, (3,)), SymmetryGroup.from_json(group.to_json()))
    assert balance_module._min_mass._cache_size() == size


def test_units_without_influence_keep_their_scale(make_mlp_group):
    group = make_mlp_group((2, 4, 3, 1), ("scale",))
    weights = {site: array.copy() for site, array in draw(group, 13).items()}
    weights["kernel_0"][:, 0] = weights["bias_0"][0] = 0
    weights["kernel_2"][1, :] = 0
    for backend in ("sweeps", "cvxpy"):
        element = balance(weights, group, backend=backend)
        assert float(element["hidden_0.scale"][0]) == float(element["hidden_1.scale"][1]) == 1
        assert all(np.isfinite(value).all() for value in element.values())
    alive = {
        "kernel_0": weights["kernel_0"][:, 1:],
        "bias_0": weights["bias_0"][1:],
        "kernel_1": weights["kernel_1"][1:, [0, 2]],
        "bias_1": weights["bias_1"][[0, 2]],
        "kernel_2": weights["kernel_2"][[0, 2]],
        "bias_2": weights["bias_2"],
    }
    rest = make_mlp_group((2, 3, 2, 1), ("scale",))
    np.testing.assert_allclose(
        balance(weights, group)["hidden_0.scale"][1:], balance(alive, rest)["hidden_0.scale"], rtol=1e-6
    )


def test_weights_that_are_not_finite_keep_their_scale(make_mlp_group):
    group = make_mlp_group((2, 4, 3, 1), ("scale",))
    weights = {site: array.copy() for site, array in draw(group, 14, (3,)).items()}
    expected = balance(weights, group)
    weights["kernel_1"][1, 0, 0] = np.nan
    weights["kernel_0"][2, 0, 0] = np.inf
    for name, value in balance(weights, group).items():
        assert np.isfinite(value).all()
        np.testing.assert_allclose(value[0], expected[name][0], rtol=1e-9)


@pytest.mark.parametrize("group", ["mlp_2", "conv"], indirect=True)
def test_float32_is_good_to_1e_6(group):
    weights = draw(group, 15)
    exact = min_mass(weights, group)
    single = min_mass({site: array.astype(np.float32) for site, array in weights.items()}, group)
    assert single.objective.dtype == np.float32
    assert float(single.objective) == pytest.approx(float(exact.objective), rel=1e-6)
    for name, value in single.log_scales.items():
        np.testing.assert_allclose(value, exact.log_scales[name], atol=2e-5)


def test_a_group_without_scales_has_nothing_to_balance(cases):
    case = cases["tanh_1"]()
    assert balance(case.draw(16), case.group) == balance(case.draw(16), case.group, backend="cvxpy") == {}


def test_whole_arrays_are_balanced(cases):
    case = cases["whole_arrays"]()
    weights = case.draw(17)
    moved = case.group.act(balance(weights, case.group), weights)
    assert float(moved["gain"] ** 2) == pytest.approx(float((moved["kernel"] ** 2).sum()))


def scale_group(*slots, sites=None):
    return SymmetryGroup(sites or {"w": (3, 3), "v": (3,)}, (Factor("r", "scale", "a", 3, slots),))


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (
            scale_group(Slot("w", 0, 3), Slot("v", 0, 3)),
            r"'r' moves the mass of all its sites \(w, v\) in one direction",
        ),
        (scale_group(Slot("w", 0, 3), Slot("w", 1, 3, exponent=-1)), "'r' occurs twice in entries of 'w'"),
    ],
)
@pytest.mark.parametrize("backend", ["sweeps", "cvxpy"])
def test_orbits_without_a_balanced_point_are_refused(group, message, backend):
    with pytest.raises(ValueError, match=message):
        balance({site: np.ones(shape) for site, shape in group.sites.items()}, group, backend=backend)


def test_segments_of_one_axis_do_not_interact():
    sites = {"fused": (2, 6), "head": (3, 1)}
    group = scale_group(
        Slot("fused", 1, 3), Slot("fused", 1, 3, offset=3), Slot("head", 0, 3, exponent=-1), sites=sites
    )
    weights = draw(group, 18)
    assert slope(group, balance(weights, group), weights, {}) <= 1e-6


def test_bad_arguments_are_refused(make_mlp_group):
    group = make_mlp_group((2, 3, 1), ("scale",))
    weights = draw(group, 19)
    with pytest.raises(ValueError, match="none for kernel_0, bias_0"):
        balance({"kernel_1": weights["kernel_1"]}, group)
    with pytest.raises(ValueError, match="weights and precisions of 'bias_0' must broadcast"):
        balance(weights | {"bias_0": np.ones(2)}, group)
