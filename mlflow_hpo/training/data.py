"""Real data for the bundled training: scikit-learn's bundled sets, and any table or images of the user's."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlflow_hpo.checks import did_you_mean
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.training.preprocessing import Floats, ImagePreprocessor, Preprocessor, plain_columns

logger = logging.getLogger(__name__)

BUNDLED = ("digits", "breast_cancer", "wine", "diabetes")
SUFFIXES = (".csv", ".csv.gz", ".parquet", ".npz")
VALIDATION_SHARE = 0.2
MIN_ROWS = 10
EXAMPLE_ROWS = 5

Task = Literal["classification", "regression"]
Label = bool | int | float | str


@dataclass(frozen=True)
class Dataset:
    """Data split and prepared for training.

    Attributes:
        source: the name, path or URL it was loaded from.
        target: the target column of a table; None for bundled sets and NPZ files.
        task: "classification" or "regression".
        X_train, X_val: float32, (rows, features) for tables, (rows, channels, height, width) for images.
        y_train, y_val: for classification the index into `classes`, int64; for regression the target
            standardised by `target_mean` and `target_scale`, float32. Shape (rows,).
        classes: the labels as they stand in the data, sorted; empty for regression.
        target_mean, target_scale: of the training rows, in the target's own units; 0 and 1 for
            classification.
        preprocessor: makes X of raw rows; fitted on the training rows.
        example: a few raw training rows, as the served model takes them.
        digest: SHA-256 of the data, in hex: of the file's bytes, or of the bundled arrays.
        columns: number of raw columns, or of pixels times channels.
    """

    source: str
    target: str | None
    task: Task
    X_train: Floats
    y_train: npt.NDArray[Any]
    X_val: Floats
    y_val: npt.NDArray[Any]
    classes: tuple[Label, ...]
    target_mean: float
    target_scale: float
    preprocessor: Preprocessor | ImagePreprocessor
    example: pd.DataFrame | npt.NDArray[Any]
    digest: str
    columns: int

    @property
    def form(self) -> Literal["table", "image"]:
        """Whether rows are rows of a table or images."""
        return "image" if isinstance(self.preprocessor, ImagePreprocessor) else "table"

    @property
    def outputs(self) -> int:
        """Number of outputs a model needs: one per class, or one."""
        return len(self.classes) or 1

    @property
    def rows(self) -> int:
        """Number of rows of both parts."""
        return len(self.y_train) + len(self.y_val)


@dataclass(frozen=True)
class _Raw:
    rows: pd.DataFrame | npt.NDArray[Any]
    target: pd.Series[Any]
    digest: str


def load(source: str, target: str | None = None, seed: int = 0) -> Dataset:
    """Load, check, split (80 to 20, stratified) and prepare data.

    Args:
        source: one of `BUNDLED`; or a local path or ``s3://bucket/key`` that ends in .csv, .csv.gz, .parquet
            or .npz. An NPZ file holds `X` (2 dimensions: a table; 3 or 4: images) and `y`.
        target: the target column of a CSV or Parquet table.
        seed: of the split.

    Whether it is classification or regression is read off the target. Text and booleans are classes.
    Numbers with fractions are regression if more than 10 of them differ, or more than half of the rows do.
    Whole numbers are regression if more than 20 differ and that is more than a twentieth of the rows; else
    they are classes.

    The split is stratified by class, or by the order of the target in regression; a class with a single row
    goes to training. Rows without a target (missing or infinite) are dropped, and logged.

    Raises:
        ConfigError: for `data` or `target`: unknown, unreadable, empty, too small, no such bucket or object,
            no such column, one class only, nothing to learn from.

    >>> digits = load("digits")
    >>> digits.X_train.shape, digits.X_val.shape, digits.classes[:3]
    ((1438, 1, 8, 8), (359, 1, 8, 8), (0, 1, 2))
    """
    if not source:
        raise ConfigError("data", f"is empty; {_allowed()}")
    raw = _read(source, target)
    name = f"column '{target}'" if target else "y"
    raw = _drop_rows_without_target(raw, name)
    if len(raw.target) < MIN_ROWS:
        usable = len(raw.target)
        raise ConfigError("data", f"{source} has {usable} usable rows; at least {MIN_ROWS} are needed")
    encoded, classes = _encode(raw.target, name)
    rng = np.random.default_rng(seed)
    train, val = _split(encoded, bool(classes), rng)
    preprocessor, example = _fit(raw.rows, train, source)
    mean, scale = 0.0, 1.0
    if not classes:
        mean, scale = float(encoded[train].mean()), float(encoded[train].std())
        if scale == 0:
            raise ConfigError("target", f"{name} has a single value in the training rows")
        encoded = ((encoded - mean) / scale).astype(np.float32)
    return Dataset(
        source=source,
        target=target,
        task="classification" if classes else "regression",
        X_train=preprocessor.transform(_take(raw.rows, train)),
        y_train=encoded[train],
        X_val=preprocessor.transform(_take(raw.rows, val)),
        y_val=encoded[val],
        classes=classes,
        target_mean=mean,
        target_scale=scale,
        preprocessor=preprocessor,
        example=example,
        digest=raw.digest,
        columns=int(np.prod(raw.rows.shape[1:])),
    )


def _allowed() -> str:
    return f"allowed: {', '.join(BUNDLED)}, or a path or s3:// URL that ends in {', '.join(SUFFIXES)}"


def _read(source: str, target: str | None) -> _Raw:
    if source in BUNDLED:
        if target is not None:
            raise ConfigError("target", f"the bundled data '{source}' has its own target; leave it out")
        return _read_bundled(source)
    suffix = next((suffix for suffix in SUFFIXES if source.lower().endswith(suffix)), None)
    remote = source.startswith("s3://")
    if suffix is None or ("://" in source and not remote):
        raise ConfigError("data", f"got '{source}'; {_allowed()}")
    if suffix == ".npz" and target is not None:
        raise ConfigError("target", "an NPZ file holds its target as 'y'; leave it out")
    with _local_copy(source) if remote else _local_file(source) as path:
        digest = _sha256(path, source)
        if suffix == ".npz":
            rows, values = _read_npz(path, source)
        else:
            rows, values = _split_off(_read_table(path, source, suffix, target), target, source)
    if isinstance(rows, pd.DataFrame):
        try:
            rows = plain_columns(rows)
        except ValueError as error:
            raise ConfigError("data", f"{source}: {error}") from error
    return _Raw(rows, values, digest)


def _read_bundled(name: str) -> _Raw:
    from sklearn import datasets  # 0.5 s; only the bundled sets need it

    bunch = getattr(datasets, f"load_{name}")(as_frame=name != "digits")
    rows = bunch.images if name == "digits" else bunch.data
    target = pd.Series(np.asarray(bunch.target), name="y")
    digest = hashlib.sha256(np.ascontiguousarray(rows).tobytes())
    digest.update(np.ascontiguousarray(bunch.target).tobytes())
    return _Raw(rows, target, digest.hexdigest())


@contextmanager
def _local_file(source: str) -> Iterator[Path]:
    path = Path(source)
    if path.is_dir():
        raise ConfigError("data", f"{source} is a directory; {_allowed()}")
    if not path.is_file():
        raise ConfigError("data", f"there is no file {source}; {_allowed()}")
    yield path


@contextmanager
def _local_copy(url: str) -> Iterator[Path]:
    """Download an S3 object to a temporary file; the endpoint and TLS settings are those MLflow reads."""
    import boto3.session  # slow to import, and only for s3://
    import botocore.exceptions
    from botocore.config import Config

    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise ConfigError("data", f"got '{url}'; an S3 URL reads s3://bucket/key")
    config = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"max_attempts": 2, "mode": "standard"},
        s3={"addressing_style": os.environ.get("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE", "auto")},
    )
    endpoint = os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None
    insecure = os.environ.get("MLFLOW_S3_IGNORE_TLS", "").lower() in ("1", "true")
    with tempfile.TemporaryDirectory(prefix="mlflow-hpo-data-") as folder:
        path = Path(folder) / PurePosixPath(key).name
        try:
            client = boto3.session.Session().client(
                "s3", endpoint_url=endpoint, config=config, verify=False if insecure else None
            )
            body = client.get_object(Bucket=bucket, Key=key)["Body"]
            with path.open("wb") as file:
                for chunk in body.iter_chunks(1 << 20):
                    file.write(chunk)
        except botocore.exceptions.ClientError as error:
            raise ConfigError("data", _s3_problem(url, bucket, error.response)) from error
        except botocore.exceptions.NoCredentialsError as error:
            problem = "no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
            raise ConfigError("data", f"{url}: {problem}") from error
        except (botocore.exceptions.HTTPClientError, botocore.exceptions.ConnectionError) as error:
            where = endpoint or "AWS"
            raise ConfigError("data", f"{url}: cannot reach {where} ({type(error).__name__})") from error
        except (botocore.exceptions.BotoCoreError, ValueError, OSError) as error:  # bad settings, full disk
            raise ConfigError("data", f"{url}: {_one_line(error)}") from error
        yield path


def _s3_problem(url: str, bucket: str, response: Any) -> str:
    code = str(response.get("Error", {}).get("Code", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if code == "NoSuchBucket":
        return f"{url}: there is no bucket '{bucket}'"
    if code in ("NoSuchKey", "404"):
        return f"{url}: there is no such object in the bucket"
    if status in (401, 403):
        return f"{url}: access denied ({code}); check the AWS credentials and the bucket's policy"
    return f"{url}: the store answered {code or status}"


def _sha256(path: Path, source: str) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError("data", f"cannot read {source}: {error.strerror}") from error


def _read_table(path: Path, source: str, suffix: str, target: str | None) -> pd.DataFrame:
    import pyarrow

    try:
        frame = pd.read_parquet(path) if suffix == ".parquet" else _read_csv(path, target)
    except pd.errors.EmptyDataError as error:
        raise ConfigError("data", f"{source} is empty") from error
    except (OSError, EOFError, ValueError, zlib.error, pyarrow.ArrowException) as error:
        raise ConfigError("data", f"cannot read {source} as {suffix[1:]}: {_one_line(error)}") from error
    frame.columns = pd.Index([str(name) for name in frame.columns])
    if not frame.columns.is_unique:
        twice = sorted(set(frame.columns[frame.columns.duplicated()]))
        raise ConfigError("data", f"{source} has columns of the same name: {_listed(twice)}")
    if frame.empty:
        raise ConfigError("data", f"{source} has no rows")
    return frame


def _read_csv(path: Path, target: str | None) -> pd.DataFrame:
    # "?" is the missing value of the UCI repository's files.
    options: dict[str, Any] = {"na_values": ["?"], "encoding": "utf-8-sig", "low_memory": False}
    frame: pd.DataFrame = pd.read_csv(path, **options)
    if len(frame.columns) == 1:
        separator = next((mark for mark in ";\t|" if mark in str(frame.columns[0])), None)
        if separator:
            options["sep"] = separator
            frame = pd.read_csv(path, **options)
    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes what the header does not name for names
        if not frame.iloc[:, -1].isna().all():
            raise ValueError("its rows have more values than its header has names")
        options["index_col"] = False  # a separator at the end of each row
        with warnings.catch_warnings(action="ignore", category=pd.errors.ParserWarning):
            frame = pd.read_csv(path, **options)
    if options.get("sep") == ";":
        frame = pd.DataFrame({name: _with_decimal_points(column) for name, column in frame.items()})
    if target is not None and target in frame.columns and _is_text(frame[target]):
        labels = _labels_as_written(path, target, options)
        if (labels == "None").any():
            frame[target] = labels
    first = frame.columns[0]
    # pandas writes its row numbers as a column without a name; of sorted rows they give the target away.
    if first == "Unnamed: 0" and frame[first].equals(pd.Series(range(len(frame)), name=first)):
        frame = frame.drop(columns=first)
    return frame


def _is_text(column: pd.Series[Any]) -> bool:
    """Whether a column has been read as text, or may have been and has lost all of it."""
    return pd.api.types.is_string_dtype(column.dtype) or bool(column.isna().all())


def _labels_as_written(path: Path, target: str, options: Mapping[str, Any]) -> pd.Series[Any]:
    """Return a column of labels, among which "None" may well be one; pandas takes it for a missing value."""
    absent = ["", "?", "nan", "NaN", "NA", "N/A", "n/a", "<NA>", "#N/A", "NULL", "null"]
    with warnings.catch_warnings(action="ignore", category=pd.errors.ParserWarning):
        frame: pd.DataFrame = pd.read_csv(
            path, **{**options, "na_values": absent}, keep_default_na=False, usecols=[target], dtype=str
        )
    return frame[target]


def _with_decimal_points(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return a column of numbers with decimal commas as numbers, and any other as it is."""
    if not pd.api.types.is_string_dtype(column.dtype):
        return column
    texts = column.dropna().astype(str).str.strip()
    if not len(texts) or not texts.str.fullmatch(r"[-+]?\d+(,\d+)?([eE][-+]?\d+)?").all():
        return column
    return pd.to_numeric(column.astype("string").str.strip().str.replace(",", ".")).astype(float)


