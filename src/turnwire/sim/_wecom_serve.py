"""`turnwire sim wecom`: the simulated WeCom as a process of its own.

Guarantee: `ready http://HOST:PORT` is printed once requests are accepted; SIGTERM and SIGINT end the process with exit
code 0. What people say has other ids than in every process before, so that a gateway which kept its store takes nothing
for a repeat.
"""

from __future__ import annotations

from ._clock import JumpingClock
from ._serve import scaled_clock, serve
from .wecom import Switches, WecomSim
from .wecom_trial import new_ids


def serve_wecom(
    *,
    host: str = "127.0.0.1",
    port: int = 8792,
    time_scale: float = 1.0,
    bot_id: str = "bot_sim",
    secret: str = "sim-secret",  # noqa: S107 - the simulator's own, not a secret
    latency: float = 0.25,
    seed: int = 0,
) -> None:
    """Serves until the process is asked to end.

    Args:
        host, port: where it listens; port 0 lets the system choose.
        time_scale: how fast time passes: 10 makes a stream expire after one minute.
        bot_id, secret: of the bot that exists from the start.
        latency: seconds that each frame takes; a quarter is what was measured on the platform.
        seed: decides faults with a probability.
    """
    clock = JumpingClock(scaled_clock(time_scale))
    switches = switches_for(time_scale, latency)
    sim = WecomSim(host=host, port=port, clock=clock, switches=switches, seed=seed, bot_id=bot_id, secret=secret)
    new_ids(sim)
    serve(sim, host, port, url=lambda: sim.base_url, hint=lambda: _hint(sim))


def switches_for(time_scale: float, latency: float) -> Switches:
    """How it decides what the documents leave open. Clients ping by their own clock, however fast time passes here."""
    ping_timeout = Switches().ping_timeout * time_scale
    return Switches(latency=latency, chunk_latency=latency, ping_timeout=ping_timeout)


def _hint(sim: WecomSim) -> str:
    return f"chats: {sim.base_url}/_sim/   ws_url: {sim.ws_url}   bot_id: {sim.bot_id}   secret: {sim.secret}"
