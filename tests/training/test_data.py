from __future__ import annotations

import datetime
import decimal
import gzip
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from training.memory import table

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.training.data import BUNDLED, Dataset, _read_csv, load
from mlflow_hpo.training.preprocessing import (
    MAX_CATEGORIES,
    ImagePreprocessor,
    Preprocessor,
    plain_columns,
    preprocessor_from_json,
)

WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    "csv": lambda frame, path: frame.to_csv(path, index=False),
    "csv.gz": lambda frame, path: frame.to_csv(path, index=False),
    "parquet": lambda frame, path: frame.to_parquet(path),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_table_with_about_everything(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"data.{suffix}"
    WRITERS[suffix](table(), path)
    data = load(str(path), "label")
    assert data.task == "classification"
    assert data.form == "table"
    assert data.classes == ("no", "yes")
    assert data.outputs == 2
    assert isinstance(data.preprocessor, Preprocessor)
    assert data.preprocessor.columns == ("size", "count", "flag", "maybe", "colour", "town", "day")
    for X, y in ((data.X_train, data.y_train), (data.X_val, data.y_val)):
        assert X.dtype == np.float32
        assert y.dtype == np.int64
        assert np.isfinite(X).all()
        assert len(X) == len(y)
    assert len(data.y_val) == 20
    assert data.X_train.shape[1:] == data.preprocessor.shape
    assert len(data.digest) == 64
    assert isinstance(data.example, pd.DataFrame)
    assert tuple(data.example.columns) == data.preprocessor.columns
    assert (data.preprocessor.transform(data.example) == data.X_train[: len(data.example)]).all()
    state = json.loads(json.dumps(data.preprocessor.to_json()))
    assert (preprocessor_from_json(state).transform(data.example) == data.X_train[: len(data.example)]).all()


def test_csv_and_parquet_give_the_same(tmp_path: Path) -> None:
    loaded = []
    for suffix, write in WRITERS.items():
        path = tmp_path / f"data.{suffix}"
        write(table(), path)
        loaded.append(load(str(path), "label"))
    for other in loaded[1:]:
        assert np.allclose(loaded[0].X_train, other.X_train, atol=1e-5)
        assert (loaded[0].y_train == other.y_train).all()


def test_the_split_is_stratified_and_seeded() -> None:
    digits, again, other = load("digits", seed=1), load("digits", seed=1), load("digits", seed=2)
    assert (digits.X_val == again.X_val).all()
    assert not np.array_equal(digits.X_val, other.X_val)
    train, val = np.bincount(digits.y_train), np.bincount(digits.y_val)
    assert np.abs(val / (train + val) - 0.2).max() < 0.01
    diabetes = load("diabetes")
    assert abs(float(diabetes.y_val.mean())) < 0.1  # the training part has mean 0 and deviation 1
    assert abs(float(diabetes.y_val.std()) - 1) < 0.1
    assert len(diabetes.y_val) / diabetes.rows == pytest.approx(0.2, abs=0.01)


def test_the_preprocessor_never_sees_the_validation_part(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    X, y = np.random.default_rng(0).normal(size=(50, 2)), np.arange(50) % 2
    np.savez(path, X=X, y=y)
    data = load(str(path))
    assert np.allclose(data.X_train.mean(axis=0), 0, atol=1e-6)
    assert np.allclose(data.X_train.std(axis=0), 1, atol=1e-5)


def load_npz(tmp_path: Path, **arrays: Any) -> Dataset:
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    return load(str(path))


@pytest.mark.parametrize(
    ("shape", "prepared"),
    [
        ((5, 6), (1, 5, 6)),
        ((3, 5, 6), (3, 5, 6)),
        ((5, 6, 3), (3, 5, 6)),
        ((2, 2, 2), (2, 2, 2)),
        ((1, 28, 1), (1, 28, 1)),
    ],
)
def test_images(shape: tuple[int, ...], prepared: tuple[int, ...], tmp_path: Path) -> None:
    X = np.random.default_rng(0).integers(0, 255, (20, *shape), dtype=np.uint8)
    data = load_npz(tmp_path, X=X, y=np.arange(20) % 2)
    assert data.form == "image"
    assert data.preprocessor.shape == data.X_train.shape[1:] == prepared
    assert isinstance(data.example, np.ndarray)
    assert data.example.dtype == np.uint8
    assert data.example.shape[1:] == shape
    state = json.loads(json.dumps(data.preprocessor.to_json()))
    assert (preprocessor_from_json(state).transform(data.example) == data.X_train[:5]).all()
    with pytest.raises(ValueError, match="expected images of shape"):
        data.preprocessor.transform(np.zeros((1, 9, 9)))


def test_channels_are_moved_not_mixed() -> None:
    images = np.zeros((4, 8, 8, 3))
    images[..., 1] = np.arange(4)[:, None, None]
    made = ImagePreprocessor.fit(images).transform(images)
    assert (made[:, [0, 2]] == 0).all()
    assert made[:, 1].std() == pytest.approx(1)


def test_missing_and_huge_pixels() -> None:
    images = np.random.default_rng(0).normal(size=(10, 4, 4))
    images[0, 0, 0], images[1, 0, 0], images[2, 0, 0] = np.nan, np.inf, 1e300
    fitted = ImagePreprocessor.fit(np.where(np.abs(images) > 1e9, np.nan, images))
    made = fitted.transform(images)
    assert np.isfinite(made).all()
    assert made[0, 0, 0, 0] == made[1, 0, 0, 0] == made[2, 0, 0, 0] == 0
    assert (ImagePreprocessor.fit(np.full((3, 2, 2), np.nan)).transform(images[:3, :2, :2]) != np.nan).all()


def test_the_target_decides_the_task(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(200, 2))

    def task(y: Any) -> tuple[str, tuple[Any, ...]]:
        data = load_npz(tmp_path, X=X[: len(y)], y=np.asarray(y))
        return data.task, data.classes

    assert task(np.arange(200) % 3) == ("classification", (0, 1, 2))
    assert task((np.arange(200) % 2) * 1.0) == ("classification", (0, 1))
    assert task(np.arange(200) % 2 == 0) == ("classification", (False, True))
    assert task(np.where(np.arange(200) % 2, "b", "a")) == ("classification", ("a", "b"))
    assert task(np.where(np.arange(200) % 2, 0.5, 1.5)) == ("classification", (0.5, 1.5))
    assert task(np.arange(200) % 20)[0] == "classification"
    assert task(np.arange(200) % 21)[0] == "regression"
    assert task(np.arange(200))[0] == "regression"
    assert task(np.linspace(0, 1, 200))[0] == "regression"
    assert task(np.linspace(0, 1, 10))[0] == "regression"


def test_regression_targets_are_standardised_and_known(tmp_path: Path) -> None:
    y = np.linspace(1000, 2000, 100)
    data = load_npz(tmp_path, X=np.random.default_rng(0).normal(size=(100, 2)), y=y[:, None])
    back = np.concatenate([data.y_train, data.y_val]) * data.target_scale + data.target_mean
    assert np.allclose(np.sort(back), y, atol=1e-2)
    assert data.classes == ()
    assert data.outputs == 1


def test_rows_without_target_are_dropped_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    y = np.arange(60) % 3 * 1.0
    y[:5], y[5:8] = np.nan, np.inf
    with caplog.at_level(logging.WARNING):
        data = load_npz(tmp_path, X=np.random.default_rng(0).normal(size=(60, 2)), y=y)
    assert data.rows == 52
    assert data.classes == (0, 1, 2)
    assert "8 of 60 rows have no target (y)" in caplog.text


def test_a_class_with_one_row_is_trained_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    y = np.array(["a"] * 20 + ["b"] * 2 + ["c"])
    with caplog.at_level(logging.WARNING):
        data = load_npz(tmp_path, X=np.random.default_rng(0).normal(size=(23, 2)), y=y)
    assert data.classes == ("a", "b", "c")
    assert np.bincount(data.y_train).tolist() == [16, 1, 1]
    assert np.bincount(data.y_val, minlength=3).tolist() == [4, 1, 0]
    assert "1 classes have one row only" in caplog.text


# --- preprocessing


def test_unseen_and_missing_values_at_prediction() -> None:
    fitted = Preprocessor.fit(plain_columns(table().drop(columns="label")))
    row = table().drop(columns="label").head(1)
    row = row.assign(size=[-np.inf], count=[None], colour=["purple"], town=[None], day=["never"], maybe=["?"])
    made = fitted.transform(row)
    assert np.isfinite(made).all()
    assert fitted.transform(row[list(reversed(row.columns))]).tolist() == made.tolist()
    with pytest.raises(ValueError, match="columns are missing: size, day"):
        fitted.transform(row.drop(columns=["size", "day"]))
    with pytest.raises(ValueError, match=r"expected an array of shape \(rows, 7\)"):
        fitted.transform(np.zeros((2, 3)))


def test_arrays_stand_for_tables() -> None:
    X = np.random.default_rng(0).normal(size=(30, 2))
    frame = pd.DataFrame(X, columns=["x0", "x1"])
    fitted = Preprocessor.fit(frame)
    assert (fitted.transform(X) == fitted.transform(frame)).all()


def test_categories_are_bounded() -> None:
    frame = pd.DataFrame({"town": [f"town {at % 300}" for at in range(1000)]})
    fitted = Preprocessor.fit(frame)
    assert fitted.shape == (MAX_CATEGORIES + 1,)
    made = fitted.transform(frame)
    assert (made.sum(axis=1) == 1).all()
    assert made[:, -1].mean() > 0.9


def test_median_and_indicator() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, 9.0, np.nan]})
    made = Preprocessor.fit(frame).transform(frame)
    assert made[:, 1].tolist() == [0, 0, 0, 1]
    assert made[3, 0] == made[1, 0]
    unseen = Preprocessor.fit(frame.head(3)).transform(frame)
    assert unseen.shape == (4, 1)
    assert unseen[3, 0] == unseen[1, 0]


