"""Tables and rows that the integration tests and the benchmarks share."""

# 11 columns; a row made by sample_rows() is 365 bytes in PostgreSQL's text form, on average
SAMPLE_COLUMNS = """id bigint PRIMARY KEY, name text NOT NULL, owner text NOT NULL, status text NOT NULL, score numeric(12,4), attempts integer NOT NULL,
	enabled boolean NOT NULL, params jsonb NOT NULL, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, notes text"""


def sample_table(name):
    return f"CREATE TABLE {name} ({SAMPLE_COLUMNS});"


def sample_row(number):
    """Expressions of one row; number: an SQL expression of type bigint."""
    n = f"({number})"
    return (f"{n}, 'experiment ' || {n}, 'user-' || {n} % 97, (ARRAY['new','running','done','failed'])[1 + {n} % 4], ({n} * 7919 % 100000)::numeric / 7, "
            f"{n} % 13, {n} % 3 = 0, jsonb_build_object('lr', {n} % 1000 / 1000.0, 'layers', {n} % 48, 'model', md5({n}::text)), "
            f"'2026-01-01 00:00:00+00'::timestamptz + {n} % 1000000 * interval '1 second', '2026-02-01 00:00:00.25+00'::timestamptz + {n} % 1000000 * interval '1 second', "
            f"rpad(md5({n}::text) || ' note on this experiment, as people write them', 175, md5(({n} + 1)::text))")


def sample_rows(table, first, last):
    """INSERT of the rows first..last."""
    return f"INSERT INTO {table} SELECT {sample_row('g')} FROM generate_series({first}::bigint, {last}::bigint) AS g;"


SCORE_TABLE = "CREATE TABLE {name} (run bigint, metric text, step integer, value double precision, PRIMARY KEY (metric, run));"

WIDE_TABLE = """CREATE TABLE {name} (id uuid PRIMARY KEY, amount numeric, price numeric(18,6), at timestamptz, day date, clock time, span interval, doc jsonb, raw json,
	bin bytea, tags text[], grid integer[][], flag boolean, small smallint, real4 real, net inet, range int8range, big text, "Odd Name" varchar(20), "üñï" text);"""

# every type at its edges; the last row is NULL in all but its key
WIDE_ROWS = r"""
INSERT INTO {name} VALUES
('00000000-0000-0000-0000-000000000001', 12345678901234567890.000000000001, -0.000001, '2026-03-02 09:15:01.234567+02', '2026-12-31', '23:59:59.999999', '1 year 2 mons 3 days 04:05:06.789',
 '{{"b": [1, 2.50, null, true], "a": "\u00e9\n\t\"q\"", "deep": {{"x": {{}}}}}}', '{{"b" : 1,  "a":2, "a":3}}', '\x00ff5c0a0d09', ARRAY['plain', 'with,comma', 'with "quote"', '', NULL, 'back\slash'],
 '{{{{1,2}},{{3,4}}}}', true, -32768, 1.1, '192.168.0.1/24', '[1,10)', repeat('long text ', 20000), 'two  spaces ', 'naïve – 漢字 🚀'),
('00000000-0000-0000-0000-000000000002', 'NaN', 999999999999.999999, '0044-03-15 12:00:00+00 BC', '-infinity', '00:00', '-1 mons +2 days', '[]', 'null', '', '{{}}', '{{}}', false, 32767,
 'Infinity', '::1', 'empty', '', E'tab\there', E'line\nbreak\r\\N \\. end'),
('00000000-0000-0000-0000-000000000003', 0, 0, 'infinity', '4713-01-01 BC', '12:00', '0', '"text"', '0', '\xdeadbeef', ARRAY['NULL'], NULL, NULL, 0, '-0', NULL, NULL, '\N', '', ''),
('00000000-0000-0000-0000-000000000004', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
"""
