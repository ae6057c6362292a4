"""Arrow types of source columns that are passed through, and the values that such columns can hold.

A `src_*` column has one type over a whole run. Where the source has types the column keeps them, in a plain form:
dictionaries, views and extensions as what they hold. Where it has none, or where its files differ, the column is text.
"""

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time, timedelta
from typing import Any

import pyarrow as pa
from pyarrow import types

from pipeline.text import storable, storable_value

TEXT = pa.string()


def plain_type(source: pa.DataType) -> pa.DataType:
    """Return the type that a column of this source type gets; text where Parquet or Python cannot hold its values."""
    if isinstance(source, pa.BaseExtensionType):
        return plain_type(source.storage_type)
    if types.is_dictionary(source) or types.is_run_end_encoded(source):
        return plain_type(source.value_type)
    if types.is_large_binary(source) or types.is_fixed_size_binary(source) or types.is_binary_view(source):
        return pa.binary()
    if _is_list(source):
        return pa.list_(plain_type(source.value_type))
    if types.is_map(source):
        return pa.map_(plain_type(source.key_type), plain_type(source.item_type))
    if types.is_struct(source) and source.num_fields:
        return pa.struct([(field.name, plain_type(field.type)) for field in source])
    if types.is_timestamp(source):
        return source if _has_known_zone(source) else TEXT
    as_they_are = (
        types.is_boolean, types.is_integer, types.is_floating, types.is_decimal, types.is_binary, types.is_date,
        types.is_time, types.is_duration,
    )  # fmt: skip
    exact = source != pa.time64("ns")  # Python's times end at microseconds
    return source if exact and any(belongs(source) for belongs in as_they_are) else TEXT


def _is_list(source: pa.DataType) -> bool:
    kinds = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)
    return any(belongs(source) for belongs in kinds)


def _has_known_zone(source: pa.DataType) -> bool:
    try:
        pa.scalar(0, source).as_py()
    except (ValueError, KeyError):
        return False
    return True


def common_types(schemas: Iterable[pa.Schema | None]) -> dict[str, pa.DataType]:
    """Field -> the type of its column over files with these schemas; None is a file whose fields have no types.

    Columns that are nothing but null count for none. Integers of different widths become the widest; any other
    difference makes text.
    """
    seen: dict[str, list[pa.DataType]] = {}
    untyped = False
    for schema in schemas:
        if schema is None:
            untyped = True
            continue
        for field in schema:
            seen.setdefault(field.name, []).append(field.type)
    return {name: TEXT if untyped else _common_type(found) for name, found in seen.items()}


def _common_type(found: Sequence[pa.DataType]) -> pa.DataType:
    plain = {plain_type(one) for one in found if not types.is_null(one)}
    if len(plain) == 1:
        return plain.pop()
    for same in (types.is_signed_integer, types.is_unsigned_integer):
        if plain and all(same(one) for one in plain):
            return max(plain, key=lambda one: one.bit_width)
    return TEXT


def python_values(column: pa.Array) -> list[Any]:
    """Return the column's values as Python has them. One that Python cannot hold is text, and costs no other value.

    Text that is not UTF-8 becomes a string with lone surrogates, like a file name (pipeline.text).
    """
    if column.type != pa.time64("ns"):
        try:
            return column.to_pylist()  # type: ignore[no-any-return]
        except (ValueError, OverflowError, KeyError):  # which one of them is found out below
            pass
    return [_python_value(scalar) for scalar in column]


def _python_value(scalar: pa.Scalar) -> Any:
    if scalar.type == pa.time64("ns") and scalar.is_valid and scalar.value % 1000:
        return str(scalar.cast(TEXT))
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        if isinstance(scalar, pa.StringScalar | pa.LargeStringScalar):
            return scalar.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")
        return f"<{scalar.type}: {error}>"
    except (ValueError, OverflowError, KeyError) as error:
        number = getattr(scalar, "value", None)
        return f"<{scalar.type}: {error}>" if number is None else f"{number} ({scalar.type})"


def column_of(values: Sequence[Any], column_type: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
    """Return the values as a column, and what is wrong with those it cannot hold without loss, which are null in it."""
    if column_type != TEXT:
        try:
            whole = pa.array(values, column_type)
            if all(map(_same, values, whole.to_pylist())):
                return whole, {}
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            pass
    held: list[Any] = []
    misfits: dict[int, str] = {}
    for position, value in enumerate(values):
        try:
            held.append(_held(value, column_type))
        except (pa.ArrowException, TypeError, ValueError, OverflowError, RecursionError) as error:
            held.append(None)
            misfits[position] = f"{type(value).__name__} does not fit {column_type} ({error})"
    return pa.array(held, column_type), misfits


def _held(value: Any, column_type: pa.DataType) -> Any:
    """Return the value as it goes into the column; an error of any kind if it would not come out again."""
    if value is None or column_type == TEXT:
        return None if value is None else to_text(value)
    if not _same(value, pa.array([value], column_type)[0].as_py()):
        raise ValueError("it would be changed")
    return value


def _same(given: Any, found: Any) -> bool:
    if isinstance(given, dict) and isinstance(found, dict):
        return all(_same(given.get(key), found.get(key)) for key in given.keys() | found.keys())
    if isinstance(given, list | tuple) and isinstance(found, list | tuple):
        return len(given) == len(found) and all(map(_same, given, found))
    return bool(given == found) or (given != given and found != found)  # NaN


def to_text(value: Any) -> str:
    """A value in a column of text: texts as they are, times in ISO 8601, bytes in base64, everything else as JSON."""
    plain = to_json(storable_value(value))
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def to_json(value: Any) -> Any:
    """A value in JSON's types: times and durations in ISO 8601, decimals as text, bytes in base64, NaN as its name.

    Texts stay as they are: those of a table are storable already. An entry of a map, a tuple, is an object: lists of
    values of several types are more than readers of JSON that want columns take.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else json.dumps(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple):
        key, item = value
        return {"key": to_json(key), "value": to_json(item)}
    if isinstance(value, list):
        return [to_json(item) for item in value]
    if isinstance(value, timedelta):
        return _iso_duration(value)
    return value.isoformat() if isinstance(value, date | time) else storable(str(value))


def _iso_duration(span: timedelta) -> str:
    if hasattr(span, "isoformat"):  # that of pandas, which has nanoseconds
        return str(span.isoformat())
    sign, span = ("-", -span) if span < timedelta(0) else ("", span)
    fraction = f".{span.microseconds:06d}".rstrip("0").rstrip(".")
    return f"{sign}PT{span.days * 86400 + span.seconds}{fraction}S"
