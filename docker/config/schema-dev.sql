-- What stage dev owns in the examples.
CREATE TABLE experiment (
	id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, owner text NOT NULL, accuracy numeric(5, 4), notes text,
	started_at timestamptz NOT NULL DEFAULT now());
INSERT INTO experiment (name, owner, accuracy) VALUES ('baseline', 'ana', 0.8120), ('more features', 'ben', 0.8345);
