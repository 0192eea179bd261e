#!/usr/bin/env bash
# One Kafka Connect worker (standalone) with Debezium's PostgreSQL source and JDBC sink, from the archives that connect/pom.xml pins.
# usage: connect.sh install
# usage: connect.sh start DIR BOOTSTRAP [key=value...]       key=value: any setting of the worker; prints the URL of its REST API
# usage: connect.sh stop|kill|url|pid DIR
# usage: connect.sh connector DIR NAME <SETTINGS.json        makes a connector and waits until its task runs
# environment: SB_CACHE, SB_CONNECT_JVM (the options that Kafka's own start scripts give a worker)
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

VERSION=4.2.0-3.6 # Kafka's, Debezium's
READY_SECONDS=180
STOP_SECONDS=30
JVM_DEFAULT="-server -Xms256M -Xmx2G -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent -XX:MaxInlineLevel=15 -Djava.awt.headless=true"

usage() {
	sed -n 's/^# usage: /usage: /p' "${BASH_SOURCE[0]}" >&2
	exit 2
}

# ---- install ----

copy_archives() {
	rm -rf "${WORK:?}/lib"
	mvn -B -ntp -q -C -f "$SERVICES_DIR/connect/pom.xml" dependency:copy-dependencies \
		-DincludeScope=runtime "-DoutputDirectory=$WORK/lib" </dev/null >"$WORK/mvn.log" 2>&1 || {
		grep -m 3 '^\[ERROR\]' "$WORK/mvn.log" >&2 || tail -n 3 "$WORK/mvn.log" >&2
		return 1
	}
}

# install_connect: sets APP to the folder with lib/ (the worker) and plugins/
install_connect() {
	local cache archive
	cache=$(cache_dir)
	APP=$cache/connect-$VERSION
	need java "install a Java 17 runtime (Debian: default-jre-headless)"
	[[ ! -d $APP ]] || return 0
	lock "$cache/.lock-connect" 8 900
	[[ ! -d $APP ]] || return 0
	need mvn "install maven"
	log "fetching Kafka Connect and Debezium $VERSION, once (100 MB)"
	rm -rf "$cache"/.connect.* # of an installation that was killed
	WORK=$(mktemp -d "$cache/.connect.XXXXXX")
	trap 'rm -rf "$WORK"' EXIT
	retry 4 copy_archives || die "could not fetch Kafka Connect and Debezium $VERSION with maven"
	(cd "$WORK/lib" && sha256sum --quiet --strict -c "$SERVICES_DIR/connect/jars.sha256") >&2 ||
		die "the archives are not those of connect/jars.sha256"
	mkdir "$WORK/plugins"
	for archive in "$WORK"/lib/*.tar.gz; do
		tar xzf "$archive" --no-same-owner -C "$WORK/plugins"
		rm "$archive"
	done
	rm -f "$WORK/mvn.log"
	chmod 755 "$WORK"
	mv "$WORK" "$APP"
	trap - EXIT
	exec 8>&-
}

# ---- run ----

# write_config BOOTSTRAP KEY=VALUE...: what Kafka's connect-standalone.properties sets, with topics made by Connect (the brokers make
# none by themselves); the settings given come last in the file, so they win
write_config() {
	{
		cat <<-EOF
			bootstrap.servers=$1
			key.converter=org.apache.kafka.connect.json.JsonConverter
			value.converter=org.apache.kafka.connect.json.JsonConverter
			key.converter.schemas.enable=true
			value.converter.schemas.enable=true
			offset.storage.file.filename=$DIR/offsets
			offset.flush.interval.ms=10000
			plugin.path=$APP/plugins
			plugin.discovery=only_scan
			listeners=http://127.0.0.1:$(<"$DIR/port")
		EOF
		printf '%s\n' "${@:2}"
	} | write_file "$DIR/worker.properties"
}

ready() { curl -fsS -m 5 --noproxy '*' -o /dev/null "$URL/connectors" 2>/dev/null; }

start_connect() {
	[[ $# -ge 2 ]] || usage
	check_settings "${@:3}"
	install_connect
	open_dir "$1"
	if ! running; then
		[[ -s $DIR/port ]] || free_port | write_file "$DIR/port"
		echo "http://127.0.0.1:$(<"$DIR/port")" | write_file "$DIR/url"
		URL=$(<"$DIR/url")
		write_config "$2" "${@:3}"
		need_port 127.0.0.1 "$(<"$DIR/port")"
		local jvm
		read -ra jvm <<<"${SB_CONNECT_JVM:-$JVM_DEFAULT}"
		spawn "$(id -un)" java "${jvm[@]}" -cp "$APP/lib/*" -Dsb.log.level=WARN "-Dlog4j2.configurationFile=$SERVICES_DIR/kafka/log4j2.xml" \
			org.apache.kafka.connect.cli.ConnectStandalone "$DIR/worker.properties"
		wait_ready "$READY_SECONDS" "Kafka Connect at $URL" ready
	fi
	cat "$DIR/url"
}

# task_state NAME: sets STATE to that of the connector's only task, TRACE to the first line of the reason when it failed
task_state() {
	local status
	status=$(curl -fsS -m 10 --noproxy '*' "$URL/connectors/$1/status" 2>/dev/null) || { STATE=none; return 0; }
	STATE=$(jq -r '.tasks[0].state // "none"' <<<"$status")
	TRACE=$(jq -r '[.connector.trace, .tasks[0].trace] | map(select(. != null)) | join("\n")' <<<"$status" | grep -m 3 -E 'Exception|Caused' || true)
}

task_decided() {
	task_state "$1"
	[[ $STATE == RUNNING || $STATE == FAILED ]]
}

make_connector() {
	local answer
	running || die "Kafka Connect does not run in $DIR"
	URL=$(<"$DIR/url")
	answer=$(curl -sS -m 90 --noproxy '*' -X PUT -H 'Content-Type: application/json' --data-binary @- "$URL/connectors/$1/config") ||
		die "Kafka Connect does not answer at $URL"
	[[ $(jq -r '.name // empty' <<<"$answer") == "$1" ]] || die "could not make the connector \"$1\": $(jq -r '.message // .' <<<"$answer" | head -n 5)"
	wait_until 60 task_decided "$1" || die "the task of \"$1\" does not start within 60 s"
	[[ $STATE == RUNNING ]] || die "the task of \"$1\" failed: $TRACE"
}

need curl "install curl"
need jq "install jq"
case ${1:-} in
install) install_connect; echo "$APP" ;;
start) start_connect "${@:2}" ;;
stop) have_dir "${2:-}" port; stop_service TERM "$STOP_SECONDS" ;;
kill) have_dir "${2:-}" port; kill_service ;;
url) have_dir "${2:-}" port; cat "$DIR/url" ;;
pid) have_dir "${2:-}" port; service_pid || die "Kafka Connect does not run in $DIR" ;;
connector) [[ $# -eq 3 ]] || usage; have_dir "$2" port; make_connector "$3" ;;
*) usage ;;
esac
