-- What agents and proxies have confirmed.
-- Locks: none but on what is new. Programs of schema 3 have to be stopped: they would sign by certificate authorities that
-- have been rotated.

-- `member` is the path of a SPIFFE id; `authorities` a JSON list of key ids.
CREATE TABLE acknowledgements (
    member       TEXT COLLATE "C" PRIMARY KEY,
    epoch        BIGINT NOT NULL,
    version      BIGINT NOT NULL,
    authorities  TEXT NOT NULL,
    server_chain TEXT,
    at           BIGINT NOT NULL
);
