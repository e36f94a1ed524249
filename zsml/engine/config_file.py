"""Reading settings from TOML and writing them back."""

from __future__ import annotations

import difflib
import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from zsml.engine.config import TrainConfig, flag
from zsml.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path) -> dict[str, Any]:
    """Read the settings in a TOML file, as a flat table with the names of `TrainConfig`'s fields.

    Raises:
        InputError: no such file, broken TOML, an unknown key (with the nearest known one) or a value of the wrong type.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--config {str(path)!r} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--config {str(path)!r} is not valid TOML: {error}") from error
    return checked_settings(table, source=f"--config {str(path)!r}")


def checked_settings(table: dict[str, Any], *, source: str) -> dict[str, Any]:
    """Check names and types of settings, and convert lists and paths to what `TrainConfig` holds.

    >>> checked_settings({"epochs": 3, "unseen": ["dog"]}, source="here")
    {'epochs': 3, 'unseen': ('dog',)}
    >>> checked_settings({"epoch": 3}, source="here")
    Traceback (most recent call last):
    ...
    zsml.errors.InputError: here: unknown key 'epoch'; did you mean 'epochs'?
    """
    hints = get_type_hints(TrainConfig)
    problems, settings = [], {}
    for key, value in table.items():
        if key not in hints:
            close = difflib.get_close_matches(key, hints, n=1)
            advice = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(hints)}"
            problems.append(f"{source}: unknown key {key!r}; {advice}")
            continue
        try:
            settings[key] = _convert(value, hints[key])
        except TypeError:
            problems.append(f"{source}: {key} ({flag(key)}) cannot be {value!r}; it takes {_describe(hints[key])}")
    if problems:
        raise InputError("\n".join(problems))
    return settings


def merged(*layers: dict[str, Any]) -> TrainConfig:
    """`TrainConfig` with each layer of settings laid over the ones before it."""
    config = TrainConfig()
    for layer in layers:
        config = replace(config, **layer)
    return config


def to_table(config: TrainConfig) -> dict[str, Any]:
    """The settings as plain JSON and TOML values; those that are None are left out."""
    table = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Path):
            value = str(value)
        elif isinstance(value, tuple):
            value = list(value)
        if value is not None:
            table[field.name] = value
    return table


def to_toml(config: TrainConfig) -> str:
    """The settings as a TOML file that `read_toml` reads back to the same values.

    >>> to_toml(TrainConfig(epochs=3)).splitlines()[0]
    'system = "mathm"'
    """
    # JSON's strings, numbers, booleans and lists of strings are all valid TOML once non-ASCII text is left as it is
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in to_table(config).items())


def _convert(value: Any, hint: Any) -> Any:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        hint = next(h for h in get_args(hint) if h is not type(None))
        origin = get_origin(hint)
    if origin is tuple:  # of strings; a lone number or name needs no brackets
        items = value if isinstance(value, list) else [value]
        if all(isinstance(item, str) or type(item) is int for item in items):
            return tuple(str(item) for item in items)
    elif origin is Literal or hint in (str, Path):
        if isinstance(value, str):
            return Path(value) if hint is Path else value
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif type(value) is hint:  # int or bool; a bool is no int here
        return value
    raise TypeError


def _describe(hint: Any) -> str:
    names = {str: "a string", Path: "a path in quotes", int: "a whole number", float: "a number", bool: "true or false"}
    if get_origin(hint) in (Union, UnionType):
        hint = next(h for h in get_args(hint) if h is not type(None))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(get_args(hint))
    return names.get(hint, "a list of strings")
