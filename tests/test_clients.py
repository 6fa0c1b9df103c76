"""Real clients of the AI SDK at a real server: what a person sees is what the conversation holds."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests import node_clients
from tests.dialect_samples import BREAK, CHUNKS, FORMS, LATER
from tests.server_process import ServerProcess, served
from tests.strict_client import comparable, parse_events
from turnwire import chunks as c
from turnwire.channels.web.dialects import DIALECTS

pytestmark = [pytest.mark.anyio, pytest.mark.process]

AGENT = "python:tests.client_agent:agent"
# Each client, by the name that package.json gives it, and the dialect it is offered; the last one is the default.
CLIENTS = [
    ("ai5060", "5-strict"),
    ("ai5", "5"),
    ("ai6020", "6"),
    ("ai6", "6"),
    ("ai7", "7"),
    ("ai7", "5-strict"),
]
# Versions whose messages have no place for the titles of tools, and for the metadata of files.
NO_TITLES = {"ai5060", "ai5"}
# Versions that put an answer which goes on below what was asked meanwhile, and leave what there was of it above.
DOUBLES = {"ai5060", "ai6020"}
STEERED = ["steer", "steer after leaving", "unheard"]
NO_FILE_METADATA = {"ai5060", "ai5", "ai6020"}


@pytest.fixture(scope="session")
def clients() -> Path:
    """The folder of the installed clients."""
    try:
        return node_clients.install()
    except node_clients.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    """One server for all of them; every client names its own conversations."""
    settings = '[turns]\npolicy = "steer"\n'
    async with served(tmp_path_factory.mktemp("server"), use=AGENT, settings=settings) as started:
        yield started


def plain(message: dict[str, Any], package: str, dialect: str) -> dict[str, Any]:
    """The message as every version would hold it: without what this one has no place for."""
    parts = []
    for part in comparable(message)["parts"]:
        own = dict(part)
        if "toolCallId" in own:
            if package in NO_TITLES or dialect == "5-strict":
                own.pop("title", None)
            if own["state"] == "output-error" and "input" not in own:
                own["input"] = own.pop("rawInput")  # where versions before 7 keep arguments that are no JSON
        if own["type"] == "file" and package in NO_FILE_METADATA:
            own.pop("providerMetadata", None)
        parts.append(own)
    return {**message, "parts": parts}


async def conversations(server: ServerProcess, told: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the server holds of the chat of every scenario."""
    held = {}
    async with server.client() as client:
        for name, one in told.items():
            answer = await client.get(f"/api/chat/{one['chat']}")
            assert answer.status_code == 200, answer.text
            held[name] = answer.json()
    return held


def texts(told: dict[str, Any]) -> list[str]:
    """The texts of the answers, in order."""
    return [
        "|".join(part["text"] for part in message["parts"] if part["type"] == "text")
        for message in told["messages"]
        if message["role"] == "assistant"
    ]


@pytest.mark.parametrize(("package", "dialect"), CLIENTS)
async def test_a_stock_chat_shows_what_the_conversation_holds(
    clients: Path, server: ServerProcess, package: str, dialect: str, subtests: pytest.Subtests
) -> None:
    told = await node_clients.play(clients, "chat.mjs", package, server.url, dialect)
    held = await conversations(server, told)
    for name, one in told.items():
        with subtests.test(name):
            if name in STEERED:
                _check_steered(one, held[name], package, dialect)
            else:
                _check_settled(one, held[name], package, dialect)
    with subtests.test("what is said while a turn runs is answered once"):
        for name in STEERED[:2]:
            assert texts(told[name])[-1:] == ["Listening|, and heard Oslo."]
        assert texts(told["unheard"])[-2:] == ["The first half and the second.", "I have read 3 messages."]
    with subtests.test("what came on the side"):
        noted = [part["data"] for part in told["data"]["data"] if part["type"] == "data-note"]
        assert noted == ["only now"]
    with subtests.test("a failed turn says why"):
        assert told["fail"]["error"] == "The model ran out of words."
        assert texts(told["fail"]) == ["As far as"]
    with subtests.test("the next turn knows the one before"):
        assert texts(told["again"]) == ["I have read 1 messages.", "I have read 3 messages."]
        assert texts(told["afterwards"]) == ["As far as", "I have read 3 messages."]
    with subtests.test("a stopped turn ends at once, with what it had said"):
        assert texts(told["stop"]) == ["One "]
        assert told["stop"]["messages"][-1]["metadata"]["turnwire"]["outcome"] == "stopped"
    with subtests.test("a second reader sees the whole answer once"):
        assert texts(told["resume"]["before"]) == ["The first half"]
        for reader in (told["resume"], told["resume"]["first"]):
            assert texts(reader) == ["The first half and the second."]
            _check_settled(reader, held["resume"], package, dialect)
    with subtests.test("an answer that is made again takes the place of the first"):
        (again,) = texts(told["regenerate"])
        assert again == "I have read 1 messages."
        assert told["regenerate"]["messages"][-1]["id"] != told["regenerate"]["first"]["messages"][-1]["id"]
    if "approve" in told:
        with subtests.test("what people answer goes on with the same message"):
            before, late = told["approve"]["before"], told["approve"]["late"]
            states = {part["toolCallId"]: part["state"] for part in _tools(before)}
            assert states == {"c": "output-available", "a": "approval-requested", "b": "approval-requested"}
            assert texts(told["approve"]) == texts(late) == ["May I? |Paid, but not run: too loud."]
            states = {part["toolCallId"]: part["state"] for part in _tools(told["approve"])}
            assert states == {"c": "output-available", "a": "output-available", "b": "output-denied"}
    with subtests.test("a rewrite breaks the body before version 7, and is shown once"):
        assert told["rewrite"]["broken"] == (dialect != "7")
        assert texts(told["rewrite"]) == ["Total: 12 in all."]


