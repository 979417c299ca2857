"""Raw rows to float32 arrays, fitted on the training part alone and kept as plain JSON.

scikit-learn's pipelines can only be stored by pickling, and a pickle that comes out of a tracking store runs
code when it is opened; what stands here is data and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float32]
_Doubles = npt.NDArray[np.float64]

logger = logging.getLogger(__name__)

MAX_CATEGORIES = 20  # one-hot features of one text column; rarer values share one more
CLIP = 10.0  # standard deviations: an absurd value in one row must not decide the whole prediction
_ISO_DATE = r"\d{4}-\d{2}-\d{2}"


@dataclass(frozen=True)
class _Part:
    """One standardised feature made of a column: `index` counts the parts of `_parts`."""

    index: int
    median: float
    mean: float
    scale: float


@dataclass(frozen=True)
class _Column:
    name: str
    kind: str  # number, datetime or text
    parts: tuple[_Part, ...] = ()
    categories: tuple[str, ...] = ()
    other: bool = False
    missing: bool = False

    @property
    def width(self) -> int:
        return len(self.parts) + len(self.categories) + self.other + self.missing


class Preprocessor:
    """Makes float32 features of the raw columns of a table.

    - Numbers and booleans: infinities count as missing; missing values become the median, with an indicator
      feature where training saw missing values; then standardised and clipped to 10 standard deviations.
    - Dates, or text that is ISO 8601 dates throughout: day, month, weekday and hour as numbers.
    - Text and categories: one-hot of the 20 most frequent values that occur at least twice; the rest is
      "other"; missing is a value of its own. A value never seen in training is "other", or all zeros where
      there is none.
    - Constant columns, wholly missing ones, and text of which every value is different are dropped.

    >>> frame = pd.DataFrame({"size": [1.0, 3.0, None], "colour": ["red", "red", "blue"], "one": [1, 1, 1]})
    >>> made = Preprocessor.fit(frame)
    >>> made.columns
    ('size', 'colour')
    >>> made.transform(frame).shape  # size, size is missing; red, other
    (3, 4)
    >>> bool((Preprocessor.from_json(made.to_json()).transform(frame) == made.transform(frame)).all())
    True
    """

    form: ClassVar[str] = "table"

    def __init__(self, columns: Sequence[_Column]) -> None:
        self._columns = tuple(columns)

    @classmethod
    def fit(cls, frame: pd.DataFrame) -> Preprocessor:
        """Learn from the training rows, whose columns are as `plain_columns` makes them."""
        fitted = [_fit_column(str(name), frame[name]) for name in frame.columns]
        dropped = [column.name for column in fitted if column.width == 0]
        if dropped:
            logger.info("columns without information are left out: %s", ", ".join(dropped))
        return cls([column for column in fitted if column.width > 0])

    @property
    def columns(self) -> tuple[str, ...]:
        """The raw columns that `transform` needs; others are ignored."""
        return tuple(column.name for column in self._columns)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the features of one row: (features,)."""
        return (sum(column.width for column in self._columns),)

    def transform(self, rows: pd.DataFrame | npt.NDArray[Any]) -> Floats:
        """Return the features of `rows`, shape (rows, features).

        Args:
            rows: a frame with at least `columns`; or an array of shape (rows, len(columns)) in their order.

        Raises:
            ValueError: a column is not there, or the array has another shape.
        """
        if not isinstance(rows, pd.DataFrame):
            if rows.ndim != 2 or rows.shape[1] != len(self._columns):
                raise ValueError(f"expected an array of shape (rows, {len(self._columns)}), got {rows.shape}")
            rows = pd.DataFrame(rows, columns=list(self.columns))
        absent = [name for name in self.columns if name not in rows.columns]
        if absent:
            raise ValueError(f"columns are missing: {', '.join(absent)}")
        features = np.zeros((len(rows), *self.shape), dtype=np.float32)
        at = 0
        for column in self._columns:
            _fill(features[:, at : at + column.width], column, rows[column.name])
            at += column.width
        return features

    def to_json(self) -> dict[str, Any]:
        """Return all that was learnt as JSON types."""
        return {"form": self.form, "columns": [asdict(column) for column in self._columns]}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Preprocessor:
        """Undo `to_json`."""
        return cls(
            [
                _Column(
                    name=column["name"],
                    kind=column["kind"],
                    parts=tuple(_Part(**part) for part in column["parts"]),
                    categories=tuple(column["categories"]),
                    other=column["other"],
                    missing=column["missing"],
                )
                for column in state["columns"]
            ]
        )


