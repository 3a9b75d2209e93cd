"""Data sets: splits, scalers fitted on the training rows alone, files, and what is refused."""

import numpy as np
import pytest
import sklearn.datasets

from bnn_models import datasets

SHAPES = {
    "diabetes": ((392, 10), "regression"),
    "iris": ((120, 4), "classification"),
    "wine": ((143, 13), "classification"),
    "breast_cancer": ((519, 30), "classification"),
    "digits": ((1747, 64), "classification"),
}


@pytest.mark.parametrize("name", datasets.BUILT_IN)
def test_built_in_sets(name):
    data = datasets.load(name, seed=0)
    shape, task = SHAPES[name]
    assert data.x_train.shape == shape
    assert data.task == task
    assert len(data.feature_names) == shape[1]
    assert data.y_train.dtype.kind == ("f" if task == "regression" else "i")
    assert np.isfinite(data.x_train).all()
    raw = getattr(sklearn.datasets, f"load_{name}")()
    order = np.random.default_rng(0).permutation(len(raw.data))
    np.testing.assert_allclose(data.x_scaler.invert(data.x_train), raw.data[order[len(data.x_test) :]], atol=1e-9)
    np.testing.assert_allclose(data.x_scaler.invert(data.x_test), raw.data[order[: len(data.x_test)]], atol=1e-9)


def test_scalers_know_only_the_training_rows():
    data = datasets.load("diabetes", seed=1)
    np.testing.assert_allclose(data.x_train.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(data.x_train.std(axis=0), 1.0, rtol=1e-12)
    np.testing.assert_allclose([data.y_train.mean(), data.y_train.std()], [0.0, 1.0], atol=1e-12)
    # Control: were the test rows among the fitted, all rows together would have mean 0, and they do not.
    together = np.concatenate([data.x_train, data.x_test])
    assert np.abs(together.mean(axis=0)).max() > 1e-3


def test_changing_a_test_row_changes_no_training_row(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 2)), rng.normal(size=40)
    held_out = np.random.default_rng(7).permutation(40)[:8]

    def load(x):
        np.savez(tmp_path / "d.npz", x=x, y=y)
        return datasets.load(tmp_path / "d.npz", seed=7)

    before = load(x)
    x = x.copy()
    x[held_out] += 100.0
    after = load(x)
    np.testing.assert_array_equal(before.x_train, after.x_train)
    assert np.abs(after.x_test - before.x_test).min() > 10
    x[np.setdiff1d(np.arange(40), held_out)[0]] += 100.0
    assert not np.array_equal(before.x_train, load(x).x_train)


def test_constant_columns_keep_their_scale(tmp_path):
    np.savez(tmp_path / "d.npz", X=np.stack([np.full(10, 3.0), np.arange(10.0)], axis=1), y=np.arange(10.0))
    data = datasets.load(tmp_path / "d.npz")
    np.testing.assert_array_equal(data.x_train[:, 0], 0.0)
    assert data.x_scaler.scale[0] == 1.0
    assert data.feature_names == ("x0", "x1")


def test_csv_with_a_header(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("age,weight,kind\n" + "".join(f"{i},{2.5 * i},{'ab'[i % 2]}\n" for i in range(20)))
    data = datasets.load(path, num_test=5)
    assert (data.feature_names, data.target_name, data.class_names) == (("age", "weight"), "kind", ("a", "b"))
    assert data.x_test.shape == (5, 2)
    assert set(data.y_train) == {0, 1}


def test_csv_target_by_name_or_number(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("a,b,c\n" + "".join(f"{i},{i + 0.5},{-i}\n" for i in range(30)))
    by_name, by_number = datasets.load(path, target="b"), datasets.load(path, target=1)
    assert by_name.feature_names == ("a", "c")
    assert by_name.task == "regression"
    np.testing.assert_array_equal(by_name.y_train, by_number.y_train)
    bare = tmp_path / "bare.csv"
    bare.write_text("".join(f"{i},{i % 3}\n" for i in range(30)))
    assert datasets.load(bare).class_names == ("0", "1", "2")
    assert datasets.load(bare, task="regression").task == "regression"


@pytest.mark.parametrize(
    ("content", "arguments", "sentence"),
    [
        ("a,b\n1,2\n,4\n5,6\n", {}, "Column 'a' of .* in 1 of 3 rows, first in row 2"),
        ("a,b\n1,2\nnan,4\n5,6\n", {}, "Column 'a' of .* NaN"),
        ("a,b\n1,2\n3,\n5,6\n", {}, "Column 'b'"),
        ("a,b\n1,2\nred,4\n", {}, "Column 'a' of .* holds the text 'red'"),
        ("a,b\n1,2\n3\n", {}, "Row 2 of .* has 1 cells, but there are 2 columns"),
        ("a,b\n1,2\n3,4\n", {"target": "c"}, "no column 'c'; its columns are a, b"),
        ("a,b\n1,2\n3,4\n", {"num_test": 2}, "num_test should lie between 1 and 1"),
        ("a,b\n1,x\n3,y\n", {"task": "regression", "num_test": 1}, "A regression needs numbers"),
        ("", {}, "is empty"),
        ("a\n1\n", {}, "at least one other column"),
    ],
)
def test_bad_csv_files_get_one_sentence(tmp_path, content, arguments, sentence):
    (tmp_path / "d.csv").write_text(content)
    with pytest.raises(ValueError, match=sentence) as caught:
        datasets.load(tmp_path / "d.csv", **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x": np.ones((5, 2))}, r"should hold the arrays x \(or X\) and y, but holds \['x'\]"),
        ({"x": np.ones((5, 2)), "y": np.ones(4)}, "as many rows"),
        ({"x": np.ones(5), "y": np.ones(5)}, "shape"),
        ({"x": np.full((5, 2), np.nan), "y": np.ones(5)}, "Column 'x0'"),
        ({"x": np.array([[None]]), "y": np.ones(1)}, "plain arrays"),
    ],
)
def test_bad_npz_files_get_one_sentence(tmp_path, arrays, sentence):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(ValueError, match=sentence):
        datasets.load(tmp_path / "d.npz")


def test_unknown_names_and_missing_files(tmp_path):
    with pytest.raises(ValueError, match="choose one of diabetes, iris, wine, breast_cancer, digits"):
        datasets.load("boston")
    with pytest.raises(ValueError, match=r"nothing\.npz does not exist"):
        datasets.load(tmp_path / "nothing.npz")
    with pytest.raises(ValueError, match="leave it out"):
        datasets.load("iris", target="species")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match="could not be read"):
        datasets.load(tmp_path / "text.npz")
