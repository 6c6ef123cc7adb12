-- Encryption at rest, background jobs, organisations on their way out.
-- Locks: ACCESS EXCLUSIVE on the altered tables, for milliseconds: columns without a value rewrite nothing. The index keeps
-- writers out of `bound_keys` while it is built (a second per million). Programs of schema 8 have to be stopped: they find
-- nothing where something is sealed.

-- The keys that what is stored is sealed under, each sealed itself under a master key that is not here. `master` says which
-- one; `kind` is 'data', of which the newest seals, or 'index', of which there is one.
CREATE TABLE data_keys (
    id      BIGINT PRIMARY KEY,
    org     TEXT COLLATE "C" NOT NULL,
    kind    TEXT COLLATE "C" NOT NULL,
    master  TEXT COLLATE "C" NOT NULL,
    wrapped BYTEA NOT NULL,
    created BIGINT NOT NULL
);
CREATE UNIQUE INDEX data_keys_index ON data_keys (org) WHERE kind = 'index';
CREATE INDEX data_keys_org ON data_keys (org, created);
CREATE INDEX data_keys_master ON data_keys (master, id);

-- What is sealed of the column that is in clear otherwise; that column is then empty, or has a blind index.
ALTER TABLE users ADD COLUMN sealed BYTEA;
ALTER TABLE roles ADD COLUMN sealed BYTEA;
ALTER TABLE bindings ADD COLUMN sealed BYTEA;
ALTER TABLE series ADD COLUMN sealed BYTEA;
ALTER TABLE events ADD COLUMN sealed BYTEA;
ALTER TABLE receipts ADD COLUMN sealed BYTEA;

-- What is to be done, in steps; `fence` counts who has held it, `state` says how far it is. `due` and `lease` (until when
-- it is held) are times.
CREATE TABLE jobs (
    kind    TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    state   TEXT NOT NULL DEFAULT '',
    due     BIGINT NOT NULL,
    holder  TEXT COLLATE "C",
    lease   BIGINT NOT NULL DEFAULT 0,
    fence   BIGINT NOT NULL DEFAULT 0,
    done    BIGINT NOT NULL DEFAULT 0,
    failed  TEXT,
    created BIGINT NOT NULL,
    PRIMARY KEY (kind, subject)
);
CREATE INDEX jobs_due ON jobs (due);
-- What there is already is sealed by and by; what is over is removed every hour.
INSERT INTO jobs (kind, subject, due, created) SELECT 'seal', org, 0, 0 FROM versions;
INSERT INTO jobs (kind, subject, due, created) VALUES ('purge', '', 0, 0);

-- Since when an organisation is being deleted: from then on nothing of it changes any more.
ALTER TABLE orgs ADD COLUMN deleted BIGINT;
ALTER TABLE versions ADD COLUMN deleted BIGINT;
-- Organisations that are gone, or going: what still arrives of them is not kept.
CREATE TABLE deleted_orgs (
    org      TEXT COLLATE "C" PRIMARY KEY,
    since    BIGINT NOT NULL,
    removed  BIGINT NOT NULL DEFAULT 0,
    finished BIGINT
);

-- When a key was bound; those of before have no time.
ALTER TABLE bound_keys ADD COLUMN at BIGINT NOT NULL DEFAULT 0;
CREATE INDEX bound_keys_subject ON bound_keys (subject);
