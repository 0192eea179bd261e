#!/bin/sh
# The house rules that a machine can hold. Prints each breach with file and line; exits 1 when there is one.
set -u
cd "$(dirname "$0")/../.."
rc=0
fail() { echo "lint: $1"; rc=1; }
C="proto broker-agent lifecycle-hub cli"
src=$(find $C -name '*.[ch]')

grep -nE '\b(strcpy|strcat|sprintf|vsprintf|strncpy|strtok|gets|atoi|atol|alloca|system|popen|usleep|rand|localtime|gmtime|asctime|ctime|mktemp)[[:space:]]*\(' $src && fail "banned function"
grep -nE '#[[:space:]]*include.*(lifecycle-hub|"hub\.h")' $(find proto broker-agent cli -name '*.[ch]') && fail "the hub's headers outside the hub"
grep -nE '#[[:space:]]*include.*(broker-agent|"agent\.h")' $(find proto lifecycle-hub cli -name '*.[ch]') && fail "the agent's headers outside the agent"
grep -nE '\b(exit|abort)[[:space:]]*\(' $src | grep -vE '/main\.c:|/proc\.c:|/lane\.c:|_exit' && fail "exit outside main"

# third-party types stay in their adapter
only() { # pattern, allowed files (regex)
	# shellcheck disable=SC2086
	grep -lE "$1" $src | grep -vE "$2" && fail "$1 outside its adapter"
}
only '\brd_kafka_' '^proto/src/io/kafka'
only '\b(PQ[a-z]+[A-Z]?[A-Za-z]*\(|PGconn|PGresult)' '^proto/src/io/pg'
only '\bgit_[a-z]+_[a-z_]+\(|\bgit_(oid|repository|odb)\b' '^proto/src/io/git'
only '\bMHD_' '^proto/src/io/http'
only '\bcurl_(easy|multi|slist)' '^proto/src/io/http'
only '\bsqlite3_' '^proto/src/io/db'
only '\byaml_[a-z]+_' '^proto/src/io/settings|^proto/src/io/yaml|^broker-agent/src/dataset/policy|^proto/include/stagebridge/yaml'
only '\bEVP_' '^proto/src/base/hash'
only '\bZSTD_' '^proto/src/wire/carrier'
only '\bical(time|recur|error)[a-z]*_' '^proto/src/io/window'
grep -nE 'include <(librdkafka|git2|libpq-fe|microhttpd|curl|sqlite3)' proto/include/stagebridge/*.h && fail "third-party header in a public header"

for h in $(find proto/include -name '*.h'); do
	echo "#include \"${h#proto/include/}\"" | ${CC:-cc} -std=c17 -D_GNU_SOURCE -Iproto/include -fsyntax-only -x c - || fail "$h does not compile alone"
done
find $C -name '*.[ch]' | xargs wc -l | awk '$2 != "total" && $1 > 800 { print "too long:", $2, $1; e = 1 } END { exit e }' || fail "files over 800 lines"

# every file that a code map names exists
for m in broker-agent/README.md lifecycle-hub/README.md proto/README.md cli/README.md tests/README.md tests/services/README.md; do
	[ -f "$m" ] || { fail "$m is missing"; continue; }
	d=$(dirname "$m")
	grep -oE '`[A-Za-z0-9_./-]+\.(c|h|sh|py|sql|yaml|md|html|js|css)`' "$m" | tr -d '`' | while read -r f; do
		[ -e "$d/$f" ] || [ -e "$d/src/$f" ] || [ -e "$f" ] || find "$d" -path "*/$f" | grep -q . || echo "lint: $m names $f, which does not exist"
	done | grep . && rc=1
done
grep -nE '\b(TODO|FIXME|XXX|HACK)\b' $src && fail "unfinished work"
[ $rc = 0 ] && echo "lint: clean"
exit $rc
