"""The settings of one gateway: from `turnwire.toml`, the environment and the command line, the last named winning.

Guarantee: a `Config` that exists is complete and consistent. Anything else is a `ConfigError` that names every problem at
once: the file or variable, the key, the value unless it is a secret, and what to do. No repr or error shows a secret.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, get_origin
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic import ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from .log import mask

Key: TypeAlias = tuple[str, ...]

_LATER: Final = {("channels", "feishu"), ("channels", "wecom")}
_TOKENS: Final = ("channels", "web", "tokens")
_LOOPBACK: Final = "127.0.0.1"
_PREFIX: Final = "TURNWIRE_"


class ConfigError(Exception):
    """The configuration cannot be used. The message has one problem a line, also in `problems`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _address(*schemes: str, example: str, bare: bool = False) -> AfterValidator:
    """Checks a URL that may be left empty; `bare` allows nothing but scheme, host and port."""

    def check(value: str) -> str:
        try:
            parts = urlsplit(value)
            place = parts.hostname and parts.port != 0
        except ValueError:
            # The original error may quote a part of a password.
            raise ValueError(f"is no URL; write it like {example}") from None
        if value and (parts.scheme not in schemes or not (place or (parts.scheme == "unix" and parts.path))):
            raise ValueError(f"must begin with {' or '.join(schemes)}:// and name a host; for example {example}")
        if bare and (parts.path.strip("/") or parts.query or parts.fragment or parts.username):
            raise ValueError(f"must be scheme, host and port only; for example {example}")
        return value.rstrip("/") if bare else value

    return AfterValidator(check)


def _store_url(value: str) -> str:
    try:
        url = make_url(value)
    except (ArgumentError, ValueError):
        raise ValueError("is no database address; use sqlite:///turnwire.db or postgresql://user@host/db") from None
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise ValueError(f"{url.get_backend_name()} is not supported; use sqlite:///FILE or postgresql://USER@HOST/DB")
    if url.get_backend_name() == "sqlite" and (url.host or url.query or not _sqlite_path(value)):
        raise ValueError("must name a file and nothing else; use sqlite:///turnwire.db, with three slashes")
    return value


def _sqlite_path(url: str) -> Path | None:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return None
    on_disk = parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:")
    return Path(parsed.database or "") if on_disk else None


def _files_beside(values: dict[str, Any]) -> Path:
    path = _sqlite_path(values.get("url", ""))
    return (path.parent if path else Path()) / "turnwire-files"


def _host(value: str) -> str:
    if value.startswith("["):
        raise ValueError("must be without brackets; write ::1")
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", value):
            raise ValueError(f"must be one address or host name without a port; for example {_LOOPBACK}") from None
    return value


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic turns only ValueError into a report
    return value


def _offered(value: object) -> object:
    if value == "steer":
        raise ValueError("is not offered yet by this version; use queue, collect, interrupt or reject")
    return value


def _directory(value: object) -> object:
    if value == "":
        raise ValueError("must name a directory; remove the key for the default")
    return value


def _sendable(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]*", value.get_secret_value()):
        raise ValueError("holds a space, a line break or a character outside ASCII; check what was copied")
    return value


