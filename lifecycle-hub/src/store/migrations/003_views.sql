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

CREATE VIEW lifecycle.source AS
	SELECT s.name AS stage, x.value ->> 'name' AS source, x.value ->> 'kind' AS kind, x.value ->> 'state' AS state, nullif(x.value ->> 'position', '') AS position,
		(x.value ->> 'lag_bytes')::bigint AS lag_bytes, (x.value ->> 'lag_ms')::bigint AS lag_ms, nullif(x.value ->> 'slot_state', '') AS slot_state,
		ARRAY(SELECT jsonb_array_elements_text(CASE WHEN jsonb_typeof(x.value -> 'types') = 'array' THEN x.value -> 'types' ELSE '[]' END)) AS types,
		s.heartbeat_at AS told_at
	FROM lifecycle.stage s CROSS JOIN LATERAL jsonb_array_elements(CASE WHEN jsonb_typeof(s.sources) = 'array' THEN s.sources ELSE '[]' END) x (value) WHERE NOT s.retired;
COMMENT ON VIEW lifecycle.source IS 'One row per source of a stage: where its agent stands in it, by the last heartbeat';
COMMENT ON COLUMN lifecycle.source.stage IS 'The stage';
COMMENT ON COLUMN lifecycle.source.source IS 'Name in the agent''s configuration';
COMMENT ON COLUMN lifecycle.source.kind IS 'postgres, directory, api; inbox and replica while they have something to report';
COMMENT ON COLUMN lifecycle.source.state IS 'What it is doing: streaming, snapshot, paused, down, ...';
COMMENT ON COLUMN lifecycle.source.position IS 'Up to where the stage''s broker has everything, in the source''s own form';
COMMENT ON COLUMN lifecycle.source.lag_bytes IS 'Written by the source and not yet on the broker';
COMMENT ON COLUMN lifecycle.source.lag_ms IS 'Age of the oldest change that waits; 0: none';
COMMENT ON COLUMN lifecycle.source.slot_state IS 'PostgreSQL''s word on the replication slot: reserved, extended, unreserved, lost';
COMMENT ON COLUMN lifecycle.source.types IS 'The entity types that come from it';
COMMENT ON COLUMN lifecycle.source.told_at IS 'When the agent said so';

CREATE VIEW lifecycle.snapshot_progress AS
	SELECT s.name AS stage, e -> 'snapshot' ->> 'type' AS type, e ->> 'name' AS source, (e -> 'snapshot' ->> 'partial')::boolean AS partial,
		(e -> 'snapshot' ->> 'rows')::bigint AS rows, nullif((e -> 'snapshot' ->> 'estimate')::bigint, 0) AS estimated_rows,
		(e -> 'snapshot' ->> 'ranges')::integer AS ranges, (e -> 'snapshot' ->> 'ranges_done')::integer AS ranges_done,
		(e -> 'snapshot' ->> 'percent')::integer AS percent, nullif((e -> 'snapshot' ->> 'eta_s')::bigint, -1) AS eta_s, s.heartbeat_at AS at
	FROM lifecycle.stage s CROSS JOIN jsonb_array_elements(CASE WHEN jsonb_typeof(s.sources) = 'array' THEN s.sources ELSE '[]' END) e
	WHERE NOT s.retired AND e -> 'snapshot' ->> 'type' <> '';
COMMENT ON VIEW lifecycle.snapshot_progress IS 'One row per snapshot that runs in a stage, as its agent''s last heartbeat says';
COMMENT ON COLUMN lifecycle.snapshot_progress.stage IS 'The stage';
COMMENT ON COLUMN lifecycle.snapshot_progress.type IS 'The entity type';
COMMENT ON COLUMN lifecycle.snapshot_progress.source IS 'The agent''s source that it is read from';
COMMENT ON COLUMN lifecycle.snapshot_progress.partial IS 'Only rows that match a condition are sent again';
COMMENT ON COLUMN lifecycle.snapshot_progress.rows IS 'Rows sent so far';
COMMENT ON COLUMN lifecycle.snapshot_progress.estimated_rows IS 'Rows of the table by its catalog; null when nobody knows';
COMMENT ON COLUMN lifecycle.snapshot_progress.ranges IS 'Parts in which the table is read';
COMMENT ON COLUMN lifecycle.snapshot_progress.percent IS 'How far it is';
COMMENT ON COLUMN lifecycle.snapshot_progress.at IS 'When the agent said so';
COMMENT ON COLUMN lifecycle.snapshot_progress.eta_s IS 'Seconds that are left; null when nobody knows';
COMMENT ON COLUMN lifecycle.snapshot_progress.ranges_done IS 'Parts of the table whose rows are all on the broker: these are not read again after a break';

