-- The change feed, and the version of each resource.
-- Locks: SQLite's one, for milliseconds. Programs of schema 2 have to be stopped: they would change something without
-- saying what, and leave a gap in the feed.

-- Changes up to here are not kept (any more).
ALTER TABLE versions ADD COLUMN compacted INTEGER NOT NULL DEFAULT 0;
UPDATE versions SET compacted = version;

-- What each version of an organisation has that the one before had not; without gaps after `compacted`.
CREATE TABLE changes (
    org     TEXT NOT NULL,
    version INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    name    TEXT NOT NULL,
    action  TEXT NOT NULL,
    PRIMARY KEY (org, version)
) STRICT, WITHOUT ROWID;

-- The version of the organisation that has changed the resource last; 0 was before this schema.
ALTER TABLE orgs ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE user_groups ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE credentials ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE clusters ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE roles ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE bindings ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE proxies ADD COLUMN version INTEGER NOT NULL DEFAULT 0;

CREATE INDEX credentials_org ON credentials (org);
