-- The change feed, and the version of each resource.
-- Locks: ACCESS EXCLUSIVE on the altered tables, for milliseconds, since a constant default rewrites nothing; `versions` has
-- a row per organisation. The index locks writers of credentials out while it is built (a second per million). Programs of
-- schema 2 have to be stopped: they would change something without saying what, and leave a gap in the feed.

-- Changes up to here are not kept (any more).
ALTER TABLE versions ADD COLUMN compacted BIGINT NOT NULL DEFAULT 0;
UPDATE versions SET compacted = version;

-- What each version of an organisation has that the one before had not; without gaps after `compacted`.
CREATE TABLE changes (
    org     TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    kind    TEXT COLLATE "C" NOT NULL,
    name    TEXT COLLATE "C" NOT NULL,
    action  TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (org, version)
);

-- The version of the organisation that has changed the resource last; 0 was before this schema.
ALTER TABLE orgs ADD COLUMN version BIGINT NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN version BIGINT NOT NULL DEFAULT 0;
ALTER TABLE user_groups ADD COLUMN version BIGINT NOT NULL DEFAULT 0;
ALTER TABLE credentials ADD COLUMN version BIGINT NOT NULL DEFAULT 0;
ALTER TABLE clusters ADD COLUMN version BIGINT NOT NULL DEFAULT 0;
ALTER TABLE roles ADD COLUMN version BIGINT NOT NULL DEFAULT 0;
ALTER TABLE bindings ADD COLUMN version BIGINT NOT NULL DEFAULT 0;
ALTER TABLE proxies ADD COLUMN version BIGINT NOT NULL DEFAULT 0;

CREATE INDEX credentials_org ON credentials (org);
