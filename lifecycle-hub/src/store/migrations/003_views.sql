-- What people and dashboards read. These views are documented and stable; the tables behind them are not.

-- The chain of the audit: SHA-256 over the hash before and every field with its length, so that no two rows share an encoding.
CREATE FUNCTION lifecycle.audit_hash(prev bytea, id bigint, at timestamptz, VARIADIC field text[]) RETURNS bytea
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
	SELECT sha256(prev || convert_to(id::text || '@' || (extract(epoch FROM at) * 1000000)::bigint::text || '|' ||
		(SELECT string_agg(octet_length(f) || ':' || f, ',' ORDER BY n) FROM unnest(field) WITH ORDINALITY AS u (f, n)), 'UTF8'))
$$;
COMMENT ON FUNCTION lifecycle.audit_hash IS 'Hash of one row of the audit chain; see the view audit_broken';

CREATE VIEW lifecycle.audit_broken AS
	SELECT a.id, a.at, a.action, a.object
	FROM (SELECT *, lag(hash, 1, '\x'::bytea) OVER w AS should_follow, lag(id, 1, 0::bigint) OVER w + 1 AS should_be
		FROM lifecycle.audit WINDOW w AS (ORDER BY id)) a
	WHERE a.prev_hash <> a.should_follow OR a.id <> a.should_be
		OR a.hash <> lifecycle.audit_hash(a.prev_hash, a.id, a.at, a.actor, a.action, a.object, a.from_state, a.to_state, a.reason);
COMMENT ON VIEW lifecycle.audit_broken IS 'Rows of the audit that were changed, removed or inserted afterwards: empty when the record is intact';

CREATE FUNCTION lifecycle.stage_status(heartbeat_at timestamptz, expires timestamptz) RETURNS text
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
	SELECT CASE WHEN heartbeat_at IS NULL THEN 'NEVER' WHEN expires < now() THEN 'STALE' ELSE 'LIVE' END
$$;

CREATE VIEW lifecycle.stages AS
	SELECT s.name AS stage, s.place, s.promoted, s.mode, s.soak, lifecycle.stage_status(s.heartbeat_at, s.heartbeat_expires) AS status,
		s.agent_version, s.started_at AS agent_started_at, s.heartbeat_at, extract(epoch FROM now() - s.heartbeat_at)::bigint AS seconds_since_heartbeat,
		s.as_of, s.as_of_at, NOT s.heads_reached AND s.heartbeat_at IS NOT NULL AS behind, s.outbox_depth, s.lag_bytes, s.lag_ms, s.lanes_ok, s.disk_free_bytes
	FROM lifecycle.stage s WHERE NOT s.retired;
COMMENT ON VIEW lifecycle.stages IS 'One row per stage: is its agent alive, how far is it behind its sources, up to where is this view complete';
COMMENT ON COLUMN lifecycle.stages.status IS 'LIVE, STALE (three heartbeats missed) or NEVER (no heartbeat yet)';
COMMENT ON COLUMN lifecycle.stages.as_of IS 'Position of the stage''s sources up to which all of its types are in this view';
COMMENT ON COLUMN lifecycle.stages.behind IS 'True when the agent has sent records that are not in the view yet: on their way, lost or withheld';
COMMENT ON COLUMN lifecycle.stages.lag_ms IS 'How far the agent is behind its own sources, by its last heartbeat';

CREATE VIEW lifecycle.edge AS
	SELECT f.name AS from_stage, t.name AS to_stage, t.mode, t.soak
	FROM lifecycle.stage t
	JOIN LATERAL (SELECT name FROM lifecycle.stage p WHERE p.promoted AND NOT p.retired AND p.place < t.place ORDER BY p.place DESC LIMIT 1) f ON true
	WHERE t.promoted AND NOT t.retired;
COMMENT ON VIEW lifecycle.edge IS 'The promotion path: from which stage to which, automatic or by hand, with how much time in the stage before';

