-- The whole of policy, its history, and attributes of users.
-- Locks: ACCESS EXCLUSIVE on clusters and users, for milliseconds: columns with a constant default rewrite nothing.

-- What a policy has beside clusters, roles and bindings: projects, groups, denials, and one each of guardrails and settings
-- (whose name is 'default'). `body` is the object as JSON, sealed as that of a role is.
CREATE TABLE policy_objects (
    org     TEXT COLLATE "C" NOT NULL,
    kind    TEXT COLLATE "C" NOT NULL,
    name    TEXT COLLATE "C" NOT NULL,
    body    TEXT NOT NULL,
    sealed  BYTEA,
    version BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (org, kind, name)
);

-- Who has changed the policy when, and how: a row for each change, with how many objects it is of and what they take in
-- `policy_edits`. The first row of an organisation has no author: it is what there was before.
CREATE TABLE policy_versions (
    org     TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    at      BIGINT NOT NULL,
    author  TEXT COLLATE "C",
    act     TEXT NOT NULL,
    edits   BIGINT NOT NULL,
    size    BIGINT NOT NULL,
    PRIMARY KEY (org, version)
);

-- What an object was before the change; nothing if it was not there.
CREATE TABLE policy_edits (
    org     TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    kind    TEXT COLLATE "C" NOT NULL,
    name    TEXT COLLATE "C" NOT NULL,
    action  TEXT COLLATE "C" NOT NULL,
    body    TEXT,
    sealed  BYTEA,
    PRIMARY KEY (org, version, kind, name)
);

-- What policy selects clusters and namespaces by.
ALTER TABLE clusters ADD COLUMN project TEXT COLLATE "C";
ALTER TABLE clusters ADD COLUMN namespaces TEXT NOT NULL DEFAULT '{}';

-- What conditions ask of users: JSON, sealed beside.
ALTER TABLE users ADD COLUMN attributes TEXT NOT NULL DEFAULT '{}';
ALTER TABLE users ADD COLUMN sealed_attributes BYTEA;
