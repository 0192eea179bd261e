-- What stage prod owns in the examples: made-up people.
CREATE TABLE people (
	person_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text NOT NULL, age integer NOT NULL, city text NOT NULL, plan text NOT NULL,
	joined date NOT NULL);
INSERT INTO people (email, age, city, plan, joined)
	SELECT 'person' || n || '@example.org', 18 + n * 7 % 70, (ARRAY['Lyon', 'Paris', 'Lille', 'Nantes'])[1 + n % 4], (ARRAY['free', 'pro'])[1 + n % 2],
		date '2024-01-01' + n % 700
	FROM generate_series(1, 500) n;