class ImagePreprocessor:
    """Makes float32 images of shape (rows, channels, height, width), standardised channel by channel.

    Args:
        raw_shape: shape of one raw image: (height, width), or three dimensions with the channels first or
            last. Channels are last where the last dimension is at most 4 and the first is not.
        mean, scale: per channel, in the raw images' own units.

    >>> ImagePreprocessor.fit(np.zeros((5, 28, 28, 3), dtype=np.uint8)).shape
    (3, 28, 28)
    """

    form: ClassVar[str] = "image"
    columns: ClassVar[tuple[str, ...]] = ()

    def __init__(self, raw_shape: Sequence[int], mean: Sequence[float], scale: Sequence[float]) -> None:
        self.raw_shape = tuple(int(size) for size in raw_shape)
        self._mean = np.asarray(mean, dtype=np.float64)
        self._scale = np.asarray(scale, dtype=np.float64)

    @classmethod
    def fit(cls, images: npt.NDArray[Any]) -> ImagePreprocessor:
        """Learn from training images of shape (rows, height, width), or with channels first or last."""
        raw_shape = images.shape[1:]
        channels = _channels_first(images, raw_shape)
        mean = _channel_means(channels, np.zeros(channels.shape[1]), power=1)
        scale = np.sqrt(_channel_means(channels, mean, power=2))
        return cls(raw_shape, mean.tolist(), np.where(scale > 0, scale, 1.0).tolist())

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one prepared image: (channels, height, width)."""
        if len(self.raw_shape) == 2:
            return (1, *self.raw_shape)
        first, middle, last = self.raw_shape
        return (last, first, middle) if _channels_last(self.raw_shape) else (first, middle, last)

    def transform(self, rows: pd.DataFrame | npt.NDArray[Any]) -> Floats:
        """Return the images `rows`, shape (rows, *raw_shape), as (rows, channels, height, width).

        Missing and infinite pixels become the channel's mean.

        Raises:
            ValueError: the images have another shape than those of the training.
        """
        rows = np.asarray(rows)
        if rows.shape[1:] != self.raw_shape:
            expected = ", ".join(str(size) for size in self.raw_shape)
            raise ValueError(f"expected images of shape (rows, {expected}), got {rows.shape}")
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and so missing
            images = _channels_first(rows, self.raw_shape).astype(np.float32)
        images -= self._mean.astype(np.float32)[:, None, None]
        images /= self._scale.astype(np.float32)[:, None, None]
        images[~np.isfinite(images)] = 0.0
        return np.ascontiguousarray(images)

    def to_json(self) -> dict[str, Any]:
        """Return all that was learnt as JSON types."""
        return {
            "form": self.form,
            "raw_shape": list(self.raw_shape),
            "mean": self._mean.tolist(),
            "scale": self._scale.tolist(),
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> ImagePreprocessor:
        """Undo `to_json`."""
        return cls(state["raw_shape"], state["mean"], state["scale"])


def preprocessor_from_json(state: Mapping[str, Any]) -> Preprocessor | ImagePreprocessor:
    """Return the preprocessor whose `to_json` gave `state`."""
    if state["form"] == ImagePreprocessor.form:
        return ImagePreprocessor.from_json(state)
    return Preprocessor.from_json(state)


def _channels_last(raw_shape: Sequence[int]) -> bool:
    return raw_shape[2] <= 4 < raw_shape[0]


def _channels_first(images: npt.NDArray[Any], raw_shape: Sequence[int]) -> npt.NDArray[Any]:
    if len(raw_shape) == 2:
        return images[:, None]
    return np.moveaxis(images, 3, 1) if _channels_last(raw_shape) else images


def _channel_means(images: npt.NDArray[Any], origin: _Doubles, power: int) -> _Doubles:
    """Return the mean of (images - origin) ** power of each channel, of the finite pixels alone."""
    total, count = np.zeros(images.shape[1]), np.zeros(images.shape[1])
    for start in range(0, len(images), 1024):  # as float64 all images at once may not fit
        part = images[start : start + 1024].astype(np.float64) - origin[:, None, None]
        finite = np.isfinite(part)
        total += np.sum(part**power, axis=(0, 2, 3), where=finite)
        count += finite.sum(axis=(0, 2, 3))
    return total / np.maximum(count, 1)


def plain_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Return `frame` with columns of int64, float64, bool, datetime64[ns] (UTC, naive) or text alone.

    So a column looks the same whether it comes from CSV, Parquet or NPZ, and as MLflow's signatures know it.
    Infinities become missing; durations become seconds; categories and all that mixes types become text.

    Raises:
        ValueError: a column holds lists, mappings or complex numbers (its name is in the message).

    >>> plain_columns(pd.DataFrame({"a": pd.Series([1, None], dtype="Int64"), "b": [True, None]})).dtypes
    a    float64
    b     object
    dtype: object
    """
    return pd.DataFrame({name: _plain(frame[name]) for name in frame.columns}, index=frame.index)


