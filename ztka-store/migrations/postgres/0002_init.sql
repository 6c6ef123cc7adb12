-- Everything a controller keeps, as SQLite has it at schema 2. Times are microseconds since 1970, UTC; '' stands for "of the
-- installation". Texts are compared by their bytes, as SQLite does.
-- Locks: none, everything is new.

CREATE TABLE meta (
    key   TEXT COLLATE "C" PRIMARY KEY,
    value BIGINT NOT NULL
);

-- 'epoch' is raised by a restore from backup; 'feed' and 'events' only ever grow.
INSERT INTO meta (key, value) VALUES ('epoch', 1), ('feed', 0), ('events', 0);

CREATE TABLE orgs (
    id      TEXT COLLATE "C" PRIMARY KEY,
    name    TEXT COLLATE "C" NOT NULL UNIQUE,
    created BIGINT NOT NULL
);

-- The version of each organisation ('' is the installation); whoever changes something of it raises this first, and so
-- has the organisation to itself until the transaction ends.
CREATE TABLE versions (
    org     TEXT COLLATE "C" PRIMARY KEY,
    version BIGINT NOT NULL
);
INSERT INTO versions (org, version) VALUES ('', 1);

CREATE TABLE users (
    id       TEXT COLLATE "C" PRIMARY KEY,
    org      TEXT COLLATE "C" NOT NULL REFERENCES orgs (id),
    name     TEXT COLLATE "C" NOT NULL,
    admin    TEXT,
    disabled BIGINT,
    created  BIGINT NOT NULL,
    UNIQUE (org, name)
);

CREATE TABLE user_groups (
    org  TEXT COLLATE "C" NOT NULL REFERENCES orgs (id),
    name TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (org, name)
);

CREATE TABLE members (
    org        TEXT COLLATE "C" NOT NULL,
    group_name TEXT COLLATE "C" NOT NULL,
    user_id    TEXT COLLATE "C" NOT NULL REFERENCES users (id),
    PRIMARY KEY (org, group_name, user_id),
    FOREIGN KEY (org, group_name) REFERENCES user_groups (org, name)
);
CREATE INDEX members_user ON members (user_id);

CREATE TABLE credentials (
    id        TEXT COLLATE "C" PRIMARY KEY,
    org       TEXT COLLATE "C" NOT NULL REFERENCES orgs (id),
    user_id   TEXT COLLATE "C" NOT NULL REFERENCES users (id),
    created   BIGINT NOT NULL,
    not_after BIGINT NOT NULL,
    revoked   BIGINT
);
CREATE INDEX credentials_user ON credentials (user_id);
CREATE INDEX credentials_revoked ON credentials (org, not_after) WHERE revoked IS NOT NULL;

CREATE TABLE sessions (
    credential   TEXT COLLATE "C" PRIMARY KEY REFERENCES credentials (id),
    active_until BIGINT NOT NULL
);

CREATE TABLE clusters (
    id      TEXT COLLATE "C" PRIMARY KEY,
    org     TEXT COLLATE "C" NOT NULL REFERENCES orgs (id),
    name    TEXT COLLATE "C" NOT NULL,
    labels  TEXT NOT NULL,
    created BIGINT NOT NULL,
    deleted BIGINT
);
CREATE UNIQUE INDEX clusters_name ON clusters (org, name) WHERE deleted IS NULL;

CREATE TABLE instances (
    id        TEXT COLLATE "C" PRIMARY KEY,
    org       TEXT COLLATE "C" NOT NULL,
    cluster   TEXT COLLATE "C" NOT NULL REFERENCES clusters (id),
    not_after BIGINT NOT NULL
);
CREATE INDEX instances_cluster ON instances (cluster, not_after);

CREATE TABLE proxies (
    id        TEXT COLLATE "C" PRIMARY KEY,
    created   BIGINT NOT NULL,
    not_after BIGINT
);

CREATE TABLE roles (
    org  TEXT COLLATE "C" NOT NULL REFERENCES orgs (id),
    name TEXT COLLATE "C" NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (org, name)
);

