"""The settings of one gateway: from `turnwire.toml`, the environment and the command line, the last named winning.

Guarantee: a `Config` that exists is complete and consistent. Anything else is a `ConfigError` with every problem there
is: the file or variable, the key, the value unless it is a secret, and what to do. No repr and no error shows a secret.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ._setting_types import Amount, Count, Secret, address, listed
from ._settings_schema import FromFolder, KeepsCase
from .agents._mcp_server import MCPServer
from .channels.feishu.config import Feishu
from .channels.wecom.config import Wecom, problems_of
from .settings import ConfigError, Section, Settings, load, plain, problem_at, sample

__all__ = ["Config", "ConfigError", "load_config", "sample_config"]

_FILE: Final = "turnwire.toml"
_LOOPBACK: Final = "127.0.0.1"
_WEB: Final = ("channels", "web")


def _origin(value: str) -> str:
    """Spelled as browsers spell an origin, so that the two can be compared."""
    parts = urlsplit(value)
    if parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("must be scheme, host and port only; for example https://chat.example.com")
    usual = ":443" if parts.scheme == "https" else ":80"
    return f"{parts.scheme}://{parts.netloc.lower().removesuffix(usual)}" if value else ""


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


def _url_from(folder: Path, value: str) -> str:
    path = _sqlite_path(value)
    if path is None:
        return value
    database = str(folder / os.path.expanduser(path))
    return make_url(value).set(database=database).render_as_string(hide_password=False)


def _path_from(folder: Path, value: str) -> Path | str:
    return folder / os.path.expanduser(value) if value else value


def _host(value: str) -> str:
    if value.startswith("["):
        raise ValueError("must be without brackets; write ::1")
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", value):
            raise ValueError(f"must be one address or host name without a port; for example {_LOOPBACK}") from None
    return value


def _directory(value: object) -> object:
    if value == "":
        raise ValueError("must name a directory; remove the key for the default")
    return value


def _header_value(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~](?:[ -~]*[!-~])?", value.get_secret_value()):
        raise ValueError("must be one line of ASCII text with no space at its ends; for example Bearer KEY")
    return value


def _one_line(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().isprintable():
        raise ValueError("holds a line break or a control character; a program's environment takes one line of text")
    return value


def _header(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", value):
        raise ValueError("is no header name; for example x-user")
    return value.lower()


class Server(Section):
    """Where the gateway listens and how others reach it."""

    host: Annotated[str, AfterValidator(_host)] = Field(
        default=_LOOPBACK, description="The address to listen on; 0.0.0.0 or :: for every address of the machine."
    )
    port: Count = Field(default=8787, ge=0, le=65535, description="The port to listen on; 0 lets the system choose.")
    public_url: Annotated[
        str, address("http", "https", example="https://chat.example.com"), AfterValidator(_origin)
    ] = Field(default="", description="How people's machines reach this gateway; signed links to files need it.")


class Store(Section):
    """Where turns, messages and files are kept."""

    url: Annotated[str, AfterValidator(_store_url), FromFolder(_url_from)] = Field(
        default="sqlite:///turnwire.db",
        description="sqlite:///FILE for one process, postgresql://USER:PASSWORD@HOST/DB for many.",
    )
    durability: Literal["full", "process"] = Field(
        default="full", description="SQLite only: full survives power loss, process survives the death of the process."
    )
    retention_h: Amount = Field(default=72, gt=0, description="Hours that the records of finished turns are kept.")
    files: Annotated[Path, BeforeValidator(_directory), FromFolder(_path_from)] = Field(
        default_factory=_files_beside,
        description="The directory of attachments. The default is beside the SQLite file; with PostgreSQL it is in the "
        "working directory.",
    )


class Relay(Section):
    """Redis between the processes of one gateway; without it they find each other's records in the store, later."""

    url: Annotated[str, address("redis", "rediss", "unix", example="redis://127.0.0.1:6379/0")] = Field(
        default="", description="redis://HOST:6379/0, rediss://... (TLS) or unix:///SOCKET; empty for one process."
    )


class MCP(Section):
    """One MCP server: a process to start (`command`, `args`, `env`) or a server to reach (`url`, `headers`)."""

    command: str = Field(default="", description="The program that is the server, such as npx.")
    args: Annotated[list[str], BeforeValidator(listed)] = Field(default=[], description="What the program is given.")
    env: Annotated[dict[str, Annotated[SecretStr, AfterValidator(_one_line)]], KeepsCase()] = Field(
        default={}, description="NAME = value, as env:NAME, file:PATH or the value itself."
    )
    url: Annotated[str, address("http", "https", example="https://tools.example.com/mcp")] = Field(
        default="", description="The address of a server that runs elsewhere."
    )
    headers: dict[str, Annotated[SecretStr, AfterValidator(_header_value)]] = Field(
        default={}, description="HEADER = value, as env:NAME, file:PATH or the value itself."
    )

    def server(self) -> MCPServer:
        """The same for the agent, with the secrets in clear."""
        return MCPServer(
            command=self.command,
            args=self.args,
            env={name: value.get_secret_value() for name, value in self.env.items()},
            url=self.url,
            headers={name: value.get_secret_value() for name, value in self.headers.items()},
        )


