-- Certificates by serial number, revocations by name, CRLs; renewals and uses of credentials.
-- Locks: SQLite's one, for milliseconds.

-- How long credentials of an organisation may last, in seconds.
ALTER TABLE orgs ADD COLUMN longest_credential INTEGER;

ALTER TABLE credentials ADD COLUMN renewed INTEGER;
ALTER TABLE credentials ADD COLUMN last_used INTEGER;

-- When the newest certificate was issued.
ALTER TABLE instances ADD COLUMN renewed INTEGER;
ALTER TABLE proxies ADD COLUMN renewed INTEGER;

-- Every certificate that is out, until it has expired; those of before are known by name only. `subject` is the path of its
-- SPIFFE id, or empty where it has DNS names; `owner` is the part of it that is revoked as a whole: a credential, an agent,
-- a proxy.
CREATE TABLE certificates (
    issuer    TEXT NOT NULL,
    serial    TEXT NOT NULL,
    org       TEXT NOT NULL,
    subject   TEXT NOT NULL,
    owner     TEXT NOT NULL,
    issued    INTEGER NOT NULL,
    not_after INTEGER NOT NULL,
    PRIMARY KEY (issuer, serial)
) STRICT, WITHOUT ROWID;
CREATE INDEX certificates_serial ON certificates (serial);
CREATE INDEX certificates_owner ON certificates (owner);
CREATE INDEX certificates_ends ON certificates (not_after);

-- What is revoked beside credentials, disabled users and agents of deleted clusters. `ends` is when the last certificate that
-- it is about expires; an organisation has none.
CREATE TABLE revocations (
    org   TEXT NOT NULL,
    kind  TEXT NOT NULL,
    name  TEXT NOT NULL,
    since INTEGER NOT NULL,
    ends  INTEGER,
    PRIMARY KEY (org, kind, name)
) STRICT, WITHOUT ROWID;

-- The newest CRL of each certificate authority; `entries` is a hash of what it lists.
CREATE TABLE crls (
    issuer      TEXT PRIMARY KEY,
    number      INTEGER NOT NULL,
    entries     TEXT NOT NULL,
    this_update INTEGER NOT NULL,
    next_update INTEGER NOT NULL,
    der         BLOB NOT NULL
) STRICT, WITHOUT ROWID;
