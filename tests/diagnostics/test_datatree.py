import dataclasses
import json

import arviz as az
import jax
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from bnn_models import Posterior
from diagnostics import canonicalize, datatree, load, save, summary, to_datatree
from diagnostics.datatree import symmetries_of
from diagnostics.dims import dim_names
from symmetry import Factor, Slot, Symmetries, SymmetryGroup, find_symmetries

_PROBES = np.linspace(-1.0, 1.0, 10, dtype=np.float32).reshape(5, 2)


@pytest.fixture(scope="module")
def network_run(network_posterior, prior_draws):
    posterior = network_posterior("relu")
    return prior_draws(posterior, probes=_PROBES), find_symmetries(posterior)


@pytest.fixture(scope="module")
def tree(network_run):
    return canonicalize(to_datatree(*network_run))


def test_groups_are_those_of_arviz_and_our_own(tree):
    assert set(tree.children) == {
        "posterior", "sample_stats", "log_likelihood", "posterior_predictive", "observed_data", "constant_data",
        "function", "invariants", "precision", "canonical_posterior", "canonicalization",
    }  # fmt: skip
    assert tree["log_likelihood"]["y"].dims[:2] == ("chain", "draw")
    assert set(tree["constant_data"].data_vars) == {"x", "probes"}
    assert tree["function"]["function"].dims == ("chain", "draw", "probe", "output")
    assert "5 probe inputs" in tree["function"].attrs["meaning"]


def test_draws_are_kept_bit_by_bit(network_run, tree):
    for site, array in network_run[0].weights.items():
        assert tree["posterior"][site].dtype == array.dtype
        np.testing.assert_array_equal(tree["posterior"][site].values, array)


def test_dims_bear_the_names_of_axis_classes(tree):
    kernel = tree["posterior"]["hidden_0.kernel"]
    assert kernel.dims == ("chain", "draw", "hidden_0.kernel_dim_0", "hidden_0")
    assert json.loads(kernel.attrs["axes"]) == [None, "hidden_0"]
    assert tree["posterior"]["head.kernel"].dims[2] == "hidden_0"
    assert tree["canonical_posterior"]["hidden_0.bias"].dims == ("chain", "draw", "hidden_0")


def test_all_attributes_are_plain_and_the_symmetries_come_back(network_run, tree):
    assert symmetries_of(tree) == network_run[1]
    assert json.loads(tree.attrs["kernel"])["settings"]["num_warmup"] == 300
    assert json.loads(tree.attrs["versions"])["jax"] == jax.__version__
    assert all(isinstance(value, str) for value in tree.attrs.values())


def test_precisions_are_stored_once_where_all_draws_share_them(tree):
    assert tree["precision"]["hidden_0.kernel"].dims == ("hidden_0.kernel_dim_0", "hidden_0")
    assert tree["precision"].attrs["gaussian"] == 1
    assert "head.bias" not in tree["precision"].data_vars


def test_posterior_predictive_is_reproducible_and_thinned_where_it_is_large(
    network_posterior, prior_draws, monkeypatch
):
    draws = prior_draws(network_posterior("relu"), num_chains=2, num_draws=250, probes=_PROBES)
    first, second = to_datatree(draws), to_datatree(draws)
    other = to_datatree(draws, rng_key=jax.random.key(1))
    predicted = first["posterior_predictive"]["y"]
    assert predicted.shape == (2, 250, 12)
    monkeypatch.setattr(datatree, "_PREDICTIVE_NUMBERS", 2 * 100 * 12)
    thinned = to_datatree(draws)["posterior_predictive"]["y"]
    assert thinned.shape == (2, 100, 12)
    assert thinned.draw.values[[0, -1]].tolist() == [0, 249]
    np.testing.assert_array_equal(predicted, second["posterior_predictive"]["y"])
    assert not np.array_equal(predicted, other["posterior_predictive"]["y"])


@pytest.mark.parametrize("name", ["tree.nc", "tree.zarr"])
def test_round_trip_is_lossless_and_may_be_repeated(tree, tmp_path, name):
    for _ in range(2):
        save(tree, tmp_path / name)
    assert load(tmp_path / name).identical(tree)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("opener", [az.from_netcdf, lambda path: az.convert_to_datatree(str(path))])
def test_plain_arviz_opens_what_was_saved(tree, tmp_path, opener):
    save(tree, tmp_path / "tree.nc")
    with opener(tmp_path / "tree.nc") as opened:
        assert float(az.rhat(opened, group="canonical_posterior")["head.bias"].max()) > 0


