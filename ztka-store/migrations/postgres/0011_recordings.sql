-- Recordings of sessions.
-- Locks: none on what there is.

-- A recording: the Audit-ID of its request. `body` is what it is of as JSON, sealed as a role is; `head` the hash of the last
-- chunk, `at` when that was closed, `state` how it has ended or 'running'.
CREATE TABLE recordings (
    id      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    org     TEXT COLLATE "C" NOT NULL,
    source  TEXT COLLATE "C" NOT NULL,
    started BIGINT NOT NULL,
    at      BIGINT NOT NULL,
    chunks  BIGINT NOT NULL,
    bytes   BIGINT NOT NULL,
    head    TEXT COLLATE "C" NOT NULL,
    last    TEXT,
    body    TEXT NOT NULL,
    sealed  BYTEA
);
CREATE INDEX recordings_of_org ON recordings (org, started, id, bytes);
CREATE INDEX recordings_by_age ON recordings (at);

-- Its chunks as they were brought.
CREATE TABLE recording_chunks (
    recording TEXT COLLATE "C" NOT NULL,
    number    BIGINT NOT NULL,
    org       TEXT COLLATE "C" NOT NULL,
    body      BYTEA,
    sealed    BYTEA,
    PRIMARY KEY (recording, number)
);
CREATE INDEX recording_chunks_of_org ON recording_chunks (org, recording, number);
