-- The transparency log of each organisation.
-- Locks: none that others wait for; the organisations that have events are found in an index. Programs of schema 12 have to be
-- stopped: what they store is in no log.

-- How many leaves a log has. While `backlog` is 1, events of before are still on their way in, oldest first by the job 'log',
-- and new ones wait behind them.
CREATE TABLE logs (
    org     TEXT COLLATE "C" PRIMARY KEY,
    size    BIGINT NOT NULL,
    backlog BIGINT NOT NULL
);
INSERT INTO logs (org, size, backlog) SELECT DISTINCT org, 0, 1 FROM events;
INSERT INTO jobs (kind, subject, due, created) SELECT 'log', org, 0, 0 FROM logs;

-- The tree: 32 hashes of 32 bytes beside each other, at the height of 5 * level. Those of level 0 are of leaves: `numbers` has
-- the number of the event of each in 8 bytes, and `first` the first of them.
CREATE TABLE log_tiles (
    org     TEXT COLLATE "C" NOT NULL,
    level   BIGINT NOT NULL,
    tile    BIGINT NOT NULL,
    first   BIGINT NOT NULL,
    hashes  BYTEA NOT NULL,
    numbers BYTEA NOT NULL,
    PRIMARY KEY (org, level, tile)
);
CREATE INDEX log_tiles_first ON log_tiles (org, first) WHERE level = 0;

-- Signed tree heads: of each size there is one.
CREATE TABLE log_heads (
    org       TEXT COLLATE "C" NOT NULL,
    size      BIGINT NOT NULL,
    at        BIGINT NOT NULL,
    signed    TEXT NOT NULL,
    key       TEXT COLLATE "C" NOT NULL,
    signature TEXT NOT NULL,
    PRIMARY KEY (org, size)
);

-- The certificates of the keys that have signed them, as a JSON list.
CREATE TABLE log_keys (
    key   TEXT COLLATE "C" PRIMARY KEY,
    chain TEXT NOT NULL
);