def _split_off(frame: pd.DataFrame, target: str | None, source: str) -> tuple[pd.DataFrame, pd.Series[Any]]:
    if target is None:
        raise ConfigError("target", f"is missing; {source} has the columns {_listed(frame.columns)}")
    if target not in frame.columns:
        has = f"{_listed(frame.columns)}{did_you_mean(target, frame.columns)}"
        raise ConfigError("target", f"no column '{target}'; {source} has {has}")
    return frame.drop(columns=target), frame[target]


def _read_npz(path: Path, source: str) -> tuple[pd.DataFrame | npt.NDArray[Any], pd.Series[Any]]:
    try:
        # Object arrays are pickles, and a pickle runs code when it is opened: never allowed.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            absent = [name for name in ("X", "y") if name not in archive.files]
            if absent:
                has = _listed(archive.files)
                raise ConfigError("data", f"{source} lacks the array {' and '.join(absent)}; it has {has}")
            X, y = archive["X"], archive["y"]
    except ConfigError:
        raise
    except (OSError, EOFError, ValueError, TypeError, zlib.error, zipfile.BadZipFile) as error:
        raise ConfigError("data", f"cannot read {source} as npz: {_one_line(error)}") from error
    if X.ndim not in (2, 3, 4) or X.dtype.kind not in "buif":
        problem = f"X must hold numbers in 2 dimensions (a table) or 3 or 4 (images), got {X.dtype} {X.shape}"
        raise ConfigError("data", f"{source}: {problem}")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape != X.shape[:1]:
        raise ConfigError("data", f"{source}: y must have shape ({len(X)},), as X has rows; got {y.shape}")
    if X.size == 0:
        raise ConfigError("data", f"{source} is empty: X has shape {X.shape}")
    if X.ndim == 2:
        return pd.DataFrame(X, columns=[f"x{index}" for index in range(X.shape[1])]), pd.Series(y, name="y")
    return X, pd.Series(y, name="y")