-- A count that the server's statistics keep beside the rows costs the intake nothing; of sizes only what pg_class says, because a look at the files would wait for DDL.
CREATE VIEW lifecycle.freshness AS
	WITH stream AS (
		SELECT stage, split_part(source, '/agent/', 2) AS stream, max(gap_at) AS gap_at, (array_agg(upper(to_hex(lsn)) || '.' || seq ORDER BY updated_at DESC) FILTER (WHERE lsn > 0))[1] AS as_of
			FROM sb.stream GROUP BY 1, 2),
	storage AS (
		SELECT n.nspname AS stage, v.relname AS type, c.oid,
			CASE WHEN pg_stat_get_tuples_inserted(c.oid) > 0 THEN pg_stat_get_live_tuples(c.oid) ELSE greatest(c.reltuples, 0)::bigint END AS live,
			(SELECT sum(x.relpages) FROM pg_class x WHERE x.oid IN (c.oid, c.reltoastrelid) OR x.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = c.oid))
				* current_setting('block_size')::bigint AS bytes
			FROM pg_class v JOIN pg_namespace n ON n.oid = v.relnamespace AND v.relkind = 'v' JOIN pg_rewrite r ON r.ev_class = v.oid
			JOIN LATERAL (SELECT DISTINCT d.refobjid FROM pg_depend d WHERE d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass) d ON true
			JOIN pg_class c ON c.oid = d.refobjid AND c.relkind = 'r' AND c.relnamespace = to_regnamespace('store')),
	refused AS (SELECT type, count(*) AS violations, max(at) AS violation_at FROM lifecycle.quarantine WHERE class = 'not-owned' GROUP BY type)
	SELECT s.name AS stage, o.type, o.owner, d.described ->> 'comment' AS comment, f.source, f.state AS source_state, lifecycle.stage_status(s.heartbeat_at, s.heartbeat_expires) AS status,
		u.live AS rows_estimate, u.bytes::bigint AS bytes_estimate, coalesce(t.rows_applied, 0) AS changes_applied, t.last_change_at,
		m.as_of, greatest(t.as_of_at, CASE WHEN t.type IS NOT NULL THEN s.as_of_at END) AS as_of_at,
		extract(epoch FROM now() - greatest(t.as_of_at, CASE WHEN t.type IS NOT NULL THEN s.as_of_at END))::bigint AS as_of_seconds, f.lag_bytes, f.lag_ms,
		t.snapshot_state, t.snapshot_at, m.gap_at, o.history, coalesce(q.violations, 0) AS violations, q.violation_at,
		p.rows AS snapshot_rows, p.percent AS snapshot_percent, p.eta_s AS snapshot_eta_s, extract(epoch FROM now() - s.heartbeat_at)::bigint AS seconds_since_heartbeat
	FROM lifecycle.stage s
	JOIN lifecycle.entity_owner o ON o.owner = s.name
	LEFT JOIN lifecycle.entity_type t ON t.stage = s.name AND t.type = o.type
	LEFT JOIN lifecycle.entity_description d ON d.stage = s.name AND d.type = o.type
	LEFT JOIN stream m ON m.stage = s.name AND m.stream = 'entity/' || o.type
	LEFT JOIN storage u ON u.stage = s.name AND u.type = o.type
	LEFT JOIN lifecycle.snapshot_progress p ON p.stage = s.name AND p.type = o.type
	LEFT JOIN refused q ON q.type = o.type
	LEFT JOIN LATERAL (SELECT * FROM lifecycle.source x WHERE x.stage = s.name AND o.type = ANY (x.types) AND x.kind NOT IN ('inbox', 'replica') LIMIT 1) f ON true
	WHERE NOT s.retired;
