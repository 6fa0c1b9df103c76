"""Files: what is stored, under which name, and whose content it is."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, delete, insert, select, text

from ..schema import files, store_now
from .rows import Record


class FileRow(Record, frozen=True):
    id: str
    owner: str
    conversation_id: str | None
    sha256: str
    name: str
    media_type: str
    size: int
    created_at: float


def add_file(
    conn: Connection,
    file_id: str,
    *,
    owner: str,
    conversation_id: str | None,
    sha256: str,
    name: str,
    media_type: str,
    size: int,
) -> FileRow:
    """Adds one file; its content (`size` bytes) is already stored under `sha256`."""
    row = conn.execute(
        insert(files)
        .values(
            id=file_id,
            owner=owner,
            conversation_id=conversation_id,
            sha256=sha256,
            name=name,
            media_type=media_type,
            size=size,
            created_at=store_now(),
        )
        .returning(*FileRow.columns(files))
    ).one()
    return FileRow.of(row)


def get_file(conn: Connection, file_id: str) -> FileRow | None:
    """The file with that id, or None."""
    row = conn.execute(select(*FileRow.columns(files)).where(files.c.id == file_id)).one_or_none()
    return FileRow.of(row) if row else None


def get_files(conn: Connection, file_ids: Collection[str]) -> dict[str, FileRow]:
    """The files with those ids, by id; an unknown id is left out."""
    rows = conn.execute(select(*FileRow.columns(files)).where(files.c.id.in_(file_ids)))
    return {row.id: FileRow.of(row) for row in rows}


def remove_files(conn: Connection, file_ids: Collection[str]) -> None:
    """Removes the files with those ids; their content is not touched, for others may hold it too."""
    conn.execute(delete(files).where(files.c.id.in_(file_ids)))


def referenced_content(conn: Connection, sha256s: Collection[str]) -> set[str]:
    """Those of `sha256s` that a file still refers to."""
    return set(conn.scalars(select(files.c.sha256).where(files.c.sha256.in_(sha256s)).distinct()))


def hold_files(conn: Connection) -> None:
    """No file is added by anyone until this transaction ends.

    SQLite needs nothing for it: its writing transactions run one after another.
    """
    if conn.dialect.name == "postgresql":
        conn.execute(text("LOCK TABLE files IN SHARE ROW EXCLUSIVE MODE"))
