"""Which ids and sounds were kept so far: on disk, so that memory does not grow with the source, and by shard,
so that a shard which was not finished can be taken back.
"""

import sqlite3
from pathlib import Path

from llasa.errors import BundleError, ConfigError


class Seen:
    """A set of keys with the id that each was first kept under."""

    def __init__(self, path: Path, shards: int) -> None:
        """Open or make the set and forget what belongs to shards from number `shards` on.

        Raises:
            BundleError: the file is gone or damaged, though there are shards. ConfigError: the disk is full.
        """
        self.path = path
        try:
            self._db = sqlite3.connect(path)
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS seen (key BLOB PRIMARY KEY, id TEXT, shard INT) WITHOUT ROWID"
            )
            known = self._db.execute("PRAGMA user_version").fetchone()[0]
            if known > shards:
                self._db.execute("DELETE FROM seen WHERE shard >= ?", (shards,))
        except sqlite3.OperationalError as error:
            raise self._full(error) from error
        except sqlite3.DatabaseError as error:
            raise BundleError(f"Reading '{path}': {error}. Prepare into an empty folder.") from error
        if known < shards:
            found = f"it knows {known} of {shards} shards"
            raise BundleError(f"Reading '{path}': {found}. Prepare into an empty folder.")

    def first(self, key: bytes) -> str | None:
        """Return the id that a key was kept under, if it was."""
        found = self._db.execute("SELECT id FROM seen WHERE key = ?", (key,)).fetchone()
        return found[0] if found else None

    def add(self, key: bytes, id: str, shard: int) -> None:
        """Keep a key that is not there yet."""
        try:
            self._db.execute("INSERT INTO seen VALUES (?, ?, ?)", (key, id, shard))
        except sqlite3.OperationalError as error:
            raise self._full(error) from error

    def commit(self, shards: int) -> None:
        """Make sure that all of the first `shards` shards is on disk."""
        try:
            self._db.execute(f"PRAGMA user_version = {shards:d}")
            self._db.commit()
        except sqlite3.OperationalError as error:
            raise self._full(error) from error

    def _full(self, error: sqlite3.OperationalError) -> ConfigError:
        todo = "Free some 100 bytes a row there and run the same command again"
        return ConfigError(f"Writing '{self.path}': {error}. {todo}.")

    def close(self) -> None:
        """Close the file; what was not committed is taken back."""
        self._db.close()
