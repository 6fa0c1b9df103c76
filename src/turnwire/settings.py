"""Reads a tree of settings from a TOML file, the environment and the command line, and says exactly what is wrong.

Guarantee: every value is traced to the place that gave it, so each problem names its file or variable. Problems are
collected, not raised one by one. What is given but not known is refused, and a secret is never repeated.
"""

from __future__ import annotations

import json
import os
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from ._settings_schema import NAMED, Key, Place, Schema, variable, variables
from .log import mask

_layers: ContextVar[tuple[PydanticBaseSettingsSource, ...]] = ContextVar("layers", default=())


class ConfigError(Exception):
    """The configuration cannot be used. The message has one problem a line, also in `problems`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Section(BaseModel):
    """One `[section]`. Its repr shows neither secrets nor the passwords of URLs."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        return ((name, _masked(value) if isinstance(value, str) else value) for name, value in super().__repr_args__())


class Settings(BaseSettings):
    """The root of a tree of sections. Made alone it is the defaults and never depends on the machine; see `load`."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What was passed by name, then what `load` has read."""
        return (init_settings, *_layers.get())


S = TypeVar("S", bound=Settings)


def load(
    model: type[S],
    path: Path | None,
    *,
    env: Mapping[str, str],
    overrides: Mapping[str, Any],
) -> S:
    """`model` from three places; overrides win over the environment, which wins over the file.

    Args:
        path: the TOML file; None for none.
        env: the environment, with `TURNWIRE_<SECTION>__<KEY>`.
        overrides: nested like the file; a value of None counts as not given.

    Raises `ConfigError` with every problem there is; a file that cannot be parsed is reported alone.
    """
    schema = Schema(model)
    in_file = schema.rooted_defaults() | _flat(_read_toml(path)) if path else {}
    given = {key: value for key, value in _flat(overrides).items() if value is not None}
    reading = _Reading(schema, env)
    names = variables(env, in_file, schema)
    layers = (
        reading.layer(given, Place("command line")),
        reading.layer({key: env[name] for key, name in names.items()}, Place("", names=names)),
        reading.layer(in_file, Place(str(path), path.absolute().parent if path else Path())),
    )
    token = _layers.set(tuple(InitSettingsSource(model, layer) for layer in layers))
    try:
        settings = model()
    except ValidationError as error:
        # A default that waits for a wrong key is not a problem of its own.
        found = [each for each in error.errors(include_url=False) if each["type"] != "default_factory_not_called"]
        reading.problems += [reading.explain(each) for each in found]
    finally:
        _layers.reset(token)
    if reading.problems:
        raise ConfigError(list(dict.fromkeys(reading.problems)))
    return settings


def sample(defaults: Settings, *, title: str) -> str:
    """An example file: every key at its default, commented out, under a line that says what it is for."""
    schema = Schema(type(defaults))
    values = _flat(plain(defaults))
    lines = [
        f"# {title} A line like #name = value shows a default; remove the # to change it.",
        f"# Every key is also an environment variable, which wins, such as {variable(('section', 'key'))}.",
        "# A secret may be written env:NAME or file:PATH. Relative paths start from the folder of this file.",
    ]
    for key, field in schema.fields.items():
        if NAMED in key:
            continue
        if schema.kind(key) == "value":
            lines += [*_comment(field.description), f"#{key[-1]} = {_toml(values[key])}"]
        elif schema.kind(key) == "table" or schema.holds_sections(key):
            lines += [
                "",
                *_comment(field.description),
                f"[{'.'.join(key)}]",
                *(f"#{example}" for example in field.examples or ()),
            ]
        elif any(schema.kind(child) == "value" for child in schema.children(key)):
            lines += ["", *_comment(getattr(field.annotation, "__doc__", "")), f"[{'.'.join(key)}]"]
    return "\n".join(lines) + "\n"


def problem_at(key: Key, what: str) -> PydanticCustomError:
    """To be raised by a validator that finds the problem of another key than its own."""
    return PydanticCustomError("elsewhere", "{what}", {"what": what, "key": key})


def plain(value: object) -> Any:
    """`value` as JSON can hold it: secrets and the passwords of URLs are `***`."""
    if isinstance(value, BaseModel):
        return {name: plain(item) for name, item in value}
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, SecretStr):
        return "***" if value else ""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return _masked(str(value)) if isinstance(value, str | Path) else value


