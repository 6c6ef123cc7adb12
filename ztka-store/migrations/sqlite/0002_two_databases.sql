-- What differs for PostgreSQL is made the same here: `user` is a word of SQL's own, and versions are counted by organisation.
-- Locks: SQLite's one, for milliseconds. A program of schema 1 does not work with it.

ALTER TABLE members RENAME COLUMN user TO user_id;
ALTER TABLE credentials RENAME COLUMN user TO user_id;
ALTER TABLE events RENAME COLUMN user TO user_name;

-- The version of each organisation ('' is the installation); whoever changes something of it raises this first.
CREATE TABLE versions (
    org     TEXT PRIMARY KEY,
    version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- No version is given out twice: each count goes on from the one that all had.
INSERT INTO versions (org, version) SELECT '', value FROM meta WHERE key = 'version';
INSERT INTO versions (org, version) SELECT id, value FROM orgs, meta WHERE key = 'version';
DELETE FROM meta WHERE key = 'version';

-- What has changed is signed in the order of its last signature: versions of two organisations say nothing of age.
DROP INDEX series_changed;
CREATE INDEX series_changed ON series (issued) WHERE signed < version;

-- The newest number of an event.
INSERT INTO meta (key, value) SELECT 'events', coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events';
