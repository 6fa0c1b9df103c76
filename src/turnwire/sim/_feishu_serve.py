"""`turnwire sim feishu`: the simulated tenant as a process of its own.

Guarantee: `ready http://HOST:PORT` is printed once requests are accepted; SIGTERM and SIGINT end the process with exit
code 0. What people say has other ids than in every process before, so that a gateway which kept its store takes nothing
for a repeat.
"""

from __future__ import annotations

from ._clock import JumpingClock
from ._serve import scaled_clock, serve
from .feishu import FeishuSim
from .feishu_trial import new_ids


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
    clock = JumpingClock(scaled_clock(time_scale))
    sim = FeishuSim(host=host, port=port, clock=clock, seed=seed, app_id=app_id, app_secret=secret)
    new_ids(sim)
    serve(sim, host, port, url=lambda: sim.base_url, hint=lambda: _hint(sim))


def _hint(sim: FeishuSim) -> str:
    credentials = f"app_id: {sim.app_id}   app_secret: {sim.app_secret}"
    return f"chats: {sim.base_url}/_sim/   {credentials}   base_url: {sim.base_url}"