def _plain(series: pd.Series[Any]) -> pd.Series[Any]:
    dtype = series.dtype
    if pd.api.types.is_complex_dtype(dtype):
        raise ValueError(f"column {series.name} holds complex numbers; real ones are allowed")
    if isinstance(dtype, pd.CategoricalDtype):
        return _text(series)
    if pd.api.types.is_bool_dtype(dtype):
        return _text(series) if series.isna().any() else series.astype(bool)
    if pd.api.types.is_numeric_dtype(dtype):
        whole = pd.api.types.is_integer_dtype(dtype) and not series.isna().any()
        if whole and abs(series).max() < 2**63:
            return series.astype("int64")
        return pd.Series(_floats(series), index=series.index, name=series.name)
    if pd.api.types.is_datetime64_any_dtype(dtype):
        return _dates(series)
    if pd.api.types.is_timedelta64_dtype(dtype):
        return pd.to_timedelta(series).dt.total_seconds()
    present = series.dropna()
    if any(isinstance(value, list | tuple | dict | set | np.ndarray) for value in present):
        raise ValueError(f"column {series.name} holds lists or mappings; single values are allowed")
    inferred = pd.api.types.infer_dtype(present, skipna=True)
    if inferred in ("integer", "floating", "decimal", "mixed-integer-float"):
        converted = pd.to_numeric(series)
        if pd.api.types.is_numeric_dtype(converted.dtype):
            return _plain(converted)
        return series.astype(float)  # whole numbers beyond 64 bits
    if inferred in ("date", "datetime", "datetime64"):
        return _dates(series)
    if inferred in ("timedelta", "timedelta64"):
        return pd.to_timedelta(series).dt.total_seconds()
    return _text(series)


def _text(series: pd.Series[Any]) -> pd.Series[Any]:
    values = [None if missing else str(value) for value, missing in zip(series, series.isna(), strict=True)]
    return pd.Series(values, index=series.index, name=series.name, dtype=object)


