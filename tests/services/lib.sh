# shellcheck shell=bash
# Helpers shared by the scripts of this folder; sourced, never run.
# A service lives in one folder DIR. There: pid and pid.start (process number and its start time, so that a number the kernel
# has given to another process is not mistaken for ours), log (what the service printed), .lock (one command at a time).

set -euo pipefail
umask 022

# shellcheck disable=SC2034 # used by the scripts that source this file
SERVICES_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
ME=$(basename "$0")

log() { printf '%s: %s\n' "$ME" "$*" >&2; }

die() {
	log "$*"
	exit 1
}

# need COMMAND HINT: fails with a readable reason when COMMAND is not installed
need() {
	command -v "$1" >/dev/null 2>&1 || die "missing command \"$1\": $2"
}

# cache_dir: prints the folder which keeps what was fetched or built, and makes it
cache_dir() {
	local dir=${SB_CACHE:-${HOME:+$HOME/.cache/stagebridge}}
	[[ -n $dir ]] || die "neither SB_CACHE nor HOME is set: nowhere to keep downloads"
	mkdir -p "$dir" || die "cannot create the cache folder \"$dir\""
	(cd "$dir" && pwd -P)
}

now_ms() {
	local us=${EPOCHREALTIME/[.,]/}
	echo $((us / 1000))
}

# wait_until SECONDS COMMAND...: polls COMMAND; 0 as soon as it succeeds, 1 when the deadline has passed
wait_until() {
	local deadline=$(($(now_ms) + $1 * 1000))
	shift
	until "$@"; do
		(($(now_ms) < deadline)) || return 1
		sleep 0.05
	done
}

# retry TIMES COMMAND...: runs COMMAND until it succeeds, with a growing pause between two attempts
retry() {
	local times=$1 attempt pause=2
	shift
	for ((attempt = 1; ; attempt++)); do
		"$@" && return 0
		((attempt < times)) || break
		log "$1: attempt $attempt of $times failed, again in $pause s"
		wait_until "$pause" false || true
		pause=$((pause * 3))
	done
	return 1
}

# lock FILE FD SECONDS: holds FILE for the life of this script. Services are started with every descriptor above 2 closed.
lock() {
	need flock "install util-linux"
	eval "exec $2>>\"\$1\"" || die "cannot open the lock file \"$1\""
	flock -w "$3" "$2" || die "another command has held \"$1\" for $3 s"
}

# open_dir DIR: makes the service's folder if need be, takes its lock, sets DIR to its absolute name
open_dir() {
	[[ -n ${1:-} ]] || die "the service's folder is missing from the command line"
	mkdir -p "$1" || die "cannot create \"$1\""
	DIR=$(cd "$1" && pwd -P)
	lock "$DIR/.lock" 9 120
}

# have_dir DIR FILE: like open_dir, for a service that must have been started before, which FILE shows
have_dir() {
	[[ -n ${1:-} ]] || die "the service's folder is missing from the command line"
	[[ -e $1/$2 ]] || die "no service was ever started in \"$1\" (no file \"$2\" there)"
	open_dir "$1"
}

# ---- ports ----

port_open() {
	(exec 3<>"/dev/tcp/$1/$2") 2>/dev/null
}

# free_port: prints a loopback port that nothing listens on, outside the range the kernel gives to outgoing connections.
# It stays reserved for two minutes, so scripts that run side by side do not get the same one.
free_port() {
	local dir low=32768 first=20000 span port
	dir=$(cache_dir)/ports
	mkdir -p "$dir"
	find "$dir" -type f -mmin +2 -delete 2>/dev/null || true
	if [[ -r /proc/sys/net/ipv4/ip_local_port_range ]]; then read -r low _ </proc/sys/net/ipv4/ip_local_port_range; fi
	((low > first + 1000)) || low=32768
	span=$((low - first))
	for _ in {1..200}; do
		port=$((first + (RANDOM * 32768 + RANDOM) % span))
		if port_open 127.0.0.1 "$port"; then continue; fi
		if (set -C && : >"$dir/$port") 2>/dev/null; then
			echo "$port"
			return
		fi
	done
	die "found no free port between $first and $low"
}

# ---- processes ----

