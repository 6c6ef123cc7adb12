-- Recordings of sessions.
-- Locks: SQLite's one, for milliseconds, as nothing is rewritten.

-- A recording: the Audit-ID of its request. `body` is what it is of as JSON, sealed as a role is; `head` the hash of the last
-- chunk, `at` when that was closed, `state` how it has ended or 'running'.
CREATE TABLE recordings (
    id      TEXT NOT NULL PRIMARY KEY,
    org     TEXT NOT NULL,
    source  TEXT NOT NULL,
    started INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    chunks  INTEGER NOT NULL,
    bytes   INTEGER NOT NULL,
    head    TEXT NOT NULL,
    last    TEXT,
    body    TEXT NOT NULL,
    sealed  BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX recordings_of_org ON recordings (org, started, id, bytes);
CREATE INDEX recordings_by_age ON recordings (at);

-- Its chunks as they were brought.
CREATE TABLE recording_chunks (
    recording TEXT NOT NULL,
    number    INTEGER NOT NULL,
    org       TEXT NOT NULL,
    body      BLOB,
    sealed    BLOB,
    PRIMARY KEY (recording, number)
) STRICT;
CREATE INDEX recording_chunks_of_org ON recording_chunks (org, recording, number);
