-- Encryption at rest, background jobs, organisations on their way out.
-- Locks: SQLite's one, for milliseconds, as nothing is rewritten. Programs of schema 8 have to be stopped: they find nothing
-- where something is sealed.

-- The keys that what is stored is sealed under, each sealed itself under a master key that is not here. `master` says which
-- one; `kind` is 'data', of which the newest seals, or 'index', of which there is one.
CREATE TABLE data_keys (
    id      INTEGER PRIMARY KEY,
    org     TEXT NOT NULL,
    kind    TEXT NOT NULL,
    master  TEXT NOT NULL,
    wrapped BLOB NOT NULL,
    created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX data_keys_index ON data_keys (org) WHERE kind = 'index';
CREATE INDEX data_keys_org ON data_keys (org, created);
CREATE INDEX data_keys_master ON data_keys (master, id);

-- What is sealed of the column that is in clear otherwise; that column is then empty, or has a blind index.
ALTER TABLE users ADD COLUMN sealed BLOB;
ALTER TABLE roles ADD COLUMN sealed BLOB;
ALTER TABLE bindings ADD COLUMN sealed BLOB;
ALTER TABLE series ADD COLUMN sealed BLOB;
ALTER TABLE events ADD COLUMN sealed BLOB;
ALTER TABLE receipts ADD COLUMN sealed BLOB;

-- What is to be done, in steps; `fence` counts who has held it, `state` says how far it is. `due` and `lease` (until when
-- it is held) are times.
CREATE TABLE jobs (
    kind    TEXT NOT NULL,
    subject TEXT NOT NULL,
    state   TEXT NOT NULL DEFAULT '',
    due     INTEGER NOT NULL,
    holder  TEXT,
    lease   INTEGER NOT NULL DEFAULT 0,
    fence   INTEGER NOT NULL DEFAULT 0,
    done    INTEGER NOT NULL DEFAULT 0,
    failed  TEXT,
    created INTEGER NOT NULL,
    PRIMARY KEY (kind, subject)
) STRICT, WITHOUT ROWID;
CREATE INDEX jobs_due ON jobs (due);
-- What there is already is sealed by and by; what is over is removed every hour.
INSERT INTO jobs (kind, subject, due, created) SELECT 'seal', org, 0, 0 FROM versions;
INSERT INTO jobs (kind, subject, due, created) VALUES ('purge', '', 0, 0);

-- Since when an organisation is being deleted: from then on nothing of it changes any more.
ALTER TABLE orgs ADD COLUMN deleted INTEGER;
ALTER TABLE versions ADD COLUMN deleted INTEGER;
-- Organisations that are gone, or going: what still arrives of them is not kept.
CREATE TABLE deleted_orgs (
    org      TEXT PRIMARY KEY,
    since    INTEGER NOT NULL,
    removed  INTEGER NOT NULL DEFAULT 0,
    finished INTEGER
) STRICT, WITHOUT ROWID;

-- When a key was bound; those of before have no time.
ALTER TABLE bound_keys ADD COLUMN at INTEGER NOT NULL DEFAULT 0;
CREATE INDEX bound_keys_subject ON bound_keys (subject);
