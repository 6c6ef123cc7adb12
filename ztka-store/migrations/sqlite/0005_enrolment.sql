-- Tokens that are for some addresses only, or ask for approval; agents that another one of their cluster has let in.
-- Locks: SQLite's one, for milliseconds. A program of an earlier schema would let tokens in that are revoked: stop it.

ALTER TABLE tokens ADD COLUMN sources TEXT NOT NULL DEFAULT '[]';
ALTER TABLE tokens ADD COLUMN approval INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tokens ADD COLUMN verdict TEXT;
ALTER TABLE tokens ADD COLUMN revoked INTEGER;
CREATE INDEX tokens_enrollee ON tokens (enrollee, created);

-- Agents whose name another one of their cluster has asked for, by its certificate: those have no token of their own.
CREATE TABLE replicas (
    id      TEXT PRIMARY KEY,
    cluster TEXT NOT NULL,
    let_in  TEXT NOT NULL,
    key     TEXT NOT NULL UNIQUE,
    ends    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX replicas_cluster ON replicas (cluster, ends);