COMMENT ON VIEW lifecycle.freshness IS 'One row per entity type and the stage that owns it: how much is here, and how fresh it is';
COMMENT ON COLUMN lifecycle.freshness.stage IS 'The stage';
COMMENT ON COLUMN lifecycle.freshness.type IS 'The entity type: its rows are in the view <stage>.<type>';
COMMENT ON COLUMN lifecycle.freshness.owner IS 'The one stage where it may change';
COMMENT ON COLUMN lifecycle.freshness.comment IS 'The source''s comment on the table';
COMMENT ON COLUMN lifecycle.freshness.source IS 'The agent''s source that it comes from: see the view source';
COMMENT ON COLUMN lifecycle.freshness.source_state IS 'What that source is doing, by the last heartbeat: as long as it is down or starting, nobody knows what changed in it';
COMMENT ON COLUMN lifecycle.freshness.status IS 'Of the stage''s agent: LIVE, STALE (three heartbeats missed) or NEVER (no heartbeat yet)';
COMMENT ON COLUMN lifecycle.freshness.rows_estimate IS 'Rows by PostgreSQL''s statistics, some seconds old; exact is SELECT count(*)';
COMMENT ON COLUMN lifecycle.freshness.bytes_estimate IS 'Size on disk with indexes, when PostgreSQL last vacuumed or analyzed the table';
COMMENT ON COLUMN lifecycle.freshness.changes_applied IS 'How many changes and snapshot rows were applied';
COMMENT ON COLUMN lifecycle.freshness.last_change_at IS 'When a change of this type last arrived';
COMMENT ON COLUMN lifecycle.freshness.as_of IS 'Position of the type''s own source up to which its changes are in the view';
COMMENT ON COLUMN lifecycle.freshness.as_of_at IS 'Time, by the agent, up to which everything that it had sent of this type is in the view';
COMMENT ON COLUMN lifecycle.freshness.as_of_seconds IS 'How long ago that was; up to one heartbeat is normal';
COMMENT ON COLUMN lifecycle.freshness.lag_bytes IS 'How far the agent is behind the source, by its last heartbeat';
COMMENT ON COLUMN lifecycle.freshness.lag_ms IS 'The same as time';
COMMENT ON COLUMN lifecycle.freshness.snapshot_state IS 'none, running, broken (records of it are missing, another one is ordered), incomplete (it was cancelled), done; NULL: nothing has arrived yet';
COMMENT ON COLUMN lifecycle.freshness.snapshot_at IS 'When the last snapshot began';
COMMENT ON COLUMN lifecycle.freshness.snapshot_rows IS 'Rows that the snapshot that runs has sent, by the agent''s last heartbeat; NULL: none runs';
COMMENT ON COLUMN lifecycle.freshness.snapshot_percent IS 'How far it is; NULL: none runs';
COMMENT ON COLUMN lifecycle.freshness.snapshot_eta_s IS 'Seconds that are left of it; NULL: nobody knows';
COMMENT ON COLUMN lifecycle.freshness.gap_at IS 'Set while changes are known to be missing: a resync was ordered and has not ended yet';
COMMENT ON COLUMN lifecycle.freshness.history IS 'false; true: versions are kept for ever; or how long they are kept';
COMMENT ON COLUMN lifecycle.freshness.violations IS 'Attempts of other stages to change this type, of the last 90 days: see the view violation';
COMMENT ON COLUMN lifecycle.freshness.violation_at IS 'When the last one was';
COMMENT ON COLUMN lifecycle.freshness.seconds_since_heartbeat IS 'Of the stage''s agent';

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

CREATE VIEW lifecycle.copy AS
	SELECT o.type, o.owner, t.name AS stage, CASE WHEN t.place < w.place THEN 'public' ELSE 'whole' END AS content,
		CASE WHEN t.place >= w.place THEN '' WHEN w.sources IS NULL THEN 'the owner''s agent has not been heard yet'
			WHEN NOT EXISTS (SELECT FROM jsonb_array_elements(w.sources) s (value) WHERE s.value -> 'down' ? o.type)
			THEN 'the owner publishes nothing of it for earlier stages: "down" and public or masked columns in its agent''s settings would' ELSE '' END AS withheld
	FROM lifecycle.entity_owner o CROSS JOIN LATERAL unnest(o.subscribers) u (name)
	JOIN lifecycle.stage t ON t.name = u.name JOIN lifecycle.stage w ON w.name = o.owner;
