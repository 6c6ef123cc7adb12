-- The projection of a policy to each of its clusters is a document of its own.
-- Locks: SHARE on series, for as long as its rows are read once.

-- Its subject is the cluster, and its version that of the policy's own row: `version` here says when it was made.
INSERT INTO series (kind, org, subject, version)
SELECT 'policy', c.org, c.id, s.version FROM clusters c
JOIN series s ON s.kind = 'policy' AND s.org = c.org AND s.subject = ''
WHERE c.deleted IS NULL
ON CONFLICT (kind, org, subject) DO NOTHING;

-- Those that are behind.
CREATE INDEX series_projections ON series (org, signed) WHERE kind = 'policy' AND subject <> '';