CREATE VIEW lifecycle.freshness AS
	SELECT s.name AS stage, o.type, o.owner, coalesce(t.rows_applied, 0) AS changes_applied, t.last_change_at, t.snapshot_state, t.snapshot_at,
		s.as_of, s.as_of_at, extract(epoch FROM now() - s.heartbeat_at)::bigint AS seconds_since_heartbeat,
		lifecycle.stage_status(s.heartbeat_at, s.heartbeat_expires) AS status, g.gap_at
	FROM lifecycle.stage s
	JOIN lifecycle.entity_owner o ON o.owner = s.name
	LEFT JOIN lifecycle.entity_type t ON t.stage = s.name AND t.type = o.type
	LEFT JOIN LATERAL (SELECT max(gap_at) AS gap_at FROM sb.stream st WHERE st.stage = s.name AND split_part(st.source, '/agent/', 2) = 'entity/' || o.type) g ON true
	WHERE NOT s.retired;
COMMENT ON VIEW lifecycle.freshness IS 'One row per entity type and the stage that owns it: how fresh is what you read here';
COMMENT ON COLUMN lifecycle.freshness.last_change_at IS 'When a change of this type last arrived';
COMMENT ON COLUMN lifecycle.freshness.as_of IS 'Position of the stage''s sources up to which all of its types are in this view';
COMMENT ON COLUMN lifecycle.freshness.status IS 'LIVE, STALE (three heartbeats missed) or NEVER (no heartbeat yet)';
COMMENT ON COLUMN lifecycle.freshness.gap_at IS 'Set while changes are known to be missing: a resync was ordered and has not ended yet';