def _drop_rows_without_target(raw: _Raw, name: str) -> _Raw:
    missing = raw.target.isna().to_numpy(dtype=bool)
    if pd.api.types.is_float_dtype(raw.target.dtype):
        missing = missing | ~np.isfinite(raw.target.to_numpy(dtype=np.float64, na_value=np.nan))
    if not missing.any():
        return raw
    logger.warning("%d of %d rows have no target (%s) and are left out", missing.sum(), len(missing), name)
    keep = np.flatnonzero(~missing)
    return _Raw(_take(raw.rows, keep), raw.target.iloc[keep], raw.digest)


def _encode(target: pd.Series[Any], name: str) -> tuple[npt.NDArray[Any], tuple[Label, ...]]:
    """Return the targets and the classes: class indices, or float64 and no classes for regression."""
    labels = _labels(target)
    distinct = len(set(labels))
    rows = len(labels)
    if distinct < 2:
        raise ConfigError("target", f"{name} has one class only ({labels[0]!r}); two or more are needed")
    if isinstance(labels[0], float):
        if distinct > 10 or distinct > rows / 2:
            return np.array(labels, dtype=np.float64), ()
    elif type(labels[0]) is int and distinct > 20 and distinct > rows / 20:
        return np.array(labels, dtype=np.float64), ()
    if distinct > rows / 2:
        raise ConfigError("target", f"{name} has {distinct} classes in {rows} rows; is it an identifier?")
    classes = sorted(set(labels))
    place = {label: index for index, label in enumerate(classes)}
    return np.array([place[label] for label in labels], dtype=np.int64), tuple(classes)


