-- What proxies announce of themselves, for the directory that agents and other proxies are told.
-- Locks: SQLite's one, for milliseconds. Programs of schema 6 may go on: they know nothing of it.

CREATE TABLE announcements (
    proxy   TEXT PRIMARY KEY,
    zone    TEXT,
    address TEXT,
    at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
