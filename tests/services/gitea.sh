#!/usr/bin/env bash
# One Gitea server: built once from its sources, run on loopback with SQLite.
# usage: gitea.sh install
# usage: gitea.sh start DIR [section.KEY=value...]    any setting of app.ini
# usage: gitea.sh stop|kill|restart|url|token|pid DIR
# usage: gitea.sh user DIR NAME PASSWORD              creates the user, prints a token of its own
# environment: SB_CACHE
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

VERSION=1.26.0
# what the Go checksum database says of this version; its own go.sum then vouches for everything it needs
MODULE_SUM="h1:fJP9dqLbzKrKWUVnCVTfVersZdVDuyJQLEDzCAOmKKA="
ADMIN=sbadmin
READY_SECONDS=60
STOP_SECONDS=20

usage() {
	sed -n 's/^# usage: /usage: /p' "${BASH_SOURCE[0]}" >&2
	exit 2
}

# ---- install ----

fetch_sources() {
	local info
	info=$(cd / && GOFLAGS="" go mod download -json "code.gitea.io/gitea@v$VERSION") || return 1
	[[ $(jq -r .Sum <<<"$info") == "$MODULE_SUM" ]] || die "Gitea $VERSION has checksum $(jq -r .Sum <<<"$info"), not $MODULE_SUM"
	SOURCE=$(jq -r .Dir <<<"$info")
}

download_modules() { (cd "$WORK/src" && GOFLAGS="" go mod download); }

install_gitea() {
	CACHE=$(cache_dir)
	APP=$CACHE/gitea-$VERSION
	[[ ! -x $APP/gitea ]] || return 0
	lock "$CACHE/.lock-gitea" 8 1800
	[[ ! -x $APP/gitea ]] || return 0
	need go "install Go 1.26.2 or newer (1.21 or newer fetches that by itself)"
	need gcc "install gcc, SQLite is compiled"
	log "building Gitea $VERSION, once (about 4 minutes on 2 cores)"
	retry 4 fetch_sources || die "could not fetch the sources of Gitea $VERSION"
	rm -rf "$CACHE"/.gitea.* # of a build that was killed
	WORK=$(mktemp -d "$CACHE/.gitea.XXXXXX")
	trap 'rm -rf "$WORK"' EXIT
	cp -R --no-preserve=mode "$SOURCE" "$WORK/src"
	retry 4 download_modules || die "could not fetch the modules Gitea needs"
	(cd "$WORK/src" && CGO_ENABLED=1 GOFLAGS="" go build -mod=readonly -buildvcs=false -trimpath -tags "sqlite sqlite_unlock_notify" \
		-ldflags "-s -w -X main.Version=$VERSION" -o "$WORK/app/gitea" .) || die "could not build Gitea $VERSION"
	mv "$WORK/src/templates" "$WORK/src/options" "$WORK/src/public" "$WORK/app/"
	chmod 755 "$WORK/app"
	rm -rf "$APP"
	mv "$WORK/app" "$APP"
	rm -rf "$WORK"
	trap - EXIT
	exec 8>&-
}
# ---- run ----

choose_user() {
	RUN_USER=$(id -un)
	[[ $(id -u) == 0 ]] || return 0
	RUN_USER=sbgitea
	if id "$RUN_USER" >/dev/null 2>&1; then return; fi
	need useradd "install passwd"
	useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$RUN_USER" ||
		id "$RUN_USER" >/dev/null 2>&1 || die "could not create the system user $RUN_USER"
}

# reach_app: sets SERVICE_HOME, and BIN_DIR to the program where RUN_USER can read it. Root's cache is usually closed to others; then
# that is a copy in DIR, made of hard links where the file system allows.
reach_app() {
	SERVICE_HOME=$DIR/data
	BIN_DIR=$APP
	if as_user "$RUN_USER" test -x "$APP/gitea"; then return; fi
	BIN_DIR=$DIR/app
	if [[ $BIN_DIR/gitea -ef $APP/gitea ]]; then return; fi
	rm -rf "$BIN_DIR" "$BIN_DIR.new"
	cp -al "$APP" "$BIN_DIR.new" 2>/dev/null || { rm -rf "$BIN_DIR.new" && cp -a "$APP" "$BIN_DIR.new"; }
	mv "$BIN_DIR.new" "$BIN_DIR"
}