COMMENT ON VIEW lifecycle.copy IS 'One row per read-only copy that the settings ask for: a type in a stage that does not own it';
COMMENT ON COLUMN lifecycle.copy.type IS 'The entity type';
COMMENT ON COLUMN lifecycle.copy.owner IS 'The stage where it may change';
COMMENT ON COLUMN lifecycle.copy.stage IS 'The stage that has the copy';
COMMENT ON COLUMN lifecycle.copy.content IS 'whole: all that leaves the owner; public: key, public and masked columns, since the stage comes before the owner';
COMMENT ON COLUMN lifecycle.copy.withheld IS 'Why nothing of it is sent; empty: it is';

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

-- One row as it was, of the types whose history is kept. Its owner's rights: readers have none on the tables behind; who may call it is granted (docs/sync-view.md).
CREATE FUNCTION lifecycle.entity_at(type text, key text[], at timestamptz) RETURNS jsonb
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
	h record;
	v jsonb;
BEGIN
	SELECT e.history_table, e.history_generation INTO h FROM lifecycle.entity_owner o JOIN store.entity_type e ON e.scope = o.owner AND e.type = o.type
		WHERE o.type = $1 AND o.history <> 'false' AND e.history_table <> '';
	IF NOT FOUND THEN
		RAISE EXCEPTION 'no history is kept of entity type "%"', $1 USING HINT = 'Set history: true, or a duration, for the type in the settings of the hub.';
	END IF;
	EXECUTE format('SELECT row::jsonb FROM store.%I WHERE generation = $1 AND key = $2 AND op <> ''d'' AND valid_from <= $3 AND (valid_to IS NULL OR valid_to > $3)', h.history_table)
		INTO v USING h.history_generation, $2, $3;
	RETURN v;
END $$;
COMMENT ON FUNCTION lifecycle.entity_at(text, text[], timestamptz) IS 'One row as it was at a time: type, key (its columns in order, as text), time; every value as text; NULL: it was not there';
CREATE FUNCTION lifecycle.entity_at(type text, key text, at timestamptz) RETURNS jsonb
	LANGUAGE sql STABLE SET search_path = pg_catalog AS $$ SELECT lifecycle.entity_at($1, ARRAY[$2], $3) $$;
COMMENT ON FUNCTION lifecycle.entity_at(text, text, timestamptz) IS 'The same for a key of one column';
REVOKE ALL ON FUNCTION lifecycle.entity_at(text, text[], timestamptz), lifecycle.entity_at(text, text, timestamptz) FROM PUBLIC;