-- by the source's catalog where it was told, and by the view itself; a column that is withheld has no shown_type
CREATE VIEW lifecycle.entity_column AS
	WITH told AS (
		SELECT d.stage, d.type, c.value ->> 'name' AS column_name, c.value ->> 'source_type' AS source_type, (c.value ->> 'key')::boolean AS key,
			nullif(c.value ->> 'comment', '') AS comment, ARRAY(SELECT jsonb_array_elements_text(c.value -> 'labels')) AS labels, c.value ->> 'class' AS class
			FROM lifecycle.entity_description d CROSS JOIN LATERAL jsonb_array_elements(d.described -> 'columns') c (value)
		UNION ALL SELECT d.stage, d.type, w.name, NULL, false, NULL, '{}', 'withheld'
			FROM lifecycle.entity_description d CROSS JOIN LATERAL jsonb_array_elements_text(d.described -> 'withheld') w (name)),
	shown AS (
		SELECT o.owner AS stage, o.type, a.attname::text AS column_name, a.attnum AS place, format_type(a.atttypid, a.atttypmod) AS shown_type
			FROM lifecycle.entity_owner o JOIN pg_namespace n ON n.nspname = o.owner JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = o.type
			JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
	SELECT stage, type, s.place::integer AS place, column_name, t.source_type, s.shown_type, t.key, t.comment, coalesce(t.labels, '{}') AS labels, t.class
	FROM shown s FULL JOIN told t USING (stage, type, column_name)
	WHERE s.column_name IS NOT NULL OR t.class = 'withheld';
COMMENT ON VIEW lifecycle.entity_column IS 'One row per column of an entity type: what it is at the source, and how it is shown here';
COMMENT ON COLUMN lifecycle.entity_column.place IS 'Position in the view of the type; NULL: it is not shown';
COMMENT ON COLUMN lifecycle.entity_column.source_type IS 'Type at the source; NULL: the source has not told';
COMMENT ON COLUMN lifecycle.entity_column.shown_type IS 'Type in this database: the source''s, of a domain its base type, text for enums and types of extensions; NULL: it is not shown';
COMMENT ON COLUMN lifecycle.entity_column.key IS 'Part of what tells rows apart';
COMMENT ON COLUMN lifecycle.entity_column.comment IS 'The source''s comment';
COMMENT ON COLUMN lifecycle.entity_column.labels IS 'The values of an enum, in their order';
COMMENT ON COLUMN lifecycle.entity_column.class IS 'public, internal, masked; withheld: it stays in its stage until somebody declares it';

CREATE VIEW lifecycle.pipeline AS
	SELECT g.name AS origin, s.name AS stage, s.place, c.artifact, a.commit_oid AS commit, a.title, a.author, c.since, c.verified_at,
		c.verified_at IS NOT NULL AS verified,
		(SELECT count(*) FROM lifecycle.artifact n WHERE n.origin = g.name AND NOT n.orphaned AND n.kind = 'merge' AND n.seq > coalesce(a.seq, 0)) AS behind_main,
		p.id AS promotion, p.state AS promotion_state, p.waiting_for, p.artifact AS promotion_artifact, h.person AS held_by, h.reason AS hold_reason
	FROM lifecycle.origin g
	CROSS JOIN lifecycle.stage s
	LEFT JOIN lifecycle.occupancy c ON c.stage = s.name AND c.origin = g.name AND c.until IS NULL
	LEFT JOIN lifecycle.artifact a ON a.id = c.artifact
	LEFT JOIN lifecycle.hold h ON h.stage = s.name AND h.origin = g.name
	LEFT JOIN LATERAL (SELECT * FROM lifecycle.promotion o WHERE o.stage = s.name AND o.origin = g.name
		AND o.state NOT IN ('SUCCEEDED', 'FAILED', 'ERRORED', 'ABORTED', 'SUPERSEDED', 'REJECTED', 'EXPIRED') ORDER BY o.seq DESC LIMIT 1) p ON true
	WHERE s.promoted AND NOT s.retired;
COMMENT ON VIEW lifecycle.pipeline IS 'One row per origin and stage of the promotion path: what is there, since when, and what comes next';
COMMENT ON COLUMN lifecycle.pipeline.behind_main IS 'How many artifacts of main came after the one that is in this stage';
COMMENT ON COLUMN lifecycle.pipeline.waiting_for IS 'What the newest open promotion into this stage waits for';

CREATE VIEW lifecycle.promotions AS
	SELECT p.id AS promotion, p.origin, p.stage, p.artifact, a.commit_oid AS commit, a.title, a.author, p.kind, p.state, p.waiting_for, p.requested_by, p.reason,
		p.attempt, p.pull_number, p.created_at, p.dispatched_at, p.applied_at, p.ended_at, coalesce(p.ended_at, now()) - p.created_at AS age,
		(SELECT string_agg(v.person, ', ' ORDER BY v.at) FROM lifecycle.approval v WHERE v.promotion = p.id AND v.decision = 'approve') AS approved_by, p.output
	FROM lifecycle.promotion p JOIN lifecycle.artifact a ON a.id = p.artifact;
COMMENT ON VIEW lifecycle.promotions IS 'Every promotion with its artifact, its state, who asked and who approved';

CREATE VIEW lifecycle.quarantined AS
	SELECT id, at, stage, topic, record_offset, class, reason, source, type, entity_key, octet_length(value) AS value_bytes FROM lifecycle.quarantine;
COMMENT ON VIEW lifecycle.quarantined IS 'Records and rows that were refused, without their content; entity_key is a hash';

CREATE VIEW lifecycle.violation AS
	SELECT q.id, q.at, q.stage, q.type, o.owner, q.reason, q.source, q.record_offset
	FROM lifecycle.quarantine q LEFT JOIN lifecycle.entity_owner o ON o.type = q.type WHERE q.class = 'not-owned';
COMMENT ON VIEW lifecycle.violation IS 'Attempts of a stage to change an entity type that it does not own; the owner''s rows were not touched';

CREATE VIEW lifecycle.event AS
	SELECT at, 'audit' AS kind, ''::text AS stage, object, action || CASE WHEN to_state <> '' THEN ': ' || from_state || ' -> ' || to_state ELSE '' END AS what, actor AS who, reason
		FROM lifecycle.audit
	UNION ALL SELECT updated_at, 'push', stage, id, 'push of ' || origin || ' ' || branch || ': ' || state, pusher, reason FROM lifecycle.push
	UNION ALL SELECT updated_at, 'dataset', from_stage, id, 'dataset ' || dataset || ' for ' || to_stage || ': ' || state, requested_by, reason FROM lifecycle.dataset_request
	UNION ALL SELECT at, 'quarantine', stage, source, class, stage || ' agent', reason FROM lifecycle.quarantine;
COMMENT ON VIEW lifecycle.event IS 'What happened, newest first when ordered by at: decisions, pushes, datasets, refused records';

CREATE VIEW lifecycle.datasets AS
	SELECT id AS request, dataset, from_stage, to_stage, requested_by, purpose, state, reason_code, reason, transfer, policy_digest, row_count, attestation, created_at, updated_at
	FROM lifecycle.dataset_request;
COMMENT ON VIEW lifecycle.datasets IS 'Requests for anonymized data: who asked for what and why, what was refused, and the attestation of what was delivered';
