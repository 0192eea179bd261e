#!/usr/bin/env bash
# shellcheck disable=SC2034 # journeys.sh uses variables of this file
# Five stages and a hub on this machine, with real data, for as long as you look: see README.md beside this file.
# usage: demo.sh [--once] [--manual]
#              --once        walk the five journeys and end; exit code 0 only if every one worked
#              --manual      nothing enters prod by itself: a person promotes it
# environment: SB_BUILD      where the programs are (default: build)
#              SB_DEMO_DIR   an empty or new folder for everything that runs, kept at the end (default: a temporary one, removed)
#              SB_DEMO_PORT  port of the page (default: 8080, or the next that is free)
set -euo pipefail
umask 022

CONFIG=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
ROOT=$(cd "$CONFIG/../.." && pwd -P)
SERVICES=$ROOT/tests/services
STAGES=(dev train preprod prod explore)
PROMOTED=(dev train preprod prod)
TENANT=acme
BEGAN=$EPOCHREALTIME

ONCE=
PROD_MODE=auto
DIR=          # everything lives here
KEEP=         # not empty: DIR is kept at the end
PG=           # connection string of the private PostgreSQL, without the database
HUB_URL=
PID=()        # what was started: the brokers, the hub, the agents
NAME=()
ENDING=

# shellcheck source-path=SCRIPTDIR source=journeys.sh disable=SC1091
. "$CONFIG/journeys.sh"

usage() { sed -n '/^# usage/,/^[^#]/s/^# //p' "${BASH_SOURCE[0]}"; }

# ---- talking ----

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
	BOLD=$'\e[1m' DIM=$'\e[2m' RED=$'\e[31m' GREEN=$'\e[32m' PLAIN=$'\e[0m'
else
	BOLD='' DIM='' RED='' GREEN='' PLAIN=''
fi

# line TAG TITLE TEXT: one aligned line
line() { printf '%s%-7s%s%-11s%s %s\n' "$GREEN" "$1" "$BOLD" "$2" "$PLAIN" "$3"; }

# more TEXT...: what belongs to the line before
more() {
	local text
	for text; do printf '%18s %s\n' '' "$text"; done
}