-- what the columns mean; docs/sync-view-columns.md is written from these
COMMENT ON COLUMN lifecycle.audit_broken.id IS 'Number of the row in the record';
COMMENT ON COLUMN lifecycle.audit_broken.at IS 'When it was written';
COMMENT ON COLUMN lifecycle.audit_broken.action IS 'What was decided';
COMMENT ON COLUMN lifecycle.audit_broken.object IS 'About what';
COMMENT ON COLUMN lifecycle.stages.stage IS 'Name';
COMMENT ON COLUMN lifecycle.stages.place IS 'Order of promotion';
COMMENT ON COLUMN lifecycle.stages.promoted IS 'Part of the promotion path; false: a consumer (explore)';
COMMENT ON COLUMN lifecycle.stages.mode IS 'auto: promotes by itself; manual: a person says yes';
COMMENT ON COLUMN lifecycle.stages.soak IS 'How long an artifact must have been verified in the stage before';
COMMENT ON COLUMN lifecycle.stages.agent_version IS 'Version of the agent';
COMMENT ON COLUMN lifecycle.stages.agent_started_at IS 'Since when it runs';
COMMENT ON COLUMN lifecycle.stages.heartbeat_at IS 'When it last gave a sign of life';
COMMENT ON COLUMN lifecycle.stages.seconds_since_heartbeat IS 'How long ago that was';
COMMENT ON COLUMN lifecycle.stages.as_of_at IS 'Time, by the agent, up to which everything that it had sent is in this view';
COMMENT ON COLUMN lifecycle.stages.outbox_depth IS 'Events that wait in the agent for its broker';
COMMENT ON COLUMN lifecycle.stages.lag_bytes IS 'How far the agent is behind its own sources: the largest of them';
COMMENT ON COLUMN lifecycle.stages.lanes_ok IS 'Every part of the agent has worked in time';
COMMENT ON COLUMN lifecycle.stages.disk_free_bytes IS 'Free space where the agent keeps its state';
COMMENT ON COLUMN lifecycle.edge.from_stage IS 'From';
COMMENT ON COLUMN lifecycle.edge.to_stage IS 'To';
COMMENT ON COLUMN lifecycle.edge.mode IS 'auto or manual';
COMMENT ON COLUMN lifecycle.edge.soak IS 'Time in the stage before';
COMMENT ON COLUMN lifecycle.entity_column.stage IS 'The stage';
COMMENT ON COLUMN lifecycle.entity_column.type IS 'The entity type';
COMMENT ON COLUMN lifecycle.entity_column.column_name IS 'Name of the column';
COMMENT ON COLUMN lifecycle.pipeline.origin IS 'Line of artifacts';
COMMENT ON COLUMN lifecycle.pipeline.stage IS 'The stage';
COMMENT ON COLUMN lifecycle.pipeline.place IS 'Order of promotion';
COMMENT ON COLUMN lifecycle.pipeline.artifact IS 'What is there; NULL: nothing yet';
COMMENT ON COLUMN lifecycle.pipeline.commit IS 'Its commit';
COMMENT ON COLUMN lifecycle.pipeline.title IS 'Its title';
COMMENT ON COLUMN lifecycle.pipeline.author IS 'Who made it';
COMMENT ON COLUMN lifecycle.pipeline.since IS 'Since when it is there';
COMMENT ON COLUMN lifecycle.pipeline.verified_at IS 'When it was found healthy';
COMMENT ON COLUMN lifecycle.pipeline.verified IS 'It was found healthy';
COMMENT ON COLUMN lifecycle.pipeline.promotion IS 'The newest open promotion into this stage';
COMMENT ON COLUMN lifecycle.pipeline.promotion_state IS 'Its state';
COMMENT ON COLUMN lifecycle.pipeline.promotion_artifact IS 'What it brings';
COMMENT ON COLUMN lifecycle.pipeline.held_by IS 'Who holds automation here';
COMMENT ON COLUMN lifecycle.pipeline.hold_reason IS 'Why';
COMMENT ON COLUMN lifecycle.promotions.promotion IS 'Id';
COMMENT ON COLUMN lifecycle.promotions.origin IS 'Line of artifacts';
COMMENT ON COLUMN lifecycle.promotions.stage IS 'Into which stage';
COMMENT ON COLUMN lifecycle.promotions.artifact IS 'What is promoted';
COMMENT ON COLUMN lifecycle.promotions.commit IS 'Its commit';
COMMENT ON COLUMN lifecycle.promotions.title IS 'Its title';
COMMENT ON COLUMN lifecycle.promotions.author IS 'Who made it';
COMMENT ON COLUMN lifecycle.promotions.kind IS 'auto, manual, rollback, hotfix, merge';
COMMENT ON COLUMN lifecycle.promotions.state IS 'Where it stands';
COMMENT ON COLUMN lifecycle.promotions.waiting_for IS 'What it waits for';
COMMENT ON COLUMN lifecycle.promotions.requested_by IS 'Who asked';
COMMENT ON COLUMN lifecycle.promotions.reason IS 'Why';
COMMENT ON COLUMN lifecycle.promotions.attempt IS 'How many times it was ordered';
COMMENT ON COLUMN lifecycle.promotions.pull_number IS 'Pull request';
COMMENT ON COLUMN lifecycle.promotions.created_at IS 'When it began';
COMMENT ON COLUMN lifecycle.promotions.dispatched_at IS 'When it was ordered';
COMMENT ON COLUMN lifecycle.promotions.applied_at IS 'When it was in place';
COMMENT ON COLUMN lifecycle.promotions.ended_at IS 'When it was over';
COMMENT ON COLUMN lifecycle.promotions.age IS 'From its begin to its end or now';
COMMENT ON COLUMN lifecycle.promotions.approved_by IS 'Who said yes';
COMMENT ON COLUMN lifecycle.promotions.output IS 'The end of the deploy hooks output';
COMMENT ON COLUMN lifecycle.quarantined.id IS 'Number';
COMMENT ON COLUMN lifecycle.quarantined.at IS 'When';
COMMENT ON COLUMN lifecycle.quarantined.stage IS 'From which stage';
COMMENT ON COLUMN lifecycle.quarantined.topic IS 'Topic of the record';
COMMENT ON COLUMN lifecycle.quarantined.record_offset IS 'Its offset there';
COMMENT ON COLUMN lifecycle.quarantined.class IS 'Kind of refusal';
COMMENT ON COLUMN lifecycle.quarantined.reason IS 'Why, without any value';
COMMENT ON COLUMN lifecycle.quarantined.source IS 'Stream of the record';
COMMENT ON COLUMN lifecycle.quarantined.type IS 'Entity type';
COMMENT ON COLUMN lifecycle.quarantined.entity_key IS 'Hash of the key of a row';
COMMENT ON COLUMN lifecycle.quarantined.value_bytes IS 'Size of what is kept of it';
COMMENT ON COLUMN lifecycle.violation.id IS 'Number in quarantined';
COMMENT ON COLUMN lifecycle.violation.at IS 'When';
COMMENT ON COLUMN lifecycle.violation.stage IS 'Which stage tried';
COMMENT ON COLUMN lifecycle.violation.type IS 'The entity type';
COMMENT ON COLUMN lifecycle.violation.owner IS 'Who owns it';
COMMENT ON COLUMN lifecycle.violation.reason IS 'Why it was refused';
COMMENT ON COLUMN lifecycle.violation.source IS 'Stream of the record';
COMMENT ON COLUMN lifecycle.violation.record_offset IS 'Its offset';
COMMENT ON COLUMN lifecycle.event.at IS 'When';
COMMENT ON COLUMN lifecycle.event.kind IS 'audit, push, dataset, quarantine';
COMMENT ON COLUMN lifecycle.event.stage IS 'Where';
COMMENT ON COLUMN lifecycle.event.object IS 'About what';
COMMENT ON COLUMN lifecycle.event.what IS 'What happened';
COMMENT ON COLUMN lifecycle.event.who IS 'Who did it';
COMMENT ON COLUMN lifecycle.event.reason IS 'Why';
COMMENT ON COLUMN lifecycle.datasets.request IS 'Id';
COMMENT ON COLUMN lifecycle.datasets.dataset IS 'Which dataset';
COMMENT ON COLUMN lifecycle.datasets.from_stage IS 'Whose data';
COMMENT ON COLUMN lifecycle.datasets.to_stage IS 'For whom';
COMMENT ON COLUMN lifecycle.datasets.requested_by IS 'Who asked';
COMMENT ON COLUMN lifecycle.datasets.purpose IS 'What for';
COMMENT ON COLUMN lifecycle.datasets.state IS 'Where it stands';
COMMENT ON COLUMN lifecycle.datasets.reason_code IS 'Why not, as a word';
COMMENT ON COLUMN lifecycle.datasets.reason IS 'Why not';
COMMENT ON COLUMN lifecycle.datasets.transfer IS 'Its transfer';
COMMENT ON COLUMN lifecycle.datasets.policy_digest IS 'Digest of the policy that was applied';
COMMENT ON COLUMN lifecycle.datasets.row_count IS 'Rows delivered';
COMMENT ON COLUMN lifecycle.datasets.attestation IS 'What was proved of it';
COMMENT ON COLUMN lifecycle.datasets.created_at IS 'When it was asked for';
COMMENT ON COLUMN lifecycle.datasets.updated_at IS 'When its state changed';
