-- The whole of policy, its history, and attributes of users.
-- Locks: SQLite's one, for milliseconds, as nothing is rewritten.

-- What a policy has beside clusters, roles and bindings: projects, groups, denials, and one each of guardrails and settings
-- (whose name is 'default'). `body` is the object as JSON, sealed as that of a role is.
CREATE TABLE policy_objects (
    org     TEXT NOT NULL,
    kind    TEXT NOT NULL,
    name    TEXT NOT NULL,
    body    TEXT NOT NULL,
    sealed  BLOB,
    version INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (org, kind, name)
) STRICT, WITHOUT ROWID;

-- Who has changed the policy when, and how: a row for each change, with how many objects it is of and what they take in
-- `policy_edits`. The first row of an organisation has no author: it is what there was before.
CREATE TABLE policy_versions (
    org     TEXT NOT NULL,
    version INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    author  TEXT,
    act     TEXT NOT NULL,
    edits   INTEGER NOT NULL,
    size    INTEGER NOT NULL,
    PRIMARY KEY (org, version)
) STRICT, WITHOUT ROWID;

-- What an object was before the change; nothing if it was not there.
CREATE TABLE policy_edits (
    org     TEXT NOT NULL,
    version INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    name    TEXT NOT NULL,
    action  TEXT NOT NULL,
    body    TEXT,
    sealed  BLOB,
    PRIMARY KEY (org, version, kind, name)
) STRICT, WITHOUT ROWID;

-- What policy selects clusters and namespaces by.
ALTER TABLE clusters ADD COLUMN project TEXT;
ALTER TABLE clusters ADD COLUMN namespaces TEXT NOT NULL DEFAULT '{}';

-- What conditions ask of users: JSON, sealed beside.
ALTER TABLE users ADD COLUMN attributes TEXT NOT NULL DEFAULT '{}';
ALTER TABLE users ADD COLUMN sealed_attributes BLOB;
