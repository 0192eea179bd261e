-- Promotion: origins, artifacts, promotions, what is where, the record.
CREATE TABLE lifecycle.origin (name text PRIMARY KEY, repository text NOT NULL, main_tip text NOT NULL DEFAULT '', polled_at timestamptz, problem text NOT NULL DEFAULT '');

CREATE TABLE lifecycle.artifact (
	id text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{64}$'), seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE, origin text NOT NULL REFERENCES lifecycle.origin,
	commit_oid text NOT NULL, tree_oid text NOT NULL, kind text NOT NULL CHECK (kind IN ('merge', 'hotfix')), title text NOT NULL, author text NOT NULL,
	committed_at timestamptz NOT NULL, discovered_at timestamptz NOT NULL DEFAULT now(), manifest jsonb NOT NULL, orphaned boolean NOT NULL DEFAULT false,
	UNIQUE (origin, commit_oid));

CREATE SEQUENCE lifecycle.lease;
CREATE TABLE lifecycle.promotion (
	id text PRIMARY KEY, seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE, origin text NOT NULL REFERENCES lifecycle.origin, artifact text NOT NULL REFERENCES lifecycle.artifact,
	stage text NOT NULL REFERENCES lifecycle.stage, kind text NOT NULL CHECK (kind IN ('auto', 'manual', 'rollback', 'hotfix', 'merge')),
	state text NOT NULL DEFAULT 'PENDING', policy text NOT NULL DEFAULT '', requested_by text NOT NULL, reason text NOT NULL DEFAULT '', waiting_for text NOT NULL DEFAULT '',
	attempt integer NOT NULL DEFAULT 0, lease bigint NOT NULL DEFAULT 0, transfer text NOT NULL DEFAULT '', expected_current text NOT NULL DEFAULT '', output text NOT NULL DEFAULT '',
	pull_number integer NOT NULL DEFAULT 0, stage_commit text NOT NULL DEFAULT '', created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
	dispatched_at timestamptz, applied_at timestamptz, ended_at timestamptz, deadline_at timestamptz, version integer NOT NULL DEFAULT 0);
-- I1: at most one in flight per stage and origin; and one open promotion per artifact and stage
CREATE UNIQUE INDEX promotion_in_flight ON lifecycle.promotion (stage, origin) WHERE state IN ('DISPATCHED', 'APPLYING', 'APPLIED', 'VERIFYING', 'HELD', 'IN_DOUBT');
CREATE UNIQUE INDEX promotion_open ON lifecycle.promotion (stage, artifact)
	WHERE state NOT IN ('SUCCEEDED', 'FAILED', 'ERRORED', 'ABORTED', 'SUPERSEDED', 'REJECTED', 'EXPIRED');
CREATE INDEX promotion_artifact ON lifecycle.promotion (artifact, stage, seq);
CREATE INDEX promotion_waiting ON lifecycle.promotion (stage, origin, seq) WHERE state IN ('PENDING', 'GATED', 'READY');
COMMENT ON COLUMN lifecycle.promotion.policy IS 'SHA-256 of the edge''s policy under which its gates were last asked';

CREATE TABLE lifecycle.approval (promotion text NOT NULL REFERENCES lifecycle.promotion, person text NOT NULL, decision text NOT NULL CHECK (decision IN ('approve', 'reject')),
	artifact text NOT NULL DEFAULT '', policy text NOT NULL DEFAULT '', reason text NOT NULL DEFAULT '', at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (promotion, person));

-- requests of people from inside stages, over HTTP or by a merge, waiting for the engine
CREATE TABLE lifecycle.promotion_request (
	id text PRIMARY KEY, stage_from text NOT NULL, action text NOT NULL CHECK (action IN ('promote', 'rollback', 'approve', 'reject', 'abort', 'merged', 'stop', 'resume', 'hold', 'release')),
	origin text NOT NULL, artifact text NOT NULL, stage text NOT NULL, promotion text NOT NULL, person text NOT NULL, reason text NOT NULL,
	state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'refused')), answer text NOT NULL DEFAULT '', told text NOT NULL DEFAULT '', created_at timestamptz NOT NULL DEFAULT now());

-- continuous stays of an artifact in a stage; until NULL: there now
CREATE TABLE lifecycle.occupancy (
	stage text NOT NULL, origin text NOT NULL, artifact text NOT NULL REFERENCES lifecycle.artifact, promotion text NOT NULL, since timestamptz NOT NULL DEFAULT now(),
	until timestamptz, verified_at timestamptz, PRIMARY KEY (stage, origin, since));
CREATE INDEX occupancy_artifact ON lifecycle.occupancy (artifact, stage);
CREATE UNIQUE INDEX occupancy_now ON lifecycle.occupancy (stage, origin) WHERE until IS NULL;
-- a manual or rollback promotion holds automation until released
CREATE TABLE lifecycle.hold (stage text NOT NULL, origin text NOT NULL, person text NOT NULL, reason text NOT NULL, since timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (stage, origin));

-- stop the line: nothing goes into the stage, or for the origin, or at all ('' = any)
CREATE TABLE lifecycle.stop (stage text NOT NULL, origin text NOT NULL, person text NOT NULL, reason text NOT NULL, since timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (stage, origin));
-- every policy that was in force, the newest now
CREATE TABLE lifecycle.policy (seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, digest text NOT NULL, name text NOT NULL, version text NOT NULL, content text NOT NULL,
	since timestamptz NOT NULL DEFAULT now());

CREATE TABLE lifecycle.branch (origin text NOT NULL, name text NOT NULL, oid text NOT NULL, updated_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (origin, name));
CREATE TABLE lifecycle.pull_request (
	origin text NOT NULL, number integer NOT NULL, title text NOT NULL, state text NOT NULL CHECK (state IN ('open', 'merged', 'closed')), head text NOT NULL, base text NOT NULL,
	head_oid text NOT NULL, merge_oid text NOT NULL DEFAULT '', author text NOT NULL, merged_by text NOT NULL DEFAULT '', url text NOT NULL, promotion text NOT NULL DEFAULT '',
	created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (origin, number));
CREATE INDEX pull_request_merge ON lifecycle.pull_request (origin, merge_oid);
CREATE INDEX push_head ON lifecycle.push (origin, head);
CREATE TABLE lifecycle.commit_status (
	origin text NOT NULL, oid text NOT NULL, context text NOT NULL, state text NOT NULL, description text NOT NULL DEFAULT '', url text NOT NULL DEFAULT '',
	reporter text NOT NULL DEFAULT '', sent boolean NOT NULL DEFAULT true, updated_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (origin, oid, context));

CREATE TABLE lifecycle.audit (
	id bigint PRIMARY KEY, at timestamptz NOT NULL, actor text NOT NULL, action text NOT NULL, object text NOT NULL, from_state text NOT NULL, to_state text NOT NULL,
	reason text NOT NULL, prev_hash bytea NOT NULL, hash bytea NOT NULL);
COMMENT ON TABLE lifecycle.audit IS 'Every decision, append only, each row bound to the one before by a SHA-256 chain';

-- what each stage's own repository was told, so that packs hold only what it lacks
CREATE TABLE sb.announced (stage text NOT NULL, origin text NOT NULL, refs jsonb NOT NULL DEFAULT '{}', digest text NOT NULL DEFAULT '', PRIMARY KEY (stage, origin));