CREATE TABLE bindings (
    org  TEXT COLLATE "C" NOT NULL REFERENCES orgs (id),
    name TEXT COLLATE "C" NOT NULL,
    role TEXT COLLATE "C" NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (org, name)
);
CREATE INDEX bindings_role ON bindings (org, role);

-- One row per document: the version it has to say, and what was signed last.
CREATE TABLE series (
    kind    TEXT COLLATE "C" NOT NULL,
    org     TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    ends    BIGINT,
    signed  BIGINT NOT NULL DEFAULT 0,
    issued  BIGINT NOT NULL DEFAULT 0,
    feed    BIGINT NOT NULL DEFAULT 0,
    wire    BYTEA,
    PRIMARY KEY (kind, org, subject)
);
CREATE INDEX series_changed ON series (issued) WHERE signed < version;
CREATE INDEX series_issued ON series (issued);
CREATE INDEX series_feed ON series (feed);
CREATE INDEX series_ends ON series (ends) WHERE ends IS NOT NULL;

INSERT INTO series (kind, org, subject, version) VALUES ('revocations', '', '', 1);

-- Certificate authorities: what is public of them, as JSON; '.hierarchy', or the id of an organisation.
CREATE TABLE authorities (
    name TEXT COLLATE "C" PRIMARY KEY,
    body TEXT NOT NULL
);

-- Private keys, sealed under the master key.
CREATE TABLE private_keys (
    name   TEXT COLLATE "C" PRIMARY KEY,
    sealed BYTEA NOT NULL
);

-- One-time tokens: a hash of each, and who has spent it.
CREATE TABLE tokens (
    id            TEXT COLLATE "C" PRIMARY KEY,
    secret_hash   BYTEA NOT NULL,
    enrollee      TEXT NOT NULL,
    cluster       TEXT COLLATE "C",
    created       BIGINT NOT NULL,
    expires       BIGINT NOT NULL,
    spent_key     TEXT COLLATE "C",
    spent_subject TEXT COLLATE "C",
    spent_at      BIGINT,
    chain         TEXT,
    used          BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX tokens_key ON tokens (spent_key) WHERE spent_key IS NOT NULL;

-- Which key belongs to which name.
CREATE TABLE bound_keys (
    key     TEXT COLLATE "C" PRIMARY KEY,
    subject TEXT COLLATE "C" NOT NULL
);

-- How far each journal of each sender has been seen.
CREATE TABLE journals (
    source  TEXT COLLATE "C" NOT NULL,
    journal TEXT COLLATE "C" NOT NULL,
    next    BIGINT NOT NULL,
    head    TEXT NOT NULL,
    PRIMARY KEY (source, journal)
);

-- Numbers come from meta, so that an event is never seen before one with a smaller number.
CREATE TABLE events (
    number    BIGINT PRIMARY KEY,
    source    TEXT COLLATE "C" NOT NULL,
    audit_id  TEXT COLLATE "C" NOT NULL,
    stage     TEXT COLLATE "C" NOT NULL,
    org       TEXT COLLATE "C" NOT NULL,
    cluster   TEXT COLLATE "C" NOT NULL,
    user_name TEXT COLLATE "C" NOT NULL,
    verb      TEXT COLLATE "C" NOT NULL,
    namespace TEXT COLLATE "C" NOT NULL,
    resource  TEXT COLLATE "C" NOT NULL,
    decision  TEXT COLLATE "C" NOT NULL,
    received  BIGINT NOT NULL,
    payload   TEXT NOT NULL,
    UNIQUE (audit_id, stage, source)
);
CREATE INDEX events_org ON events (org, number);
CREATE INDEX events_cluster ON events (org, cluster, received);

CREATE TABLE receipts (
    number  BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cluster TEXT COLLATE "C" NOT NULL,
    time    BIGINT NOT NULL,
    payload TEXT NOT NULL
);
CREATE INDEX receipts_time ON receipts (cluster, time);

CREATE TABLE findings (
    number  BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org     TEXT COLLATE "C" NOT NULL,
    cluster TEXT COLLATE "C",
    source  TEXT NOT NULL,
    at      BIGINT NOT NULL,
    body    TEXT NOT NULL
);
CREATE INDEX findings_org ON findings (org, number);
