"""Configuration: who wins, what is refused and with which words, and that no secret is ever repeated."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from turnwire.agents._mcp_server import MCPServer
from turnwire.channels.wecom.config import bot_of
from turnwire.channels.wecom.settings import Bot
from turnwire.config import Config, ConfigError, Store, load_config, sample_config

TOKEN_AUTH = '[channels.web]\nauth = "token"\n'
SECRET = "hunter2-hunter2"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    return tmp_path / "etc" / "turnwire.toml"


def _load(file: Path, text: str, env: dict[str, str] | None = None, **overrides: Any) -> Config:
    file.write_text(text, "utf-8")
    return load_config(file, env=env or {}, overrides=overrides)


def _problems(file: Path, text: str, env: dict[str, str] | None = None, **overrides: Any) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        _load(file, text, env, **overrides)
    assert str(raised.value) == "\n".join(raised.value.problems)
    return [problem.removeprefix(f"{file}: ") for problem in raised.value.problems]


def test_without_anything_said_the_defaults_stand() -> None:
    config = load_config(env={})
    assert config == Config()
    assert (config.server.host, config.server.port, config.server.public_url) == ("127.0.0.1", 8787, "")
    assert (config.store.url, config.store.durability, config.store.retention_h) == (
        "sqlite:///turnwire.db",
        "full",
        72,
    )
    assert config.store.files == Path("turnwire-files")
    assert (config.relay.url, config.network.proxy) == ("", "")
    assert (config.agent.use, config.agent.base_url, config.agent.instructions) == ("auto", "", "")
    assert not config.agent.api_key
    assert config.turns.model_dump() == {
        "policy": "queue",
        "lease_s": 15,
        "idle_timeout_s": 300,
        "tool_timeout_s": 0,
        "max_turn_s": 0,
        "drain_s": 30,
        "max_answer_bytes": 16_777_216,
        "approval_timeout_s": 86_400,
    }
    web = config.channels.web
    assert (web.enabled, web.auth, web.header, web.max_body_bytes, web.tokens) == (
        True,
        "none",
        "x-user",
        37_748_736,
        {},
    )
    assert (web.max_turns_per_user, web.max_streams_per_user) == (64, 256)


def test_the_file_of_the_working_directory_is_read() -> None:
    Path("turnwire.toml").write_text("[server]\nport = 1\n")
    assert load_config(env={}).server.port == 1


def test_overrides_win_over_the_environment_which_wins_over_the_file(file: Path) -> None:
    text = "[server]\nport = 1\n[turns]\nlease_s = 20\nidle_timeout_s = 21\n"
    env = {"TURNWIRE_SERVER__PORT": "2", "TURNWIRE_TURNS__LEASE_S": "30"}
    config = _load(file, text, env, server={"port": 3, "host": None})
    assert (config.server.port, config.turns.lease_s, config.turns.idle_timeout_s) == (3, 30, 21)
    assert config.server.host == "127.0.0.1", "an option that was not given overrides nothing"


def test_every_key_can_be_set_by_the_environment() -> None:
    env = {
        "TURNWIRE_SERVER__HOST": "::1",
        "TURNWIRE_STORE__URL": "postgresql://u:p@h/db",
        "TURNWIRE_STORE__FILES": "/var/files",
        "TURNWIRE_RELAY__URL": "unix:///run/redis.sock",
        "TURNWIRE_TURNS__POLICY": "collect",
        "TURNWIRE_NETWORK__PROXY": "http://proxy:3128",
        "TURNWIRE_AGENT__INSTRUCTIONS": "",
        "TURNWIRE_CHANNELS__WEB__ENABLED": "false",
        "TURNWIRE_CHANNELS__WEB__AUTH": "token",
        "TURNWIRE_CHANNELS__WEB__TOKENS__ALICE": "file:/dev/null",
    }
    env |= {"TURNWIRE_CHANNELS__WEB__TOKENS__ALICE": "t-1"}
    config = load_config(env=env)
    assert config.server.host == "::1"
    assert config.store.url == "postgresql://u:p@h/db"
    assert config.store.files == Path("/var/files")
    assert config.relay.url == "unix:///run/redis.sock"
    assert config.turns.policy == "collect"
    assert config.network.proxy == "http://proxy:3128"
    assert config.channels.web.enabled is False
    assert {user: token.get_secret_value() for user, token in config.channels.web.tokens.items()} == {"alice": "t-1"}


def test_the_environment_replaces_the_token_of_a_user_however_the_file_spells_the_name(file: Path) -> None:
    text = TOKEN_AUTH + '[channels.web.tokens]\nAlice = "old"\n"Bob@x.org" = "b"\n'
    tokens = _load(file, text, {"TURNWIRE_CHANNELS__WEB__TOKENS__ALICE": "new"}).channels.web.tokens
    assert {user: token.get_secret_value() for user, token in tokens.items()} == {"Alice": "new", "Bob@x.org": "b"}


def test_names_without_two_underscores_are_not_ours() -> None:
    env = {"TURNWIRE_PORT": "tcp://10.0.0.1:80", "TURNWIRE_SERVICE_HOST": "10.0.0.1", "TURNWIRE": "x", "OTHER__X": "1"}
    assert load_config(env=env) == Config()


def test_config_alone_does_not_read_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNWIRE_SERVER__PORT", "9")
    monkeypatch.setenv("SERVER", '{"port": 9}')
    assert Config().server.port == 8787
    assert load_config().server.port == 9


def test_relative_paths_of_the_file_start_from_its_folder(file: Path) -> None:
    folder = file.parent
    (folder / "key").write_text("k-1\n")
    text = '[store]\nurl = "sqlite:///data/t.db"\n[agent]\napi_key = "file:key"\n'
    config = _load(file, text)
    assert config.store.url == f"sqlite:///{folder}/data/t.db"
    assert config.store.files == folder / "data" / "turnwire-files"
    assert config.agent.api_key.get_secret_value() == "k-1"
    assert _load(file, "").store.url == f"sqlite:///{folder}/turnwire.db", "so does the default"
    assert _load(file, '[store]\nfiles = "f"\n').store.files == folder / "f"
    assert _load(file, '[store]\nfiles = "/abs/f"\n').store.files == Path("/abs/f")
    assert _load(file, '[store]\nurl = "sqlite:////abs/t.db"\n').store.url == "sqlite:////abs/t.db"


def test_relative_paths_from_elsewhere_start_from_the_working_directory(file: Path) -> None:
    Path("key").write_text("k-2")
    env = {"TURNWIRE_STORE__URL": "sqlite:///t.db", "TURNWIRE_AGENT__API_KEY": "file:key"}
    config = _load(file, "", env, store={"files": "f"})
    assert (config.store.url, config.store.files) == ("sqlite:///t.db", Path("f"))
    assert config.agent.api_key.get_secret_value() == "k-2"


def test_home_is_expanded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    config = _load(file, '[store]\nurl = "sqlite:///~/t.db"\nfiles = "~/f"\n')
    assert (config.store.url, config.store.files) == ("sqlite:////home/ada/t.db", Path("/home/ada/f"))


def test_files_are_in_the_working_directory_when_the_store_is_postgresql(file: Path) -> None:
    assert _load(file, '[store]\nurl = "postgresql://h/db"\n').store.files == Path("turnwire-files")


@pytest.mark.parametrize(("text", "secret"), [("env:KEY", "k-env"), ("file:key", "k-file"), ("k-plain", "k-plain")])
def test_the_forms_of_a_secret(file: Path, text: str, secret: str) -> None:
    (file.parent / "key").write_text("k-file\r\n")
    config = _load(file, f'[agent]\napi_key = "{text}"\n', {"KEY": "k-env\n"})
    assert config.agent.api_key.get_secret_value() == secret


def test_a_secret_that_is_overridden_is_not_looked_up(file: Path) -> None:
    config = _load(file, '[agent]\napi_key = "env:NOT_SET"\n', {"TURNWIRE_AGENT__API_KEY": "k"})
    assert config.agent.api_key.get_secret_value() == "k"


def _bot(file: Path, text: str, env: dict[str, str] | None = None) -> Bot:
    config = _load(file, text, env or {})
    [(name, section)] = config.channels.wecom.items()
    return bot_of(name, section, proxy=config.network.proxy, public_url=config.server.public_url)


def test_a_bot_is_what_its_section_says(file: Path) -> None:
    (file.parent / "secret").write_text(SECRET)
    bot = _bot(
        file,
        "[network]\nproxy = 'http://proxy:1'\n[channels.wecom.main]\nbot_id = 'b'\nsecret = 'file:secret'\n"
        "ws_url = 'ws://127.0.0.1:1'\nmode = 'websocket'\ncalled = 'A Bot'\nallow = ['u', 'wr']\n"
        "stream_life_s = 600\nframe_s = 2\nlanguage = 'en'\nfooter = ['time']\nreasoning = false\n"
        "stop_card = true\nfeedback = false\ntrace = 't'\n",
        {"TURNWIRE_CHANNELS__WECOM__MAIN__WELCOME": ""},
    )
    assert bot == Bot(
        name="main", bot_id="b", secret=SECRET, mode="websocket", url="ws://127.0.0.1:1", called="A Bot",
        allow=("u", "wr"), stream_life_s=600.0, frame_s=2.0, language="en", footer=("time",), reasoning=False,
        stop_card=True, feedback=False, welcome="", proxy="http://proxy:1", trace="t",
    )  # fmt: skip


def test_a_bot_for_webhooks_needs_no_id(file: Path) -> None:
    bot = _bot(
        file,
        f"[channels.wecom.main]\nmode = 'webhook'\ntoken = 'env:T'\nencoding_aes_key = '{'k' * 43}'\n",
        {"T": "tok"},
    )
    assert (bot.mode, bot.token, bot.aes_key, bot.bot_id) == ("webhook", "tok", "k" * 43, "")


def test_a_bot_without_settings_is_the_default_bot(file: Path) -> None:
    bot = _bot(file, "[channels.wecom.main]\nbot_id = 'b'\nsecret = 's'\n")
    assert bot == Bot(name="main", bot_id="b", secret="s")


def test_links_are_signed_with_a_key_that_every_process_has_and_that_is_no_secret_of_the_bot(file: Path) -> None:
    def key(name: str = "main", secret: str = SECRET, url: str = "https://bot.example.com") -> str:
        said = f"[server]\npublic_url = '{url}'\n[channels.wecom.{name}]\nbot_id = 'b'\nsecret = '{secret}'\n"
        return _bot(file, said).link_key

    assert key() == key()
    assert len({key(), key(name="other"), key(secret="other"), ""}) == 4
    assert SECRET not in key()
    assert key(url="") == ""


BAD: list[tuple[str, str]] = [
    ("[servr]\nport = 1\nhost = 'x'", "servr: unknown section; did you mean server?"),
    ("[nonsense]", "nonsense: unknown section; use one of server, store, relay, agent, turns, network, channels"),
    ("[server]\nprot = 1", "server.prot: unknown key; did you mean server.port?"),
    ("port = 1", "port: unknown key; did you mean server.port?"),
    ("[server]\nzzz = 1", "server.zzz: unknown key; use one of host, port, public_url"),
    (f"[agent]\napikey = '{SECRET}'", "agent.apikey: unknown key; did you mean agent.api_key?"),
    ("[web]\nauth = 'none'", "web: unknown section; did you mean channels.web?"),
    ("[channels.slack]\na = 1", "channels.slack: unknown section; use one of web, feishu, wecom"),
    (
        "[channels.feishu.main]\napp_id = 'x'",
        "channels.feishu.main: needs app_id and app_secret; both are on the app's page, under credentials",
    ),
    (
        "[channels.feishu.\"a b\"]\napp_id = 'x'",
        "channels.feishu.a b: has a name that is not 1 to 32 letters, digits, _ and -; conversations keep it",
    ),
    (
        "[channels.feishu.main]\napp_id = 'x'\napp_secret = 'y'\nmode = 'webhook'",
        "channels.feishu.main: needs verification_token or encrypt_key in webhook mode, or anybody could post events",
    ),
    (
        "[channels.feishu.main]\napp_id = 'x'\napp_secret = 'y'\nfooter = ['mood']",
        'channels.feishu.main.footer.0: must be "model", "time" or "tokens"',
    ),
    (
        "[channels.wecom.main]\nbot_id = 'x'",
        "channels.wecom.main: needs bot_id and secret; both are on the bot's page, under API mode with the long "
        "connection",
    ),
    (
        "[channels.wecom.\"a b\"]\nbot_id = 'x'",
        "channels.wecom.a b: has a name that is not 1 to 32 letters, digits, _ and -; conversations keep it",
    ),
    (
        "[channels.wecom.main]\nbot_id = 'x'\nsecret = 'y'\nmode = 'webhook'",
        "channels.wecom.main: needs token and encoding_aes_key in webhook mode; both are on the bot's page, beside its "
        "URL",
    ),
    (
        f"[channels.wecom.main]\nmode = 'webhook'\ntoken = 'x'\nencoding_aes_key = '{SECRET}'",
        "channels.wecom.main: has an encoding_aes_key that is not 43 letters and digits; copy it from the bot's page "
        "again",
    ),
    (
        "[channels.wecom]\na.bot_id = 'x'\na.secret = 'y'\nb.bot_id = 'x'\nb.secret = 'y'",
        "channels.wecom.b: has the bot_id of a; a bot has one connection, so give it one section",
    ),
    (
        "[channels.wecom.main]\nbot_id = 'x'\nsecret = 'y'\nws_url = 'https://example.com'",
        'channels.wecom.main.ws_url = "https://example.com": must begin with ws:// or wss:// and name a host; for '
        "example wss://openws.work.weixin.qq.com",
    ),
    (
        "[channels.wecom.main]\nbot_id = 'x'\nsecret = 'y'\nstream_life_s = 5",
        "channels.wecom.main.stream_life_s = 5: must be at least 60; for example 360",
    ),
    ("server = 3", "server: is a section; set the keys in it, such as server.host"),
    ("[[turns]]\nlease_s = 9", "turns: is a section; set the keys in it, such as turns.policy"),
    (
        "[channels.web]\ntokens = 'x'",
        "channels.web.tokens: is a section; set the keys in it, such as channels.web.tokens.USER",
    ),
    ("[server.port]\nx = 1", "server.port: takes one value, not a section; set server.port itself"),
    ("[server]\nport = {}", "server.port: takes one value, not a section; set server.port itself"),
    ("[server]\nport = 65536", "server.port = 65536: must be at most 65535; for example 8787"),
    ("[server]\nport = -1", "server.port = -1: must be at least 0; for example 8787"),
    ("[server]\nport = 'x'", 'server.port = "x": must be a whole number; for example 8787'),
    ("[server]\nport = 1.5", "server.port = 1.5: must be a whole number; for example 8787"),
    ("[server]\nport = true", "server.port = true: must be a number"),
    ("[server]\nhost = '[::1]'", 'server.host = "[::1]": must be without brackets; write ::1'),
    (
        "[server]\nhost = 'localhost:80'",
        'server.host = "localhost:80": must be one address or host name without a port; for example 127.0.0.1',
    ),
    (
        "[server]\nhost = ''",
        'server.host = "": must be one address or host name without a port; for example 127.0.0.1',
    ),
    (
        "[server]\nhost = '0.0.0.0'",
        'server.host = "0.0.0.0": lets every machine in while channels.web.auth is "none"; '
        'set channels.web.auth to "token" or "header", or server.host to "127.0.0.1"',
    ),
    (
        "[server]\npublic_url = 'ftp://x.org'",
        'server.public_url = "ftp://x.org": must begin with http:// or https:// and name a host; '
        "for example https://chat.example.com",
    ),
    (
        "[server]\npublic_url = 'https://x.org/chat'",
        'server.public_url = "https://x.org/chat": must be scheme, host and port only; '
        "for example https://chat.example.com",
    ),
    (
        f"[server]\npublic_url = 'https://u:{SECRET}@x.org'",
        'server.public_url = "https://u:***@x.org": must be scheme, host and port only; '
        "for example https://chat.example.com",
    ),
    (
        "[store]\nurl = 'turnwire.db'",
        'store.url = "turnwire.db": is no database address; use sqlite:///turnwire.db or postgresql://user@host/db',
    ),
    (
        f"[store]\nurl = 'postgres://u:{SECRET}@h/db'",
        'store.url = "postgres://u:***@h/db": postgres is not supported; '
        "use sqlite:///FILE or postgresql://USER@HOST/DB",
    ),
    (
        f"[store]\nurl = 'postgresql://u:{SECRET}@h:x/db'",
        'store.url = "postgresql://u:***@h:x/db": is no database address; '
        "use sqlite:///turnwire.db or postgresql://user@host/db",
    ),
    (
        f"[store]\nurl = 'postgresql:u:{SECRET}@h'",
        'store.url = "***": is no database address; use sqlite:///turnwire.db or postgresql://user@host/db',
    ),
    *(
        (
            f"[store]\nurl = '{url}'",
            f'store.url = "{url}": must name a file and nothing else; use sqlite:///turnwire.db, with three slashes',
        )
        for url in ("sqlite://", "sqlite:///:memory:", "sqlite://turnwire.db", "sqlite:///t.db?mode=ro")
    ),
    ("[store]\ndurability = 'fast'", 'store.durability = "fast": must be "full" or "process"'),
    ("[store]\nretention_h = 0", "store.retention_h = 0: must be more than 0; for example 72"),
    ("[store]\nfiles = ''", 'store.files = "": must name a directory; remove the key for the default'),
    ("[store]\nfiles = 3", "store.files = 3: must be the path of a directory, in quotes"),
    (
        "[relay]\nurl = 'http://h'",
        'relay.url = "http://h": must begin with redis:// or rediss:// or unix:// and name a host; '
        "for example redis://127.0.0.1:6379/0",
    ),
    (
        f"[network]\nproxy = 'http://u:{SECRET[:3]}/{SECRET[3:]}@h'",
        'network.proxy = "http://u:***@h": is no URL; write it like http://proxy.example.com:3128',
    ),
    ("[agent]\nuse = ''", 'agent.use = "": must not be empty; remove the key for the default'),
    ("[agent]\ninstructions = 3", "agent.instructions = 3: must be text in quotes"),
    ("[agent]\napi_key = 3", "agent.api_key: must be text in quotes"),
    (
        f"[agent]\napi_key = '{SECRET} '",
        "agent.api_key: holds a space, a line break or a character outside ASCII; check what was copied",
    ),
    (
        "[agent]\napi_key = 'env:NOPE'",
        "agent.api_key: env:NOPE: the variable is not set; set NOPE or use file:PATH",
    ),
    (
        f"[agent]\napi_key = 'env:{SECRET}'",
        "agent.api_key: env: must be followed by the name of an environment variable",
    ),
    (
        "[agent]\napi_key = 'file:/no/such/file'",
        "agent.api_key: file:/no/such/file: cannot be read (No such file or directory); "
        "correct the path or its permissions",
    ),
    (
        "[agent]\napi_key = 'file:/dev/null'",
        "agent.api_key: file:/dev/null: the file is empty; write the secret into it",
    ),
    ("[turns]\npolicy = 'x'", 'turns.policy = "x": must be "queue", "collect", "steer", "interrupt" or "reject"'),
    ("[turns]\nlease_s = 2.9", "turns.lease_s = 2.9: must be at least 3; for example 15"),
    ("[turns]\nidle_timeout_s = 0", "turns.idle_timeout_s = 0: must be more than 0; for example 300"),
    ("[turns]\ndrain_s = -1", "turns.drain_s = -1: must be at least 0; for example 30"),
    ("[turns]\nmax_turn_s = inf", "turns.max_turn_s = inf: must be a number; for example 0"),
    ("[channels.web]\nenabled = 'maybe'", 'channels.web.enabled = "maybe": must be true or false'),
    ("[channels.web]\nauth = 'basic'", 'channels.web.auth = "basic": must be "none", "token" or "header"'),
    ("[channels.web]\nheader = 'x user'", 'channels.web.header = "x user": is no header name; for example x-user'),
    (
        "[channels.web]\nmax_body_bytes = 0",
        "channels.web.max_body_bytes = 0: must be more than 0; for example 37748736",
    ),
    (
        TOKEN_AUTH,
        'channels.web.auth = "token": needs a token; add USER = "env:NAME" under [channels.web.tokens]',
    ),
    (
        TOKEN_AUTH + "[channels.web.tokens]\nana = ''",
        "channels.web.tokens.ana: is empty; give the user a name and a token, or remove the line",
    ),
    (
        TOKEN_AUTH + f"[channels.web.tokens]\nana = '{SECRET}'\nbo = '{SECRET}'",
        "channels.web.tokens.bo: is the same token as that of ana; give every user their own",
    ),
    (
        f"[channels.web.tokens.ana]\ntoken = '{SECRET}'",
        "channels.web.tokens.ana: takes one value, not a section; set channels.web.tokens.ana itself",
    ),
]


CLOCK = "[agent.mcp.clock]\n"

BAD_SERVERS: list[tuple[str, str]] = [
    (
        CLOCK + "url = 'http://h'\nheaders = { authorization = ' Bearer' }",
        "agent.mcp.clock.headers.authorization: must be one line of ASCII text with no space at its ends; for example "
        "Bearer KEY",
    ),
    (
        CLOCK + "command = 'x'\nenv = { KEY = \"a\\nb\" }",
        "agent.mcp.clock.env.KEY: holds a line break or a control character; a program's environment takes one line "
        "of text",
    ),
    ("[agent]\nmcp = 'x'", "agent.mcp: is a section; set the keys in it, such as agent.mcp.USER"),
    (
        "[agent.mcp]\nclock = 'x'",
        "agent.mcp.clock: is a section; set the keys in it, such as agent.mcp.clock.command",
    ),
    (
        "[[agent.mcp.clock]]\ncommand = 'x'",
        "agent.mcp.clock: is a section; set the keys in it, such as agent.mcp.clock.command",
    ),
    (CLOCK + "comand = 'x'", "agent.mcp.clock.comand: unknown key; did you mean agent.mcp.clock.command?"),
    (
        CLOCK + "zzz = 'x'",
        "agent.mcp.clock.zzz: unknown key; use one of command, args, env, url, headers",
    ),
    (CLOCK + "command = 3", "agent.mcp.clock.command = 3: must be text in quotes"),
    (
        CLOCK + "url = 'ftp://h'",
        'agent.mcp.clock.url = "ftp://h": must begin with http:// or https:// and name a host; '
        "for example https://tools.example.com/mcp",
    ),
    (
        CLOCK + f"url = 'http://u:{SECRET}@h:x/'",
        'agent.mcp.clock.url = "http://u:***@h:x/": is no URL; write it like https://tools.example.com/mcp',
    ),
    (
        CLOCK + "url = 'http://h'\nheaders = { a = 3 }",
        "agent.mcp.clock.headers.a: must be text in quotes",
    ),
    (
        CLOCK + "url = 'http://h'\nheaders = { authorization = 'env:NOPE' }",
        "agent.mcp.clock.headers.authorization: env:NOPE: the variable is not set; set NOPE or use file:PATH",
    ),
    (
        CLOCK + f"command = 'x'\nenv = {{ KEY = 'env:{SECRET}' }}",
        "agent.mcp.clock.env.KEY: env: must be followed by the name of an environment variable",
    ),
    (
        CLOCK + "command = 'x'\nenv = { KEY = 'file:/no/such/file' }",
        "agent.mcp.clock.env.KEY: file:/no/such/file: cannot be read (No such file or directory); "
        "correct the path or its permissions",
    ),
]

# What is wrong with a server as a whole, or with one entry of a list.
WRONG_TOGETHER: list[tuple[str, str]] = [
    ("[agent]\ntools = [3]", "agent.tools.0: must be text in quotes"),
    (CLOCK + "command = 'x'\nargs = [1]", "agent.mcp.clock.args.0: must be text in quotes"),
    *(
        (
            CLOCK + text,
            "agent.mcp.clock: must have either command (a process to start) or url (a server to reach); "
            "set exactly one of them",
        )
        for text in ("command = ''", "args = ['x']", "command = 'x'\nurl = 'http://h'")
    ),
    (
        CLOCK + f"command = 'x'\nheaders = {{ authorization = '{SECRET}' }}",
        "agent.mcp.clock: has headers, which only a url takes; a command takes env",
    ),
    *(
        (
            CLOCK + f"url = 'http://h'\n{text}",
            "agent.mcp.clock: has args or env, which only a command takes; a url takes headers",
        )
        for text in ("args = ['x']", f"env = {{ KEY = '{SECRET}' }}")
    ),
    (
        CLOCK + f"url = 'http://h'\nheaders = {{ 'my key' = '{SECRET}' }}",
        "agent.mcp.clock: has a header named 'my key', which no server takes; write one like authorization",
    ),
    (
        CLOCK + f"command = 'x'\nenv = {{ 'A=B' = '{SECRET}' }}",
        "agent.mcp.clock: has a variable named 'A=B', which no process takes; write one like API_KEY",
    ),
]


@pytest.mark.parametrize(
    ("text", "problem"), BAD_SERVERS, ids=[problem.partition(":")[0] for _, problem in BAD_SERVERS]
)
def test_a_bad_mcp_server_is_refused_with_its_remedy(file: Path, text: str, problem: str) -> None:
    problems = _problems(file, text)
    assert problems == [problem]
    assert SECRET not in str(problems)


@pytest.mark.parametrize(("text", "problem"), WRONG_TOGETHER)
def test_what_is_wrong_with_a_server_as_a_whole_is_said(file: Path, text: str, problem: str) -> None:
    [found] = _problems(file, text)
    assert found.endswith(problem)
    assert SECRET not in found


def test_tools_and_servers_of_the_agent_are_read(file: Path) -> None:
    text = """
        [agent]
        tools = ["my_tools", "my_tools:add"]
        [agent.mcp.clock]
        command = "uvx"
        args = ["mcp-server-time", "--utc"]
        env = { KEY = "env:KEY" }
        [agent.mcp.tickets]
        url = "https://tickets.example.com/mcp"
        headers = { authorization = "env:TICKETS" }
    """
    config = _load(file, text, {"KEY": f"{SECRET} with spaces", "TICKETS": f"Bearer {SECRET}-2"})
    assert config.agent.tools == ["my_tools", "my_tools:add"]
    servers = {name: server.server() for name, server in config.agent.mcp.items()}
    assert servers == {
        "clock": MCPServer(command="uvx", args=["mcp-server-time", "--utc"], env={"KEY": f"{SECRET} with spaces"}),
        "tickets": MCPServer(
            url="https://tickets.example.com/mcp", args=[], headers={"authorization": f"Bearer {SECRET}-2"}
        ),
    }
    shown = repr(config) + repr(config.describe()) + repr(servers)
    assert SECRET not in shown
    assert config.describe()["agent"]["mcp"]["clock"]["env"] == {"KEY": "***"}


def test_tools_and_servers_can_be_set_by_the_environment(file: Path) -> None:
    env = {
        "TURNWIRE_AGENT__TOOLS": "my_tools, my_tools:add",
        "TURNWIRE_AGENT__MCP__CLOCK__COMMAND": "uvx",
        "TURNWIRE_AGENT__MCP__CLOCK__ARGS": "mcp-server-time,--utc",
    }
    agent = _load(file, "[agent.mcp.clock]\ncommand = 'npx'\n", env).agent
    assert agent.tools == ["my_tools", "my_tools:add"]
    assert agent.mcp["clock"].server() == MCPServer(command="uvx", args=["mcp-server-time", "--utc"])
    assert _problems(file, "", {"TURNWIRE_AGENT__MCP__CLOCK__COMAND": "x"}) == [
        "TURNWIRE_AGENT__MCP__CLOCK__COMAND: agent.mcp.clock.comand: unknown key; "
        "did you mean TURNWIRE_AGENT__MCP__CLOCK__COMMAND?"
    ]


def test_variables_for_a_server_keep_their_case_and_other_names_the_case_of_the_file(file: Path) -> None:
    text = """
        [agent.mcp.Clock]
        command = "uvx"
        env = { KEPT = "1", Api_Key = "old", TZ = "UTC" }
    """
    env = {
        "TURNWIRE_AGENT__MCP__CLOCK__ENV__API_KEY": "new",
        "TURNWIRE_AGENT__MCP__CLOCK__ENV__Api_Key": "newer",
        "turnwire_agent__mcp__clock__env__TZ": "CET",
        "TURNWIRE_AGENT__MCP__CLOCK__ENV__Nested__Name": "x",
        "TURNWIRE_AGENT__MCP__OTHER__URL": "https://tools.example.com/mcp",
        "TURNWIRE_AGENT__MCP__OTHER__HEADERS__X-KEY": "y",
    }
    servers = {name: server.server() for name, server in _load(file, text, env).agent.mcp.items()}
    assert set(servers) == {"Clock", "other"}
    assert servers["Clock"].env == {
        "KEPT": "1", "Api_Key": "newer", "TZ": "CET", "API_KEY": "new", "Nested__Name": "x",
    }  # fmt: skip
    assert servers["other"].headers == {"x-key": "y"}


def test_a_bad_variable_for_a_server_is_named_as_it_was_written(file: Path) -> None:
    env = {"TURNWIRE_AGENT__MCP__CLOCK__ENV__Api_Key": "env:NOPE", "TURNWIRE_AGENT__MCP__CLOCK__COMMAND": "uvx"}
    assert _problems(file, "", env) == [
        "TURNWIRE_AGENT__MCP__CLOCK__ENV__Api_Key: agent.mcp.clock.env.Api_Key: env:NOPE: the variable is not set; "
        "set NOPE or use file:PATH"
    ]


def test_a_users_name_may_have_two_underscores(file: Path) -> None:
    text = '[channels.web.tokens]\nAda__L = "old"\n'
    tokens = _load(file, text, {"TURNWIRE_CHANNELS__WEB__TOKENS__ADA__L": "new"}).channels.web.tokens
    assert {name: token.get_secret_value() for name, token in tokens.items()} == {"Ada__L": "new"}


@pytest.mark.parametrize(("text", "problem"), BAD, ids=[problem.partition(":")[0] for _, problem in BAD])
def test_bad_input_is_refused_with_its_remedy(file: Path, text: str, problem: str) -> None:
    problems = _problems(file, text)
    assert problems == [problem]
    assert SECRET not in str(problems)


BAD_VARIABLES: list[tuple[dict[str, str], str]] = [
    (
        {"TURNWIRE_SERVER__PORT": ""},
        'TURNWIRE_SERVER__PORT: server.port = "": must be a whole number; for example 8787',
    ),
    (
        {"TURNWIRE_SERVER__PROT": "1"},
        "TURNWIRE_SERVER__PROT: server.prot: unknown key; did you mean TURNWIRE_SERVER__PORT?",
    ),
    (
        {"TURNWIRE_SERVR__PORT": "1"},
        "TURNWIRE_SERVR__PORT: servr: unknown section; did you mean TURNWIRE_SERVER__PORT?",
    ),
    (
        {"TURNWIRE_SERVER__PORT__X": "1"},
        "TURNWIRE_SERVER__PORT__X: server.port: takes one value, not a section; set TURNWIRE_SERVER__PORT itself",
    ),
    (
        {"TURNWIRE_SERVER": "{}", "TURNWIRE_CHANNELS__WEB": "{}"},
        "TURNWIRE_CHANNELS__WEB: channels.web: is a section; "
        "set the keys in it, such as TURNWIRE_CHANNELS__WEB__ENABLED",
    ),
    (
        {"TURNWIRE_CHANNELS__WECOM__BOT__SECRET": SECRET},
        "TURNWIRE_CHANNELS__WECOM__BOT: channels.wecom.bot: needs bot_id and secret; both are on the bot's "
        "page, under API mode with the long connection",
    ),
    (
        {"TURNWIRE_AGENT__API_KEY": "env:NOPE"},
        "TURNWIRE_AGENT__API_KEY: agent.api_key: env:NOPE: the variable is not set; set NOPE or use file:PATH",
    ),
]


@pytest.mark.parametrize(("env", "problem"), BAD_VARIABLES)
def test_a_bad_variable_is_named(file: Path, env: dict[str, str], problem: str) -> None:
    assert _problems(file, "", env) == [problem]


def test_a_bad_option_is_named(file: Path) -> None:
    assert _problems(file, "", server={"port": 70000}) == [
        "command line: server.port = 70000: must be at most 65535; for example 8787"
    ]


def test_all_problems_are_reported_at_once_and_each_once(file: Path) -> None:
    text = "[servr]\na = 1\nb = 2\n[server]\nport = 70000\n[store]\nurl = 'x'\n[agent]\napi_key = 'env:NOPE'\n"
    text += "[channels.web]\nauth = 'token'\n[channels.web.tokens]\nana = 'env:NOPE'\nbo = 'env:NOPE'\n"
    keys = [problem.partition(" = ")[0].partition(":")[0] for problem in _problems(file, text, {"TURNWIRE_A__B": "1"})]
    assert keys == [
        "TURNWIRE_A__B",
        "servr",
        "agent.api_key",
        "channels.web.tokens.ana",
        "channels.web.tokens.bo",
        "server.port",
        "store.url",
    ]


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"[server]\nport = \n", "line 2, column 8: not TOML: Invalid value; correct this line"),
        (b"[server\n", "line 1, column 8: not TOML: Expected ']' at the end of a table declaration; correct this line"),
        (b"a = 1\na = 2\n", "line 2, column 6: not TOML: Cannot overwrite a value; correct this line"),
        (b"a = 1\nb = '\xff'\n", "line 2 is not UTF-8; save the file as UTF-8"),
    ],
)
def test_a_file_that_is_not_toml_names_line_and_column(file: Path, raw: bytes, problem: str) -> None:
    file.write_bytes(raw)
    with pytest.raises(ConfigError, match=re.escape(f"{file}: {problem}")):
        load_config(file, env={})


def test_the_end_of_a_file_has_a_line_and_column_too(file: Path) -> None:
    [problem] = _problems(file, 'a = 1\nb = """x')
    assert problem.startswith("line 2, column 9: not TOML: ")


