"""A YAML file and `--set key=value` overrides -> one frozen configuration, or one clear sentence about the mistake."""

import difflib
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from conf.errors import UserError

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60
Schema = TypeVar("Schema", bound=BaseModel)


def load_config(path: str | Path | None, overrides: Sequence[str], schema: type[Schema]) -> Schema:
    """Read the file (none: start empty), apply the overrides in order, check the result against the schema."""
    values = {} if path is None else _read_yaml(Path(path))
    for override in overrides:
        _apply(values, override, schema)
    place = "" if path is None else f"{path}: "
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise UserError(place + explain(error, schema)) from None
    except RecursionError:
        raise UserError(f"{place}the configuration is nested too deeply") from None


def read_values(path: str | Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Return what a file says with the overrides applied, unchecked: for those that say by which schema to read it."""
    values = _read_yaml(Path(path))
    for override in overrides:
        _apply(values, override)
    return values


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = _parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"configuration file not found: {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read configuration file {path}: {error}") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold keys and values, not a {type(values).__name__}")
    return values


def _parse_yaml(text: str) -> Any:
    """Parse YAML; ValueError, in one line, for whatever is wrong with it: the library leaves some of that to others."""
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # dates and numbers that cannot be
        raise ValueError(" ".join(str(error).split())) from None


def _apply(values: dict[str, Any], override: str, schema: type[BaseModel] | None = None) -> None:
    """Set values["a"]["b"] = c for `a.b=c`, with c read as YAML: numbers, lists and null mean what they look like.

    Where the schema has a text, and nothing else, the value is taken as it is unless it is quoted: `{question}`, `# 1`.
    """
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise UserError(f"--set takes key=value, for example --set source.chunk_rows=64, got {override!r}")
    is_text = schema is not None and _is_text(schema, names)
    try:
        value = _parse_yaml(text)
    except ValueError as error:
        if not is_text:
            raise UserError(f"--set {key}: the value is not valid YAML: {error}") from None
        value = text
    if is_text and value is not None and not (isinstance(value, str) and text.lstrip()[:1] in ("'", '"')):
        value = text.strip()
    section = values
    for name in names[:-1]:
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            raise UserError(f"--set {key}: {name!r} is a value, not a section")
    section[names[-1]] = value


def _is_text(schema: type[BaseModel], names: Sequence[str]) -> bool:
    """Return whether a key's value is a text, or a text or nothing."""
    field = schema.model_fields.get(names[0].strip())
    if field is None:
        return False
    kind = field.annotation
    if len(names) > 1:
        return isinstance(kind, type) and issubclass(kind, BaseModel) and _is_text(kind, names[1:])
    return kind is str or set(get_args(kind)) == {str, type(None)}


def explain(error: ValidationError, schema: type[BaseModel]) -> str:
    """Tell the most telling mistake in one sentence, with the key's full name, and how many more there are."""
    # An unknown key comes first: it is often why another one is missing.
    mistakes = sorted(error.errors(include_url=False), key=lambda mistake: mistake["type"] != "extra_forbidden")
    first = mistakes[0]
    key = ".".join(str(part) for part in first["loc"] if not _is_branch(str(part)))
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, list(keys_of(schema)), n=1)
        sentence = f"unknown key {key!r}" + (f", did you mean {close[0]!r}?" if close else "")
    elif first["type"] == "missing":
        sentence = f"missing key {key!r}"
    else:
        message = first["msg"].removeprefix("Value error, ")
        shown = "" if first["type"] == "value_error" else f", got {_short(first['input'])}"
        sentence = f"{key}: {message}{shown}" if key else message
    return sentence + (f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else "")


def keys_of(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield every key of a configuration, those in sections by their dotted names."""
    for name, field in schema.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys_of(field.annotation, f"{prefix}{name}.")


def _is_branch(part: str) -> bool:
    """Whether pydantic put this into the place of a mistake, to name the branch of a union: users did not write it."""
    return part.removeprefix("constrained-") in ("int", "float", "str", "bool") or part.startswith(
        ("literal[", "tuple[", "list[")
    )


def _short(value: object) -> str:
    """Show a value in at most 60 characters, made without the rest: a few lines of YAML can stand for gigabytes."""
    text = _REPR.repr(dict(value) if isinstance(value, Mapping) else value)
    return text if len(text) <= 60 else text[:57] + "..."
