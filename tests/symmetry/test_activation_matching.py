"""Units matched by what they do, and alignment that starts there."""

import numpy as np
import pytest

from symmetry import Factor, Slot, SymmetryGroup, align_to, match_activations


def _activations(group, weights, inputs):
    """Activations of the hidden layers of a tanh network, by axis class."""
    found, values = {}, inputs
    for layer, axis in enumerate(dict.fromkeys(factor.axis for factor in group.factors)):
        values = np.tanh(values @ weights[f"kernel_{layer}"] + weights[f"bias_{layer}"])
        found[axis] = values
    return found


@pytest.fixture
def planted(draw_element):
    """A reference, the planted elements, and noisy copies of the reference under them."""

    def build(group, num_draws, noise):
        rng = np.random.default_rng(0)
        reference = {site: rng.normal(size=shape) for site, shape in group.sites.items()}
        noisy = {s: array + noise * rng.normal(size=(num_draws, *array.shape)) for s, array in reference.items()}
        element = draw_element(group, 0, (num_draws,))
        moved = group.act(element, noisy)
        return reference, element, {site: np.asarray(array) for site, array in moved.items()}

    return build


@pytest.mark.parametrize("widths", [(4, 8, 1), (4, 32, 32, 1), (4, 16, 16, 16, 1)])
def test_planted_elements_are_recovered_from_activations(make_mlp_group, planted, widths):
    group = make_mlp_group(widths, ("permutation", "sign"))
    reference, element, weights = planted(group, 1, noise=0.0)
    one = {site: array[0] for site, array in weights.items()}
    inputs = np.random.default_rng(0).normal(size=(200, widths[0]))
    found = match_activations(group, _activations(group, one, inputs), _activations(group, reference, inputs))
    moved = group.act(found, one)
    for site, array in reference.items():
        np.testing.assert_allclose(np.asarray(moved[site]), array, atol=1e-12)


def test_alignment_goes_on_from_a_start(make_mlp_group, planted):
    group = make_mlp_group((4, 16, 16, 1), ("permutation", "sign"))
    reference, element, weights = planted(group, 5, noise=0.8)

    def distances(start):
        moved = group.act(align_to(weights, group, reference, start=start), weights)
        return sum(((np.asarray(moved[s]) - reference[s]) ** 2).reshape(5, -1).sum(1) for s in reference)

    inverse = {name: np.asarray(values) for name, values in group.inverse(element).items()}
    assert (distances(inverse) <= distances(None) + 1e-9).all()
    one = {name: values[0] for name, values in inverse.items()}
    assert np.isfinite(distances(one)).all()


def test_what_does_not_fit_is_refused(make_mlp_group, planted):
    group = make_mlp_group((4, 8, 1), ("permutation", "sign"))
    name = group.factors[0].axis
    fits = np.zeros((10, 8))
    with pytest.raises(ValueError, match="activations of classes among .* were expected, got 'nowhere'"):
        match_activations(group, {"nowhere": fits}, {"nowhere": fits})
    with pytest.raises(ValueError, match=r"of shape \(input, 8\) were expected from both networks .*, got \(10, 7\)"):
        match_activations(group, {name: fits[:, :7]}, {name: fits[:, :7]})
    with pytest.raises(ValueError, match=r"from both networks at the same inputs, got \(10, 8\)$"):
        match_activations(group, {name: fits}, {})
    reference, _, weights = planted(group, 2, noise=0.0)
    with pytest.raises(ValueError, match="a start of values among .* was expected, got 'nothing'"):
        align_to(weights, group, reference, start={"nothing": np.zeros(3)})
    heads = Slot("out", 0, 2)
    slot = Slot("out", 1, 3, fibre=(heads,))
    units = Factor("units", "permutation", "unit", 3, (slot,), fibre=("head",), fibre_shape=(2,))
    with pytest.raises(ValueError, match="vary over another class, and activations cannot say how; use align_to"):
        match_activations(SymmetryGroup({"out": (2, 3)}, (units,)), {"unit": fits[:, :3]}, {"unit": fits[:, :3]})