def _labels(target: pd.Series[Any]) -> list[Any]:
    """Return the targets as bool, int, float or str, all of one type."""
    if isinstance(target.dtype, pd.CategoricalDtype):
        target = target.astype(target.cat.categories.dtype)
    try:
        plain = plain_columns(target.infer_objects().to_frame())[target.name]
    except ValueError as error:
        raise ConfigError("target", str(error)) from error
    if plain.dtype.kind == "M":
        raise ConfigError(
            "target", f"column {target.name} holds dates; numbers, text or booleans are allowed"
        )
    # A column of whole numbers that had missing values reaches us as floats.
    if plain.dtype.kind == "f" and (plain % 1 == 0).all():
        return [int(value) for value in plain]
    return list(plain.tolist())


def _split(
    target: npt.NDArray[Any], classes: bool, rng: np.random.Generator
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the row numbers of the training and the validation part, each ascending."""
    chosen: list[npt.NDArray[np.intp]] = []
    if classes:
        for label in range(int(target.max()) + 1):
            rows = rng.permutation(np.flatnonzero(target == label))
            wanted = max(1, round(VALIDATION_SHARE * len(rows))) if len(rows) > 1 else 0
            chosen.append(rows[:wanted])
        single = sum(len(rows) == 0 for rows in chosen)
        if single:
            logger.warning("%d classes have one row only, which is trained on and never validated", single)
    else:
        # One out of each five neighbours in the order of the target.
        order = np.argsort(target, kind="stable")
        step = round(1 / VALIDATION_SHARE)
        for start in range(0, len(order) - step + 1, step):
            chosen.append(order[start : start + step][[rng.integers(step)]])
    val = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(target)), val), val


def _fit(
    rows: pd.DataFrame | npt.NDArray[Any], train: npt.NDArray[np.intp], source: str
) -> tuple[Preprocessor | ImagePreprocessor, pd.DataFrame | npt.NDArray[Any]]:
    if not isinstance(rows, pd.DataFrame):
        images = ImagePreprocessor.fit(rows[train])
        return images, rows[train[:EXAMPLE_ROWS]]
    table = Preprocessor.fit(rows.iloc[train])
    if not table.columns:
        raise ConfigError("data", f"{source} has no column to learn from: all are constant or identifiers")
    example = rows.iloc[train[:EXAMPLE_ROWS]][list(table.columns)]
    return table, example.reset_index(drop=True)


def _take(
    rows: pd.DataFrame | npt.NDArray[Any], index: npt.NDArray[np.intp]
) -> pd.DataFrame | npt.NDArray[Any]:
    return rows.iloc[index] if isinstance(rows, pd.DataFrame) else rows[index]


def _listed(names: Sequence[str] | pd.Index[Any], limit: int = 12) -> str:
    shown = ", ".join(f"{name!s:.40}" for name in list(names)[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _one_line(error: BaseException) -> str:
    return f"{' '.join(str(error).split()) or type(error).__name__:.200}"
