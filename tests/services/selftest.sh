#!/usr/bin/env bash
# Starts one of each service, uses it, kills it, starts it again on the same data and stops it.
# usage: selftest.sh [kafka|postgres|gitea]...        all three by default; the last line is "N passed, N failed"
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need kcat "install kcat"
need psql "install postgresql-client"
need curl "install curl"
need jq "install jq"

WORK=$(mktemp -d "${TMPDIR:-/tmp}/sb-services.XXXXXX")
chmod 711 "$WORK" # the services' users pass through it
PASSED=0 FAILED=0
KAFKA=$SERVICES_DIR/kafka.sh POSTGRES=$SERVICES_DIR/postgres.sh GITEA=$SERVICES_DIR/gitea.sh

clean_up() {
	local dir
	for dir in "$WORK"/*/; do
		case $dir in
		*/kafka*) "$KAFKA" kill "$dir" ;;
		*/postgres*) "$POSTGRES" kill "$dir" ;;
		*/gitea*) "$GITEA" kill "$dir" ;;
		esac >/dev/null 2>&1 || true
	done
	rm -rf "$WORK"
}
trap clean_up EXIT

# check WHAT COMMAND...: one test; its output is shown only when it fails
check() {
	local what=$1 start took out rc=0
	shift
	start=$(now_ms)
	out=$("$@" 2>&1) || rc=$?
	took=$(($(now_ms) - start))
	if ((rc == 0)); then
		PASSED=$((PASSED + 1))
		printf '  PASS    %s (%d ms)\n' "$what" "$took"
	else
		FAILED=$((FAILED + 1))
		printf '  FAIL    %s (%d ms)\n%s\n' "$what" "$took" "$out"
	fi
}

# equal EXPECTED COMMAND...: true when COMMAND prints EXPECTED
equal() {
	local out
	out=$("${@:2}") || return 1
	[[ $out == "$1" ]] || { echo "expected \"$1\", got \"$out\""; return 1; }
}

# refused REASON COMMAND...: true when COMMAND fails and gives REASON
refused() {
	local out
	if out=$("${@:2}" 2>&1); then echo "it succeeded"; return 1; fi
	[[ $out == *"$1"* ]] || { echo "it did not say \"$1\" but: $out"; return 1; }
}

gone() {
	local pid=$1
	! alive "$pid"
}

rss_mb() { awk '/^VmRSS:/ {printf "%d MB\n", $2 / 1024}' "/proc/$1/status"; }

# ---- Kafka ----

produce() { echo "$3" | kcat -P -b "$1" -t "$2" -X message.timeout.ms=10000; }
no_topic() { kcat -L -b "$1" -t "$2" | grep 'Unknown topic'; }
consume() { kcat -C -b "$1" -t "$2" -o beginning -e -q; }

test_kafka() {
	local dir=$WORK/kafka addr pid
	check "kafka: install" "$KAFKA" install
	check "kafka: start" "$KAFKA" start "$dir" 0 message.max.bytes=2000000
	addr=$("$KAFKA" addr "$dir") && pid=$("$KAFKA" pid "$dir") || return 0
	check "kafka: a second start changes nothing" equal "$addr" "$KAFKA" start "$dir" 0
	check "kafka: create a topic" "$KAFKA" topic "$dir" t1 2 retention.ms=3600000
	check "kafka: produce" produce "$addr" t1 "one record"
	check "kafka: consume" equal "one record" consume "$addr" t1
	check "kafka: topics are not created by themselves" no_topic "$addr" t2
	echo "          resident memory: $(rss_mb "$pid")"
	check "kafka: kill" "$KAFKA" kill "$dir"
	check "kafka: restart at the same address" equal "$addr" "$KAFKA" restart "$dir"
	check "kafka: the record is still there" equal "one record" consume "$addr" t1
	pid=$("$KAFKA" pid "$dir") || return 0
	check "kafka: stop" "$KAFKA" stop "$dir"
	check "kafka: its process is gone" gone "$pid"
	check "kafka: a second stop does no harm" "$KAFKA" stop "$dir"
	check "kafka: a bad port is refused" refused "a port" "$KAFKA" start "$dir" nine
	check "kafka: a bad setting is refused" refused "Invalid value none" "$KAFKA" start "$WORK/kafka-bad" 0 num.io.threads=none
}

# ---- PostgreSQL ----

query() { psql -X "$1" -v ON_ERROR_STOP=1 -qAt -c "$2"; }

