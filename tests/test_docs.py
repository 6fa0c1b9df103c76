"""The documentation, checked against what runs: links, code, settings, routes, commands, records, examples.

A block marked `python run` is executed; `python agent` is executed, then its `agent` answers in a gateway. A plain
`python` block must compile, `toml` must load, `json` must parse.
"""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import typer.main
from pydantic import SecretStr
from starlette.routing import Route

from tests.asgi import Client
from tests.gateways import config_for, running
from turnwire import chunks, events
from turnwire.agents.demo import _CHINESE, _ENGLISH
from turnwire.agents.docs_index import DocsIndex, load_pages, question_words
from turnwire.channels.feishu.config import Feishu
from turnwire.channels.web.api import web_app
from turnwire.channels.web.dialects import DIALECTS, Strict5
from turnwire.channels.wecom.config import Wecom
from turnwire.cli import app as cli
from turnwire.config import load_config, sample_config
from turnwire.gateway import Gateway
from turnwire.metrics import Metrics
from turnwire.settings import Section
from turnwire.turn import Turn

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("bench/*.md"), *(ROOT / "docs").rglob("*.md")])
REFERENCE = ROOT / "docs" / "reference"
SOURCE = ROOT / "src" / "turnwire"


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TURNWIRE_") and "__" in name]:
        monkeypatch.delenv(name)


class Block(NamedTuple):
    """A fenced block; `info` are the words behind its opening fence."""

    page: Path
    line: int
    info: tuple[str, ...]
    code: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def _blocks(page: Path) -> Iterator[Block]:
    inside: list[str] | None = None
    info: tuple[str, ...] = ()
    begins = 0
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            if inside is None:
                inside, info, begins = [], tuple(line[3:].split()), number
            else:
                yield Block(page, begins, info, "\n".join(inside) + "\n")
                inside = None
        elif inside is not None:
            inside.append(line)
    assert inside is None, f"{page}: the block that begins in line {begins} is not closed"


BLOCKS = [block for page in PAGES for block in _blocks(page)]


def _of(*info: str) -> pytest.MarkDecorator:
    found = [block for block in BLOCKS if block.info[: len(info)] == info]
    assert found, f"no page has a block marked {' '.join(info)}"
    return pytest.mark.parametrize("block", found, ids=[block.name for block in found])


def _prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8"))


def _headings(page: Path) -> list[str]:
    return re.findall(r"(?m)^#{1,6} +(.+?) *$", _prose(page))


def _anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _rows(page: Path) -> dict[str, list[str]]:
    """The rows of all tables by the first thing in code style, each with all its cells."""
    rows: dict[str, list[str]] = {}
    for line in page.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"\| `([^`]+)`", line):
            rows[found[1]] = [cell.strip() for cell in line.strip("|").split("|")]
    return rows


