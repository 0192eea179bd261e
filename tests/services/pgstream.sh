#!/usr/bin/env bash
# One pgstream process, built once from its Go module; PostgreSQL's plugin wal2json, which it needs, comes from Debian.
# usage: pgstream.sh install
# usage: pgstream.sh start DIR SETTINGS [OPTION...]     SETTINGS: a .yaml or .env file, OPTION: any of "pgstream run"; prints the process number
# usage: pgstream.sh stop|kill|pid DIR
# environment: SB_CACHE
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

VERSION=0.9.5
# what the Go checksum database says of this version; its own go.sum then vouches for everything it needs
MODULE_SUM="h1:o8ZJVYH5I3jDoQm4b8zGMkMhIzj+qICavO94Boc+NU4="
TOOLCHAIN=go1.25.5 # one of its dependencies does not build with a newer one
READY_SECONDS=120
STOP_SECONDS=20

usage() {
	sed -n 's/^# usage: /usage: /p' "${BASH_SOURCE[0]}" >&2
	exit 2
}

# ---- install ----

fetch_sources() {
	local info
	info=$(cd / && GOFLAGS="" go mod download -json "github.com/xataio/pgstream@v$VERSION") || return 1
	[[ $(jq -r .Sum <<<"$info") == "$MODULE_SUM" ]] || die "pgstream $VERSION has checksum $(jq -r .Sum <<<"$info"), not $MODULE_SUM"
	SOURCE=$(jq -r .Dir <<<"$info")
}

download_modules() { (cd "$WORK/src" && GOTOOLCHAIN=$TOOLCHAIN GOFLAGS="" go mod download); }

fetch_plugin() { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1"; }

# install_plugin: wal2json for the server that postgres.sh uses
install_plugin() {
	local bin major
	bin=$("$SERVICES_DIR/postgres.sh" install)
	major=$("$bin/postgres" --version | grep -o '[0-9]*' | head -n 1)
	[[ ! -e $("$bin/pg_config" --pkglibdir 2>/dev/null || echo "/usr/lib/postgresql/$major/lib")/wal2json.so ]] || return 0
	if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then die "install the package postgresql-$major-wal2json"; fi
	retry 4 fetch_plugin "postgresql-$major-wal2json" >&2 || die "could not install the package postgresql-$major-wal2json"
}

install_pgstream() {
	CACHE=$(cache_dir)
	APP=$CACHE/pgstream-$VERSION
	install_plugin
	[[ ! -x $APP/pgstream ]] || return 0
	lock "$CACHE/.lock-pgstream" 8 3600
	[[ ! -x $APP/pgstream ]] || return 0
	need go "install Go 1.21 or newer, it fetches $TOOLCHAIN by itself"
	need jq "install jq"
	log "building pgstream $VERSION, once (some minutes on 2 cores)"
	retry 4 fetch_sources || die "could not fetch the sources of pgstream $VERSION"
	rm -rf "$CACHE"/.pgstream.* # of a build that was killed
	WORK=$(mktemp -d "$CACHE/.pgstream.XXXXXX")
	trap 'rm -rf "$WORK"' EXIT
	cp -R --no-preserve=mode "$SOURCE" "$WORK/src"
	retry 4 download_modules || die "could not fetch the modules pgstream needs"
	(cd "$WORK/src" && GOTOOLCHAIN=$TOOLCHAIN GOFLAGS="" go build -mod=readonly -buildvcs=false -trimpath -ldflags "-s -w" -o "$WORK/app/pgstream" .) ||
		die "could not build pgstream $VERSION"
	chmod 755 "$WORK/app"
	rm -rf "$APP"
	mv "$WORK/app" "$APP"
	rm -rf "$WORK"
	trap - EXIT
	exec 8>&-
}

# ---- run ----

start_pgstream() {
	[[ $# -ge 2 && -r $2 ]] || usage
	install_pgstream
	open_dir "$1"
	if ! running; then
		touch "$DIR/started"
		spawn "$(id -un)" "$APP/pgstream" run --log-level info -c "$(realpath "$2")" "${@:3}"
		wait_ready "$READY_SECONDS" "pgstream in $DIR" logged 'starting listener'
	fi
	service_pid
}

case ${1:-} in
install) install_pgstream; echo "$APP" ;;
start) start_pgstream "${@:2}" ;;
stop) have_dir "${2:-}" started; stop_service TERM "$STOP_SECONDS" ;;
kill) have_dir "${2:-}" started; kill_service ;;
pid) have_dir "${2:-}" started; service_pid || die "pgstream does not run in $DIR" ;;
*) usage ;;
esac