class Agent(Section):
    """Who answers."""

    use: str = Field(
        default="auto",
        min_length=1,
        description="auto (a provider whose key is set, else local when it is installed, else demo), openai:MODEL, "
        "openai-responses:MODEL, anthropic:MODEL, google:MODEL, local, demo, python:package.module:name, or "
        "openai+https://HOST/v1#MODEL (a server that speaks OpenAI's chat protocol).",
    )
    base_url: Annotated[str, address("http", "https", example="https://api.example.com/v1")] = Field(
        default="", description="The provider's address, when it is not its usual one; only for PROVIDER:MODEL."
    )
    api_key: Secret = Field(
        default=SecretStr(""), description="The provider's key: env:NAME, file:PATH or the key itself."
    )
    instructions: str = Field(default="", description="What the agent is told before every conversation.")
    tools: Annotated[list[str], BeforeValidator(listed)] = Field(
        default=[],
        description="Functions that a provider's model may call: package.module:name, or package.module for all of "
        "its __all__.",
    )
    mcp: dict[str, MCP] = Field(
        default={},
        description="MCP servers for a provider's model: NAME.command and NAME.args, or NAME.url and NAME.headers.",
        examples=['clock.command = "uvx"', 'clock.args = ["mcp-server-time"]'],
    )

    @field_validator("mcp")
    @classmethod
    def _usable(cls, servers: dict[str, MCP]) -> dict[str, MCP]:
        for name, server in servers.items():
            if problem := server.server().problem():
                raise problem_at(("agent", "mcp", name), problem)
        return servers


class Turns(Section):
    """How turns are admitted and when they are ended. Durations are in seconds."""

    policy: Literal["queue", "collect", "steer", "interrupt", "reject"] = Field(
        default="queue",
        description="What a message meets while a turn runs: queue, collect, steer, interrupt or reject.",
    )
    lease_s: Amount = Field(
        default=15, ge=3, description="How long a silent owner keeps its turns, deliveries and connections."
    )
    idle_timeout_s: Amount = Field(
        default=300, gt=0, description="Ends a turn whose agent says nothing for so long while no tool call is open."
    )
    tool_timeout_s: Amount = Field(default=0, ge=0, description="The longest tool call; 0 for no limit.")
    max_turn_s: Amount = Field(default=0, ge=0, description="The longest turn; 0 for no limit.")
    max_answer_bytes: int = Field(
        default=16 * 1024 * 1024, ge=64 * 1024, description="Ends a turn that says more than this; its text is kept."
    )
    approval_timeout_s: Amount = Field(
        default=86_400, ge=0, description="How long a person may take to allow a tool call; 0 for any time."
    )
    drain_s: Amount = Field(
        default=30, ge=0, description="How long a stopping gateway waits for live turns and deliveries."
    )


class Network(Section):
    """How Turnwire reaches models and platforms. Proxies named by the environment are ignored."""

    proxy: Annotated[str, address("http", "https", example="http://proxy.example.com:3128")] = Field(
        default="", description="The proxy for everything outward; empty for none."
    )


class Web(Section):
    """The web page and API."""

    enabled: bool = Field(default=True, description="Serve the page and the API.")
    auth: Literal["none", "token", "header"] = Field(
        default="none",
        description="none: this machine only. token: Authorization: Bearer, the tokens below. header: a proxy in front "
        "names the user; it must remove the header from what clients send.",
    )
    header: Annotated[str, AfterValidator(_header)] = Field(
        default="x-user", description="The header that names the user, for auth = header."
    )
    max_body_bytes: Count = Field(
        default=37_748_736, gt=0, description="The longest request body, attachments included."
    )
    max_turns_per_user: Count = Field(
        default=64,
        ge=0,
        description="Turns of one user that may run at once in one process; 0 for any number. With auth = none it "
        "holds only where it is set.",
    )
    max_streams_per_user: Count = Field(
        default=256,
        ge=0,
        description="Event streams that one user may have open in one process; 0 for any number. With auth = none it "
        "holds only where it is set.",
    )
    tokens: dict[str, Secret] = Field(
        default={},
        description="USER = token, as env:NAME, file:PATH or the token itself.",
        examples=['alice = "env:ALICE_TOKEN"'],
    )

    def per_user(self, key: Literal["max_turns_per_user", "max_streams_per_user"]) -> int:
        """The bound that holds for one user; 0 for none. Without authentication everybody is the same user."""
        return 0 if self.auth == "none" and key not in self.model_fields_set else int(getattr(self, key))

    @field_validator("tokens")
    @classmethod
    def _distinct(cls, tokens: dict[str, SecretStr], info: ValidationInfo) -> dict[str, SecretStr]:
        owners: dict[str, str] = {}
        for user, token in tokens.items():
            key = (*_WEB, "tokens", user)
            if not user or not token:
                raise problem_at(key, "is empty; give the user a name and a token, or remove the line")
            other = owners.setdefault(token.get_secret_value(), user)
            if other != user:
                raise problem_at(key, f"is the same token as that of {other}; give every user their own")
        if info.data.get("enabled") and info.data.get("auth") == "token" and not tokens:
            raise problem_at((*_WEB, "auth"), 'needs a token; add USER = "env:NAME" under [channels.web.tokens]')
        return tokens