# proc_stat PID: sets PROC_STATE, PROC_THREADS and PROC_START from /proc; 1 when there is no such process
proc_stat() {
	local line fields
	# not $(<file): under set -e, bash 5.2 ends the script when the file is missing
	{ read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
	read -ra fields <<<"${line##*) }"
	PROC_STATE=${fields[0]} PROC_THREADS=${fields[17]} PROC_START=${fields[19]}
}

# alive PID [START]: true when the process runs and, if START is given, is the one that started then. A zombie does not run, unless
# other threads of it are still ending: until then its sockets stay open.
alive() {
	proc_stat "$1" && [[ $PROC_STATE != [ZX] || $PROC_THREADS -gt 1 ]] && [[ -z ${2:-} || $PROC_START == "$2" ]]
}

# service_pid: prints the number of the process that runs in DIR; 1 when none does
service_pid() {
	local pid start
	[[ -s $DIR/pid && -s $DIR/pid.start ]] || return 1
	pid=$(<"$DIR/pid") start=$(<"$DIR/pid.start")
	alive "$pid" "$start" || return 1
	echo "$pid"
}

running() { service_pid >/dev/null; }

# command_as USER COMMAND...: sets CMD to what runs COMMAND with a clean environment, as USER when we are root and that is another.
# Its home is SERVICE_HOME, or else DIR.
command_as() {
	local user=$1
	shift
	CMD=(env -i "PATH=$PATH" "HOME=${SERVICE_HOME:-$DIR}" LANG=C.UTF-8 "USER=$user" MALLOC_ARENA_MAX=2 "$@")
	if [[ $(id -u) == 0 && $user != root ]]; then
		CMD=(setpriv "--reuid=$user" "--regid=$(id -g "$user")" --init-groups "${CMD[@]}")
	fi
}

as_user() {
	local CMD
	command_as "$@"
	"${CMD[@]}"
}

# own USER FOLDER: makes FOLDER, gives it to USER (when we are root), and checks that USER can reach it
own() {
	local up shut=
	mkdir -p "$2"
	[[ $(id -u) == 0 ]] || return 0
	need setpriv "install util-linux"
	chown "$1:" "$2"
	if as_user "$1" test -w "$2"; then return; fi
	up=$2
	while up=$(dirname "$up") && [[ $up != / ]]; do
		as_user "$1" test -x "$up" || shut=$up
	done
	die "user $1 cannot write to $2${shut:+: it may not pass through $shut (try: chmod o+x $shut)}"
}

# spawn USER COMMAND...: starts COMMAND in a session of its own, output to DIR/log, nothing inherited but that
spawn() {
	local CMD
	command_as "$@"
	LOG_START=$(stat -c %s "$DIR/log" 2>/dev/null || echo 0)
	rm -f "$DIR/pid" "$DIR/pid.start"
	(
		proc_stat "$BASHPID"
		echo "$PROC_START" >"$DIR/pid.start"
		echo "$BASHPID" >"$DIR/pid"
		for fd in "/proc/$BASHPID/fd/"*; do
			fd=${fd##*/}
			if ((fd > 2)); then eval "exec $fd>&-"; fi
		done
		cd "$DIR"
		exec setsid "${CMD[@]}"
	) </dev/null >>"$DIR/log" 2>&1 &
	wait_until 5 test -s "$DIR/pid" || die "could not start $2; see $DIR/log"
}

# need_port HOST PORT...: fails when one of the ports is in use
need_port() {
	local port
	for port in "${@:2}"; do
		if port_open "$1" "$port"; then die "port $port is taken by another process"; fi
	done
}

# logged PATTERN: true when the service has printed it since it was last spawned
logged() {
	tail -c "+$((LOG_START + 1))" "$DIR/log" 2>/dev/null | grep -- "$1" >/dev/null # not -q: tail would die of SIGPIPE
}

log_tail() {
	{ echo "--- last lines of $DIR/log"; tail -c "+$((${LOG_START:-0} + 1))" "$DIR/log" | tail -n 25; } >&2 2>/dev/null || true
}

true_or_dead() { ! running || "$@"; }

# wait_ready SECONDS NAME COMMAND...: waits until COMMAND succeeds; fails at once when the service dies
wait_ready() {
	local seconds=$1 name=$2
	shift 2
	if wait_until "$seconds" true_or_dead "$@" && running; then return; fi
	log_tail
	if running; then
		kill_service
		die "$name was not ready after $seconds s, stopped it"
	fi
	rm -f "$DIR/pid" "$DIR/pid.start"
	die "$name ended while starting"
}

all_gone() {
	local pid
	for pid; do
		if alive "$pid"; then return 1; fi
	done
}

# children PID: prints the numbers of its children and theirs
children() {
	local kid
	while read -r -d ' ' kid; do
		echo "$kid"
		children "$kid"
	done < <(cat "/proc/$1/task/"*/children 2>/dev/null)
}

# kill_service: SIGKILL for the service of DIR and its children, as a power cut would do; returns when they are gone
kill_service() {
	local pid pids
	if ! pid=$(service_pid); then
		rm -f "$DIR/pid" "$DIR/pid.start"
		return 0
	fi
	mapfile -t pids < <(echo "$pid"; children "$pid")
	kill -KILL "${pids[@]}" 2>/dev/null || true
	wait_until 10 all_gone "${pids[@]}" || die "process $pid is still there 10 s after SIGKILL"
	rm -f "$DIR/pid" "$DIR/pid.start"
}

# stop_service SIGNAL SECONDS: asks the service to end, and kills it when it has not after SECONDS
stop_service() {
	local pid
	if pid=$(service_pid); then
		kill "-$1" "$pid" 2>/dev/null || true
		if ! wait_until "$2" all_gone "$pid"; then
			log "process $pid did not end within $2 s of SIG$1, killing it"
			kill_service
		fi
	fi
	rm -f "$DIR/pid" "$DIR/pid.start"
}

# ---- files ----

# check_settings KEY=VALUE...: fails unless each has that form
check_settings() {
	local pair
	for pair; do
		[[ $pair =~ ^[A-Za-z0-9_.-]+=[^$'\n']*$ ]] || die "\"$pair\" is not key=value"
	done
}

# write_file NAME [MODE]: standard input becomes the file, whole or not at all
write_file() {
	local new=$1.new.$$
	(umask 077 && cat >"$new")
	chmod "${2:-644}" "$new"
	mv "$new" "$1"
}
