-- What a program of schema 13 leaves behind, on either database.
UPDATE meta SET value = 3 WHERE key = 'feed';
UPDATE meta SET value = 7 WHERE key = 'events';
UPDATE versions SET version = 40 WHERE org = '';
INSERT INTO versions (org, version, compacted) VALUES ('acme', 41, 40), ('other', 12, 12);
INSERT INTO changes (org, version, kind, name, action) VALUES ('acme', 41, 'cluster', 'c2', 'deleted');
INSERT INTO orgs (id, name, created, longest_credential) VALUES ('acme', 'acme', 1700000000000000, 2592000),
    ('other', 'other', 1700000000000000, NULL);
INSERT INTO users (id, org, name, admin, disabled, created) VALUES
    ('u1', 'acme', 'alice', 'org-admin', NULL, 1700000000000000),
    ('u2', 'acme', 'bob', NULL, 1700000000000000, 1700000000000000),
    ('u3', 'other', 'alice', NULL, NULL, 1700000000000000);
INSERT INTO user_groups (org, name) VALUES ('acme', 'dev'), ('acme', 'empty');
INSERT INTO members (org, group_name, user_id) VALUES ('acme', 'dev', 'u1');
INSERT INTO credentials (id, org, user_id, created, not_after, revoked, renewed, last_used) VALUES
    ('k1', 'acme', 'u1', 1700000000000000, 1900000000000000, NULL, 1700000000000001, 1700000000000002),
    ('k2', 'acme', 'u2', 1700000000000000, 1900000000000000, 1700000000000000, NULL, NULL);
INSERT INTO sessions (credential, active_until) VALUES ('k1', 1800000000000000), ('k2', 1700000000000000);
INSERT INTO clusters (id, org, name, labels, created, deleted) VALUES
    ('c1', 'acme', 'prod', '{"stage":"prod"}', 1700000000000000, NULL),
    ('c2', 'acme', 'gone', '{}', 1700000000000000, 1700000000000001);
INSERT INTO instances (id, org, cluster, not_after, renewed) VALUES ('a1', 'acme', 'c1', 1900000000000000, 1700000000000000);
INSERT INTO proxies (id, created, not_after) VALUES ('p1', 1700000000000000, NULL);
INSERT INTO roles (org, name, body) VALUES ('acme', 'reader', '{"name":"reader","rules":[]}');
INSERT INTO bindings (org, name, role, body) VALUES ('acme', 'all', 'reader',
    '{"name":"all","subjects":[{"user":"alice"}],"role":"reader","clusters":{"all":true},"scope":"cluster"}');
INSERT INTO policy_objects (org, kind, name, body, version) VALUES ('acme', 'project', 'shop', '{"name":"shop"}', 41);
UPDATE clusters SET project = 'shop', namespaces = '{"pay":{"team":"pay"}}' WHERE id = 'c1';
UPDATE users SET attributes = '{"team":"pay"}' WHERE id = 'u1';
INSERT INTO policy_versions (org, version, at, author, act, edits, size) VALUES
    ('acme', 40, 1700000000000000, NULL, 'before', 0, 0), ('acme', 41, 1700000000000000, 'u1', 'apply', 1, 0);
INSERT INTO policy_edits (org, version, kind, name, action, body) VALUES ('acme', 41, 'project', 'shop', 'created', NULL);
INSERT INTO series (kind, org, subject, version, ends, signed, issued, feed, wire) VALUES
    ('trust', '', '', 40, NULL, 40, 1700000000000000, 1, $BYTES),
    ('policy', 'acme', '', 41, NULL, 41, 1700000000000000, 2, $BYTES),
    ('policy', 'acme', 'c1', 41, NULL, 0, 0, 0, NULL),
    ('revocations', 'acme', '', 39, NULL, 39, 1700000000000000, 3, $BYTES),
    ('session', 'acme', 'k1', 38, 1900000000000000, 0, 0, 0, NULL);
INSERT INTO authorities (name, body) VALUES ('.hierarchy', '{}');
INSERT INTO private_keys (name, sealed) VALUES ('root', $BYTES);
INSERT INTO tokens (id, secret_hash, enrollee, cluster, created, expires) VALUES
    ('t1', $BYTES, '{"kind":"agent","org":"acme","cluster":"c1"}', 'c1', 1700000000000000, 1900000000000000);
INSERT INTO bound_keys (key, subject) VALUES ('00', 'proxy/p1');
INSERT INTO journals (source, journal, next, head) VALUES ('spiffe://example.com/proxy/p1', 'j1', 2, '00');
INSERT INTO events (number, source, audit_id, stage, org, cluster, user_name, verb, namespace, resource, decision, received,
                    payload) VALUES
    (7, 'spiffe://example.com/proxy/p1', '01a1fdbb-8545-75fa-b6c7-60ebd5574e08', 'ResponseComplete', 'acme', 'c1', 'alice', 'get',
     'shop', 'pods', 'allow', 1700000000000000,
     '{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"01a1fdbb-8545-75fa-b6c7-60ebd5574e08","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/shop/pods/a","verb":"get","user":{"username":"alice"},"requestReceivedTimestamp":"2023-11-14T22:13:20.000000Z","stageTimestamp":"2023-11-14T22:13:20.000000Z"}');
INSERT INTO receipts (cluster, time, payload) VALUES ('c1', 1700000000000000, '{}');
INSERT INTO findings (org, cluster, source, at, body) VALUES ('acme', 'c1', 'agent', 1700000000000000, '{}');
INSERT INTO certificates (issuer, serial, org, subject, owner, issued, not_after) VALUES
    ('aa', '1f', 'acme', 'org/acme/user/u1/credential/k1', 'k1', 1700000000000000, 1900000000000000);
INSERT INTO revocations (org, kind, name, since, ends) VALUES ('acme', 'serial', '1f', 1700000000000000, 1900000000000000),
    ('', 'org', 'other', 1700000000000000, NULL);
INSERT INTO crls (issuer, number, entries, this_update, next_update, der) VALUES
    ('aa', 3, '00', 1700000000000000, 1700086400000000, $BYTES);
INSERT INTO acknowledgements (member, epoch, version, authorities, at) VALUES ('proxy/p1', 1, 40, '["00"]', 1700000000000000);
INSERT INTO announcements (proxy, zone, address, peers, at) VALUES ('p1', 'eu-1a', NULL, '10.0.0.7:8444', 1700000000000000);
INSERT INTO recordings (id, org, source, started, at, chunks, bytes, head, last, body) VALUES
    ('01a1fdbb-8545-75fa-b6c7-60ebd5574e08', 'acme', 'spiffe://example.com/proxy/p1', 1700000000000000, 1700000000000001, 1, 4,
     '0000000000000000000000000000000000000000000000000000000000000000', NULL, '{}');
INSERT INTO recording_chunks (recording, number, org, body) VALUES ('01a1fdbb-8545-75fa-b6c7-60ebd5574e08', 0, 'acme', $BYTES);
INSERT INTO logs (org, size, backlog) VALUES ('acme', 1, 0);
INSERT INTO log_tiles (org, level, tile, first, hashes, numbers) VALUES ('acme', 0, 0, 7, $BYTES, $BYTES);
INSERT INTO log_heads (org, size, at, signed, key, signature) VALUES ('acme', 1, 1700000000000000, '{}', '00', 'AA==');
INSERT INTO log_keys (key, chain) VALUES ('00', '[]');