def test_a_named_file_must_exist_and_be_a_file(file: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{file}: there is no such file; create it or name another")):
        load_config(file, env={})
    with pytest.raises(ConfigError, match=re.escape("cannot be read (Is a directory)")):
        load_config(file.parent, env={})


def test_a_byte_order_mark_is_no_syntax_error(file: Path) -> None:
    file.write_bytes("\ufeff[server]\nport = 1\n".encode())
    assert load_config(file, env={}).server.port == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_without_authentication_only_this_machine_is_served(file: Path, host: str) -> None:
    assert _load(file, f"[server]\nhost = '{host}'\n").server.host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "gateway.example.com"])
def test_other_hosts_need_authentication(file: Path, host: str) -> None:
    [problem] = _problems(file, f"[server]\nhost = '{host}'\n")
    assert "channels.web.auth" in problem
    assert _load(file, f"[server]\nhost = '{host}'\n[channels.web]\nauth = 'header'\n").server.host == host
    assert _load(file, f"[server]\nhost = '{host}'\n[channels.web]\nenabled = false\n").server.host == host
    with pytest.raises(ValidationError, match=r"channels\.web\.auth"):
        Config.model_validate({"server": {"host": host}})


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://Chat.Example.com/", "https://chat.example.com"),
        ("https://chat.example.com:443", "https://chat.example.com"),
        ("http://[::1]:80", "http://[::1]"),
        ("http://x.org:8080", "http://x.org:8080"),
    ],
)
def test_the_public_url_is_spelled_as_browsers_spell_an_origin(file: Path, text: str, origin: str) -> None:
    assert _load(file, f"[server]\npublic_url = '{text}'\n").server.public_url == origin