def test_a_column_that_is_only_sometimes_there_keeps_its_indicator() -> None:
    frame = pd.DataFrame({"a": [5.0, np.nan] * 5})
    assert Preprocessor.fit(frame).transform(frame).tolist() == [[0], [1]] * 5


def test_huge_and_tiny_numbers() -> None:
    values = np.array([1e300, -1e300, 1e299, 5.0])
    frame = pd.DataFrame({"huge": values, "tiny": values * 1e-320, "near": 1e9 + np.arange(4.0)})
    made = Preprocessor.fit(frame).transform(frame)
    assert np.isfinite(made).all()
    assert np.allclose(made[:, -1].std(), 1)
    outlier = pd.DataFrame({"huge": [0.0], "tiny": [1e300], "near": [1e12]})
    assert np.abs(Preprocessor.fit(frame).transform(outlier)).max() == 10


def test_every_type_of_column_becomes_a_plain_one() -> None:
    frame = pd.DataFrame(
        {
            "nullable": pd.array([1, None], dtype="Int64"),
            "unsigned": np.array([1, 2**64 - 1], dtype=np.uint64),
            "small": np.array([1, 2], dtype=np.int8),
            "single": np.array([1, np.inf], dtype=np.float32),
            "decimal": [decimal.Decimal("1.5"), None],
            "nullable flag": pd.array([True, None], dtype="boolean"),
            "flag": pd.array([True, False], dtype="boolean"),
            "category": pd.Categorical([1, None]),
            "zoned": pd.to_datetime(["2024-01-01T12:00+02:00", None], utc=True),
            "date": [datetime.date(2024, 1, 1), None],
            "duration": pd.to_timedelta(["1h", None]),
            "mixed": [1, "a"],
            "bytes": [b"a", None],
        }
    )
    plain = plain_columns(frame)
    dtypes = {str(name): str(dtype) for name, dtype in plain.dtypes.items()}
    assert dtypes == {
        "nullable": "float64",
        "unsigned": "float64",
        "small": "int64",
        "single": "float64",
        "decimal": "float64",
        "nullable flag": "object",
        "flag": "bool",
        "category": "object",
        "zoned": "datetime64[ns]",
        "date": "datetime64[ns]",
        "duration": "float64",
        "mixed": "object",
        "bytes": "object",
    }
    assert plain["single"].isna().tolist() == [False, True]
    assert plain["zoned"][0] == pd.Timestamp("2024-01-01T10:00")
    assert plain["duration"][0] == 3600


