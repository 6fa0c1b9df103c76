"""From a checked post to its turn.

Guarantee: a post that is a repeat, or is refused, leaves no file behind; a user has no more turns running here than
the configuration says.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import msgspec

from ...gateway import Gateway
from ...ids import new_id
from ...store.queries.rows import Conversation, TurnRow
from ...turns.admission import Admission, Inbound, Refused
from ...turns.commands import Command, parse_command
from .body import Post, Upload, check_files, store_files
from .bounds import RunningTurns
from .state import CHANNEL, foreseen


class Intake:
    """Admits the posts of one gateway's users, each of whom may have `max_turns` running here; 0 for any number."""

    def __init__(self, gateway: Gateway, max_turns: int) -> None:
        self._gateway = gateway
        self._running = RunningTurns(max_turns, self._runs_in)
        gateway.on_tick(self._running.sweep)

    async def admit(self, post: Post, user: str) -> Admission:
        """Admits a post of `user`. Raises `BadRequest`, `Denied` and `Refused`; nothing of it is kept then."""
        gateway = self._gateway
        name = post.conversation or new_id("chat", gateway.clock)
        message, uploads = post.message, list[Upload]()
        if message is not None:
            # Whoever posted it can then be told what becomes of it.
            message.setdefault("id", new_id("msg", gateway.clock))
            message, uploads = await check_files(message, gateway.files, user)
        command = parse_command(post.text)
        if uploads or (command is None and self._running.full(user, name)):
            policy = gateway.config.turns.policy if command is None else "queue"
            repeat = await gateway.db.read(foreseen, user, name, post.key, policy=policy, edits=post.target is not None)
            if repeat is not None:
                return repeat
        with self._running.enter(user, name) if command is None else nullcontext():
            admission = await self._submit(post, user, name, message, uploads, command)
            self._running.admitted(user, name, admission.conversation.id)
        return admission

    async def answer(self, post: Post, user: str) -> tuple[Conversation, TurnRow]:
        """Takes the answers of a post to the approvals that its last message asks for; returns the turn that goes on.

        Raises `Refused` when there is no such approval, or others of the same turn are still open.
        """
        for given in post.answers:
            answered = await self._gateway.answer(
                given.id, channel=CHANNEL, owner=user, approved=given.approved, reason=given.reason
            )
        if answered.turn is None:
            raise Refused(
                "not_going_on",
                "no turn goes on with this message: other approvals of it are open, or it was "
                "superseded or expired; read the conversation",
            )
        return answered.conversation, answered.turn

    async def _submit(
        self,
        post: Post,
        user: str,
        name: str,
        message: dict[str, Any] | None,
        uploads: list[Upload],
        command: Command | None,
    ) -> Admission:
        files, stored = self._gateway.files, list[str]()
        if message is not None:
            message, stored = await store_files(message, uploads, files, user)
        try:
            admission = await self._gateway.submit(self._inbound(post, user, name, message, command))
        except Refused:
            await files.discard(stored)
            raise
        if admission.kind == "duplicate":
            await files.discard(stored)
        return admission

    def _inbound(
        self, post: Post, user: str, name: str, message: dict[str, Any] | None, command: Command | None
    ) -> Inbound:
        clock = self._gateway.clock
        message_id, content, title = "", None, ""
        if message is not None:
            message_id = message["id"]
            content = msgspec.json.encode({"id": message_id, **message})
            title = post.text.strip().partition("\n")[0]
        return Inbound(
            channel=CHANNEL,
            owner=user,
            conversation=name,
            key=post.key or new_id("once", clock),
            message=content,
            message_id=message_id,
            title=title,
            trigger=post.trigger,
            target=post.target,
            command=command,
            policy=self._gateway.config.turns.policy,
            metadata=post.metadata,
            conversation_id=new_id("conv", clock),
            turn_id=new_id("turn", clock),
            answer_id=new_id("msg", clock),
        )

    def _runs_in(self, conversation_id: str) -> bool:
        return self._gateway.supervisor.runs_in(conversation_id)
