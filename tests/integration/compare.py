"""Whether a relation elsewhere holds exactly what a table holds: the text of every column, row by row. Differences are named by the hash of the row's key
and the columns, never by a value."""
import hashlib

from harness import TENANT, Failure, until


class Comparison:
    """One table of a stage (`setting`: as in the agent's settings) and one relation that should show it. `down`: that stage is an earlier one, and gets
    the key and what is public."""

    def __init__(self, platform, stage, setting, db, relation, down=False):
        self.p, self.stage, self.table, self.private, self.db, self.relation = platform, stage, setting["table"], setting.get("private", []), db, relation
        self.declared = setting.get("key", [])
        self.public = setting["public"] if down else None

    def __str__(self):
        return f"{self.relation} in {self.db} and {self.table} in {self.stage}"

    def _columns(self, db, relation):
        """{name: type}; a domain is its base elsewhere, and a type that means something in its own database only is text."""
        rows = self.p.psql(db, "SELECT a.attname, CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) WHEN t.oid < 16384 AND t.typname <> 'money' THEN format_type(a.atttypid, a.atttypmod) ELSE 'text' END FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid"
                               f" WHERE a.attrelid = to_regclass({literal(relation)}) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum")
        return dict(line.split("\t") for line in rows.splitlines())

    def _key(self):
        if self.declared:
            return self.declared
        return self.p.psql(self.stage, "SELECT a.attname FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey::int2[])"
                                       f" WHERE c.oid = to_regclass({literal(self.table)}) AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END").splitlines()

    def _rows(self, db, relation, names):
        listed = ", ".join('"' + n.replace('"', '""') + '"' for n in names)
        return [tuple(line.split("\t")) for line in self.p.psql(db, f"COPY (SELECT {listed} FROM {relation}) TO STDOUT").split("\n") if line]

    def differences(self, most=5):
        """[] when both are the same; else what differs, for people."""
        there = self._columns(self.stage, self.table)
        here = self._columns(self.db, self.relation)
        if not there or not here:
            return [f"{self.table if not there else self.relation} is not there"]
        for name in self.private:
            there.pop(name, None)
        if self.public is not None:
            there = {n: t for n, t in there.items() if n in [*self.public, *self._key()]}
        if there != here:
            return [f"columns differ: only in the source {sorted(there.items() - here.items())}, only here {sorted(here.items() - there.items())}"]
        names = list(there)
        a, b = self._rows(self.stage, self.table, names), self._rows(self.db, self.relation, names)
        if sorted(a) == sorted(b):
            return []
        return self._explain(names, a, b, most)

    def _explain(self, names, a, b, most):
        at = [names.index(k) for k in self._key() if k in names] or range(len(names))
        key = lambda row: tuple(row[i] for i in at)  # noqa: E731
        source, view = {key(r): r for r in a}, {key(r): r for r in b}
        out = [f"{len(a)} rows in the source, {len(b)} here" + (", a key comes twice" if len(view) < len(b) else "")]
        for what, keys in (("missing", source.keys() - view.keys()), ("too many", view.keys() - source.keys())):
            if keys:
                out.append(f"{len(keys)} {what}: {' '.join(sorted(map(hashed, keys))[:most])}")
        stale = [k for k in source.keys() & view.keys() if source[k] != view[k]]
        for k in sorted(stale)[:most]:
            out.append(f"{hashed(k)} differs in {[n for n, x, y in zip(names, source[k], view[k]) if x != y]}")
        return out + ([f"{len(stale)} differ"] if stale else [])


def hashed(key):
    return hashlib.sha256("\0".join(key).encode()).hexdigest()[:12]


def literal(text):
    return "'" + text.replace("'", "''") + "'"


def view(platform, stage, setting):
    """The table's view in the sync view."""
    return Comparison(platform, stage, setting, "hub_" + TENANT, f'"{stage}"."{setting["type"]}"')


def copy(platform, stage, setting, subscriber):
    """The read-only copy in another stage."""
    down = platform.stages.index(subscriber) < platform.stages.index(stage)
    return Comparison(platform, stage, setting, subscriber, f'replica."{setting["type"]}"', down)


def await_equal(comparisons, seconds):
    """Waits until all are equal, each at its own time: the sources must be quiet. Raises Failure with the differences that remain."""
    rest = list(comparisons)

    def look():
        rest[:] = [c for c in rest if c.differences()]
        return not rest

    try:
        until("every table equals its view and copies", look, seconds, 0.5)
    except Failure:
        raise Failure(f"not equal after {seconds:g} s:\n" + "\n".join(f"  {c}:\n    " + "\n    ".join(c.differences()) for c in rest)) from None