random_key() { head -c 32 /dev/urandom | base64 -w 0 | tr '+/' '-_' | tr -d '='; }

# secret NAME: prints the secret kept in DIR/secrets/NAME, made at its first use
secret() {
	[[ -d $DIR/secrets ]] || mkdir -m 700 "$DIR/secrets"
	[[ -s $DIR/secrets/$1 ]] || random_key | write_file "$DIR/secrets/$1" 600
	cat "$DIR/secrets/$1"
}

# write_config SECTION.KEY=VALUE...: the settings given come last in the file, so they win
write_config() {
	local pair name
	{
		cat <<-EOF
			APP_NAME = stagebridge tests
			RUN_MODE = prod
			RUN_USER = $RUN_USER
			WORK_PATH = $DIR/data

			[server]
			PROTOCOL = http
			HTTP_ADDR = 127.0.0.1
			HTTP_PORT = $PORT
			DOMAIN = 127.0.0.1
			ROOT_URL = http://127.0.0.1:$PORT/
			LOCAL_ROOT_URL = http://127.0.0.1:$PORT/
			STATIC_ROOT_PATH = $BIN_DIR
			APP_DATA_PATH = $DIR/data
			OFFLINE_MODE = true
			DISABLE_SSH = true
			SSH_CREATE_AUTHORIZED_KEYS_FILE = false
			LFS_START_SERVER = false
			ALLOW_GRACEFUL_RESTARTS = false
			GRACEFUL_HAMMER_TIME = 10s

			[database]
			DB_TYPE = sqlite3
			PATH = $DIR/data/gitea.db
			SQLITE_JOURNAL_MODE = WAL

			[repository]
			ROOT = $DIR/data/repositories
			DEFAULT_BRANCH = main

			[security]
			INSTALL_LOCK = true
			SECRET_KEY = $(secret secret_key)
			INTERNAL_TOKEN = $(secret internal_token)
			MIN_PASSWORD_LENGTH = 6
			PASSWORD_COMPLEXITY = off

			[oauth2]
			ENABLED = false
			JWT_SECRET = $(secret jwt_secret)

			[service]
			DISABLE_REGISTRATION = true
			REGISTER_MANUAL_CONFIRM = false

			[webhook]
			ALLOWED_HOST_LIST = loopback
			DELIVER_TIMEOUT = 5

			[migrations]
			ALLOW_LOCALNETWORKS = false

			[indexer]
			ISSUE_INDEXER_TYPE = db

			[actions]
			ENABLED = false

			[packages]
			ENABLED = false

			[cron.update_checker]
			ENABLED = false

			[log]
			MODE = console
			LEVEL = Warn
		EOF
		for pair; do
			name=${pair%%=*}
			printf '\n[%s]\n%s = %s\n' "${name%.*}" "${name##*.}" "${pair#*=}"
		done
	} | write_file "$DIR/app.ini" 640
	if [[ $(id -u) == 0 ]]; then chown "root:$RUN_USER" "$DIR/app.ini"; fi
}

gitea() { as_user "$RUN_USER" "$BIN_DIR/gitea" "$@" --config "$DIR/app.ini" --work-path "$DIR/data"; }

# first_start: the database, the administrator and its token; DIR/token, written last, tells that this is done
first_start() {
	[[ ! -s $DIR/token ]] || return 0
	[[ -s $DIR/password ]] || random_key | write_file "$DIR/password" 600
	gitea migrate >"$DIR/setup.log" 2>&1 || {
		tail -n 5 "$DIR/setup.log" >&2
		die "could not create Gitea's database"
	}
	if ! gitea admin user create --username "$ADMIN" "--password=$(<"$DIR/password")" --email "$ADMIN@localhost.localdomain" \
		--admin --must-change-password=false >"$DIR/setup.log" 2>&1 && ! grep -q 'already exists' "$DIR/setup.log"; then
		tail -n 5 "$DIR/setup.log" >&2
		die "could not create the administrator $ADMIN"
	fi
	gitea admin user generate-access-token --username "$ADMIN" --token-name "setup-$(now_ms)" --scopes all --raw \
		2>&1 | write_file "$DIR/.token" 600 || true
	# warnings of the log come out of the same pipe
	if ! grep -qxE '[0-9a-f]{40}' "$DIR/.token"; then
		tail -n 5 "$DIR/.token" >&2
		die "could not create the administrator's token"
	fi
	grep -xE '[0-9a-f]{40}' "$DIR/.token" | write_file "$DIR/token" 600
	rm -f "$DIR/.token" "$DIR/setup.log"
}

