-- Certificates by serial number, revocations by name, CRLs; renewals and uses of credentials.
-- Locks: ACCESS EXCLUSIVE on the altered tables, for milliseconds: columns without a value rewrite nothing.

-- How long credentials of an organisation may last, in seconds.
ALTER TABLE orgs ADD COLUMN longest_credential BIGINT;

ALTER TABLE credentials ADD COLUMN renewed BIGINT;
ALTER TABLE credentials ADD COLUMN last_used BIGINT;

-- When the newest certificate was issued.
ALTER TABLE instances ADD COLUMN renewed BIGINT;
ALTER TABLE proxies ADD COLUMN renewed BIGINT;

-- Every certificate that is out, until it has expired; those of before are known by name only. `subject` is the path of its
-- SPIFFE id, or empty where it has DNS names; `owner` is the part of it that is revoked as a whole: a credential, an agent,
-- a proxy.
CREATE TABLE certificates (
    issuer    TEXT COLLATE "C" NOT NULL,
    serial    TEXT COLLATE "C" NOT NULL,
    org       TEXT COLLATE "C" NOT NULL,
    subject   TEXT COLLATE "C" NOT NULL,
    owner     TEXT COLLATE "C" NOT NULL,
    issued    BIGINT NOT NULL,
    not_after BIGINT NOT NULL,
    PRIMARY KEY (issuer, serial)
);
CREATE INDEX certificates_serial ON certificates (serial);
CREATE INDEX certificates_owner ON certificates (owner);
CREATE INDEX certificates_ends ON certificates (not_after);

-- What is revoked beside credentials, disabled users and agents of deleted clusters. `ends` is when the last certificate that
-- it is about expires; an organisation has none.
CREATE TABLE revocations (
    org   TEXT COLLATE "C" NOT NULL,
    kind  TEXT COLLATE "C" NOT NULL,
    name  TEXT COLLATE "C" NOT NULL,
    since BIGINT NOT NULL,
    ends  BIGINT,
    PRIMARY KEY (org, kind, name)
);

-- The newest CRL of each certificate authority; `entries` is a hash of what it lists.
CREATE TABLE crls (
    issuer      TEXT COLLATE "C" PRIMARY KEY,
    number      BIGINT NOT NULL,
    entries     TEXT COLLATE "C" NOT NULL,
    this_update BIGINT NOT NULL,
    next_update BIGINT NOT NULL,
    der         BYTEA NOT NULL
);