def _coded(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        led = (page.parent / path).resolve() if path else page
        assert led.exists(), f"{target} leads nowhere"
        assert not anchor or anchor in map(_anchor, _headings(led)), f"{target}: there is no such heading"


@_of("python")
def test_python_blocks_compile(block: Block) -> None:
    compile(block.code, block.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@_of("python", "run")
async def test_blocks_to_be_run_run(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # A block may have an event loop of its own.
    await asyncio.to_thread(exec, compile(block.code, block.name, "exec"), {"__name__": "example"})


@_of("python", "agent")
async def test_agents_in_the_pages_answer(block: Block, tmp_path: Path) -> None:
    space: dict[str, Any] = {"__name__": "example"}
    exec(compile(block.code, block.name, "exec"), space)
    said = await _ask(space["agent"], tmp_path, "hello there")
    assert said["metadata"]["turnwire"]["outcome"] in ("done", "waiting"), said
    assert any(part["type"] == "text" and part["text"].strip() for part in said["parts"])


@_of("toml")
def test_configurations_load(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "turnwire.toml"
    path.write_text(block.code)
    for secret in re.findall(r'"file:([\w.]+)"', block.code):
        (tmp_path / secret).write_text(f"{secret}-secret")
    load_config(
        path,
        env={name: "k" * 43 if "AES" in name else f"{name}-secret" for name in re.findall(r'"env:(\w+)"', block.code)},
    )


@_of("json")
def test_json_blocks_parse(block: Block) -> None:
    json.loads(block.code)


def test_both_readmes_say_the_same() -> None:
    english, chinese = ROOT / "README.md", ROOT / "README.zh-CN.md"
    assert [(block.info, block.code) for block in _blocks(english)] == [
        (block.info, block.code) for block in _blocks(chinese)
    ]
    levels = [re.findall(r"(?m)^(#{1,6}) ", _prose(page)) for page in (english, chinese)]
    assert levels[0] == levels[1]
    own = {"README.md", "README.zh-CN.md"}
    links = [sorted(set(re.findall(r"\]\(([^)\s]+)\)", _prose(page))) - own) for page in (english, chinese)]
    assert links[0] == links[1]
    rows = [len(re.findall(r"(?m)^\|", _prose(page))) for page in (english, chinese)]
    assert rows[0] == rows[1]


def test_the_configuration_reference_has_every_key_with_its_default() -> None:
    page = (REFERENCE / "configuration.md").read_text()
    documented = {
        (section, key): default
        for section, table in re.findall(r"(?ms)^## `\[([\w.]+)\]`$(.*?)(?=^## |\Z)", page)
        for key, default in re.findall(r"(?m)^\| `(\w+)` \| `([^`]*)` \|", table)
    }
    real: dict[tuple[str, str], str] = {}
    section = ""
    for line in sample_config().splitlines():
        if found := re.fullmatch(r"\[([\w.]+)\]", line):
            section = found[1]
        elif (found := re.fullmatch(r"#(\w+) = (.*)", line)) and section != "channels.web.tokens":
            real[section, found[1]] = found[2]
    sections: dict[str, type[Section]] = {"channels.feishu.NAME": Feishu, "channels.wecom.NAME": Wecom}
    for section, model in sections.items():
        for key, field in model.model_fields.items():
            default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
            real[section, key] = "unset" if default is None else json.dumps(default)
    assert documented == real
    assert "## `[channels.web.tokens]`" in page


def test_the_api_reference_has_every_route(tmp_path: Path) -> None:
    app = web_app(Gateway(config_for(f"sqlite:///{tmp_path}/t.db", tmp_path), lambda turn: None))
    real = {
        f"{'POST' if route.methods and 'POST' in route.methods else 'GET'} {route.path}"
        for route in app.routes
        if isinstance(route, Route)
    }
    assert len(real) == len(app.routes)
    page = REFERENCE / "http-api.md"
    assert {heading.strip("`") for heading in _headings(page) if heading.startswith("`")} == real
    assert all(f"`{name}`" in page.read_text() for name in DIALECTS)


def test_the_api_reference_has_every_error_code_with_its_status() -> None:
    real = _error_codes()
    rows = _rows(REFERENCE / "http-api.md")
    assert {code: int(rows[code][1]) for code in real if code in rows} == real
    prose = _prose(REFERENCE / "http-api.md")
    for status, codes in re.findall(r"(\d{3}) ((?:`[a-z_]+`(?:, )?)+)", prose):
        for code in _coded(codes) & set(real):
            assert real[code] == int(status), f"{status} {code}"


def _error_codes() -> dict[str, int]:
    """What the source answers with, from its calls."""
    found = {"no_such_message": 404, "bad_request": 400}
    for path in [*(SOURCE / "channels" / "web").glob("*.py"), SOURCE / "turns" / "admission.py"]:
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
                continue
            given = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
            named = {key.arg: key.value.value for key in call.keywords if isinstance(key.value, ast.Constant)}
            if call.func.id in ("problem", "Denied") and len(given) >= 2:
                found[str(given[1])] = int(str(given[0]))
            elif call.func.id == "BadRequest" and "code" in named:
                found[str(named["code"])] = int(str(named.get("status", 400)))
            elif call.func.id == "Refused" and given:
                found.setdefault(str(given[0]), 409)
    assert len(found) > 15
    return found


def test_the_command_reference_has_every_command_and_option() -> None:
    page = (REFERENCE / "cli.md").read_text()
    documented = {
        command: set(re.findall(r"(?<!-)--?[a-z][a-z-]*", " ".join(re.findall(r"(?m)^\| (`.*?) \|", text))))
        for command, text in re.findall(r"(?ms)^## `turnwire ([a-z ]+)`$(.*?)(?=^## |\Z)", page)
    }
    real = {
        name: {
            option for param in command.params for option in (*param.opts, *param.secondary_opts) if option[0] == "-"
        }
        for name, command in _commands(typer.main.get_command(cli))
    }
    assert documented == real


def _commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{before}{name} ")
        else:
            yield before + name, command


def test_the_event_reference_has_every_event_and_field() -> None:
    page = REFERENCE / "events.md"
    rows = _rows(page)
    kinds = {kind.__name__: kind for kind in events.Event.__subclasses__()}
    assert {name: _coded(rows[name][1]) for name in kinds} == {
        name: set(kind.__struct_fields__) for name, kind in kinds.items()
    }
    public = {name for name in vars(Turn) if not name.startswith("_")} | set(
        re.findall(r"(?m)^        ([a-z]+): ", Turn.__doc__ or "")
    )
    assert public <= {row.partition("(")[0] for row in rows}


def test_the_record_reference_says_what_each_dialect_does() -> None:
    rows = _rows(REFERENCE / "records.md")
    for kind, struct in chunks.TYPES.items():
        fields = dict(zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True))
        assert _coded(rows[kind][1]) == set(fields.values()), kind
        record = json.dumps({"type": kind, **dict.fromkeys(fields.values(), "x")}, separators=(",", ":")).encode()
        body, broken = Strict5().frames(0, [record])
        if broken:
            assert rows[kind][2] == "the body breaks before it"
            continue
        lost = set(json.loads(record)) - set(json.loads(body.partition(b"data: ")[2]))
        said = rows[kind][2]
        if b'"data-turnwire"' in body:
            assert said == "a `data-turnwire` part", kind
            continue
        assert said == "the same" if not lost else said.startswith("without"), kind
        assert _coded(said) == lost, kind
    assert {"data-NAME", *chunks.TYPES} <= set(rows)


def test_the_metrics_reference_has_every_metric() -> None:
    rows = {name.partition("{")[0] for name in _rows(REFERENCE / "metrics.md")}
    real = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in Metrics().registry.collect()
    }
    assert rows == real


def test_what_is_next_is_told_in_one_place_only() -> None:
    later = re.compile(r"not there yet|real tenants|现在还没有|真实租户")
    told = [(page.name, title) for page in PAGES for title, text in _sections(page) if later.search(text)]
    assert sorted(told) == [("README.md", "What is here, what is next"), ("README.zh-CN.md", "现状与后续")]


def _sections(page: Path) -> Iterator[tuple[str, str]]:
    for part in re.split(r"(?m)^(?=#)", page.read_text(encoding="utf-8")):
        yield part.partition("\n")[0].lstrip("# "), part


@pytest.mark.parametrize(
    ("question", "file", "title"),
    [
        (_ENGLISH.examples[0], "README.md", "Install and start in 60 seconds"),
        (_ENGLISH.examples[1], "README.md", "What happens when the process is killed"),
        (_ENGLISH.examples[2], "docs/how-to/connect-feishu.md", None),
        ("How do I connect WeCom?", "docs/how-to/connect-wecom.md", None),
        (_CHINESE.examples[0], "README.zh-CN.md", "60 秒安装和启动"),
        (_CHINESE.examples[1], "README.zh-CN.md", "进程被杀死后会怎样"),
        (_CHINESE.examples[2], "README.zh-CN.md", "现状与后续"),
        ("How do I stop a turn?", "docs/how-to/resume-and-stop.md", None),
        ("How do I use PostgreSQL with many processes?", "docs/how-to/deploy.md", "Run many processes"),
        ("How do I back up SQLite?", "docs/how-to/deploy.md", "Back up a SQLite store"),
        ("Which nginx settings do I need?", "docs/how-to/deploy.md", "nginx"),
        ("What does the queue policy do?", "docs/explanation/ordering-and-policies.md", None),
        ("How do I give people tokens?", "docs/how-to/authenticate.md", "Give people tokens"),
    ],
)
def test_the_demo_finds_the_section_that_answers(question: str, file: str, title: str | None) -> None:
    index = DocsIndex(load_pages())
    words = [word for word in question_words(question) if word.lower() not in ("attach", "page")]
    best = index.search(words)[0].section
    assert (best.file, best.title) == (file, title or best.title)
    assert index.answers(best, words)


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def _ask(agent: Any, folder: Path, text: str) -> dict[str, Any]:
    """The message that an agent answers with."""
    async with running(f"sqlite:///{folder / 'turnwire.db'}", folder, agent) as gateway:
        client = Client(web_app(gateway))
        asked = await client.ask(text).done()
        assert asked.status == 200, asked.body
        answer: dict[str, Any] = (await client.get("/api/chat/c")).json()["messages"][-1]
        return answer


async def test_the_weather_agent_answers_with_a_tool_and_a_file(tmp_path: Path) -> None:
    module = _module(ROOT / "examples" / "weather_agent.py")
    module.PAUSE_S = 0.0  # type: ignore[attr-defined]
    said = await _ask(module.agent, tmp_path, "What is the weather in Oslo?")
    parts = {part["type"]: part for part in said["parts"]}
    assert said["metadata"]["turnwire"]["outcome"] == "done"
    assert parts["tool-forecast"]["output"]["Monday"] == "snow, -3 degrees"
    assert parts["file"]["mediaType"] == "text/csv"
    assert {"reasoning", "text"} <= set(parts)
    other = tmp_path / "other"
    other.mkdir()
    lost = await _ask(module.agent, other, "What is the weather?")
    assert "Lisbon and Oslo" in lost["parts"][-1]["text"]


def test_the_tutorial_ends_with_the_example() -> None:
    code = (ROOT / "examples" / "weather_agent.py").read_text()
    assert code in [block.code for block in BLOCKS if block.page.name == "first-agent.md"]
