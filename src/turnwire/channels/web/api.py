"""The HTTP API: chat requests in, event streams out, and what a client asks about conversations.

Guarantee: who may read a conversation is who began it; anything else about it, also its existence, is "not found".
Source for the chat routes: the AI SDK's HTTP chat and workflow transports.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ...gateway import Gateway
from ...journal.follow import CONVERSATION
from ...sanitize import clean_text
from ...store import StoreError
from ...store.queries.conversations import (
    find_conversation,
    get_conversation,
    list_conversations,
    steered_messages,
)
from ...store.queries.jobs import ENDED, find_job
from ...store.queries.rows import Conversation, TurnRow
from ...store.queries.turns import get_turn, latest_turn, live_turns
from ...turns.admission import Admission
from .answers import error_answer, json, problem
from .auth import Gate, UserOf
from .body import BadRequest, Post, conversation_name, read_answer, read_json, read_post
from .bounds import OpenStreams, sized
from .dialects import DEFAULT, DIALECTS, Dialect
from .downloads import send_file
from .folds import Folds
from .intake import Intake
from .mounted import mounted, root_of
from .page import page_routes
from .sse import Streams, head_only
from .state import CHANNEL, conversation_messages, conversation_state, describe_turn, history

PAGE = 50
PAGE_MAX = 200
SEARCH_CHARS = 200
CURSOR_DIGITS = 15


def web_app(gateway: Gateway, *, user: UserOf | None = None) -> Starlette:
    """The ASGI app of one gateway; it can be mounted into another Starlette or FastAPI app.

    With `user`, a function or coroutine function of the request, that app says who asks: `[channels.web] auth` is not
    looked at, None or "" is answered 401, and an `HTTPException` is answered with its status and detail.
    """
    api = WebApi(gateway, user)
    watched: list[BaseRoute] = [
        Route("/healthz", api.healthz),
        Route("/readyz", api.readyz),
        Route("/metrics", _Endpoint(api, api.metrics), methods=["GET"]),
    ]
    for channel in gateway.channels.values():
        watched += channel.routes()
    if not gateway.config.channels.web.enabled:
        return Starlette(routes=watched)
    routes = [
        Route("/api/chat", _Endpoint(api, api.post, write=True, stream=True), methods=["POST"]),
        Route("/api/chat/{id}", _Endpoint(api, api.show), methods=["GET"]),
        Route("/api/chat/{id}/stream", _Endpoint(api, api.resume, stream=True), methods=["GET"]),
        Route("/api/chat/{id}/stop", _Endpoint(api, api.stop, write=True), methods=["POST"]),
        Route("/api/chat/{id}/jobs/{job}/stop", _Endpoint(api, api.stop_job, write=True), methods=["POST"]),
        Route("/api/approvals/{id}", _Endpoint(api, api.approve, write=True), methods=["POST"]),
        Route("/api/conversations", _Endpoint(api, api.conversations), methods=["GET"]),
        Route("/api/conversations/{id}/events", _Endpoint(api, api.events, stream=True), methods=["GET"]),
        Route("/files/{id}/{name}", _Endpoint(api, api.file), methods=["GET"]),
    ]
    routes += page_routes()
    return Starlette(routes=[*routes, *watched])


Handler = Callable[[Request, str], Awaitable[ASGIApp]]


class _Endpoint:
    """A raw ASGI route: authenticates, checks the origin of writes, and turns errors into answers.

    One with `stream` counts among its user's open streams until its answer has ended.
    """

    def __init__(self, api: WebApi, handler: Handler, *, write: bool = False, stream: bool = False) -> None:
        self._api = api
        self._handler = handler
        self._write = write
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        with ExitStack() as held:
            try:
                user = await self._api.gate.user_of(request)
                if self._write:
                    self._api.gate.check_origin(request.headers, request.url.scheme)
                if self._stream:
                    held.enter_context(self._api.open_streams.hold(user))
                answer = await self._handler(request, user)
            except ClientDisconnect:
                return
            except Exception as error:  # noqa: BLE001 - the one place where errors become answers
                answer = error_answer(error)
            await answer(scope, receive, send)


class WebApi:
    """The handlers; each returns the ASGI app that answers."""

    def __init__(self, gateway: Gateway, user_of: UserOf | None = None) -> None:
        self.gateway = gateway
        self.gate = Gate(gateway.config, user_of)
        self.open_streams = OpenStreams(self.gate.per_user("max_streams_per_user"))
        self._intake = Intake(gateway, self.gate.per_user("max_turns_per_user"))
        self._streams: Streams | None = None
        self._folds: Folds | None = None

    @property
    def streams(self) -> Streams:
        if self._streams is None:
            self._streams = Streams(self.gateway)
            self.gateway.on_tick(self._streams.sweep)
        return self._streams

    @property
    def folds(self) -> Folds:
        if self._folds is None:
            self._folds = Folds(self.gateway.db, self.gateway.hub)
        return self._folds

    async def post(self, request: Request, user: str) -> ASGIApp:
        """`POST /api/chat`: one message becomes one turn; the answer is the turn's stream from its first record."""
        if not self.gateway.ready:
            return problem(503, "draining", "this server takes no new work; try again")
        dialect = _dialect(request)
        post = await read_post(request, self.gateway.config.channels.web.max_body_bytes)
        if post.answers:
            conversation, turn = await self._intake.answer(post, user)
        else:
            admission = await self._intake.admit(post, user)
            conversation, turn = admission.conversation, admission.turn
            if admission.kind == "steered" or await self._waits(admission, post):
                return self._steered(request, conversation, turn, post, dialect)
        headers = _named(conversation, turn)
        if turn.trimmed_at is None:
            return await self._stream_of(turn, 0, dialect, headers)
        # A repeat that comes this late gets what is left of its turn: the fold.
        records, head = await self.folds.replay(turn)
        return self._streaming(turn, head, dialect, headers, dialect.replay(records, head - 1))

    async def _waits(self, admission: Admission, post: Post) -> bool:
        """Whether a repeat is one of a message that came while its turn runs."""
        turn = admission.turn
        if admission.kind != "duplicate" or turn.status != "running" or post.message is None:
            return False
        steered = await self.gateway.db.read(steered_messages, turn.id)
        return any(row.message_id == post.message["id"] for row, _ in steered)

    def _steered(
        self, request: Request, conversation: Conversation, turn: TurnRow, post: Post, dialect: Dialect
    ) -> ASGIApp:
        """What a message is answered with that came while `turn` runs: 202, or a stream for who can read nothing else.

        A stock chat puts what it reads of a turn where its message stands already, so the same answer may be read
        twice, but an end without one would leave what it asked unanswered.
        """
        if "application/json" in request.headers.get("accept", ""):
            about = {"turn": turn.id, "conversation": conversation.name, "status": "steered"}
            return json(about, 202, {"x-workflow-run-id": turn.id})
        headers = [*_named(conversation, turn), (b"x-turnwire-steered", b"true")]
        message_id = str(post.message["id"]) if post.message is not None else ""

        async def app(_: Scope, receive: Receive, send: Send) -> None:
            await self.streams.steered(
                receive, send, turn=turn, message_id=message_id, dialect=dialect, headers=headers
            )

        return app

    async def resume(self, request: Request, user: str) -> ASGIApp:
        """`GET /api/chat/{id}/stream`: raw records from a cursor, or the shortest replay and the tail."""
        dialect = _dialect(request)
        cursor = _cursor(request)
        name = request.path_params["id"]
        try:
            conversation, turn, named = await self._find(name, user)
        except BadRequest as error:
            # A stock page asks before its first message has made the conversation.
            if error.status == 404 and cursor is None and not name.startswith("turn_"):
                return Response(status_code=204)
            raise
        if turn is None or (cursor is None and not named and turn.status == "finished"):
            return Response(status_code=204)
        headers = _named(conversation, turn)
        if cursor is not None:
            return await self._stream_of(turn, cursor, dialect, headers)
        records, cursor = await self.folds.replay(turn)
        return self._streaming(turn, cursor, dialect, headers, dialect.replay(records, cursor - 1))

    async def _stream_of(
        self, turn: TurnRow, cursor: int, dialect: Dialect, headers: list[tuple[bytes, bytes]]
    ) -> ASGIApp:
        """The raw records of a turn from `cursor` on."""
        if cursor < 0:
            cursor = max(turn.head + cursor, 0)
            headers = [*headers, (b"x-workflow-stream-tail-index", b"%d" % (turn.head - 1))]
        if cursor > turn.head:
            return problem(
                416,
                "no_such_record",
                f"turn {turn.id} has {turn.head} records; there is none after {cursor}",
                head=turn.head,
            )
        if turn.trimmed_at is None:
            return self._streaming(turn, cursor, dialect, headers)
        return problem(410, "trimmed", f"the records of turn {turn.id} are no longer kept; read the conversation")

    def _streaming(
        self, turn: TurnRow, cursor: int, dialect: Dialect, headers: list[tuple[bytes, bytes]], before: bytes = b""
    ) -> ASGIApp:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["method"] == "HEAD":
                await head_only(send, headers)
                return
            await self.streams.turn(
                receive,
                send,
                turn=turn,
                cursor=cursor,
                dialect=dialect,
                headers=headers,
                before=before,
            )

        return app

    async def show(self, request: Request, user: str) -> ASGIApp:
        """`GET /api/chat/{conversation}`: its history, without the answer that is being given now, and that turn."""
        conversation, _, _ = await self._find(request.path_params["id"], user)
        live, jobs, rows = await self.gateway.db.read(conversation_messages, conversation.id)
        size = sum(len(row.content) for row in rows)
        return json(await sized(size, history, conversation, live, jobs, rows, root_of(request.scope)))

    async def stop(self, request: Request, user: str) -> ASGIApp:
        """`POST /api/chat/{id}/stop`: records the intent; the answer says which turn was meant."""
        # A page written after the SDK's documentation also sends the answer as it shows it.
        body = await read_json(request, self.gateway.config.channels.web.max_body_bytes)
        conversation, turn, _ = await self._find(request.path_params["id"], user)
        if body.get("turn") is not None:
            if not isinstance(body["turn"], str) or not body["turn"].startswith("turn_"):
                raise BadRequest("turn must be a turn's id")
            there, turn, _ = await self._find(body["turn"], user)
            if there.id != conversation.id:
                raise BadRequest(f"there is no turn {body['turn']!r:.80} here", status=404, code="not_found")
        if turn is None or turn.status == "finished":
            return json({"turn": turn.id if turn else None, "status": "finished" if turn else "idle"})
        after = await self.gateway.stop_turn(turn, user)
        status = "stopping" if after.status == "running" else "stopped"
        return json({"turn": turn.id, "status": status}, 202 if status == "stopping" else 200)

    async def stop_job(self, request: Request, user: str) -> ASGIApp:
        """`POST /api/chat/{id}/jobs/{job}/stop`: records the intent; the answer says how the job stands."""
        conversation, _, _ = await self._find(request.path_params["id"], user)
        name: str = request.path_params["job"]
        job = await self.gateway.db.read(find_job, name) if name.isprintable() else None
        if job is None or job.conversation_id != conversation.id:
            raise BadRequest(f"there is no background job {name!r:.80} here", status=404, code="not_found")
        if job.status in ENDED:
            return json({"job": job.id, "status": "finished"})
        after = await self.gateway.stop_job(job, user)
        if after.status == "running":
            return json({"job": job.id, "status": "stopping"}, 202)
        return json({"job": job.id, "status": "stopped" if after.status == "stopped" else "finished"})

    async def approve(self, request: Request, user: str) -> ASGIApp:
        """`POST /api/approvals/{id}`: the first answer counts; whoever answers later gets what was recorded."""
        body = await read_json(request, 16 * 1024)
        given = read_answer(request.path_params["id"], body)
        answered = await self.gateway.answer(
            given.id, channel=CHANNEL, owner=user, approved=given.approved, reason=given.reason
        )
        approval = answered.approval
        return json(
            {
                "approval": approval.id,
                "approved": bool(approval.approved),
                "reason": approval.reason,
                "by": approval.resolved_by,
                "first": answered.first,
                "conversation": answered.conversation.name,
                "turn": describe_turn(answered.turn) if answered.turn else None,
            }
        )

    async def conversations(self, request: Request, user: str) -> ASGIApp:
        """`GET /api/conversations`: the newest first, a page at a time; `search` is what the title must hold."""
        limit = _integer(request, "limit", PAGE)
        before = request.query_params.get("before")
        try:
            older_than = float(before) if before else None
        except ValueError:
            raise BadRequest("before must be the updatedAt of the last page's last entry, in seconds") from None
        search = clean_text(request.query_params.get("search", "").strip())
        if len(search) > SEARCH_CHARS:
            raise BadRequest(f"search must be {SEARCH_CHARS} characters at most")
        found = await self.gateway.db.read(
            list_conversations, CHANNEL, user, limit=min(max(limit, 1), PAGE_MAX), before=older_than, search=search
        )
        entries = [
            {"id": one.name, "title": one.title, "createdAt": one.created_at, "updatedAt": one.updated_at}
            for one in found
        ]
        return json({"conversations": entries})

    async def events(self, request: Request, user: str) -> ASGIApp:
        """`GET /api/conversations/{id}/events`: the conversation's newest state at each change."""
        conversation = await self._conversation(request.path_params["id"], user)

        async def state() -> tuple[int, bytes]:
            return await self.gateway.db.read(conversation_state, conversation.id)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["method"] == "HEAD":
                await head_only(send, ())
                return
            await self.streams.states(receive, send, key=CONVERSATION + conversation.id, state=state)

        return app

    async def file(self, request: Request, user: str) -> ASGIApp:
        """`GET /files/{id}/{name}`: a file, for its owner."""
        file_id: str = request.path_params["id"]
        file = await self.gateway.files.get(file_id) if file_id.isprintable() else None
        if file is None or file.owner != user:
            return problem(404, "not_found", "there is no such file")

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send_file(file, scope, receive, send)

        return app

    async def healthz(self, _: Request) -> Response:
        """The process lives."""
        return json({"status": "ok", "server": "turnwire"})

    async def readyz(self, _: Request) -> Response:
        """The process takes work: started, not draining, store reachable."""
        if not self.gateway.ready:
            return problem(503, "draining", "not ready")
        try:
            await self.gateway.db.read(get_turn, "")
        except StoreError as error:
            return error_answer(error)
        return json({"status": "ready"})

    async def metrics(self, _: Request, user: str) -> ASGIApp:
        """Prometheus metrics."""
        return Response(self.gateway.metrics.render(), media_type="text/plain; version=0.0.4")

    async def _find(self, name: str, user: str) -> tuple[Conversation, TurnRow | None, bool]:
        """The turn of that id, or the conversation of that name and its running, queued or newest turn."""
        if not name.startswith("turn_"):
            conversation = await self._conversation(name, user)
            live = await self.gateway.db.read(live_turns, conversation.id)
            return conversation, live[0] if live else await self.gateway.db.read(latest_turn, conversation.id), False
        turn = await self.gateway.db.read(get_turn, name) if name.isprintable() else None
        if turn is not None:
            conversation = await self.gateway.db.read(get_conversation, turn.conversation_id)
            if (conversation.channel, conversation.owner) == (CHANNEL, user):
                return conversation, turn, True
        raise BadRequest(f"there is no turn {name!r:.80}", status=404, code="not_found")

    async def _conversation(self, name: str, user: str) -> Conversation:
        found = await self.gateway.db.read(find_conversation, CHANNEL, user, conversation_name(name))
        if found is None:
            raise BadRequest(f"there is no conversation {name!r:.80}", status=404, code="not_found")
        return found


