"""A simulated WeCom for a person who wants to try a gateway, not for tests.

Guarantee: its ids are others than those of every trial before, so that a store which outlived an earlier platform takes
none of its messages for repeats, and none of its people for those of this one.
"""

from __future__ import annotations

import itertools
import secrets
import time

from .wecom import Switches, WecomSim

LATENCY_S = 0.25
"""What each frame takes; it was measured on the platform."""


def trial_platform() -> tuple[WecomSim, str]:
    """A platform with one bot, one person, her own chat with it and a group, not started yet; and her chat's key.

    What she says before a gateway is connected is delivered to it then.
    """
    own = secrets.token_hex(4)
    switches = Switches(gap="deliver", latency=LATENCY_S, chunk_latency=LATENCY_S)
    sim = WecomSim(switches=switches, bot_id=f"bot_{own}", secret=secrets.token_hex(16))
    sim.platform._numbers = itertools.count(time.time_ns() // 1_000)
    sim.platform.chats.clear()
    person = f"alice_{own}"
    sim.platform.user(person, "Alice")
    chat = sim.single(person)
    sim.add_group(f"wr_{own}", "Sim group", members=[person], bots=[sim.bot_id])
    return sim, chat