def _header(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", value):
        raise ValueError("is no header name; for example x-user")
    return value.lower()


_Count: TypeAlias = Annotated[int, BeforeValidator(_number)]
_Amount: TypeAlias = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
_Secret: TypeAlias = Annotated[SecretStr, AfterValidator(_sendable)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        return ((name, mask(value) if isinstance(value, str) else value) for name, value in super().__repr_args__())


class Server(_Section):
    """Where the gateway listens and how others reach it."""

    host: Annotated[str, AfterValidator(_host)] = Field(
        _LOOPBACK, description="The address to listen on; 0.0.0.0 or :: for every address of the machine."
    )
    port: _Count = Field(8787, ge=0, le=65535, description="The port to listen on; 0 lets the system choose.")
    public_url: Annotated[str, _address("http", "https", example="https://chat.example.com", bare=True)] = Field(
        "", description="How people's machines reach this gateway; signed links to files need it."
    )


class Store(_Section):
    """Where turns, messages and files are kept."""

    url: Annotated[str, AfterValidator(_store_url)] = Field(
        "sqlite:///turnwire.db",
        description="sqlite:///FILE for one process, postgresql://USER:PASSWORD@HOST/DB for many.",
    )
    durability: Literal["full", "process"] = Field(
        "full", description="SQLite only: full survives power loss, process survives the death of the process."
    )
    retention_h: _Amount = Field(72, gt=0, description="Hours that the records of finished turns are kept.")
    files: Annotated[Path, BeforeValidator(_directory)] = Field(
        default_factory=_files_beside,
        description="The directory of attachments; the default is beside the SQLite file, else in the working directory.",
    )


class Relay(_Section):
    """Redis between the processes of one gateway; without it they find each other's records in the store, later."""

    url: Annotated[str, _address("redis", "rediss", "unix", example="redis://127.0.0.1:6379/0")] = Field(
        "", description="redis://HOST:6379/0, rediss://... (TLS) or unix:///SOCKET; empty for one process."
    )


class Agent(_Section):
    """Who answers."""

    use: str = Field(
        "auto",
        min_length=1,
        description="auto (a provider whose key is set, else local, else demo), openai:MODEL, openai-responses:MODEL, "
        "anthropic:MODEL, google:MODEL, claude, local, demo, python:package.module:name, ai-sdk+https://... or "
        "openai+https://... (remote agents).",
    )
    base_url: Annotated[str, _address("http", "https", example="https://api.example.com/v1")] = Field(
        "", description="The provider's address, if it is not the provider's own."
    )
    api_key: _Secret = Field(SecretStr(""), description="The provider's key: env:NAME, file:PATH or the key itself.")
    instructions: str = Field("", description="What the agent is told before every conversation.")


class Turns(_Section):
    """How turns are admitted and when they are ended. Durations are in seconds."""

    policy: Annotated[Literal["queue", "collect", "interrupt", "reject"], BeforeValidator(_offered)] = Field(
        "queue", description="What a message meets while a turn runs: queue, collect, interrupt or reject."
    )
    lease_s: _Amount = Field(15, ge=3, description="How long a silent owner keeps its turns, deliveries and connections.")
    idle_timeout_s: _Amount = Field(
        300, gt=0, description="Ends a turn whose agent says nothing for so long while no tool call is open."
    )
    tool_timeout_s: _Amount = Field(0, ge=0, description="The longest tool call; 0 for no limit.")
    max_turn_s: _Amount = Field(0, ge=0, description="The longest turn; 0 for no limit.")
    drain_s: _Amount = Field(30, ge=0, description="How long a stopping gateway waits for live turns and deliveries.")


class Network(_Section):
    """How Turnwire reaches models and platforms. Proxies named by the environment are ignored."""

    proxy: Annotated[str, _address("http", "https", example="http://proxy.example.com:3128")] = Field(
        "", description="The proxy for everything outward; empty for none."
    )


class Web(_Section):
    """The web page and API."""

    enabled: bool = Field(True, description="Serve the page and the API.")
    auth: Literal["none", "token", "header"] = Field(
        "none",
        description="none: this machine only. token: Authorization: Bearer, the tokens below. header: a proxy in front "
        "names the user; it must remove the header from what clients send.",
    )
    header: Annotated[str, AfterValidator(_header)] = Field(
        "x-user", description="The header that names the user, for auth = header."
    )
    max_body_bytes: _Count = Field(20_971_520, gt=0, description="The longest request body, attachments included.")
    tokens: dict[str, _Secret] = Field({}, description="USER = token, as env:NAME, file:PATH or the token itself.")

    @field_validator("tokens")
    @classmethod
    def _distinct(cls, tokens: dict[str, SecretStr], info: ValidationInfo) -> dict[str, SecretStr]:
        owners: dict[str, str] = {}
        for user, token in tokens.items():
            if not user or not token:
                raise _at((*_TOKENS, user), "is empty; give the user a name and a token, or remove the line")
            other = owners.setdefault(token.get_secret_value(), user)
            if other != user:
                raise _at((*_TOKENS, user), f"is the same token as that of {other}; give every user their own")
        if info.data.get("auth") == "token" and not tokens:
            raise _at(("channels", "web", "auth"), 'needs a token; add USER = "env:NAME" under [channels.web.tokens]')
        return tokens


class Channels(_Section):
    """The places where people read."""

    web: Web = Web()


class Config(BaseSettings):
    """Every setting of a gateway. `Config()` is the defaults; `load_config` reads what a person wrote."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)

    server: Server = Server()
    store: Store = Store()
    relay: Relay = Relay()
    agent: Agent = Agent()
    turns: Turns = Turns()
    network: Network = Network()
    channels: Channels = Channels()

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **others: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load_config` read: neither `Config()` nor a test depends on the machine's environment."""
        return (init_settings, *_layers.get())

    @field_validator("channels")
    @classmethod
    def _nobody_gets_in_unasked(cls, channels: Channels, info: ValidationInfo) -> Channels:
        server: Server | None = info.data.get("server")
        if server and channels.web.enabled and channels.web.auth == "none" and not _is_loopback(server.host):
            raise _at(
                ("server", "host"),
                'lets every machine in while channels.web.auth is "none"; '
                f'set channels.web.auth to "token" or "header", or server.host to "{_LOOPBACK}"',
            )
        return channels

    def describe(self) -> dict[str, Any]:
        """Every setting in the shape of the file, fit to be shown: secrets and the passwords of URLs are `***`."""
        return {name: _plain(value) for name, value in self}

    def notes(self) -> list[str]:
        """What is allowed but deserves a second look, one sentence each."""
        web, notes = self.channels.web, []
        if web.enabled and web.auth == "header" and not _is_loopback(self.server.host):
            notes.append(
                f'channels.web.auth = "header": whoever reaches {self.server.host}:{self.server.port} directly can be any '
                f"user; let only the proxy reach it, and let it remove {web.header} from what clients send"
            )
        if web.tokens and web.auth != "token":
            notes.append(f'channels.web.tokens: not used while channels.web.auth = "{web.auth}"')
        return notes


_layers: ContextVar[tuple[PydanticBaseSettingsSource, ...]] = ContextVar("layers", default=())


def load_config(
    path: Path | None = None, *, env: Mapping[str, str] | None = None, overrides: Mapping[str, Any] | None = None
) -> Config:
    """A complete, consistent `Config`; overrides win over the environment, which wins over the file.

    Relative paths in the file, and the default `store.url`, start from the file's folder; elsewhere from the working
    directory. A secret that a stronger place overrides is not looked up.

    Args:
        path: the TOML file; None takes `turnwire.toml` of the working directory if there is one.
        env: the environment, with `TURNWIRE_<SECTION>__<KEY>`; None for the process's own.
        overrides: nested like the file; a value of None counts as not given.

    Raises `ConfigError` with every problem there is; a file that cannot be parsed is reported alone.
    """
    if path is None and Path("turnwire.toml").is_file():
        path = Path("turnwire.toml")
    in_file: dict[Key, object] = {}
    if path is not None:
        in_file = {("store", "url"): Store.model_fields["url"].default, **_flat(_read_toml(path))}
    env = os.environ if env is None else env
    reading = _Reading(env)
    layers = (
        reading.layer(_Place("command line"), {key: value for key, value in _flat(overrides or {}).items() if value is not None}),
        reading.layer(_Place(""), _variables(env, in_file)),
        reading.layer(_Place(str(path), path.absolute().parent if path else Path()), in_file),
    )
    token = _layers.set(layers)
    try:
        config = Config()
    except ValidationError as error:
        reading.problems += [reading.explain(details) for details in error.errors(include_url=False)]
    finally:
        _layers.reset(token)
    if reading.problems:
        raise ConfigError(list(dict.fromkeys(reading.problems)))
    return config


def sample_config() -> str:
    """An example `turnwire.toml`: every key commented out at its default, under a line that says what it is for."""
    lines = [
        "# Turnwire's settings. Every line that begins with #name shows a default; remove the # to change it.",
        f"# Each key is also an environment variable, which wins: server.port is {_variable(('server', 'port'))}.",
        "# Secrets may be written env:NAME or file:PATH. Relative paths start from the folder of this file.",
    ]
    default = Config()
    for key, field in _FIELDS.items():
        if _kind(key) == "value":
            lines += [*_comment(field.description), f"#{key[-1]} = {_toml(_plain(_get(default, key)))}"]
        elif _kind(key) == "table":
            lines += ["", *_comment(field.description), f"[{'.'.join(key)}]", '#alice = "env:ALICE_TOKEN"']
        elif any(_kind(child) == "value" for child in _FIELDS if child[:-1] == key):
            lines += ["", *_comment(field.annotation.__doc__ if field.annotation else ""), f"[{'.'.join(key)}]"]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Place:
    """Where something is said: a file, the command line, or (nameless) the environment, where each key has its name."""

    name: str
    folder: Path = Path()

    def label(self, key: Key) -> str:
        return self.name or _variable(key)

    def spell(self, key: Key) -> str:
        return ".".join(key) if self.name else _variable(key)


class _Reading:
    """One configuration while it is read: who said what, and what is wrong with it."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self._env = env
        self._said: dict[Key, tuple[_Place, object]] = {}

    def layer(self, place: _Place, values: Mapping[Key, object]) -> PydanticBaseSettingsSource:
        """`values` for pydantic-settings, without what cannot stand there and what a stronger place has said before."""
        nested: dict[str, Any] = {}
        for key, value in values.items():
            wrong = _misplaced(key, value, place)
            if wrong:
                self.problems.append(f"{place.label(key)}: {wrong}")
            elif key not in self._said and _kind(key) == "value":
                self._said[key] = (place, value)
                table = nested
                for part in key[:-1]:
                    table = table.setdefault(part, {})
                table[key[-1]] = self._resolve(key, value, place)
        return InitSettingsSource(Config, nested)

    def explain(self, error: ErrorDetails) -> str:
        """One line for what pydantic found."""
        context = error.get("ctx", {})
        key: Key = context.get("key") or tuple(str(part) for part in error["loc"])
        what = _MEANINGS.get(error["type"], error["msg"].removeprefix("Value error, ")).format_map(context)
        default = _get(Config(), key)
        if error["type"] in _NEED_EXAMPLE and isinstance(default, int | float):
            what += f"; for example {_toml(_plain(default))}"
        return self._line(key, what.replace("'", '"'))

    def _line(self, key: Key, what: str) -> str:
        place, value = self._said.get(key, (_Place("configuration"), None))
        shown = "" if value is None or _is_secret(key) else f" = {_toml(mask(value) if isinstance(value, str) else value)}"
        return f"{place.label(key)}: {'.'.join(key)}{shown}: {what}"

    def _resolve(self, key: Key, value: object, place: _Place) -> object:
        if not isinstance(value, str):
            return value
        if key == ("store", "files") and value:
            return place.folder / os.path.expanduser(value)
        if key == ("store", "url") and (path := _sqlite_path(value)):
            url = make_url(value).set(database=str(place.folder / os.path.expanduser(path)))
            return url.render_as_string(hide_password=False)
        if not _is_secret(key):
            return value
        text, wrong = _look_up(value, place.folder, self._env)
        if wrong:
            self.problems.append(self._line(key, wrong))
            # Stands in for the secret, different each time, so that what else is wrong is found too.
            return SecretStr(str(len(self.problems)))
        return SecretStr(text)
