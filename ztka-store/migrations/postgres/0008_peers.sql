-- Where each proxy takes what other proxies pass on to it.
-- Locks: `announcements`, for milliseconds. Programs of schema 7 may go on: what they write leaves it empty for a while.

ALTER TABLE announcements ADD COLUMN peers TEXT;