def _check_settled(told: dict[str, Any], held: dict[str, Any], package: str, dialect: str) -> None:
    assert held["turn"] is None
    failed = _outcome(held["messages"][-1]) == "failed"
    assert told["status"] == ("error" if failed else "ready")
    assert (told["error"] is not None) == failed
    shown = [plain(message, package, dialect) for message in told["messages"]]
    kept = [plain(message, package, dialect) for message in held["messages"]]
    assert shown == kept


def _check_steered(told: dict[str, Any], held: dict[str, Any], package: str, dialect: str) -> None:
    """Every message is there, whole; where it stands is where the client showed it first."""
    assert (held["turn"], told["status"], told["error"]) == (None, "ready", None)
    shown = [plain(message, package, dialect) for message in told["messages"]]
    if package in DOUBLES:
        shown = [one for at, one in enumerate(shown) if one["id"] not in {later["id"] for later in shown[at + 1 :]}]
    kept = [plain(message, package, dialect) for message in held["messages"]]
    assert sorted(shown, key=lambda one: str(one["id"])) == sorted(kept, key=lambda one: str(one["id"]))


def _tools(told: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for part in told["messages"][-1]["parts"] if "toolCallId" in part]


def _outcome(message: dict[str, Any]) -> str | None:
    about: dict[str, Any] = message.get("metadata", {}).get("turnwire", {})
    return about.get("outcome")


@pytest.mark.parametrize("dialect", ["5-strict", "7"])
async def test_the_workflow_transport_goes_on_at_any_record(
    clients: Path, server: ServerProcess, dialect: str, subtests: pytest.Subtests
) -> None:
    told = await node_clients.play(clients, "workflow.mjs", server.url, dialect)
    held = await conversations(server, told)
    turn = told["whole"]["messages"][-1]["metadata"]["turnwire"]["turn"]
    async with server.client() as client:
        records = parse_events((await client.get(f"/api/chat/{turn}/stream?startIndex=0")).content)
    whole = told.pop("whole")
    assert (whole["asked"], whole["records"], len(records)) == ([None], len(records), whole["records"])
    assert len(told) == 2 * len(records) + 3
    for name, one in told.items():
        with subtests.test(name):
            _check_settled(one, held[name], "ai7", dialect)
            assert [part["data"] for part in one["data"]] == [part["data"] for part in whole["data"]]
            assert _spoken(one) == _spoken(whole)
            _check_asked(name, one)


def _spoken(told: dict[str, Any]) -> list[Any]:
    return [message["parts"] for message in told["messages"]]


def _check_asked(name: str, told: dict[str, Any]) -> None:
    kind, _, count = name.partition("-")
    _, *cursors = map(str, told["asked"])
    if kind == "crumbs":
        assert cursors == [str(cursor) for cursor in range(1, told["records"])]
    elif int(count) >= told["records"]:
        assert cursors == []
    elif kind == "ended":
        assert cursors == [count]
    else:
        # A body that breaks may take with it what had come and was not read yet.
        assert len(cursors) == 1
        assert int(cursors[0]) <= int(count)


async def test_the_clients_take_every_form_of_their_dialect_and_no_other_would_do(clients: Path) -> None:
    records = [json.loads(c.encode(chunk)) for chunk in CHUNKS] + LATER
    offered: dict[str, list[Any]] = {}
    for package, dialect in CLIENTS[:5]:
        fit = [one for one in records if FORMS[dialect].get(one["type"]) != BREAK]
        body, _ = DIALECTS[dialect].frames(0, [json.dumps(one, separators=(",", ":")).encode() for one in fit])
        offered[package] = parse_events(body)
    assert json.loads(await node_clients.run(clients, "schema.mjs", said=json.dumps(offered).encode())) == {
        package: [] for package in offered
    }
    whole = {package: records for package, _ in CLIENTS[:5]}
    refused = json.loads(await node_clients.run(clients, "schema.mjs", said=json.dumps(whole).encode()))
    # The newest 6 passes over keys that 6.0.20 refuses, and shares its dialect.
    for package, dialect in [("ai5060", "5-strict"), ("ai5", "5"), ("ai6020", "6"), ("ai7", "7")]:
        forms = FORMS[dialect]
        changed = [
            index
            for index, one in enumerate(records)
            if isinstance(form := forms.get(one["type"], set()), str) or form & set(one)
        ]
        assert refused[package] == changed
