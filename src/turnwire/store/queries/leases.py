"""Leases: what only one process may hold at a time, such as a connection of which a platform allows one.

Guarantee: at most one owner holds a name until its lease ends; each new owner has a higher epoch.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Select, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from ..schema import leases, store_now

_MAKE: dict[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}


def take_lease(conn: Connection, name: str, owner: str, lease_s: float, *, alone: bool) -> int | None:
    """Makes `owner` the holder of `name` for `lease_s` seconds; returns the epoch, None while somebody else holds it.

    Args:
        alone: no other process is on the store, so that another holder has died.
    """
    conn.execute(
        _MAKE[conn.dialect.name](leases).values(name=name, epoch=0).on_conflict_do_nothing(index_elements=["name"])
    )
    free = [leases.c.owner.is_(None), leases.c.owner == owner, leases.c.lease_until < store_now()]
    taken = conn.execute(
        update(leases)
        .where(leases.c.name == name, *([] if alone else [or_(*free)]))
        .values(owner=owner, epoch=leases.c.epoch + 1, lease_until=store_now() + lease_s)
        .returning(leases.c.epoch)
    ).one_or_none()
    return None if taken is None else int(taken[0])


def renew_lease(conn: Connection, name: str, epoch: int, lease_s: float) -> bool:
    """Holds `name` for `lease_s` more seconds; False if it is somebody else's now."""
    changed = conn.execute(
        update(leases)
        .where(leases.c.name == name, leases.c.epoch == epoch, leases.c.owner.is_not(None))
        .values(lease_until=store_now() + lease_s)
    )
    return bool(changed.rowcount)


def give_lease(conn: Connection, name: str, epoch: int) -> None:
    """Lets `name` go; whoever asks next holds it."""
    conn.execute(
        update(leases).where(leases.c.name == name, leases.c.epoch == epoch).values(owner=None, lease_until=None)
    )


def lease_owner(conn: Connection, name: str) -> str | None:
    """Who holds `name` now."""
    owner: str | None = conn.execute(owner_query(name)).scalar_one_or_none()
    return owner


def owner_query(name: str) -> Select[Any]:
    """Asks for the same, for who looks at a store without opening it."""
    return select(leases.c.owner).where(leases.c.name == name, leases.c.lease_until >= store_now())