def _read_toml(path: Path) -> dict[str, Any]:
    """The tables of `path`. Raises `ConfigError` with the line and column that is not TOML."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError([f"{path}: there is no such file; create it or name another"]) from None
    except OSError as error:
        raise ConfigError(
            [f"{path}: cannot be read ({error.strerror}); correct the path or its permissions"]
        ) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}: line {line} is not UTF-8; save the file as UTF-8"]) from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, _, where = str(error).partition(" (at ")
        if "line" not in where:
            lines = text.split("\n")
            where = f"line {len(lines)}, column {len(lines[-1]) + 1})"
        raise ConfigError([f"{path}: {where.rstrip(')')}: not TOML: {what}; correct this line"]) from None


class _Reading:
    """One configuration while it is read: who said what, and what is wrong with it."""

    def __init__(self, schema: Schema, env: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self._schema = schema
        self._env = env
        self._said: dict[Key, tuple[Place, object]] = {}

    def layer(self, values: Mapping[Key, object], place: Place) -> dict[str, Any]:
        """`values` as nested tables, without what cannot stand there and what a stronger place has said before."""
        nested: dict[str, Any] = {}
        for key, value in values.items():
            wrong = self._schema.misplaced(key, value, place)
            if wrong:
                self.problems.append(f"{place.label(key)}: {wrong}")
            elif key not in self._said and self._schema.kind(key) == "value":
                self._said[key] = (place, value)
                table = nested
                for part in key[:-1]:
                    table = table.setdefault(part, {})
                table[key[-1]] = self._resolve(key, value, place.folder)
        return nested

    def explain(self, error: ErrorDetails) -> str:
        """One line for what pydantic found."""
        context = error.get("ctx", {})
        key: Key = context.get("key") or tuple(str(part) for part in error["loc"])
        meaning = _MEANINGS.get(error["type"])
        if meaning is None:
            return self._line(key, error["msg"].removeprefix("Value error, "))
        field = self._schema.field(key)
        what = meaning.format_map(context).replace("'", '"')
        if field and isinstance(field.default, int | float) and not isinstance(field.default, bool):
            what += f"; for example {_toml(plain(field.default))}"
        return self._line(key, what)

    def _line(self, key: Key, what: str) -> str:
        place, value = self._said.get(key) or (self._place_in(key), None)
        shown = "" if value is None or self._schema.is_secret(key) else f" = {_shown(value)}"
        return f"{place.label(key)}: {'.'.join(key)}{shown}: {what}"

    def _place_in(self, section: Key) -> Place:
        """Where something of that section, or the list that it is of, was said."""
        said = (
            place for key, (place, _) in self._said.items() if section == key[: len(section)] or key == section[:-1]
        )
        return next(said, Place("configuration"))

    def _resolve(self, key: Key, value: object, folder: Path) -> object:
        if not isinstance(value, str):
            return value
        start = self._schema.start(key)
        if start:
            return start(folder, value)
        if not self._schema.is_secret(key):
            return value
        try:
            return SecretStr(_look_up(value, folder, self._env))
        except ValueError as error:
            self.problems.append(self._line(key, str(error)))
            # A stand-in, different each time, so that whatever else is wrong is found too.
            return SecretStr(str(len(self.problems)))


def _look_up(secret: str, folder: Path, env: Mapping[str, str]) -> str:
    """The secret that `env:NAME` or `file:PATH` names, without its line end; any other text is the secret itself."""
    kind, _, name = secret.partition(":")
    if kind == "env":
        # What is no name may be the secret itself, which must not be repeated.
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError("env: must be followed by the name of an environment variable")
        if not env.get(name):
            raise ValueError(f"{secret}: the variable is not set; set {name} or use file:PATH")
        return env[name].rstrip("\r\n")
    if kind != "file":
        return secret
    try:
        text = (folder / os.path.expanduser(name)).read_text("utf-8").rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"{secret}: cannot be read ({error.strerror}); correct the path or its permissions") from error
    except UnicodeDecodeError:
        raise ValueError(f"{secret}: is not text; write the secret into it as one line of text") from None
    if not text:
        raise ValueError(f"{secret}: the file is empty; write the secret into it")
    return text


def _flat(table: Mapping[str, Any], at: Key = ()) -> dict[Key, object]:
    """Every value under its whole key; an empty table stands for itself."""
    flat: dict[Key, object] = {}
    for name, value in table.items():
        flat |= _flat(value, (*at, name)) if isinstance(value, Mapping) and value else {(*at, name): value}
    return flat


_MEANINGS: Final = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_parsing", "float_type", "finite_number"), "must be a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false"),
    "string_type": "must be text in quotes",
    "string_too_short": "must not be empty; remove the key for the default",
    "path_type": "must be the path of a directory, in quotes",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be {expected}",
}


def _toml(value: object) -> str:
    if isinstance(value, bool | float):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False, default=str)


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    if "@" in text and "://" not in text:
        # There is no telling where a password begins.
        return '"***"'
    return _toml(_masked(text) if isinstance(value, str | list) else value)


def _masked(text: str) -> str:
    """`text`, which is one whole value: a password may hold anything, so it ends at the last @."""
    return mask(re.sub(r"(?s)^([\w+.-]+://[^:]*):.*@", r"\1:***@", text))


def _comment(text: str | None) -> list[str]:
    return textwrap.wrap(text or "", 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