# number N: with thousands separated
number() {
	local n=$1 out=
	while ((${#n} > 3)); do
		out=,${n: -3}$out
		n=${n:0:-3}
	done
	printf '%s' "$n$out"
}

# bytes N: readable
bytes() {
	if (($1 < 10000)); then
		printf '%s bytes' "$(number "$1")"
	elif (($1 < 10000000)); then
		printf '%s KB' "$(number $((($1 + 500) / 1000)))"
	else
		printf '%s MB' "$(number $((($1 + 500000) / 1000000)))"
	fi
}

now_ms() {
	local us=${EPOCHREALTIME/[.,]/}
	printf '%s' $((us / 1000))
}

# show_log NAME: the last lines of a log, so that a failure explains itself
show_log() {
	[[ -s $DIR/log/$1 ]] || return 0
	printf '%s--- last lines of %s%s\n' "$DIM" "$1" "$PLAIN" >&2
	tail -n 8 "$DIR/log/$1" | cut -c1-300 >&2
}

# die TEXT [LOG...]
die() {
	local log
	printf '%sdemo: %s%s\n' "$RED" "$1" "$PLAIN" >&2
	shift
	for log; do show_log "$log"; done
	exit 1
}

# ---- waiting ----

# pause SECONDS: without starting a process; descriptor 7 never has anything to read
pause() { read -rt "$1" -u 7 || true; }

# await SECONDS WHAT LOGS COMMAND...: until COMMAND succeeds; says what it waited for when it does not. LOGS: names separated by blanks
await() {
	local seconds=$1 what=$2 end
	local -a logs
	read -ra logs <<<"$3"
	shift 3
	end=$(($(now_ms) + seconds * 1000))
	until "$@"; do
		(($(now_ms) < end)) || die "not within $seconds s: $what" "${logs[@]}"
		pause 0.02
	done
}

# ask DATABASE SQL: prints the rows, fields separated by |. One session per database stays open: asking costs no new process.
ask() {
	local in=ASK_IN_$1 row
	printf "%s;\nSELECT '~done~';\n" "$2" >&"${!in}"
	in=ASK_OUT_$1
	while IFS= read -rt 20 -u "${!in}" row; do
		if [[ $row == '~done~' ]]; then return 0; fi
		printf '%s\n' "$row"
	done
	die "PostgreSQL does not answer (database $1)" "sql-$1"
}

# is EXPECTED DATABASE SQL
is() { [[ $(ask "$2" "$3") == "$1" ]]; }

# alone: for what goes on in the background. It holds no pipe of ours open (setsid, after it: and Ctrl-C reaches this script only, which then stops
# one after the other)
alone() {
	local fd
	for fd in /proc/self/fd/*; do
		fd=${fd##*/}
		if ((fd > 2)); then eval "exec $fd>&-"; fi
	done
}

open_session() {
	local in out
	mkfifo "$DIR/run/$1.in" "$DIR/run/$1.out"
	(alone; exec setsid psql -XqAt "$PG dbname=$1") <"$DIR/run/$1.in" >"$DIR/run/$1.out" 2>>"$DIR/log/sql-$1" &
	exec {in}>"$DIR/run/$1.in" {out}<"$DIR/run/$1.out"
	printf -v "ASK_IN_$1" '%s' "$in"
	printf -v "ASK_OUT_$1" '%s' "$out"
	# a missing relation is an answer too (not yet): no noise, and the session goes on
	ask "$1" "SET client_min_messages = error" >/dev/null
}

# sql DATABASE: a script from standard input, in one go
sql() { psql -XqAt -v ON_ERROR_STOP=1 "$PG dbname=$1" 2>>"$DIR/log/sql-$1" || die "SQL failed in database $1" "sql-$1"; }

# ---- starting and ending ----

# launch NAME COMMAND...: in the background, output to its log
launch() {
	local name=$1
	shift
	(alone; exec setsid "$@") </dev/null >>"$DIR/log/$name" 2>&1 &
	PID+=($!)
	NAME+=("$name")
}

alive() { kill -0 "$1" 2>/dev/null; }

# running NAME: the daemon of that name has not ended; ends the demo when it has
running() {
	local i
	for i in "${!NAME[@]}"; do
		if [[ ${NAME[i]} == "$1" ]] && ! alive "${PID[i]}"; then die "$1 ended while starting" "$1"; fi
	done
}

# stop PID...: asks, waits, and kills what is still there after 15 s
stop() {
	local pid end=$(($(now_ms) + 15000))
	kill -TERM "$@" 2>/dev/null
	for pid; do
		while alive "$pid" && (($(now_ms) < end)); do pause 0.02; done
	done
	kill -KILL "$@" 2>/dev/null
}

cleanup() {
	local status=$?
	[[ -z $ENDING ]] || return 0
	ENDING=1
	trap '' INT TERM HUP
	set +e
	[[ -n $DIR ]] || exit "$status"
	# the brokers are PID[0] and go last: whoever says goodbye to one that is gone waits for it
	if ((${#PID[@]} > 1)); then stop "${PID[@]:1}"; fi
	if ((${#PID[@]} > 0)); then stop "${PID[0]}"; fi
	if [[ -e $DIR/pg/port ]]; then "$SERVICES/postgres.sh" stop "$DIR/pg" 2>/dev/null; fi
	if [[ -z $KEEP ]]; then
		rm -rf "$DIR"
	else
		printf 'kept: %s\n' "$DIR"
	fi
	exit "$status"
}

need() { command -v "$1" >/dev/null 2>&1 || die "the program \"$1\" is missing. On Debian or Ubuntu: make deps"; }

check_machine() {
	local program
	((BASH_VERSINFO[0] >= 5)) || die "bash 5 or newer is needed"
	for program in git psql curl sha256sum mkfifo setsid; do need "$program"; done
	compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || die "no PostgreSQL server under /usr/lib/postgresql. On Debian or Ubuntu: make deps"
	for program in broker-agent/broker-agent lifecycle-hub/lifecycle-hub cli/stagebridge tools/mock_brokers tools/latency; do
		[[ -x $BUILD/$program ]] || die "$BUILD/$program is not there. Build it first: make"
	done
}

make_folder() {
	if [[ -n $KEEP ]]; then
		mkdir -p "$KEEP" || die "cannot make the folder $KEEP (SB_DEMO_DIR)"
		[[ -z $(ls -A "$KEEP") ]] || die "the folder $KEEP (SB_DEMO_DIR) is not empty: name another, or empty it"
		DIR=$(cd "$KEEP" && pwd -P)
	else
		DIR=$(cd "$(mktemp -d "${TMPDIR:-/tmp}/stagebridge-demo.XXXXXX")" && pwd -P)
	fi
	# sockets have short names, and PostgreSQL's account (when we are root) passes through here
	((${#DIR} <= 70)) || die "the name of the folder is too long (70 characters at most): $DIR"
	[[ $DIR != *[,\"\'\\\|\ ]* ]] || die "the name of the folder has a character that settings or PostgreSQL do not take: $DIR"
	chmod 711 "$DIR"
	mkdir "$DIR"/{log,run,secrets,policies,forge,serving,people}
	chmod 700 "$DIR"/{run,secrets}
	mkfifo "$DIR/run/never"
	exec 7<>"$DIR/run/never"
	export HOME=$DIR SB_CACHE=$DIR/cache GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null GIT_TERMINAL_PROMPT=0
}

start_postgres() {
	local began text db
	began=$(now_ms)
	text=$("$SERVICES/postgres.sh" start "$DIR/pg" fsync=off 2>&1) || die "PostgreSQL did not start: $text"
	PG=${text##*$'\n'}
	PG=${PG% dbname=*}
	for db in "${STAGES[@]}" hub_$TENANT; do echo "CREATE DATABASE $db;"; done | sql postgres
	for db in "${STAGES[@]}" hub_$TENANT; do open_session "$db"; done
	line start postgres "$(ask hub_$TENANT 'SHOW server_version' | cut -d' ' -f1): a private server, a database per stage and one for the sync view, $(number $(($(now_ms) - began))) ms"
}

has_lines() { (($(wc -l <"$1") >= $2)); }

start_brokers() {
	local began stage servers
	began=$(now_ms)
	# it ends when its standard input does, so also when this script is killed
	mkfifo "$DIR/run/brokers"
	(alone; exec setsid "$BUILD/tools/mock_brokers" "$TENANT" "${STAGES[@]}") <"$DIR/run/brokers" >"$DIR/run/servers" 2>"$DIR/log/brokers" &
	PID+=($!)
	NAME+=(brokers)
	exec 8>"$DIR/run/brokers"
	await 20 "the in-process brokers listen" brokers has_lines "$DIR/run/servers" ${#STAGES[@]}
	while read -r stage servers; do printf -v "BROKER_$stage" '%s' "$servers"; done <"$DIR/run/servers"
	line start brokers "${#STAGES[@]} Kafka clusters in one process, one per stage, $(number $(($(now_ms) - began))) ms"
}

port_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

choose_port() {
	local wanted=${PORT_WANTED:-8080}
	PORT=$wanted
	while port_taken "$PORT"; do
		((PORT < wanted + 50 && PORT < 65535)) || { PORT=0; break; } # 0: the system picks one
		PORT=$((PORT + 1))
	done
	if ((PORT != wanted)); then line start page "port $wanted is taken by another program, taking $( ((PORT)) && echo "$PORT" || echo 'any free one')"; fi
}

# render TEMPLATE FILE
render() {
	local text name
	text=$(<"$1")
	for name in DIR CONFIG PG PORT ACCOUNT PROD_MODE; do text=${text//"@$name@"/"${!name}"}; done
	for name in "${STAGES[@]}"; do
		local servers=BROKER_$name
		text=${text//"@$servers@"/"${!servers}"}
	done
	printf '%s\n' "$text" >"$2"
	if grep -nE '@[A-Za-z_]+@' "$2" >&2; then die "$1 has a word between @ signs that nobody replaces"; fi
}

secret() { (umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$1"); }

write_settings() {
	local stage
	# a number stands for an account without a name
	ACCOUNT=$(id -un 2>/dev/null || id -u)
	choose_port
	secret "$DIR/secrets/maria.token"
	secret "$DIR/secrets/pseudonym.key"
	"$BUILD/cli/stagebridge" keys dev "$DIR/keys" --tenant "$TENANT" --stages "$(IFS=,; echo "${STAGES[*]}")" --quiet || die "could not make the keys"
	render "$CONFIG/hub.yaml.in" "$DIR/hub.yaml"
	for stage in "${STAGES[@]}"; do
		render "$CONFIG/agent-$stage.yaml.in" "$DIR/agent-$stage.yaml"
		"$BUILD/broker-agent/broker-agent" --config "$DIR/agent-$stage.yaml" --check-config >/dev/null || die "settings of stage $stage are refused"
	done
	render "$CONFIG/policies/people.yaml.in" "$DIR/policies/people.yaml"
}

hub_listens() { running hub; grep -q 'http_listens' "$DIR/log/hub"; }
hub_answers() { running hub; curl -fsS -o /dev/null "$HUB_URL/healthz" 2>/dev/null; }
agent_listens() { running "agent-$1"; [[ -S $DIR/$1.sock ]]; }
all_live() { [[ $(ask hub_$TENANT "SELECT count(*) FROM lifecycle.stages WHERE status = 'LIVE'") == "${#STAGES[@]}" ]]; }

start_daemons() {
	local began stage
	began=$(now_ms)
	launch hub "$BUILD/lifecycle-hub/lifecycle-hub" --config "$DIR/hub.yaml"
	await 30 "the hub listens" hub hub_listens
	PORT=$(sed -n 's/.*http_listens.* port=\([0-9]*\).*/\1/p' "$DIR/log/hub" | tail -n 1)
	HUB_URL=http://127.0.0.1:$PORT
	await 20 "the hub answers at $HUB_URL" hub hub_answers
	line start hub "the page is at $HUB_URL/, $(number $(($(now_ms) - began))) ms"
	began=$(now_ms)
	now_ms >"$DIR/run/agents-began"
	for stage in "${STAGES[@]}"; do launch "agent-$stage" "$BUILD/broker-agent/broker-agent" --config "$DIR/agent-$stage.yaml"; done
	for stage in "${STAGES[@]}"; do await 20 "the agent of $stage listens" "agent-$stage" agent_listens "$stage"; done
	await 30 "the hub has heard from all ${#STAGES[@]} agents" "hub agent-dev agent-train agent-preprod agent-prod agent-explore" all_live
	line start agents "${#STAGES[@]} agents, all heard by the hub over their own brokers, $(number $(($(now_ms) - began))) ms"
}

# ---- people ----

# inside STAGE ARGUMENTS...: `stagebridge` as somebody inside a stage: nothing but the agent's socket
inside() { env SB_SOCKET="$DIR/$1.sock" "$BUILD/cli/stagebridge" "${@:2}"; }

# at_hub ARGUMENTS...: `stagebridge` as maria, who runs releases
at_hub() { env SB_HUB="$HUB_URL" SB_TENANT="$TENANT" SB_TOKEN_FILE="$DIR/secrets/maria.token" "$BUILD/cli/stagebridge" "$@"; }

git_as() { git -c user.name="$1" -c "user.email=$1@example.org" -c init.defaultBranch=main -c advice.detachedHead=false "${@:2}"; }

memory() {
	local pid kb=0 n
	for pid in "${PID[@]}"; do
		n=$(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$pid/status" 2>/dev/null) || continue
		kb=$((kb + ${n:-0}))
	done
	printf '%s' $(((kb + 512) / 1024))
}

try_it() {
	cat <<-END

		${BOLD}The page:${PLAIN} $HUB_URL/

		Three commands to try, in another terminal:

		  export PATH="$BUILD/cli:\$PATH" SB_HUB=$HUB_URL SB_TENANT=$TENANT SB_TOKEN_FILE=$DIR/secrets/maria.token

		  stagebridge status
		  stagebridge rollback project --stage prod --reason "just to see it" --wait
		  psql '$PG dbname=hub_$TENANT' -c 'select stage, title, verified_at, behind_main from lifecycle.pipeline order by place'

		After a rollback automation leaves prod alone, and a person brings it forward: stagebridge promote project --to prod --wait
		So it is from the start with: make demo ARGS=--manual
		Settings, logs, repositories and datasets are in $DIR
	END
}

# journey N TITLE FUNCTION: in a shell of its own, so that a failure ends the journey and not the demo
journey() {
	local status=0
	set +e
	(
		set -e
		trap - EXIT
		TAG="[$1/5]" TITLE=$2
		"$3"
	)
	status=$?
	set -e
	if ((status != 0)); then
		line "[$1/5]" "$2" "${RED}did not work${PLAIN}"
		FAILED=$((FAILED + 1))
	fi
}

main() {
	local arg i
	for arg; do
		case $arg in
		--once) ONCE=1 ;;
		--manual) PROD_MODE=manual ;;
		-h | --help) usage; exit 0 ;;
		*) usage >&2; exit 2 ;;
		esac
	done
	BUILD=${SB_BUILD:-$ROOT/build}
	KEEP=${SB_DEMO_DIR:-}
	PORT_WANTED=${SB_DEMO_PORT:-}
	[[ -z $PORT_WANTED || $PORT_WANTED =~ ^[1-9][0-9]{0,4}$ ]] || die "SB_DEMO_PORT=$PORT_WANTED is not a port"
	if [[ -d $BUILD ]]; then BUILD=$(cd "$BUILD" && pwd -P); fi
	# what is in this shell's environment must not configure the programs
	for arg in "${!SB_@}" "${!PG@}" "${!GIT_@}"; do [[ $arg == PG ]] || unset "$arg"; done
	check_machine
	trap cleanup EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	make_folder
	printf '%sstagebridge demo%s: five stages and a hub, in %s\n' "$BOLD" "$PLAIN" "$DIR"
	start_postgres
	start_brokers
	load_data
	make_forge
	write_settings
	start_daemons
	FAILED=0
	journey 1 promotion journey_promotion
	journey 2 push journey_push
	journey 3 'sync view' journey_view
	journey 4 datasets journey_dataset
	journey 5 copies journey_copy
	line 'done' total "$((5 - FAILED)) of 5 journeys worked; everything together took $((($(now_ms) - ${BEGAN/[.,]/} / 1000) / 1000)) s, the daemons use $(memory) MB"
	if [[ -n $ONCE ]]; then exit $((FAILED != 0)); fi
	try_it
	printf '\nRunning until Ctrl-C.\n'
	trap 'printf "\nstopping\n"; exit $((FAILED != 0))' INT
	wait -n "${PID[@]}" || true
	for i in "${!PID[@]}"; do
		if ! alive "${PID[i]}"; then die "${NAME[i]} has ended" "${NAME[i]}"; fi
	done
}

main "$@"
