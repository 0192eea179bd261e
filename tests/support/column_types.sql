-- what the types of column_types.tsv stand on
CREATE SCHEMA app;
CREATE TABLE app.item (id int);
CREATE TYPE app.mood AS ENUM ('ok', 'soso', 'it''s, "bad"');
CREATE DOMAIN app.percent AS numeric(5,2) CHECK (VALUE BETWEEN 0 AND 100);
CREATE TYPE app.pair AS (a int, b text, c text[]);
CREATE TYPE app.span AS RANGE (subtype = float8);
CREATE EXTENSION hstore SCHEMA app;
CREATE EXTENSION citext SCHEMA app;
CREATE EXTENSION ltree SCHEMA app;
