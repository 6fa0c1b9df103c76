"""What may be said in a tree of settings and where: its keys, and the variables of the environment that set them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

Key: TypeAlias = tuple[str, ...]

NAMED: Final = "*"
"""Stands in a key for a section's name that is the user's own."""

_PREFIX: Final = "TURNWIRE_"


@dataclass(frozen=True)
class FromFolder:
    """Marks a field whose text names a path; `start(folder, text)` is its value when the path starts from `folder`."""

    start: Callable[[Path, str], object]


@dataclass(frozen=True)
class KeepsCase:
    """Marks a table whose names differ by their case; other names of the environment's variables are in lower case."""


class Schema:
    """What may be said at which key."""

    def __init__(self, model: type[BaseModel]) -> None:
        self.fields: dict[Key, FieldInfo] = dict(_walk(model))

    def field(self, key: Key) -> FieldInfo | None:
        return self.fields.get(self._known(key))

    def children(self, key: Key) -> list[Key]:
        known = self._known(key)
        return [(*key, child[-1]) for child in self.fields if child[:-1] == known and child[-1] != NAMED]

    def holds_sections(self, key: Key) -> bool:
        """Whether each name in the table at `key` is a section of its own."""
        return (*self._known(key), NAMED) in self.fields

    def kind(self, key: Key) -> Literal["section", "table", "value"] | None:
        if self.holds_sections(key):
            return "section"
        field = self.field(key)
        if field is None:
            return "value" if self._is_table(key[:-1]) else None
        return "table" if self._is_table(key) else "section" if self.children(key) else "value"

    def is_secret(self, key: Key) -> bool:
        field = self.field(key) or self.field(key[:-1])
        types = [field.annotation, *get_args(field.annotation)] if field else []
        return any(SecretStr in (each, *get_args(each)) for each in types)

    def keeps_case(self, key: Key) -> bool:
        """Whether names in the table at `key` that differ by their case are different names."""
        field = self.field(key)
        return field is not None and any(isinstance(mark, KeepsCase) for mark in field.metadata)

    def start(self, key: Key) -> Callable[[Path, str], object] | None:
        field = self.field(key)
        marks = field.metadata if field else []
        return next((mark.start for mark in marks if isinstance(mark, FromFolder)), None)

    def rooted_defaults(self) -> dict[Key, object]:
        """Defaults that are paths: they start where the paths of the file start."""
        return {
            key: field.default
            for key, field in self.fields.items()
            if self.start(key) and isinstance(field.default, str)
        }

    def misplaced(self, key: Key, value: object, place: Place) -> str | None:
        """What is wrong with something standing at `key`, whatever its value."""
        for depth in range(1, len(key) + 1):
            part, kind = key[:depth], self.kind(key[:depth])
            is_table = depth < len(key) or isinstance(value, Mapping)
            if kind is None:
                thing = "section" if is_table else "key"
                return f"{'.'.join(part)}: unknown {thing}; {self._advice(part, key[depth:], place)}"
            if kind == "value" and is_table:
                return f"{'.'.join(part)}: takes one value, not a section; set {place.spell(part)} itself"
        if self.kind(key) != "value" and not isinstance(value, Mapping):
            example = next(iter(self.children(key)), (*key, "USER"))
            return f"{'.'.join(key)}: is a section; set the keys in it, such as {place.spell(example)}"
        return None

    def _known(self, key: Key) -> Key:
        """`key` as `fields` spells it: a section's name that is the user's own is `NAMED` there."""
        known: Key = ()
        for part in key:
            known = (*known, NAMED if (*known, NAMED) in self.fields else part)
        return known

    def _is_table(self, key: Key) -> bool:
        field = self.field(key)
        return field is not None and get_origin(field.annotation) is dict and not self.holds_sections(key)

    def _advice(self, unknown: Key, rest: Key, place: Place) -> str:
        """What may have been meant: a close name beside it, the same name elsewhere, or one of these."""
        known = {key[-1]: key for key in self.children(unknown[:-1])}
        name = unknown[-1].lower()
        near = [known[close] for close in get_close_matches(name, known, 1)]
        near += [key for key in self.fields if key[-1] == name]
        if near:
            return f"did you mean {place.spell(near[0] if place.name else (*near[0], *rest))}?"
        return f"use one of {', '.join(known)}"


@dataclass(frozen=True)
class Place:
    """Where something is said: a file, the command line or, nameless, the environment, where each key has a name."""

    name: str
    folder: Path = Path()
    names: Mapping[Key, str] | None = None

    def label(self, key: Key) -> str:
        return self.name or (self.names or {}).get(key) or variable(key)

    def spell(self, key: Key) -> str:
        return ".".join(key) if self.name else variable(key)


def variables(env: Mapping[str, str], in_file: Mapping[Key, object], schema: Schema) -> dict[Key, str]:
    """The keys that the environment sets, each with its variable."""
    spelled = {_lower(key[:depth]): key[:depth] for key in in_file for depth in range(1, len(key) + 1)}
    found: dict[Key, str] = {}
    for name in sorted(env):
        # Kubernetes sets TURNWIRE_PORT and its like for a service named turnwire; ours have two underscores.
        if name.upper().startswith(_PREFIX) and "__" in name:
            found[_key(name[len(_PREFIX) :].split("__"), spelled, schema)] = name
    return found


def _key(parts: list[str], spelled: Mapping[Key, Key], schema: Schema) -> Key:
    """The key that a variable's name means; in it, a name of the user's own keeps the spelling that the file has."""
    key: Key = ()
    for number, part in enumerate(parts):
        in_table = schema.kind(key) == "table"
        # A name in a table may have two underscores itself.
        own = "__".join(parts[number:]) if in_table else part
        if in_table and schema.keeps_case(key):
            return (*key, own)
        named = in_table or schema.holds_sections(key)
        key = (*key, own.lower())
        if named:
            key = spelled.get(_lower(key), key)
        if in_table:
            break
    return key


def _lower(key: Key) -> Key:
    return tuple(part.lower() for part in key)


def variable(key: Key) -> str:
    """The variable of the environment that sets `key`."""
    return _PREFIX + "__".join(key).upper()


def _walk(model: type[BaseModel], at: Key = ()) -> Iterator[tuple[Key, FieldInfo]]:
    for name, field in model.model_fields.items():
        yield (*at, name), field
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _walk(field.annotation, (*at, name))
        elif get_origin(field.annotation) is dict:
            inner = get_args(field.annotation)[1]
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield (*at, name, NAMED), FieldInfo(annotation=inner)
                yield from _walk(inner, (*at, name, NAMED))