def _kind(series: pd.Series[Any]) -> str:
    dtype = series.dtype
    if pd.api.types.is_bool_dtype(dtype) or pd.api.types.is_numeric_dtype(dtype):
        return "number"
    if pd.api.types.is_datetime64_any_dtype(dtype):
        return "datetime"
    present = series.dropna().astype(str)
    if present.str.match(_ISO_DATE).all() and not _dates(present).isna().any():
        return "datetime"
    return "text"


def _dates(series: pd.Series[Any]) -> pd.Series[Any]:
    if not pd.api.types.is_datetime64_any_dtype(series.dtype):
        series = pd.to_datetime(series.astype(object), errors="coerce", utc=True, format="ISO8601")
    utc = pd.to_datetime(series, errors="coerce", utc=True)
    return utc.dt.tz_localize(None).astype("datetime64[ns]")


def _floats(series: pd.Series[Any]) -> _Doubles:
    if not pd.api.types.is_numeric_dtype(series.dtype):
        series = pd.to_numeric(series.astype(object), errors="coerce")
    values = series.to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(np.isfinite(values), values, np.nan)


def _parts(series: pd.Series[Any], kind: str) -> list[_Doubles]:
    """Return the numbers that a column that is not text is made of; NaN where missing."""
    if kind == "datetime":
        dates = _dates(series)
        days = (dates - pd.Timestamp(0)) / pd.Timedelta(days=1)
        return [_floats(part) for part in (days, dates.dt.month, dates.dt.day_of_week, dates.dt.hour)]
    return [_floats(series)]


def _texts(series: pd.Series[Any]) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.bool_]]:
    missing = series.isna().to_numpy(dtype=bool)
    return np.array([str(value) for value in series], dtype=object), missing


def _fit_column(name: str, series: pd.Series[Any]) -> _Column:
    kind = _kind(series)
    if kind == "text":
        return _fit_text(name, series)
    found = _parts(series, kind)
    missing = np.isnan(found[0])
    if missing.all():
        return _Column(name, kind)
    parts = []
    for index, values in enumerate(found):
        present = values[~np.isnan(values)]
        if present.min() == present.max():
            continue
        median = float(np.median(present))
        filled = np.where(np.isnan(values), median, values)
        unit = float(np.abs(filled).max())  # squares of huge values would overflow
        scale = float(np.std(filled / unit)) * unit
        if scale > 0:
            parts.append(_Part(index, median, float(np.mean(filled / unit)) * unit, scale))
    return _Column(name, kind, parts=tuple(parts), missing=bool(missing.any()))


def _fit_text(name: str, series: pd.Series[Any]) -> _Column:
    values, missing = _texts(series)
    counts = pd.Series(values[~missing]).value_counts()
    # Ties are broken by the text, so that the order of the rows does not matter.
    ranked = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    categories = tuple(str(value) for value, count in ranked[:MAX_CATEGORIES] if count > 1)
    other = len(categories) < len(ranked)
    if not categories and not missing.any():
        return _Column(name, "text")
    if len(ranked) <= 1 and not missing.any():
        return _Column(name, "text")
    if missing.all():
        return _Column(name, "text")
    return _Column(name, "text", categories=categories, other=other, missing=bool(missing.any()))


def _fill(features: Floats, column: _Column, series: pd.Series[Any]) -> None:
    """Write the features of one column into `features`, shape (rows, column.width)."""
    if column.kind == "text":
        values, missing = _texts(series)
        place = {value: at for at, value in enumerate(column.categories)}
        other = len(column.categories) if column.other else -1
        for row, value in enumerate(values):
            at = place.get(value, other)
            if at >= 0 and not missing[row]:
                features[row, at] = 1.0
    else:
        found = _parts(series, column.kind)
        missing = np.isnan(found[0])
        for at, part in enumerate(column.parts):
            filled = np.where(np.isnan(found[part.index]), part.median, found[part.index])
            with np.errstate(over="ignore"):  # infinity is clipped like all that is too far
                features[:, at] = np.clip((filled - part.mean) / part.scale, -CLIP, CLIP)
    if column.missing:
        features[:, -1] = missing
