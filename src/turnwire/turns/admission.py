"""Admission: one inbound becomes one turn, once, in one transaction.

Guarantee: however often, late or concurrently the same inbound comes, it is one turn. The inbound, the message, the
turn and the claim on it (its epoch) are committed together or not at all; a repeat gets the turn it got the first time.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec
from sqlalchemy import Connection

from ..events import Text
from ..store.queries import conversations as q
from ..store.queries.approvals import SUPERSEDED, deny_open
from ..store.queries.deliveries import aim, show_turn
from ..store.queries.inbound import claim_inbound, find_inbound, move_inbound
from ..store.queries.rows import Conversation, MessageRow, TurnRow
from ..store.queries.turns import (
    Claim,
    claim,
    claim_next,
    create_turn,
    get_turn,
    live_turns,
    set_stop,
    steer,
    turn_of_answer,
)
from ..store.schema import ANSWER_ORD
from .commands import Command, Language, reply
from .endings import REPLACED, end_unstarted, stop_turn

Policy: TypeAlias = Literal["queue", "collect", "steer", "interrupt", "reject"]

MAX_QUEUED = 32
"""Turns of one conversation that may wait; one more is refused."""


class Refused(Exception):
    """The inbound cannot become a turn; `code` is for programs, the message for people."""

    def __init__(self, code: str, message: str, turn: TurnRow | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.turn = turn


class Inbound(msgspec.Struct, frozen=True, kw_only=True):
    """One message or action that a platform or client delivered, ready to be admitted.

    `key` names it for ever within its conversation. `message` is a UI message as JSON, None when an answer is to be
    made again. `target` is the message that is edited or answered again. With `supersedes` it denies approvals that are
    open. `reply_to` is where the answer is shown, as JSON of the channel; None where readers come for it. `user` is who
    asks, if the conversation has several people; `language` is what commands are answered in. New names (`turn_id`,
    ...) are used if a turn begins.
    """

    channel: str
    owner: str
    conversation: str
    key: str
    message: bytes | None
    message_id: str
    title: str = ""
    trigger: Literal["submit", "regenerate"] = "submit"
    target: str | None = None
    command: Command | None = None
    policy: Policy = "queue"
    supersedes: bool = True
    metadata: bytes = b"{}"
    reply_to: bytes | None = None
    user: str | None = None
    language: Language = "en"
    conversation_id: str
    turn_id: str
    answer_id: str


class Admission(msgspec.Struct, frozen=True):
    """What became of an inbound: its turn, turns to start now, turns that were asked to stop.

    `ended` are the turns that it ended without an agent, its own among them if it is a command.
    """

    kind: Literal["created", "joined", "steered", "duplicate"]
    conversation: Conversation
    turn: TurnRow
    claims: list[Claim] = []
    stopping: list[str] = []
    ended: list[TurnRow] = []


def admit(conn: Connection, inbound: Inbound, *, process: str, lease_s: float, now: float) -> Admission:
    """Admits one inbound. Raises `Refused`."""
    conversation = q.ensure_conversation(
        conn, inbound.conversation_id, inbound.channel, inbound.owner, inbound.conversation
    )
    # What has no turn yet has nothing: each statement that is not run is a way to the store less.
    known = find_inbound(conn, conversation.id, inbound.key) if conversation.turns else None
    turn = get_turn(conn, known) if known else None
    if turn is not None and (turn.superseded_by is None or inbound.target is None):
        return Admission("duplicate", conversation, turn)
    if inbound.trigger == "regenerate":
        repeated = _repeated(conn, conversation, inbound)
        if repeated is not None:
            return Admission("duplicate", conversation, repeated)
    desk = _Desk(conn, conversation, inbound, process, lease_s, now, moved=known is not None)
    return desk.admit() if inbound.command is None else desk.obey(inbound.command)


class _Desk:
    """One admission in progress. `moved`: the inbound is known; its sender asks for it again, on purpose."""

    def __init__(
        self,
        conn: Connection,
        conversation: Conversation,
        inbound: Inbound,
        process: str,
        lease_s: float,
        now: float,
        *,
        moved: bool,
    ) -> None:
        self.conn = conn
        self.conversation = conversation
        self.inbound = inbound
        self.process = process
        self.lease_s = lease_s
        self.now = now
        self.moved = moved
        self.stopping: list[str] = []
        self.ended: list[TurnRow] = []
        self.begins = conversation.turns == 0
        live = [] if self.begins else live_turns(conn, conversation.id)
        self.running = next((turn for turn in live if turn.status == "running"), None)
        self.queued = [turn for turn in live if turn.status == "queued"]

    def admit(self) -> Admission:
        inbound, conn = self.inbound, self.conn
        place = self._place()
        if self.running is not None and inbound.policy == "reject":
            raise Refused("turn_running", f"turn {self.running.id} is still running; stop it or wait", self.running)
        if place is None and inbound.policy == "collect" and self.running is not None and self.queued:
            return self._join(self.queued[0])
        # A turn that is being stopped takes nothing more.
        if place is None and inbound.policy == "steer" and self.running and not self.running.stop_requested_at:
            return self._steer(self.running)
        staying = [turn for turn in self.queued if place is None or turn.number < place[0]]
        if len(staying) >= MAX_QUEUED:
            raise Refused("queue_full", f"{MAX_QUEUED} messages are waiting in this conversation already; wait or stop")
        if place is not None:
            self._supersede(*place)
        elif self.running is not None and inbound.policy == "interrupt":
            self._stop(self.running)
        if inbound.supersedes and not self.begins:
            deny_open(conn, self.conversation.id, SUPERSEDED)
        turn = self._begin("agent", title="" if inbound.message is None else inbound.title)
        if inbound.message is not None:
            self._store_message(turn)
        if self.running is None and not self.queued:
            following: Claim | None = claim(conn, turn, self.process, self.lease_s)
        else:
            following = claim_next(conn, self.conversation.id, self.process, self.lease_s)
        if following is not None and following.turn.id == turn.id:
            turn = following.turn
        return Admission(
            "created",
            self.conversation,
            turn,
            [following] if following else [],
            self.stopping,
            self.ended,
        )

    def obey(self, command: Command) -> Admission:
        """Answers a command with a turn of its own that needs no agent and waits for nobody."""
        conn = self.conn
        place = self._place()
        if place is not None:
            self._supersede(*place)
        if command in ("stop", "new"):
            deny_open(conn, self.conversation.id, SUPERSEDED)
            for live in live_turns(conn, self.conversation.id):
                after = stop_turn(conn, live, self.inbound.owner, now=self.now)
                if after.status == "finished":
                    self.ended.append(after)
                elif after.id not in self.stopping:
                    self.stopping.append(after.id)
        turn = self._begin("new" if command == "new" else "command")
        self._store_message(turn)
        if command == "new":
            q.set_history_start(conn, self.conversation.id)
        stopped = self.running is not None or bool(self.queued)
        said = Text(reply(command, stopped=stopped, language=self.inbound.language))
        turn = end_unstarted(conn, turn, "done", None, now=self.now, say=[said])
        self.ended.append(turn)
        conversation = q.get_conversation(conn, self.conversation.id)
        return Admission("created", conversation, turn, [], self.stopping, self.ended)

    def _begin(self, kind: str, *, title: str = "") -> TurnRow:
        """The inbound's own turn, the conversation's next."""
        self.conversation = q.touch(self.conn, self.conversation.id, title=title, turns=1, target=self.inbound.reply_to)
        turn = create_turn(
            self.conn,
            turn_id=self.inbound.turn_id,
            conversation_id=self.conversation.id,
            number=self.conversation.turns - 1,
            message_id=self.inbound.answer_id,
            kind=kind,
            metadata=self.inbound.metadata,
            asked_by=self.inbound.user,
        )
        show_turn(self.conn, self.conversation, turn.id, push=self.inbound.reply_to is None)
        tie = move_inbound if self.moved else claim_inbound
        tie(self.conn, self.conversation.id, self.inbound.key, turn.id)
        return turn

    def _join(self, turn: TurnRow) -> Admission:
        claim_inbound(self.conn, self.conversation.id, self.inbound.key, turn.id)
        self._store_message(turn)
        target = self.inbound.reply_to
        conversation = q.touch(self.conn, self.conversation.id, title=self.inbound.title, target=target)
        if target is not None:
            aim(self.conn, turn.id, target)
        return Admission("joined", conversation, turn)

    def _steer(self, turn: TurnRow) -> Admission:
        """More for the agent that runs: it reads it from its inbox."""
        if len(q.steered_messages(self.conn, turn.id)) >= MAX_QUEUED:
            raise Refused("queue_full", f"{MAX_QUEUED} messages came while this turn runs; wait or stop")
        claim_inbound(self.conn, self.conversation.id, self.inbound.key, turn.id)
        self._store_message(turn, steer_key=self.inbound.key)
        steer(self.conn, turn.id)
        conversation = q.touch(self.conn, self.conversation.id, target=self.inbound.reply_to)
        return Admission("steered", conversation, turn)

    def _store_message(self, turn: TurnRow, *, steer_key: str | None = None) -> None:
        q.add_message(
            self.conn,
            turn_id=turn.id,
            conversation_id=self.conversation.id,
            turn_number=turn.number,
            message_id=self.inbound.message_id,
            content=self.inbound.message or b"null",
            steer_key=steer_key,
        )

    def _place(self) -> tuple[int, int] | None:
        """From where history is rewritten: the edited message, or what follows the one to be answered again."""
        inbound, conn, conversation = self.inbound, self.conn, self.conversation
        if inbound.trigger == "regenerate":
            named = self._named_answer()
            return (named.turn_number, named.ord if named.role == "assistant" else named.ord + 1)
        if inbound.target is None and self.begins:
            return None
        known = q.visible_message(conn, conversation.id, inbound.message_id)
        if inbound.target is None:
            self._require_free(known)
            return None
        edited = (
            known if inbound.target == inbound.message_id else q.visible_message(conn, conversation.id, inbound.target)
        )
        if edited is None or edited.role != "user":
            raise Refused("no_such_message", f"there is no message {inbound.target!r} of yours to edit here")
        place = (edited.turn_number, edited.ord)
        # What the edit hides gives its id free.
        self._require_free(known if known is not None and (known.turn_number, known.ord) < place else None)
        return place

    def _require_free(self, known: MessageRow | None) -> None:
        """An id names one message that people see, whoever said it and also while it is being said."""
        name = self.inbound.message_id
        if known is not None or turn_of_answer(self.conn, self.conversation.id, name) is not None:
            raise Refused(
                "message_exists",
                f"a message {name!r} with other content exists; use a new id, or name it as messageId to edit it",
            )

    def _named_answer(self) -> MessageRow:
        target, conn, conversation = self.inbound.target, self.conn, self.conversation
        if target is None:
            found = q.last_answer(conn, conversation.id)
            if self.running is not None and (found is None or found.turn_number < self.running.number):
                found = self._running_answer(self.running.message_id)
        else:
            found = q.visible_message(conn, conversation.id, target) or self._running_answer(target)
        if found is None:
            what = f"no message {target!r}" if target else "no answer yet"
            raise Refused("no_such_message", f"there is {what} in this conversation to answer again")
        turn = get_turn(conn, found.turn_id)
        if turn is not None and turn.kind != "agent":
            raise Refused("no_such_message", f"message {target!r} is a command or its answer; send the command again")
        return found

    def _running_answer(self, target: str) -> MessageRow | None:
        """The answer being given now, which history does not hold yet."""
        turn = self.running
        if turn is None or turn.message_id != target:
            return None
        return MessageRow(turn.id, ANSWER_ORD, turn.number, target, "assistant", b"", None)

    def _supersede(self, number: int, order: int) -> None:
        for turn in self.queued:
            if turn.number >= number:
                self.ended.append(end_unstarted(self.conn, turn, "stopped", REPLACED, now=self.now))
        if self.running is not None and self.running.number >= number:
            self._stop(self.running)
        q.supersede_from(self.conn, self.conversation.id, number, order, self.inbound.turn_id)

    def _stop(self, turn: TurnRow) -> None:
        set_stop(self.conn, turn.id, self.inbound.owner)
        self.stopping.append(turn.id)


def _repeated(conn: Connection, conversation: Conversation, inbound: Inbound) -> TurnRow | None:
    """The turn that already makes the named answer again."""
    if inbound.target is None:
        return None
    answered = turn_of_answer(conn, conversation.id, inbound.target)
    return get_turn(conn, answered.superseded_by) if answered is not None and answered.superseded_by else None
