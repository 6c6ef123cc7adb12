-- What proxies announce of themselves, for the directory that agents and other proxies are told.
-- Locks: none but on what is new. Programs of schema 6 may go on: they know nothing of it.

CREATE TABLE announcements (
    proxy   TEXT COLLATE "C" PRIMARY KEY,
    zone    TEXT,
    address TEXT,
    at      BIGINT NOT NULL
);
