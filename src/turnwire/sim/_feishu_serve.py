"""`turnwire sim feishu`: the simulated tenant as a process of its own.

Guarantee: `ready http://HOST:PORT` is printed once requests are accepted; SIGTERM and SIGINT end the process with exit
code 0.
"""

from __future__ import annotations

import asyncio
import signal

from turnwire._cli import fail, run, say

from ._clock import JumpingClock
from .feishu import FeishuSim
from .pace import ScaledClock


def serve_feishu(
    *,
    host: str = "127.0.0.1",
    port: int = 8791,
    time_scale: float = 1.0,
    app_id: str = "cli_sim",
    secret: str = "sim-secret",  # noqa: S107 - the simulator's own, not a secret
    seed: int = 0,
) -> None:
    """Serves until the process is asked to end.

    Args:
        host, port: where it listens; port 0 lets the system choose.
        time_scale: how fast time passes: 10 makes the streaming mode last one minute.
        app_id, secret: of the app that exists from the start.
        seed: decides faults with a probability.
    """
    try:
        clock = JumpingClock(ScaledClock(time_scale))
    except ValueError as error:
        raise fail(ValueError(f"--time-scale: {error}")) from None
    sim = FeishuSim(host=host, port=port, clock=clock, seed=seed, app_id=app_id, app_secret=secret)

    async def work() -> None:
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        try:
            await sim.start()
        except OSError as error:
            reason = error.strerror or str(error)
            raise fail(ValueError(f"cannot listen on {host}:{port}: {reason}; choose another --port")) from None
        say(f"ready {sim.base_url}")
        say(f"chats: {sim.base_url}/_sim/   app_id: {app_id}   app_secret: {secret}   base_url: {sim.base_url}")
        await stopped.wait()
        await sim.stop()

    run(work)
