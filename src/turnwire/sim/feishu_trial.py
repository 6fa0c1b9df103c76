"""A simulated Feishu tenant for a person who wants to try a gateway, not for tests.

Guarantee: its ids are others than those of every trial before, so that a store which outlived an earlier tenant takes
none of its messages for repeats.
"""

from __future__ import annotations

import itertools
import secrets
import time

from .feishu import FeishuSim


def trial_tenant() -> tuple[FeishuSim, str]:
    """A tenant with one bot, one person and her own chat with it, not started yet; and that chat's id."""
    sim = FeishuSim(app_secret=secrets.token_hex(16))
    new_ids(sim)
    return sim, sim.p2p()


def new_ids(sim: FeishuSim) -> None:
    """Messages get ids that none had in any process before."""
    sim.tenant._numbers = itertools.count(time.time_ns() // 1_000)