ready() { curl -fsS -m 5 --noproxy '*' -o /dev/null "$URL/api/v1/version" 2>/dev/null; }

launch() {
	PORT=$(<"$DIR/port") URL=$(<"$DIR/url")
	need_port 127.0.0.1 "$PORT"
	first_start
	spawn "$RUN_USER" "$BIN_DIR/gitea" web --config "$DIR/app.ini" --work-path "$DIR/data"
	wait_ready "$READY_SECONDS" "Gitea at $URL" ready
}

start_gitea() {
	check_settings "${@:2}"
	install_gitea
	choose_user
	open_dir "${1:-}"
	if running; then
		[[ $# -eq 1 ]] || log "Gitea runs already: its settings stay as they are"
	else
		own "$RUN_USER" "$DIR/data"
		[[ -s $DIR/port ]] || free_port | write_file "$DIR/port"
		PORT=$(<"$DIR/port")
		echo "http://127.0.0.1:$PORT" | write_file "$DIR/url"
		reach_app
		write_config "${@:2}"
		launch
	fi
	cat "$DIR/url"
}

# ---- users ----

# call METHOD PATH AUTHORIZATION: sends standard input as JSON; sets STATUS, and BODY to the answer
call() {
	BODY=$(curl -sS -m 30 --noproxy '*' -X "$1" -K <(printf 'header = "Authorization: %s"\n' "$3") -H 'Content-Type: application/json' \
		--data-binary @- -w '\n%{http_code}' "$URL/api/v1$2") || die "Gitea does not answer at $URL"
	STATUS=${BODY##*$'\n'} BODY=${BODY%$'\n'*}
}

# need_status CODE WHAT: fails with Gitea's own words unless the last call was answered with CODE
need_status() {
	[[ $STATUS == "$1" ]] || die "could not $2: Gitea answered $STATUS $(jq -r '.message? // empty' <<<"$BODY" 2>/dev/null || true)"
}

# make_user NAME PASSWORD: creates the user, or sets the password of the one there is; prints a new token with all scopes
make_user() {
	local name=$1 password=$2 admin
	[[ $name =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] || die "\"$name\" cannot be a user's name"
	running || die "Gitea does not run in $DIR"
	URL=$(<"$DIR/url") admin="token $(<"$DIR/token")"
	call POST /admin/users "$admin" < <(jq -nc --arg n "$name" --arg p "$password" \
		'{username: $n, email: ($n + "@localhost.localdomain"), password: $p, must_change_password: false, send_notify: false}')
	if [[ $STATUS == 422 && $BODY == *"already exists"* ]]; then
		call PATCH "/admin/users/$name" "$admin" < <(jq -nc --arg n "$name" --arg p "$password" \
			'{source_id: 0, login_name: $n, password: $p, must_change_password: false}')
		need_status 200 "set the password of \"$name\""
	else
		need_status 201 "create the user \"$name\""
	fi
	call POST "/users/$name/tokens" "Basic $(printf '%s:%s' "$name" "$password" | base64 -w 0)" \
		< <(jq -nc --arg t "test-$(now_ms)-$$" '{name: $t, scopes: ["all"]}')
	need_status 201 "create a token for \"$name\""
	jq -r .sha1 <<<"$BODY"
}

need curl "install curl"
need git "install git"
need jq "install jq"
case ${1:-} in
install) install_gitea; echo "$APP" ;;
start) start_gitea "${@:2}" ;;
stop) have_dir "${2:-}" port; stop_service TERM "$STOP_SECONDS" ;;
kill) have_dir "${2:-}" port; kill_service ;;
restart)
	install_gitea
	choose_user
	have_dir "${2:-}" port
	stop_service TERM "$STOP_SECONDS"
	reach_app
	launch
	cat "$DIR/url"
	;;
url) have_dir "${2:-}" port; cat "$DIR/url" ;;
token) have_dir "${2:-}" token; cat "$DIR/token" ;;
pid) have_dir "${2:-}" port; service_pid || die "Gitea does not run in $DIR" ;;
user) [[ $# -eq 4 ]] || usage; have_dir "$2" token; make_user "$3" "$4" ;;
*) usage ;;
esac
