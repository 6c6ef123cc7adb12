-- What agents and proxies have confirmed.
-- Locks: SQLite's one, for milliseconds. Programs of schema 3 have to be stopped: they would sign by certificate authorities
-- that have been rotated.

-- `member` is the path of a SPIFFE id; `authorities` a JSON list of key ids.
CREATE TABLE acknowledgements (
    member       TEXT PRIMARY KEY,
    epoch        INTEGER NOT NULL,
    version      INTEGER NOT NULL,
    authorities  TEXT NOT NULL,
    server_chain TEXT,
    at           INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
