#!/usr/bin/env bash
# One Kafka broker that is its own controller (KRaft), from the jars that kafka/pom.xml pins.
# usage: kafka.sh install
# usage: kafka.sh start DIR PORT [key=value...]      PORT 0: a free one; key=value: any setting of server.properties
# usage: kafka.sh stop|kill|restart|addr|pid DIR
# usage: kafka.sh topic DIR NAME [PARTITIONS [key=value...]]
# environment: SB_CACHE, SB_KAFKA_HEAP (256m), SB_KAFKA_HOST (127.0.0.1), SB_KAFKA_LOG_LEVEL (INFO)
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

VERSION=4.2.0
READY_SECONDS=90
STOP_SECONDS=30
# Quick to start and small: no second compiler, no parallel collector, no memory-mapped statistics.
JVM=(-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData -XX:ReservedCodeCacheSize=48m -Xss512k
	-XX:+ExitOnOutOfMemoryError -Djava.awt.headless=true -Dlog4j2.disableJmx=true)

usage() {
	sed -n 's/^# usage: /usage: /p' "${BASH_SOURCE[0]}" >&2
	exit 2
}

# ---- install ----

copy_jars() {
	rm -rf "${WORK:?}/lib"
	mvn -B -ntp -q -C -f "$SERVICES_DIR/kafka/pom.xml" dependency:copy-dependencies \
		-DincludeScope=runtime "-DoutputDirectory=$WORK/lib" </dev/null >"$WORK/mvn.log" 2>&1 || {
		grep -m 3 '^\[ERROR\]' "$WORK/mvn.log" >&2 || tail -n 3 "$WORK/mvn.log" >&2
		return 1
	}
}

# install_kafka: sets APP to the folder with the jars
install_kafka() {
	local cache
	cache=$(cache_dir)
	APP=$cache/kafka-$VERSION
	need java "install a Java 17 runtime (Debian: default-jre-headless)"
	[[ ! -d $APP ]] || return 0
	lock "$cache/.lock-kafka" 8 900
	[[ ! -d $APP ]] || return 0
	need mvn "install maven"
	log "fetching Kafka $VERSION, once (55 MB)"
	rm -rf "$cache"/.kafka.* # of an installation that was killed
	WORK=$(mktemp -d "$cache/.kafka.XXXXXX")
	trap 'rm -rf "$WORK"' EXIT
	retry 4 copy_jars || die "could not fetch the jars of Kafka $VERSION with maven"
	(cd "$WORK/lib" && sha256sum --quiet --strict -c "$SERVICES_DIR/kafka/jars.sha256") >&2 ||
		die "the jars are not those of kafka/jars.sha256"
	rm -f "$WORK/mvn.log"
	chmod 755 "$WORK"
	mv "$WORK" "$APP"
	trap - EXIT
	exec 8>&-
}

# ---- run ----

# random_id: prints 16 random bytes in base64url; the first is below 0xf8, as a leading "-" would be read as an option
random_id() {
	{
		printf '%b' "\\x$(printf '%02x' $((RANDOM % 248)))"
		head -c 15 /dev/urandom
	} | base64 | tr '+/' '-_' | tr -d '='
}

# choose_ports PORT: sets PORT_CLIENT, PORT_INTERNAL, PORT_CONTROLLER; those of an earlier start are kept
choose_ports() {
	PORT_CLIENT=0
	if [[ -s $DIR/ports ]]; then read -r PORT_CLIENT PORT_INTERNAL PORT_CONTROLLER <"$DIR/ports"; fi
	if [[ $1 != 0 ]]; then PORT_CLIENT=$1; fi
	if [[ $PORT_CLIENT == 0 ]]; then PORT_CLIENT=$(free_port); fi
	if [[ -z ${PORT_INTERNAL:-} ]]; then PORT_INTERNAL=$(free_port); PORT_CONTROLLER=$(free_port); fi
	echo "$PORT_CLIENT $PORT_INTERNAL $PORT_CONTROLLER" | write_file "$DIR/ports"
	echo "$HOST:$PORT_CLIENT" | write_file "$DIR/addr"
}

# write_config KEY=VALUE...: the settings given come last in the file, so they win. Clients use the listener CLIENT. INTERNAL stays
# plain whatever CLIENT is set to: the broker talks to itself through it, and so do `start` (is it ready?) and `topic`.
write_config() {
	{
		cat <<-EOF
			process.roles=broker,controller
			node.id=1
			controller.quorum.voters=1@127.0.0.1:$PORT_CONTROLLER
			listeners=CLIENT://$HOST:$PORT_CLIENT,INTERNAL://127.0.0.1:$PORT_INTERNAL,CONTROLLER://127.0.0.1:$PORT_CONTROLLER
			advertised.listeners=CLIENT://$HOST:$PORT_CLIENT,INTERNAL://127.0.0.1:$PORT_INTERNAL
			listener.security.protocol.map=CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT
			inter.broker.listener.name=INTERNAL
			controller.listener.names=CONTROLLER
			log.dirs=$DIR/data

			auto.create.topics.enable=false
			default.replication.factor=1
			offsets.topic.replication.factor=1
			offsets.topic.num.partitions=4
			transaction.state.log.replication.factor=1
			transaction.state.log.min.isr=1
			transaction.state.log.num.partitions=4
			share.coordinator.state.topic.replication.factor=1
			share.coordinator.state.topic.min.isr=1
			share.coordinator.state.topic.num.partitions=4
			group.initial.rebalance.delay.ms=0
			# after a SIGKILL the controller lets the broker back in when its old session has ended
			broker.heartbeat.interval.ms=500
			broker.session.timeout.ms=3000

			num.network.threads=2
			num.io.threads=2
			background.threads=2
			num.replica.alter.log.dirs.threads=1
			log.cleaner.dedupe.buffer.size=4194304
		EOF
		printf '%s\n' "$@" # the last of a key wins
	} | write_file "$DIR/server.properties"
}