class Channels(Section):
    """The places where people read."""

    web: Web = Web()
    feishu: dict[str, Feishu] = Field(
        default={},
        description="Apps on Feishu or Lark: NAME.app_id, NAME.app_secret, ...",
        examples=['support.app_id = "cli_..."', 'support.app_secret = "env:FEISHU_APP_SECRET"'],
    )
    wecom: dict[str, Wecom] = Field(
        default={},
        description="AI bots on WeCom: NAME.bot_id, NAME.secret, ...",
        examples=['support.bot_id = "aib..."', 'support.secret = "env:WECOM_BOT_SECRET"'],
    )

    @field_validator("feishu")
    @classmethod
    def _usable_apps(cls, apps: dict[str, Feishu]) -> dict[str, Feishu]:
        for name, app in apps.items():
            if problem := app.problem(name):
                raise problem_at(("channels", "feishu", name), problem)
        return apps

    @field_validator("wecom")
    @classmethod
    def _usable_bots(cls, bots: dict[str, Wecom]) -> dict[str, Wecom]:
        for name, problem in problems_of(bots):
            raise problem_at(("channels", "wecom", name), problem)
        return bots


class Config(Settings):
    """Every setting of a gateway. `Config()` is the defaults; `load_config` reads what a person wrote."""

    server: Server = Server()
    store: Store = Store()
    relay: Relay = Relay()
    agent: Agent = Agent()
    turns: Turns = Turns()
    network: Network = Network()
    channels: Channels = Channels()

    @field_validator("channels")
    @classmethod
    def _closed_to_strangers(cls, channels: Channels, info: ValidationInfo) -> Channels:
        server: Server | None = info.data.get("server")
        if server and channels.web.enabled and channels.web.auth == "none" and not _is_loopback(server.host):
            raise problem_at(
                ("server", "host"),
                'lets every machine in while channels.web.auth is "none"; '
                f'set channels.web.auth to "token" or "header", or server.host to "{_LOOPBACK}"',
            )
        return channels

    def describe(self) -> dict[str, Any]:
        """Every setting in the shape of the file, fit to be shown: secrets and the passwords of URLs are `***`."""
        return {name: plain(value) for name, value in self}

    def notes(self) -> list[str]:
        """What is allowed but deserves a second look, one sentence each."""
        web, notes = self.channels.web, []
        if web.enabled and web.auth == "header" and not _is_loopback(self.server.host):
            notes.append(
                f'channels.web.auth = "header": whoever reaches {self.server.host} directly can be any user; '
                f"let only the proxy reach it, and let it remove {web.header} from what clients send"
            )
        if web.tokens and web.auth != "token":
            notes.append(f'channels.web.tokens: not used while channels.web.auth = "{web.auth}"')
        return notes


def load_config(
    path: Path | None = None, *, env: Mapping[str, str] | None = None, overrides: Mapping[str, Any] | None = None
) -> Config:
    """A complete, consistent `Config`; overrides win over the environment, which wins over the file.

    Relative paths in the file, and the default `store.url`, start from the file's folder; elsewhere, and without a
    file, from the working directory. A secret that a stronger place overrides is not looked up.

    Args:
        path: the TOML file; None takes `turnwire.toml` of the working directory if there is one.
        env: the environment, with `TURNWIRE_<SECTION>__<KEY>`; None for the process's own.
        overrides: nested like the file; a value of None counts as not given.

    Raises `ConfigError` with every problem there is; a file that cannot be parsed is reported alone.
    """
    if path is None and Path(_FILE).is_file():
        path = Path(_FILE)
    return load(Config, path, env=os.environ if env is None else env, overrides=overrides or {})


def sample_config() -> str:
    """An example `turnwire.toml`: every key at its default, commented out, under a line that says what it is for."""
    return sample(Config(), title="The settings of Turnwire.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
