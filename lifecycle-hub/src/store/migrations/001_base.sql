-- Internal schema: positions, streams, mailboxes. Nobody but the hub reads or writes it.
CREATE SCHEMA sb;
CREATE SCHEMA lifecycle;

-- what this database has seen: keyring_version (a hub refuses to go back)
CREATE TABLE sb.meta (key text PRIMARY KEY, value text NOT NULL);
CREATE TABLE sb.migration (version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now());
-- who leads the tenant: one hub process at a time; the others stand by
CREATE TABLE sb.lease (one boolean PRIMARY KEY DEFAULT true CHECK (one), holder text NOT NULL, renewed_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE sb.fence (lane text PRIMARY KEY, generation bigint NOT NULL, holder text NOT NULL, taken_at timestamptz NOT NULL DEFAULT now());

-- next record to read, per consumer ("intake", "relay/hub", "relay/<stage>") and topic
CREATE TABLE sb.position (consumer text NOT NULL, topic text NOT NULL, next_offset bigint NOT NULL, updated_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (consumer, topic));

-- what was accepted of each stream; lsn/seq: everything before it is in the view (entity streams)
CREATE TABLE sb.stream (
	source text PRIMARY KEY, stage text NOT NULL, session bigint NOT NULL, sequence bigint NOT NULL, prev bytea NOT NULL,
	incarnation bigint NOT NULL DEFAULT 0, lsn bigint NOT NULL DEFAULT 0, seq bigint NOT NULL DEFAULT 0,
	gap_at timestamptz, updated_at timestamptz NOT NULL DEFAULT now());

-- the hub's own event stream to each stage: sequence and chain of the last record signed
CREATE TABLE sb.down_stream (stage text PRIMARY KEY, session bigint NOT NULL, sequence bigint NOT NULL, prev bytea NOT NULL);

-- final signed bytes for the stages; deleted once the broker has acknowledged them
CREATE TABLE sb.outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, stage text NOT NULL, topic text NOT NULL, attrs bytea NOT NULL,
	value bytea NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX outbox_stage ON sb.outbox (stage, id);

-- which read-only copies were ever ordered: a new subscriber is filled by a resync
CREATE TABLE sb.subscription (stage text NOT NULL, type text NOT NULL, since timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (stage, type));

-- reports of agents waiting for the engine
CREATE TABLE sb.report (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, stage text NOT NULL, kind text NOT NULL, body jsonb NOT NULL,
	created_at timestamptz NOT NULL DEFAULT now());

CREATE TABLE sb.webhook (delivery text PRIMARY KEY, event text NOT NULL, repository text NOT NULL, received_at timestamptz NOT NULL DEFAULT now());

CREATE TABLE lifecycle.quarantine (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), stage text NOT NULL, topic text NOT NULL,
	record_offset bigint NOT NULL, class text NOT NULL, reason text NOT NULL, source text NOT NULL DEFAULT '', type text NOT NULL DEFAULT '',
	entity_key text NOT NULL DEFAULT '', attrs bytea, value bytea, UNIQUE (topic, record_offset, class, entity_key));
CREATE INDEX quarantine_at ON lifecycle.quarantine (at);
COMMENT ON TABLE lifecycle.quarantine IS 'Records and rows that were refused, with the reason; the rest of their batch went on';

CREATE TABLE lifecycle.stage (
	name text PRIMARY KEY, place integer NOT NULL, promoted boolean NOT NULL, mode text NOT NULL, soak interval NOT NULL DEFAULT '0',
	retired boolean NOT NULL DEFAULT false, agent_version text, session bigint, started_at timestamptz, heartbeat_at timestamptz, heartbeat_expires timestamptz, outbox_depth bigint, as_of text, as_of_at timestamptz,
	lag_bytes bigint, lag_ms bigint, sources jsonb, heads jsonb, heads_reached boolean NOT NULL DEFAULT false, occupancy jsonb, lanes_ok boolean,
	disk_free_bytes bigint);
COMMENT ON TABLE lifecycle.stage IS 'The stages of this tenant and what their agents last said';

-- who may change what, from the settings
CREATE TABLE lifecycle.entity_owner (type text PRIMARY KEY, owner text NOT NULL, subscribers text[] NOT NULL DEFAULT '{}', public_down boolean NOT NULL DEFAULT false,
	history text NOT NULL DEFAULT 'false');

-- what has arrived of each type; snapshot_state 'broken': records of the snapshot are missing, so its end must not sweep; 'incomplete': the last
-- one was partial or was given up
CREATE TABLE lifecycle.entity_type (
	stage text NOT NULL, type text NOT NULL, owner text NOT NULL,
	snapshot_state text NOT NULL DEFAULT 'none' CHECK (snapshot_state IN ('none', 'running', 'broken', 'incomplete', 'done')),
	snapshot text NOT NULL DEFAULT '', snapshot_at timestamptz, resync_at timestamptz,
	rows_applied bigint NOT NULL DEFAULT 0, last_change_at timestamptz, as_of_at timestamptz, PRIMARY KEY (stage, type));

-- what the source's catalog says of each type: entity.described, checked
CREATE TABLE lifecycle.entity_description (
	stage text NOT NULL, type text NOT NULL, described jsonb NOT NULL, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (stage, type));

CREATE TABLE lifecycle.transfer (
	id text PRIMARY KEY, kind text NOT NULL, from_stage text NOT NULL, to_stage text NOT NULL, manifest jsonb NOT NULL, chunks bigint NOT NULL,
	sealed_bytes bigint NOT NULL, sent bigint NOT NULL DEFAULT 0, next bigint NOT NULL DEFAULT 0, credit_window integer NOT NULL DEFAULT 0,
	attempt integer NOT NULL DEFAULT 1, state text NOT NULL CHECK (state IN ('offered', 'sending', 'receiving', 'complete', 'failed', 'done')), reason text NOT NULL DEFAULT '',
	created_at timestamptz NOT NULL DEFAULT now(), expires_at timestamptz, updated_at timestamptz NOT NULL DEFAULT now());
COMMENT ON TABLE lifecycle.transfer IS 'Files on their way. From the hub: offered, sending (sent = chunks that the broker has), complete, done once the spool is removed. To the hub: receiving (next = chunks on disk), complete, done once the git lane has used it. Between stages: sending, complete or failed as the receiver says';
CREATE INDEX transfer_open ON lifecycle.transfer (from_stage, to_stage) WHERE state IN ('offered', 'sending', 'receiving');

CREATE TABLE lifecycle.push (
	id text PRIMARY KEY, stage text NOT NULL, origin text NOT NULL, branch text NOT NULL, head text NOT NULL, base text NOT NULL, title text NOT NULL,
	body text NOT NULL, pusher text NOT NULL, transfer text NOT NULL, state text NOT NULL DEFAULT 'received', url text NOT NULL DEFAULT '',
	number integer NOT NULL DEFAULT 0, reason text NOT NULL DEFAULT '', created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now());

CREATE TABLE lifecycle.dataset_request (
	id text PRIMARY KEY, dataset text NOT NULL, from_stage text NOT NULL, to_stage text NOT NULL, requested_by text NOT NULL, purpose text NOT NULL,
	state text NOT NULL, reason_code text NOT NULL DEFAULT '', reason text NOT NULL DEFAULT '', transfer text NOT NULL DEFAULT '', policy_digest text NOT NULL DEFAULT '',
	row_count bigint NOT NULL DEFAULT 0, attestation jsonb, created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now());