run_java() {
	java "${JVM[@]}" -Xmx128m -cp "$APP/lib/*" -Dsb.log.level=WARN "-Dlog4j2.configurationFile=$SERVICES_DIR/kafka/log4j2.xml" "$@"
}

# format_storage: gives the empty data folder its cluster id; the file meta.properties is the last it writes
format_storage() {
	[[ ! -s $DIR/data/meta.properties ]] || return 0
	[[ -s $DIR/cluster.id ]] || random_id | write_file "$DIR/cluster.id"
	run_java kafka.tools.StorageTool format -t "$(<"$DIR/cluster.id")" -c "$DIR/server.properties" >"$DIR/format.log" 2>&1 || {
		grep -m 3 -E 'Exception|Error|error' "$DIR/format.log" >&2 || tail -n 5 "$DIR/format.log" >&2
		die "could not format $DIR/data"
	}
}

ready() {
	logged 'Kafka Server started' && port_open "${ADDR%:*}" "${ADDR##*:}" || return 1
	! command -v kcat >/dev/null || kcat -L -m 5 -b "$INTERNAL" 2>/dev/null | grep '^ *broker ' >/dev/null
}

launch() {
	local client controller
	read -r client PORT_INTERNAL controller <"$DIR/ports"
	ADDR=$(<"$DIR/addr") INTERNAL=127.0.0.1:$PORT_INTERNAL
	need_port "${ADDR%:*}" "$client"
	need_port 127.0.0.1 "$PORT_INTERNAL" "$controller"
	format_storage
	spawn "$(id -un)" java "${JVM[@]}" "-Xmx$(<"$DIR/heap")" -Xms64m -cp "$APP/lib/*" "-Dsb.log.level=${SB_KAFKA_LOG_LEVEL:-INFO}" \
		"-Dlog4j2.configurationFile=$SERVICES_DIR/kafka/log4j2.xml" kafka.Kafka "$DIR/server.properties"
	wait_ready "$READY_SECONDS" "Kafka on $ADDR" ready
}

start_kafka() {
	[[ ${2:-} =~ ^[0-9]+$ && $2 -le 65535 ]] || die "start needs a folder and a port (0: a free one)"
	HOST=${SB_KAFKA_HOST:-127.0.0.1}
	check_settings "${@:3}"
	install_kafka
	open_dir "$1"
	[[ $DIR != *[,\\]* ]] || die "Kafka cannot use a folder with a comma or a backslash in its name: $DIR"
	if running; then
		[[ $2 == 0 || "$(<"$DIR/addr")" == *":$2" ]] || die "Kafka runs in $DIR already, on $(<"$DIR/addr")"
		[[ $# -eq 2 ]] || log "Kafka runs already: its settings stay as they are"
	else
		choose_ports "$2"
		write_config "${@:3}"
		local heap=${SB_KAFKA_HEAP:-256m}
		echo "${heap#-Xmx}" | write_file "$DIR/heap"
		launch
	fi
	cat "$DIR/addr"
}

create_topic() {
	local name=$2 partitions=${3:-1} pair configs=()
	for pair in "${@:4}"; do configs+=(--config "$pair"); done
	read -r _ PORT_INTERNAL _ <"$DIR/ports"
	running || die "Kafka does not run in $DIR"
	run_java org.apache.kafka.tools.TopicCommand --bootstrap-server "127.0.0.1:$PORT_INTERNAL" --create --if-not-exists \
		--topic "$name" --partitions "$partitions" --replication-factor 1 ${configs[@]+"${configs[@]}"} >"$DIR/topic.log" 2>&1 || {
		grep -m 3 -E 'Exception|Error|error' "$DIR/topic.log" >&2 || tail -n 5 "$DIR/topic.log" >&2
		die "could not create the topic \"$name\""
	}
}

case ${1:-} in
install) install_kafka; echo "$APP" ;;
start) start_kafka "${@:2}" ;;
stop) have_dir "${2:-}" ports; stop_service TERM "$STOP_SECONDS" ;;
kill) have_dir "${2:-}" ports; kill_service ;;
restart) install_kafka; have_dir "${2:-}" ports; stop_service TERM "$STOP_SECONDS"; launch; cat "$DIR/addr" ;;
addr) have_dir "${2:-}" ports; cat "$DIR/addr" ;;
pid) have_dir "${2:-}" ports; service_pid || die "Kafka does not run in $DIR" ;;
topic) [[ -n ${3:-} ]] || usage; install_kafka; have_dir "$2" ports; create_topic "${@:2}" ;;
*) usage ;;
esac