def test_the_header_is_lower_case_and_noted_when_others_can_reach_it(file: Path) -> None:
    config = _load(file, "[server]\nhost = '::'\n[channels.web]\nauth = 'header'\nheader = 'X-Forwarded-User'\n")
    assert config.channels.web.header == "x-forwarded-user"
    [note] = config.notes()
    assert "x-forwarded-user" in note
    assert Config().notes() == []
    [note] = _load(file, "[channels.web.tokens]\nana = 't'\n").notes()
    assert note == 'channels.web.tokens: not used while channels.web.auth = "none"'


def test_a_channel_that_is_off_needs_no_token(file: Path) -> None:
    assert _load(file, TOKEN_AUTH + "enabled = false\n").channels.web.auth == "token"


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().server.port = 1


def _secretive(file: Path, secret: str) -> Config:
    env = {"KEY": secret, "TURNWIRE_CHANNELS__WEB__TOKENS__BO": secret + "-bo"}
    (file.parent / "ana").write_text(secret + "-ana")
    text = f"""
        [store]
        url = "postgresql://u:{secret}@h/db"
        [relay]
        url = "redis://:{secret}@h:6379/0"
        [network]
        proxy = "http://u:{secret}@h:3128"
        [agent]
        base_url = "https://h/v1?api_key={secret}"
        api_key = "env:KEY"
        [channels.web]
        auth = "token"
        [channels.web.tokens]
        ana = "file:ana"
    """
    return _load(file, text, env)


