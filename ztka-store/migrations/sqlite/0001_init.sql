-- Everything a controller keeps. Times are microseconds since 1970, UTC; '' stands for "of the installation".

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- 'epoch' is raised by a restore from backup; 'version' and 'feed' only ever grow.
INSERT INTO meta (key, value) VALUES ('epoch', 1), ('version', 1), ('feed', 0);

CREATE TABLE orgs (
    id      TEXT PRIMARY KEY,
    name    TEXT NOT NULL UNIQUE,
    created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE users (
    id       TEXT PRIMARY KEY,
    org      TEXT NOT NULL REFERENCES orgs (id),
    name     TEXT NOT NULL,
    admin    TEXT,
    disabled INTEGER,
    created  INTEGER NOT NULL,
    UNIQUE (org, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE user_groups (
    org  TEXT NOT NULL REFERENCES orgs (id),
    name TEXT NOT NULL,
    PRIMARY KEY (org, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE members (
    org        TEXT NOT NULL,
    group_name TEXT NOT NULL,
    user       TEXT NOT NULL REFERENCES users (id),
    PRIMARY KEY (org, group_name, user),
    FOREIGN KEY (org, group_name) REFERENCES user_groups (org, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX members_user ON members (user);

CREATE TABLE credentials (
    id        TEXT PRIMARY KEY,
    org       TEXT NOT NULL REFERENCES orgs (id),
    user      TEXT NOT NULL REFERENCES users (id),
    created   INTEGER NOT NULL,
    not_after INTEGER NOT NULL,
    revoked   INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX credentials_user ON credentials (user);
CREATE INDEX credentials_revoked ON credentials (org, not_after) WHERE revoked IS NOT NULL;

CREATE TABLE sessions (
    credential   TEXT PRIMARY KEY REFERENCES credentials (id),
    active_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE clusters (
    id      TEXT PRIMARY KEY,
    org     TEXT NOT NULL REFERENCES orgs (id),
    name    TEXT NOT NULL,
    labels  TEXT NOT NULL,
    created INTEGER NOT NULL,
    deleted INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX clusters_name ON clusters (org, name) WHERE deleted IS NULL;

CREATE TABLE instances (
    id        TEXT PRIMARY KEY,
    org       TEXT NOT NULL,
    cluster   TEXT NOT NULL REFERENCES clusters (id),
    not_after INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX instances_cluster ON instances (cluster, not_after);

CREATE TABLE proxies (
    id        TEXT PRIMARY KEY,
    created   INTEGER NOT NULL,
    not_after INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE roles (
    org  TEXT NOT NULL REFERENCES orgs (id),
    name TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (org, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE bindings (
    org  TEXT NOT NULL REFERENCES orgs (id),
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (org, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX bindings_role ON bindings (org, role);

-- One row per document: the version it has to say, and what was signed last.
CREATE TABLE series (
    kind    TEXT NOT NULL,
    org     TEXT NOT NULL,
    subject TEXT NOT NULL,
    version INTEGER NOT NULL,
    ends    INTEGER,
    signed  INTEGER NOT NULL DEFAULT 0,
    issued  INTEGER NOT NULL DEFAULT 0,
    feed    INTEGER NOT NULL DEFAULT 0,
    wire    BLOB,
    PRIMARY KEY (kind, org, subject)
) STRICT;
CREATE INDEX series_changed ON series (version) WHERE signed < version;
CREATE INDEX series_issued ON series (issued);
CREATE INDEX series_feed ON series (feed);
CREATE INDEX series_ends ON series (ends) WHERE ends IS NOT NULL;

INSERT INTO series (kind, org, subject, version) VALUES ('revocations', '', '', 1);

-- Certificate authorities: what is public of them, as JSON; 'hierarchy', or the id of an organisation.
CREATE TABLE authorities (
    name TEXT PRIMARY KEY,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Private keys, sealed under the master key.
CREATE TABLE private_keys (
    name   TEXT PRIMARY KEY,
    sealed BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- One-time tokens: a hash of each, and who has spent it.
CREATE TABLE tokens (
    id            TEXT PRIMARY KEY,
    secret_hash   BLOB NOT NULL,
    enrollee      TEXT NOT NULL,
    cluster       TEXT,
    created       INTEGER NOT NULL,
    expires       INTEGER NOT NULL,
    spent_key     TEXT,
    spent_subject TEXT,
    spent_at      INTEGER,
    chain         TEXT,
    used          INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_key ON tokens (spent_key) WHERE spent_key IS NOT NULL;

-- Which key belongs to which name.
CREATE TABLE bound_keys (
    key     TEXT PRIMARY KEY,
    subject TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- How far each journal of each sender has been seen.
CREATE TABLE journals (
    source  TEXT NOT NULL,
    journal TEXT NOT NULL,
    next    INTEGER NOT NULL,
    head    TEXT NOT NULL,
    PRIMARY KEY (source, journal)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    number    INTEGER PRIMARY KEY AUTOINCREMENT,
    source    TEXT NOT NULL,
    audit_id  TEXT NOT NULL,
    stage     TEXT NOT NULL,
    org       TEXT NOT NULL,
    cluster   TEXT NOT NULL,
    user      TEXT NOT NULL,
    verb      TEXT NOT NULL,
    namespace TEXT NOT NULL,
    resource  TEXT NOT NULL,
    decision  TEXT NOT NULL,
    received  INTEGER NOT NULL,
    payload   TEXT NOT NULL,
    UNIQUE (audit_id, stage, source)
) STRICT;
CREATE INDEX events_org ON events (org, number);
CREATE INDEX events_cluster ON events (org, cluster, received);

CREATE TABLE receipts (
    number  INTEGER PRIMARY KEY AUTOINCREMENT,
    cluster TEXT NOT NULL,
    time    INTEGER NOT NULL,
    payload TEXT NOT NULL
) STRICT;
CREATE INDEX receipts_time ON receipts (cluster, time);

CREATE TABLE findings (
    number  INTEGER PRIMARY KEY AUTOINCREMENT,
    org     TEXT NOT NULL,
    cluster TEXT,
    source  TEXT NOT NULL,
    at      INTEGER NOT NULL,
    body    TEXT NOT NULL
) STRICT;
CREATE INDEX findings_org ON findings (org, number);
