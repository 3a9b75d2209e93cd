"""Runs on disk, and a model that is no network, from the sampler to the verdict."""

import json

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from bnn_models import Posterior
from diagnostics import SYMMETRIES_FILE, Label, canonicalize, open_run, save_run, to_datatree, verdict
from inference import NUTS, sample
from symmetry import find_symmetries


def _mixture(y):
    share = numpyro.sample("share", dist.Dirichlet(np.full(2, 2.0, np.float32)))
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([2]))
    numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(share), dist.Normal(mean, 1.0)), obs=y)


@pytest.fixture(scope="module")
def mixture_run(tmp_path_factory):
    rng = np.random.default_rng(0)
    y = np.concatenate([rng.normal(-3.0, 1.0, 20), rng.normal(3.0, 1.0, 50)]).astype(np.float32)
    posterior = Posterior(_mixture, y)
    symmetries = find_symmetries(posterior)
    # Half of the chains start at each labelling, and none crosses over.
    start = {"share": np.full((4, 2), 0.5), "mean": 3.0 * np.array([[1, -1], [-1, 1], [1, -1], [-1, 1]])}
    initial = jax.vmap(posterior.unconstrain)({site: array.astype(np.float32) for site, array in start.items()})
    folder = tmp_path_factory.mktemp("runs") / "run"
    draws = sample(
        posterior,
        NUTS(num_warmup=200),
        num_chains=4,
        num_draws=400,
        rng_key=jax.random.key(0),
        initial=initial,
        run=folder,
        progress=False,
        attachments={SYMMETRIES_FILE: symmetries.to_json()},
    )
    return draws, symmetries, folder


def test_mixture_that_switches_labels_between_chains_is_symmetry_only(mixture_run):
    draws, symmetries, _ = mixture_run
    result = verdict(canonicalize(to_datatree(draws, symmetries)))
    assert result.label == Label.SYMMETRY_ONLY
    assert result.level("raw").groups == ((0, 2), (1, 3))
    assert result.symmetry_share == pytest.approx(1.0, abs=0.05)
    assert "the log likelihood of each observation" in str(result)


def test_run_without_a_saved_tree_is_read_from_its_blocks(mixture_run):
    draws, symmetries, folder = mixture_run
    tree = open_run(folder)
    for site, array in draws.weights.items():
        np.testing.assert_array_equal(tree["posterior"][site], array)
    np.testing.assert_array_equal(
        tree["canonical_posterior"]["mean"], canonicalize(to_datatree(draws, symmetries))["canonical_posterior"]["mean"]
    )
    assert "posterior_predictive" not in tree.children
    assert tree["observed_data"]["y"].shape == (70,)
    assert json.loads(tree.attrs["num_warmup"]) == 200
    assert verdict(tree).label == Label.SYMMETRY_ONLY


def test_finished_run_is_read_as_it_was_saved(mixture_run):
    draws, symmetries, folder = mixture_run
    tree = canonicalize(to_datatree(draws, symmetries))
    save_run(tree, folder)
    assert open_run(folder).identical(tree)
    assert open_run(folder / "tree.nc").identical(tree)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a run folder"):
        open_run(tmp_path)
    with pytest.raises(ValueError, match="nothing is there"):
        open_run(tmp_path / "tree.nc")