def _named(conversation: Conversation, turn: TurnRow) -> list[tuple[bytes, bytes]]:
    """The headers that say what a stream is of."""
    return [
        (b"x-workflow-run-id", turn.id.encode()),
        (b"x-turnwire-conversation", _header_value(conversation.name)),
    ]


def _header_value(name: str) -> bytes:
    """A name as a header can carry it: percent-encoded, as `decodeURIComponent` reads it."""
    return quote(name, safe=" !#$&'()*+,/:;=?@[]^`{|}").encode()


def _dialect(request: Request) -> Dialect:
    name = request.query_params.get("ui", DEFAULT)
    dialect = DIALECTS.get(name)
    if dialect is None:
        raise BadRequest(f"ui={name!r:.20} is unknown; use one of {', '.join(DIALECTS)}")
    return mounted(dialect, root_of(request.scope))


def _cursor(request: Request) -> int | None:
    """Where to resume: `startIndex` names the next record, `Last-Event-ID` the last one received."""
    if "startIndex" in request.query_params:
        return _integer(request, "startIndex", 0)
    last = request.headers.get("last-event-id", "")
    if not last:
        return None
    if not last.isdecimal() or len(last) > CURSOR_DIGITS:
        raise BadRequest("Last-Event-ID must be a number that a stream of ours gave")
    return int(last) + 1


def _integer(request: Request, name: str, default: int) -> int:
    value = request.query_params.get(name)
    if value is None:
        return default
    if len(value) > CURSOR_DIGITS:
        raise BadRequest(f"{name} is out of range")
    try:
        return int(value)
    except ValueError:
        raise BadRequest(f"{name} must be a whole number, not {value!r:.20}") from None