test_postgres() {
	local dir=$WORK/postgres dsn pid port
	check "postgres: install" "$POSTGRES" install
	check "postgres: start" "$POSTGRES" start "$dir" work_mem=8MB
	dsn=$("$POSTGRES" dsn "$dir") && pid=$("$POSTGRES" pid "$dir") || return 0
	port=${dsn#*port=} port=${port%% *}
	check "postgres: a second start changes nothing" equal "$dsn" "$POSTGRES" start "$dir"
	check "postgres: a setting of the command line holds" equal 8MB query "$dsn" "show work_mem"
	check "postgres: it can decode its log and syncs to disk" equal "logical|on" query "$dsn" \
		"select current_setting('wal_level'), current_setting('fsync')"
	check "postgres: the unix socket answers" equal 1 query "host=$dir port=$port user=postgres dbname=postgres" "select 1"
	check "postgres: create a database" query "$dsn" "create database stage"
	dsn=$("$POSTGRES" dsn "$dir" stage)
	check "postgres: create a logical slot" equal s1 query "$dsn" "select slot_name from pg_create_logical_replication_slot('s1', 'pgoutput')"
	check "postgres: write a row" query "$dsn" "create table t (a int); insert into t values (42)"
	echo "          resident memory: $(rss_mb "$pid") (first process)"
	check "postgres: kill" "$POSTGRES" kill "$dir"
	check "postgres: restart at the same address" equal "${dsn/stage/postgres}" "$POSTGRES" restart "$dir"
	check "postgres: slot and row are still there" equal "s1|42" query "$dsn" "select slot_name, a from pg_replication_slots, t"
	pid=$("$POSTGRES" pid "$dir") || return 0
	check "postgres: stop" "$POSTGRES" stop "$dir"
	check "postgres: its process is gone" gone "$pid"
	check "postgres: a second stop does no harm" "$POSTGRES" stop "$dir"
	check "postgres: a folder without a service is refused" refused "was ever started" "$POSTGRES" stop "$WORK/none"
	check "postgres: a bad setting is refused" refused "unrecognized configuration parameter" "$POSTGRES" start "$dir" no_such=1
}

# ---- Gitea ----

# api TOKEN METHOD URL [JSON]
api() {
	curl -sS -f --noproxy '*' -m 30 -X "$2" -H "Authorization: token $1" -H 'Content-Type: application/json' ${4:+--data "$4"} "$3"
}

default_branch() { api "$1" GET "$2" | jq -r .default_branch; }
mode_of() { stat -c %a "$1"; }

test_gitea() {
	local dir=$WORK/gitea url token alice pid
	check "gitea: install" "$GITEA" install
	check "gitea: start" "$GITEA" start "$dir" repository.DEFAULT_BRANCH=trunk
	url=$("$GITEA" url "$dir") && token=$("$GITEA" token "$dir") && pid=$("$GITEA" pid "$dir") || return 0
	check "gitea: a second start changes nothing" equal "$url" "$GITEA" start "$dir"
	check "gitea: the token is for our eyes only" equal 600 mode_of "$dir/token"
	check "gitea: create a repository" api "$token" POST "$url/api/v1/user/repos" '{"name": "models", "auto_init": true}'
	check "gitea: a setting of the command line holds" equal trunk default_branch "$token" "$url/api/v1/repos/sbadmin/models"
	check "gitea: create a user" "$GITEA" user "$dir" alice 'pass"word\1'
	alice=$("$GITEA" user "$dir" alice 'pass"word\1') || true
	check "gitea: its token works" api "$alice" POST "$url/api/v1/user/repos" '{"name": "mine"}'
	check "gitea: the user is no administrator" refused 403 api "$alice" GET "$url/api/v1/admin/users"
	echo "          resident memory: $(rss_mb "$pid")"
	check "gitea: kill" "$GITEA" kill "$dir"
	check "gitea: restart at the same address" equal "$url" "$GITEA" restart "$dir"
	check "gitea: the repository is still there" equal trunk default_branch "$token" "$url/api/v1/repos/sbadmin/models"
	pid=$("$GITEA" pid "$dir") || return 0
	check "gitea: stop" "$GITEA" stop "$dir"
	check "gitea: its process is gone" gone "$pid"
	check "gitea: a second stop does no harm" "$GITEA" stop "$dir"
}

[[ $# -gt 0 ]] || set -- kafka postgres gitea
for name; do
	case $name in
	kafka | postgres | gitea) "test_$name" ;;
	*) die "no service is called \"$name\": kafka, postgres or gitea" ;;
	esac
done
echo "$PASSED passed, $FAILED failed"
((FAILED == 0))
