"""The gateway: every part put together, started in order, drained and stopped in the reverse one.

Guarantee: after `start`, whatever an earlier process left behind is ended or moves on; after `stop`, every turn of this
process has its end or can be taken over by the next.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from .channels import Channel
from .channels.load import channels_of
from .clock import Clock, SystemClock, sleep
from .config import Config
from .delivery.couriers import Couriers
from .delivery.pacing import pacer_for
from .delivery.receipts import FileReceipts
from .files import FileStore
from .ids import new_id
from .journal import Hub, Journal
from .journal.follow import CONVERSATION, Follower
from .journal.relay import Relay, open_relay
from .journal.writer import FLUSH_S
from .metrics import Metrics
from .store import Database, StoreError, open_database
from .store.queries.conversations import get_conversation
from .store.queries.rows import OperationRow, TurnRow
from .turns.admission import Admission, Inbound
from .turns.approvals import Answer, Answered
from .turns.jobs import JOB, Jobs
from .turns.pump import Agent
from .turns.reaper import Reaper
from .turns.requests import Requests
from .turns.runner import Limits
from .turns.supervisor import Supervisor
from .turns.watchdog import Watchdog

_log = structlog.get_logger(__name__)

SETTLE_S = 2.0
"""Seconds that couriers have at least to show the ends of turns when the process stops."""
TICK_S = 10.0
"""Seconds between two heartbeats to silent readers."""
FOLLOW_S = 0.5
FOLLOW_RELAYED_S = 5.0


class Gateway:
    """One process of Turnwire.

    Args:
        config: see `load_config`.
        agent: an async generator function over a `Turn`.
        clock: what time it is.
        flush_s: seconds between two commits of a busy journal.
        channels: the platforms it speaks on, by default those of the configuration.

    Use it as an async context manager, or call `start` and `stop`.
    """

    def __init__(
        self,
        config: Config,
        agent: Agent,
        *,
        clock: Clock | None = None,
        flush_s: float = FLUSH_S,
        channels: Sequence[Channel] | None = None,
    ) -> None:
        self._flush_s = flush_s
        self.config = config
        self.clock = clock or SystemClock()
        self._pacer = pacer_for(config, self.clock)
        if channels is None:
            channels = channels_of(config, self.clock, self._pacer)
        self.channels = {channel.name: channel for channel in channels}
        self.agent = agent
        self.process = f"{socket.gethostname()}:{os.getpid()}:{new_id('p', self.clock)[-8:]}"
        self.metrics = Metrics()
        self.hub = Hub()
        self.ready = False
        self._stopping: asyncio.Task[None] | None = None
        self.db: Database
        self.files: FileStore
        self.journal: Journal
        self.supervisor: Supervisor
        self.jobs: Jobs
        self.couriers: Couriers
        self._requests: Requests
        self._reaper: Reaper
        self._follower: Follower
        self._relay: Relay | None = None
        self._watchdog: Watchdog | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._at_tick: list[Callable[[], None]] = []
        self._channels_up = asyncio.Event()

    async def start(self) -> None:
        """Opens the store, ends what was left behind, and is ready for work.

        Raises `StoreError` when the store cannot be opened; `StoreInUse` when another process serves it.
        """
        config = self.config
        self.db = await open_database(config.store.url, durability=config.store.durability)
        try:
            await asyncio.to_thread(_check_folder, Path(config.store.files))
            self._relay = await open_relay(
                config.relay.url,
                process=self.process,
                hub=self.hub,
                clock=self.clock,
                stop=self._stop_here,
                told=self._changed_elsewhere,
                poke=self.look,
            )
        except BaseException:
            await self.db.close()
            raise
        self._start_parts()
        try:
            await self._reaper.start()
        except BaseException:
            hurry = asyncio.Event()
            hurry.set()
            await self.stop(hurry=hurry)
            raise
        self.jobs.start()
        try:
            for channel in self.channels.values():
                await channel.start(self)
        except BaseException:
            hurry = asyncio.Event()
            hurry.set()
            await self.stop(hurry=hurry)
            raise
        self._channels_up.set()
        self.couriers.start()
        self.ready = True

    def _start_parts(self) -> None:
        config, clock = self.config, self.clock
        self.files = FileStore(Path(config.store.files), self.db)
        self.journal = Journal(
            self.db,
            self.hub,
            clock,
            flush_s=self._flush_s,
            lease_s=config.turns.lease_s,
            committed=self._relay.publish if self._relay else None,
        )
        self.supervisor = Supervisor(
            process=self.process,
            db=self.db,
            journal=self.journal,
            hub=self.hub,
            files=self.files,
            clock=clock,
            agent=self.agent,
            limits=Limits(
                idle_timeout_s=config.turns.idle_timeout_s,
                tool_timeout_s=config.turns.tool_timeout_s,
                max_turn_s=config.turns.max_turn_s,
                max_answer_bytes=config.turns.max_answer_bytes,
                approval_timeout_s=config.turns.approval_timeout_s,
            ),
            lease_s=config.turns.lease_s,
            metrics=self.metrics,
            changed=self.changed,
        )
        self._follower = Follower(self.db, self.hub, clock, every_s=self._follow_s)
        self._reaper = Reaper(
            self.supervisor,
            db=self.db,
            hub=self.hub,
            clock=clock,
            alone=config.store.url.startswith("sqlite"),
            retention_s=config.store.retention_h * 3600.0,
            files=self.files,
            changed=self.changed,
        )
        self.jobs = Jobs(
            process=self.process,
            db=self.db,
            clock=clock,
            lease_s=config.turns.lease_s,
            alone=config.store.url.startswith("sqlite"),
            report=lambda job: self.supervisor.spawn(self._requests.report(job), f"report-{job.id}", awaited=True),
            changed=self.changed,
        )
        self.supervisor.background = self.jobs.add
        self._requests = Requests(
            db=self.db,
            supervisor=self.supervisor,
            clock=clock,
            process=self.process,
            lease_s=config.turns.lease_s,
            changed=self.changed,
            look=self.look,
            signal_stop=self._signal_stop,
        )
        if self.channels:
            self.supervisor.prepare = self._prepare
            self.supervisor.receipts = FileReceipts(self.db, self.hub, clock).wait
        self.couriers = Couriers(
            self.channels,
            process=self.process,
            db=self.db,
            hub=self.hub,
            files=self.files,
            clock=clock,
            lease_s=config.turns.lease_s,
            alone=config.store.url.startswith("sqlite"),
            look=self.look,
            changed=self._tell,
        )
        self._watchdog = Watchdog(asyncio.get_running_loop(), self.metrics)
        self.journal.start()
        self.supervisor.start()
        self._follower.start()
        self._watchdog.start()
        self._ticker = asyncio.create_task(self._tick_forever(), name="turnwire-ticker")

    async def stop(self, *, hurry: asyncio.Event | None = None) -> None:
        """Refuses new work, lets live turns finish within `drain_s`, ends the rest, and closes the store.

        Setting `hurry` ends the waiting. A gateway that has stopped does not start again.
        """
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(hurry or asyncio.Event()), name="turnwire-stop")
        await asyncio.shield(self._stopping)

    async def _stop(self, hurry: asyncio.Event) -> None:
        self.ready = False
        self.supervisor.draining = True
        deadline = self.clock.monotonic() + self.config.turns.drain_s
        for channel in self.channels.values():
            await channel.stop_listening()
        await self._reaper.close()
        await self.jobs.close()
        await self.supervisor.drain(self.config.turns.drain_s, hurry)
        await self.couriers.drain(max(deadline - self.clock.monotonic(), SETTLE_S), hurry)
        await self.couriers.close()
        for channel in self.channels.values():
            await channel.close()
        await self._pacer.close()
        await self.supervisor.close()
        await self.journal.close()
        self.hub.lose_all()
        await self._follower.close()
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.wait({self._ticker})
        if self._relay is not None:
            await self._relay.close()
        if self._watchdog is not None:
            self._watchdog.close()
        await self.db.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def submit(self, inbound: Inbound) -> Admission:
        """Admits an inbound and starts what can start; cancelling the caller does not cut it in two.

        Raises `Refused` when it cannot become a turn, `StoreError` when the store cannot take it.
        """
        return await asyncio.shield(self.supervisor.spawn(self._requests.submit(inbound), "submit", awaited=True))

    async def answer(
        self, approval: str, *, channel: str, owner: str, approved: bool, reason: str | None = None, by: str = ""
    ) -> Answered:
        """Records an answer to an approval, and starts the turn that goes on once nothing else is open; cancelling the
        caller does not cut it in two.

        Args:
            channel, owner: whose conversation asked.
            by: who answers, `owner` if not said.

        Raises `Refused` when there is no such approval, `StoreError` when the store cannot take it.
        """
        given = Answer(
            approval=approval,
            channel=channel,
            owner=owner,
            approved=approved,
            reason=reason,
            by=by or owner,
            turn_id=new_id("turn", self.clock),
        )
        return await asyncio.shield(self.supervisor.spawn(self._requests.answer(given), "answer", awaited=True))

    async def stop_turn(self, turn: TurnRow, by: str) -> TurnRow:
        """Records that `by` wants the turn to stop, and tells its owner; returns the turn as it is then."""
        return await asyncio.shield(self.supervisor.spawn(self._requests.stop_turn(turn, by), "stop", awaited=True))

    async def stop_job(self, job: OperationRow, by: str) -> OperationRow:
        """Records that `by` wants the background job to stop, and tells whoever runs it; returns the job as it is then.

        One that nobody runs yet ends at once, one that has ended stays as it is. `StoreError` when the store cannot
        take it.
        """
        return await asyncio.shield(self.supervisor.spawn(self._requests.stop_job(job, by), "stop-job", awaited=True))

    def on_tick(self, callback: Callable[[], None]) -> None:
        """Calls `callback` at every heartbeat."""
        self._at_tick.append(callback)

    def look(self) -> None:
        """Something that is written elsewhere is read here now: look at how far it has come."""
        self._follower.poke()

    def changed(self, conversation_id: str) -> None:
        """A conversation changed in a way that people can see."""
        self._tell(conversation_id)
        if self.channels:
            self.couriers.poke()

    def _tell(self, conversation_id: str) -> None:
        topic = self.hub.find(CONVERSATION + conversation_id)
        if topic is not None:
            topic.wake()
        if self._relay is not None:
            self._relay.changed(conversation_id)

    async def _prepare(self, turn: TurnRow, steered: bool) -> str | None:
        # Turns that an earlier process has left are run before the channels have started.
        await self._channels_up.wait()
        conversation = await self.db.read(get_conversation, turn.conversation_id)
        channel = self.channels.get(conversation.channel)
        return await channel.prepare(turn, steered=steered) if channel is not None else None

    def _signal_stop(self, name: str, by: str) -> None:
        self._stop_here(name, by)
        if self._relay is not None:
            self._relay.stop(name, by)

    def _stop_here(self, name: str, by: str) -> None:
        """Somebody wants the turn or the job of that id to stop, wherever it runs."""
        if name.startswith(JOB):
            self.jobs.look()
        else:
            self.supervisor.stop(name, by)

    def _changed_elsewhere(self, conversation_id: str) -> None:
        """What changed may be a message for the turn that runs here, or a turn to be shown from here."""
        self.supervisor.look_into_inbox(conversation_id)
        if self.channels:
            self.couriers.poke()

    def _follow_s(self) -> float:
        return FOLLOW_S if self._relay is None or self._relay.down else FOLLOW_RELAYED_S

    async def _tick_forever(self) -> None:
        while True:
            await sleep(self.clock, TICK_S)
            self.hub.tick()
            for callback in self._at_tick:
                callback()


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StoreError(
            f"[store] files: {folder} cannot be written ({error.strerror}); name a folder that this user may write to"
        ) from error