def test_arviz_takes_the_tree_as_it_is(tree):
    assert "hidden_0.bias[0]" in az.summary(tree).index
    for group in ("posterior", "canonical_posterior", "function", "invariants"):
        assert np.isfinite(az.rhat(tree, group=group).to_dataset().to_array()).all()
    az.plot_trace_dist(tree, var_names=["hidden_0.bias"])
    az.plot_trace_dist(tree, group="canonical_posterior", var_names=["head.kernel"])
    plt.close("all")


def test_summary_is_that_of_arviz_and_refuses_by_name(tree):
    table = summary(tree, group="canonical_posterior", var_names=["head.kernel"])
    assert list(table.index) == [f"head.kernel[{unit}, 0]" for unit in range(3)]
    diverging = summary(tree, group="sample_stats", var_names=["diverging"]).loc["diverging", "mean"]
    assert float(diverging) == tree["sample_stats"]["diverging"].values.mean()
    with pytest.raises(ValueError, match="a group among posterior"):
        summary(tree, group="nowhere")
    with pytest.raises(ValueError, match="variables among"):
        summary(tree, var_names=["nothing"])
    with pytest.raises(ValueError, match="no chains and draws"):
        summary(tree, group="observed_data")


def test_invariant_log_prior_has_no_jacobian(draws_at):
    def mixture(y):
        share = numpyro.sample("share", dist.Dirichlet(np.ones(3)))
        mean = numpyro.sample("mean", dist.Normal(0.0, 3.0).expand([3]))
        numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(share), dist.Normal(mean, 1.0)), obs=y)

    posterior = Posterior(mixture, np.linspace(-3.0, 3.0, 10, dtype=np.float32))
    rng = np.random.default_rng(0)
    weights = {"share": rng.dirichlet(np.ones(3), (2, 20)), "mean": rng.normal(size=(2, 20, 3))}
    draws = draws_at(posterior, {site: array.astype(np.float32) for site, array in weights.items()})
    expected = dist.Dirichlet(np.ones(3)).log_prob(draws.weights["share"])
    expected = expected + dist.Normal(0.0, 3.0).log_prob(draws.weights["mean"]).sum(-1)
    tree = to_datatree(draws)
    np.testing.assert_allclose(tree["invariants"]["log_prior"], expected, atol=1e-4)
    assert tree["function"].attrs["meaning"] == "the log likelihood of each observation"


def _group(sites, *factors):
    group = SymmetryGroup(sites, factors)
    return Symmetries(group, group)


def test_dims_never_clash():
    sites = {"mu": (3,), "recurrent": (4, 4), "gates": (2, 16), "apart": (3, 5)}
    labels = Factor("mu:permutation", "permutation", "mu", 3, (Slot("mu", 0, 3), Slot("apart", 0, 3)))
    state = Slot("recurrent", 0, 4), Slot("recurrent", 1, 4), Slot("gates", 1, 4, outer=4)
    units = Factor("state:permutation", "permutation", "state", 4, state)
    assert dim_names(_group(sites, labels, units), sites) == {
        "mu": ["mu__axis"],
        "recurrent": ["state", "state__in"],
        "gates": ["gates_dim_0", "state__x4"],
        "apart": ["mu__axis", "apart_dim_1"],
    }


def test_dims_without_symmetries_are_those_of_arviz(network_run):
    assert to_datatree(network_run[0])["posterior"]["hidden_0.kernel"].dims[2:] == (
        "hidden_0.kernel_dim_0",
        "hidden_0.kernel_dim_1",
    )


def test_no_draws_and_symmetries_of_another_model_are_refused(network_run):
    draws, _ = network_run
    empty = {site: array[:, :0] for site, array in draws.weights.items()}
    with pytest.raises(ValueError, match="got none"):
        to_datatree(dataclasses.replace(draws, weights=empty, num_draws=0))
    with pytest.raises(ValueError, match=r"'hidden_0.bias' has shape \(4,\), but it has shape \(3,\)"):
        to_datatree(draws, _group({"hidden_0.bias": (4,)}))
    with pytest.raises(ValueError, match="not among the draws"):
        to_datatree(draws, _group({"other": (4,)}))


def test_paths_that_hold_no_tree_are_refused(tree, tmp_path):
    with pytest.raises(ValueError, match="ending in .nc"):
        save(tree, tmp_path / "tree.csv")
    with pytest.raises(ValueError, match="nothing is there"):
        load(tmp_path / "tree.nc")
    (tmp_path / "text.nc").write_text("no tree")
    with pytest.raises(ValueError, match="cannot be read"):
        load(tmp_path / "text.nc")