def test_dates_become_day_month_weekday_and_hour() -> None:
    frame = pd.DataFrame({"at": pd.date_range("2024-01-01", periods=400, freq="7h")})
    assert Preprocessor.fit(frame).shape == (4,)
    text = pd.DataFrame({"at": frame["at"].astype(str)})
    assert np.allclose(Preprocessor.fit(text).transform(text), Preprocessor.fit(frame).transform(frame))
    days = pd.DataFrame({"at": ["2024-01-01", "2024-02-01", None]})
    assert Preprocessor.fit(days).shape == (4,)  # day, month, weekday, missing; the hour is constant


def test_files_of_a_spreadsheet(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    frame = pd.DataFrame({"a": np.arange(20.0), "b": ["?"] + ["1"] * 9 + ["2"] * 10, "y": [0, 1] * 10})
    frame.to_csv(path, sep=";", index=False, encoding="utf-8-sig")
    semicolons = load(str(path), "y")
    assert semicolons.preprocessor.columns == ("a", "b")
    frame.to_csv(path)  # with row numbers in front
    assert load(str(path), "y").preprocessor.columns == ("a", "b")


def test_a_separator_at_the_end_of_each_row_shifts_nothing(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("y,a,b\n" + "".join(f"{row % 2},{row},{row * row},\n" for row in range(20)))
    data = load(str(path), "y")
    assert data.classes == (0, 1)
    assert data.preprocessor.columns == ("a", "b")
    path.write_text("y,a\n" + "".join(f"name {row},{row % 2},{row}\n" for row in range(20)))
    refused("data", "its rows have more values than its header has names", str(path), "y")


def test_decimal_commas_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    rows = [f"{row / 8:.3f};{row};n{row % 3},5;{row % 2}".replace(".", ",") for row in range(20)]
    path.write_text("a;b;c;y\n" + "\n".join([*rows[:10], ";1;n1,5;0", *rows[10:]]))
    frame = _read_csv(path, "y")
    assert list(frame["a"].dropna()) == [row / 8 for row in range(20)]
    assert frame["a"].isna().sum() == 1
    assert frame["c"][0] == "n0,5"


@pytest.mark.parametrize("other", ["Mild", "NA"])
def test_none_may_be_a_class(tmp_path: Path, other: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text("a,y\n" + "".join(f"{row},{('None', 'Severe', other)[row % 3]}\n" for row in range(30)))
    assert load(str(path), "y").classes == tuple(sorted({"None", "Severe"} | {other} - {"NA"}))


def test_whole_numbers_beyond_64_bits(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("id,y\n" + "".join(f"{10**25 + row**9},{row % 2}\n" for row in range(20)))
    assert np.isfinite(load(str(path), "y").X_train).all()


# --- bad input: one line that names the field


def refused(field: str, problem: str, source: str, target: str | None = None) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        load(source, target)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_unknown_data() -> None:
    refused("data", "is empty; allowed: digits, ", "")
    refused("data", "got 'mnist'; allowed: digits, breast_cancer, wine, diabetes, or a path", "mnist")
    refused("data", "got 'http://x/y.csv'", "http://x/y.csv")
    refused("data", "there is no file nowhere.csv", "nowhere.csv")
    refused("data", "got 's3:///x.csv'; an S3 URL reads s3://bucket/key", "s3:///x.csv")


def test_a_directory(tmp_path: Path) -> None:
    (tmp_path / "data.parquet").mkdir()
    refused("data", "is a directory", str(tmp_path / "data.parquet"))


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_data_takes_no_target(name: str) -> None:
    refused("target", "has its own target", name, "y")


CONTENTS: list[tuple[str, bytes, str]] = [
    ("csv", b"", "is empty"),
    ("csv", b"a,y\n", "has no rows"),
    ("csv", b"a,y\n1,2\n1,2,3\n", "cannot read .* as csv: .*Expected 2 fields"),
    ("csv", b"a,y\n\xff\xfe,1\n", "cannot read .* as csv: .*codec can't decode"),
    ("csv.gz", b"no gzip", "cannot read .* as csv.gz"),
    ("csv.gz", gzip.compress(b"a,y\n1,2\n" * 999, mtime=0)[:-20], "cannot read .* as csv.gz"),
    ("parquet", b"", "cannot read .* as parquet"),
    ("parquet", b"PAR1 no parquet PAR1", "cannot read .* as parquet"),
    ("npz", b"", "cannot read .* as npz"),
    ("npz", b"no npz", "cannot read .* as npz"),
    ("npz", b"PK\x03\x04 broken", "cannot read .* as npz"),
]


@pytest.mark.parametrize(("suffix", "content", "problem"), CONTENTS)
def test_unreadable_files(suffix: str, content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / f"data.{suffix}"
    path.write_bytes(content)
    refused("data", problem, str(path), None if suffix == "npz" else "y")


def test_targets_of_tables(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    frame = pd.DataFrame({f"column_{at}": np.arange(20) * at for at in range(30)})
    frame.assign(one="a", id=[f"id{at}" for at in range(20)], none=None).to_csv(path, index=False)
    refused("target", r"is missing; .* has the columns column_0, .* and 21 more$", str(path))
    refused("target", r"no column 'colum_1'; .* did you mean 'column_1'", str(path), "colum_1")
    refused("target", r"column 'one' has one class only \('a'\)", str(path), "one")
    refused("target", "column 'id' has 20 classes in 20 rows", str(path), "id")
    refused("data", "has 0 usable rows; at least 10 are needed", str(path), "none")


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    pd.DataFrame({"a": 1, "id": [f"id{at}" for at in range(20)], "y": [0, 1] * 10}).to_csv(path, index=False)
    refused("data", "has no column to learn from", str(path), "y")
    pd.DataFrame({"a": [1, 2], "y": [0, 1]}).to_csv(path, index=False)
    refused("data", "has 2 usable rows; at least 10 are needed", str(path), "y")


def test_parquet_of_things_that_are_no_table(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pd.DataFrame({"a": [[1, 2]] * 20, "y": [0, 1] * 10}).to_parquet(path)
    refused("data", "column a holds lists or mappings", str(path), "y")
    pd.DataFrame({"a": range(20), "y": pd.date_range("2024-01-01", periods=20)}).to_parquet(path)
    refused("target", r"column y holds dates", str(path), "y")
    pd.DataFrame({"a": range(20), "y": [[1]] * 20}).to_parquet(path)
    refused("target", r"column y holds lists or mappings", str(path), "y")


ONES = np.ones((20, 3))
PARITY = np.arange(20) % 2


@pytest.mark.parametrize(
    ("arrays", "field", "problem"),
    [
        ({"X": ONES}, "data", "lacks the array y; it has X"),
        ({"a": ONES}, "data", "lacks the array X and y; it has a"),
        ({"X": ONES, "y": PARITY[:5]}, "data", r"y must have shape \(20,\)"),
        ({"X": ONES, "y": np.ones((20, 2))}, "data", r"y must have shape \(20,\)"),
        ({"X": ONES[0], "y": PARITY}, "data", "X must hold numbers in 2 dimensions"),
        ({"X": ONES.astype(str), "y": PARITY}, "data", "X must hold numbers"),
        ({"X": ONES * 1j, "y": PARITY}, "data", "X must hold numbers"),
        ({"X": ONES.astype(object), "y": PARITY}, "data", "cannot read .* as npz: .*allow_pickle"),
        ({"X": np.zeros((0, 3)), "y": PARITY[:0]}, "data", "is empty"),
        ({"X": ONES, "y": PARITY}, "data", "has no column to learn from"),
        ({"X": np.random.default_rng(0).normal(size=(20, 3)), "y": PARITY * 0}, "target", "one class only"),
        ({"X": ONES, "y": PARITY * 1j}, "target", "column y holds complex"),
    ],
)
def test_bad_npz(arrays: dict[str, Any], field: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    refused(field, problem, str(path))


def test_npz_takes_no_target(tmp_path: Path) -> None:
    refused("target", "holds its target as 'y'", str(tmp_path / "data.npz"), "label")


def test_an_npz_with_a_pickle_inside_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "pwned",))

    path = tmp_path / "data.npz"
    np.savez(path, X=np.array([Evil()] * 20, dtype=object), y=PARITY)
    refused("data", re.escape("allow_pickle"), str(path))
    assert not (tmp_path / "pwned").exists()