def test_nothing_that_shows_a_config_shows_a_secret(file: Path) -> None:
    config = _secretive(file, SECRET)
    assert config.store.url == f"postgresql://u:{SECRET}@h/db"
    assert SECRET not in repr(config)
    assert SECRET not in str(config)
    assert SECRET not in repr(config.store) + repr(config.relay) + repr(config.network) + repr(config.agent)
    described = config.describe()
    assert SECRET not in repr(described)
    assert described["store"]["url"] == "postgresql://u:***@h/db"
    assert described["agent"]["api_key"] == "***"
    assert described["agent"]["base_url"] == "https://h/v1?api_key=[removed]"
    assert described["channels"]["web"]["tokens"] == {"bo": "***", "ana": "***"}
    assert described["server"] == {"host": "127.0.0.1", "port": 8787, "public_url": ""}


def test_an_error_of_a_config_made_by_hand_shows_no_secret() -> None:
    with pytest.raises(ValidationError) as raised:
        Config.model_validate({"agent": {"api_key": SECRET, "use": 3}, "store": {"url": f"x://u:{SECRET}@h"}})
    assert SECRET not in str(raised.value)
    with pytest.raises(ValidationError) as raised:
        Store.model_validate({"url": f"x://u:{SECRET}@h"})
    assert SECRET not in str(raised.value)


