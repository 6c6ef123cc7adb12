-- Tokens that are for some addresses only, or ask for approval; agents that another one of their cluster has let in.
-- Locks: ACCESS EXCLUSIVE on `tokens`, for milliseconds, since a constant default rewrites nothing; the index keeps writers out
-- while it is built, of a table that has a row per enrolment. A program of an earlier schema would let tokens in that are
-- revoked: stop it.

ALTER TABLE tokens ADD COLUMN sources TEXT NOT NULL DEFAULT '[]';
ALTER TABLE tokens ADD COLUMN approval BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tokens ADD COLUMN verdict TEXT COLLATE "C";
ALTER TABLE tokens ADD COLUMN revoked BIGINT;
CREATE INDEX tokens_enrollee ON tokens (enrollee, created);

-- Agents whose name another one of their cluster has asked for, by its certificate: those have no token of their own.
CREATE TABLE replicas (
    id      TEXT COLLATE "C" PRIMARY KEY,
    cluster TEXT COLLATE "C" NOT NULL,
    let_in  TEXT COLLATE "C" NOT NULL,
    key     TEXT COLLATE "C" NOT NULL UNIQUE,
    ends    BIGINT NOT NULL
);
CREATE INDEX replicas_cluster ON replicas (cluster, ends);