ADDRESSES = [("store", "url"), ("relay", "url"), ("network", "proxy"), ("agent", "base_url")]


@given(st.text(), st.sampled_from(ADDRESSES), st.sampled_from(["ftp", "postgres", "http"]))
def test_no_error_repeats_a_password(password: str, address: tuple[str, str], scheme: str) -> None:
    """Whatever a password holds, and wherever a parser thinks that it ends."""
    section, key = address
    said = {section: {key: f"{scheme}://user:Q9x{password}x9Q@host/x"}, "server": {"port": -1}}
    with pytest.raises(ConfigError) as raised:
        load_config(env={}, overrides=said)
    shown = str(raised.value) + repr(raised.value.__cause__) + repr(raised.value.__context__)
    assert "Q9x" not in shown
    assert "x9Q" not in shown


def test_the_sample_is_the_defaults(file: Path) -> None:
    assert tomllib.loads(sample_config())["server"] == {}
    assert _load(file, sample_config()) == _load(file, "")


def test_the_sample_with_every_line_in_force_is_the_defaults_too(file: Path) -> None:
    said = re.sub(r"^#(?=\w+ = )", "", sample_config(), flags=re.MULTILINE).replace('alice = "env:ALICE_TOKEN"', "")
    assert _load(file, said) == _load(file, "")
    parsed = tomllib.loads(said)
    assert parsed.keys() == Config.model_fields.keys()
    for name, section in parsed.items():
        model = Config()
        assert (section.keys() if name != "channels" else {"web", "feishu", "wecom"}) == type(
            getattr(model, name)
        ).model_fields.keys()


def test_the_example_of_the_sample_is_a_working_token(file: Path) -> None:
    text = sample_config().replace("#alice", "alice").replace('#auth = "none"', 'auth = "token"')
    assert _load(file, text, {"ALICE_TOKEN": "t"}).channels.web.tokens == {"alice": SecretStr("t")}


def test_every_key_of_the_sample_is_explained() -> None:
    lines = sample_config().splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r"#\w+ = ", line)]
    assert len(keys) >= 24
    for number in keys:
        assert lines[number - 1].startswith(("# ", "[channels.web.tokens]"))
