# The five journeys, and the data that they walk with. Sourced by demo.sh, whose functions and variables it uses; each journey runs in a shell of its
# own, where the first command that fails ends it.
# shellcheck shell=bash disable=SC2153,SC2154

ORIGIN=project
GREETING=demo/greeting.txt

# say TEXT / also TEXT: the journey's line, and what belongs to it
say() { line "$TAG" "$TITLE" "$1"; }
also() { more "$@"; }

# ---- what is there before the daemons start ----

CENSUS_COLUMNS='person_id, age, hours_per_week, workclass, education, marital_status, occupation, race, sex, native_country, salary'
CENSUS_TYPES='person_id bigint PRIMARY KEY, age int NOT NULL, hours_per_week int NOT NULL, workclass text, education text, marital_status text,
	occupation text, race text, sex text, native_country text, salary text'

# load_data: the census in dev's database; in prod's the same people with names and addresses, which are made up
load_data() {
	local began csv=$CONFIG/data/adult.csv
	began=$(now_ms)
	sql dev <<-END
		CREATE TABLE census ($CENSUS_TYPES, reviewed boolean NOT NULL DEFAULT false, changed_at timestamptz NOT NULL DEFAULT now());
		COMMENT ON TABLE census IS 'UCI Adult census data, CC BY 4.0';
		\\copy census ($CENSUS_COLUMNS) FROM '$csv' CSV HEADER
	END
	sql prod <<-END
		CREATE TABLE people ($CENSUS_TYPES, name text, email text);
		\\copy people ($CENSUS_COLUMNS) FROM '$csv' CSV HEADER
		UPDATE people SET name = 'Person ' || person_id, email = 'person' || person_id || '@example.org';
	END
	# applications of a stage read the copies of other stages' entities with their own roles
	echo "CREATE ROLE analyst LOGIN" | sql train
	line start data "$(number "$(ask dev 'SELECT count(*) FROM census')") census rows ($(bytes "$(stat -c %s "$csv")")) in dev's and in prod's database, $(number $(($(now_ms) - began))) ms"
}

# A small repository, where there is no history of our own to promote (an unpacked release, a shallow clone)
make_history() {
	local work=$DIR/people/author
	git_as author init -q "$work"
	cp -r "$CONFIG/README.md" "$CONFIG/hooks" "$work/"
	git -C "$work" add -A
	git_as author -C "$work" commit -q -m 'The first release'
	git_as author -C "$work" push -q "$1" HEAD:refs/heads/main
}

# make_forge: the bare forge with the history of this very project as the repository that gets promoted
make_forge() {
	local repo=$DIR/forge/$ORIGIN.git what began
	began=$(now_ms)
	git init -q --bare -b main "$repo"
	what="this project's own history"
	# the checkout may belong to somebody else (safe.directory), or lie within another one (ceiling); it is only read, and its hooks do not run
	if ! GIT_CEILING_DIRECTORIES=$(dirname "$ROOT") git -c safe.directory='*' -C "$ROOT" push -q --no-verify "$repo" HEAD:refs/heads/main >"$DIR/log/forge" 2>&1; then
		what="a small repository, because $ROOT has no complete Git history"
		make_history "$repo" >>"$DIR/log/forge" 2>&1 || die "could not make a repository to promote" forge
	fi
	line start forge "$what: $(number "$(git -C "$repo" rev-list --count main)") commits, $(number "$(git -C "$repo" ls-tree -r --name-only main | wc -l)") files, $(number $(($(now_ms) - began))) ms"
}

# ---- 1: automatic promotion on merge ----

# in_stage STAGE COMMIT: it is there, applied, and its health check passed
in_stage() { is 1 hub_acme "SELECT count(*) FROM lifecycle.pipeline WHERE origin = '$ORIGIN' AND stage = '$1' AND commit = '$2' AND verified"; }

# reaches STAGE COMMIT
reaches() { await 60 "commit ${2:0:10} is verified in $1" "hub agent-dev agent-train agent-preprod agent-prod" in_stage "$1" "$2"; }

# reaches_prod COMMIT: by itself, or because a person said so (--manual)
reaches_prod() {
	if [[ $PROD_MODE == manual ]]; then
		reaches preprod "$1"
		at_hub promote "$ORIGIN" --to prod --reason "it runs well in preprod" --quiet --wait=60s >"$DIR/log/promote" 2>&1 ||
			die "stagebridge promote failed" promote hub agent-prod
	fi
	reaches prod "$1"
}

# since MS COMMIT: "dev 120 ms, train 260 ms, ...": when each stage had verified the commit, counted from MS
since() {
	local stage at text=
	while IFS='|' read -r stage at; do
		text+="${text:+, }$stage $(number $((at - $1)))"
	done < <(ask hub_acme "SELECT stage, (extract(epoch FROM verified_at) * 1000)::bigint FROM lifecycle.pipeline WHERE origin = '$ORIGIN' AND commit = '$2' AND verified ORDER BY place")
	printf '%s ms' "$text"
}

# served COMMIT: every stage of the path serves it, which only the deploy hook can have brought about
served() {
	local stage
	for stage in "${PROMOTED[@]}"; do
		[[ $(<"$DIR/serving/$stage/commit") == "$1" ]] || die "stage $stage does not serve $1" "agent-$stage"
		[[ $(<"$DIR/serving/$stage/history") == *"$stage $1 "* ]] || die "the deploy hook of $stage did not run for $1" "agent-$stage"
	done
}

journey_promotion() {
	local forge=$DIR/forge/$ORIGIN.git work=$DIR/people/maria first commit merged sealed hands="no hand moved after it"
	[[ $PROD_MODE == auto ]] || hands="and maria promoted it into prod"
	first=$(git -C "$forge" rev-parse main)
	reaches_prod "$first"
	served "$first"
	sealed=$(ask hub_acme "SELECT coalesce(sum(sealed_bytes), 0) FROM lifecycle.transfer WHERE from_stage = 'hub' AND kind = 'pack'")
	say "the first artifact: all history, $(bytes "$sealed") sealed in packs to ${#PROMOTED[@]} stages, in prod $(number $(($(first_in_prod "$first") - $(<"$DIR/run/agents-began")))) ms after the agents' start"
	git clone -q "$forge" "$work"
	git_as maria -C "$work" checkout -q -b greeting
	mkdir -p "$work/demo"
	echo "Hello from main, $(date -u +%FT%TZ)." >"$work/$GREETING"
	git -C "$work" add "$GREETING"
	git_as maria -C "$work" commit -q -m 'Say hello'
	git_as maria -C "$work" checkout -q main
	git_as maria -C "$work" merge -q --no-ff -m 'Merge branch greeting' greeting
	git -C "$work" push -q origin main
	merged=$(now_ms)
	commit=$(git -C "$work" rev-parse main)
	reaches_prod "$commit"
	served "$commit"
	also "a merge on main, $hands: verified after $(since "$merged" "$commit")" \
		"deploy hooks and health checks ran in ${#PROMOTED[@]} stages; prod serves \"$(<"$DIR/deploy/prod/current/$GREETING")\""
}

first_in_prod() { ask hub_acme "SELECT (extract(epoch FROM verified_at) * 1000)::bigint FROM lifecycle.occupancy o JOIN lifecycle.artifact a ON a.id = o.artifact WHERE stage = 'prod' AND commit_oid = '$1'"; }

# ---- 2: push from inside a stage ----

stage_main() { git -C "$DIR/agent-dev/git/$ORIGIN.git" rev-parse -q --verify refs/heads/main 2>/dev/null; }
stage_follows() { [[ $(stage_main) == "$(git -C "$DIR/forge/$ORIGIN.git" rev-parse main)" ]]; }

journey_push() {
	local work=$DIR/people/dana began opened number author commit merged
	# dana sees no forge: she clones from the repository that dev's agent keeps
	await 30 "main has come down into dev's own repository" "hub agent-dev" stage_follows
	git clone -q "$DIR/agent-dev/git/$ORIGIN.git" "$work"
	git_as dana -C "$work" checkout -q -b better-greeting
	mkdir -p "$work/demo"
	echo "Hello from inside Dev." >"$work/$GREETING"
	git -C "$work" add "$GREETING"
	git_as dana -C "$work" commit -q -m 'A better greeting'
	commit=$(git -C "$work" rev-parse HEAD)
	began=$(now_ms)
	(cd "$work" && inside dev push --title "A better greeting" --quiet --wait=30s) >"$DIR/log/push" 2>&1 || die "stagebridge push failed" push agent-dev hub
	opened=$(($(now_ms) - began))
	IFS='|' read -r number author < <(ask hub_acme "SELECT number, author FROM lifecycle.pull_request WHERE origin = '$ORIGIN' AND head_oid = '$commit' AND state = 'open'") ||
		die "there is no open pull request for $commit" push hub
	at_hub merge "$ORIGIN" "$number" --quiet >>"$DIR/log/push" 2>&1 || die "stagebridge merge failed" push hub
	merged=$(now_ms)
	commit=$(git -C "$DIR/forge/$ORIGIN.git" rev-parse main)
	reaches_prod "$commit"
	served "$commit"
	[[ $(<"$DIR/deploy/prod/current/$GREETING") == "Hello from inside Dev." ]] || die "prod does not hold what was pushed" agent-prod
	say "\"stagebridge push\" from inside dev: pull request $number by $author opened after $(number "$opened") ms"
	also "maria merged it: verified after $(since "$merged" "$commit")"
}

# ---- 3: the sync view ----

rows_of() { echo "COPY (SELECT * FROM $2 ORDER BY person_id) TO STDOUT" | sql "$1"; }

# same_rows DATABASE RELATION: equal to dev's table, row by row, or the journey ends
same_rows() {
	rows_of dev public.census >"$DIR/run/source.rows"
	rows_of "$1" "$2" >"$DIR/run/copy.rows"
	cmp -s "$DIR/run/source.rows" "$DIR/run/copy.rows" ||
		die "$2 differs from dev's census: $(diff "$DIR/run/source.rows" "$DIR/run/copy.rows" | head -n 3)" hub agent-dev
	wc -l <"$DIR/run/copy.rows"
}

# one_by_one DATABASE RELATION: 100 new rows in dev, each in a transaction of its own; prints when they showed up: "p50 6.1 ms, p99 11 ms"
one_by_one() {
	local json
	json=$("$BUILD/tools/latency" "$PG dbname=dev" "$PG dbname=$1" \
		"INSERT INTO public.census ($CENSUS_COLUMNS) SELECT \$1::bigint, ${CENSUS_COLUMNS#person_id, } FROM public.census WHERE person_id = 1 + \$1::bigint % 4000" \
		"SELECT max(person_id) FROM $2" 50 2 1000 2>>"$DIR/log/latency") || die "single rows did not become visible" latency agent-dev hub
	printf 'half of them within %s ms, 99%% within %s ms' "$(json_number p50_ms "$json")" "$(json_number p99_ms "$json")"
}

json_number() { sed -n "s/.*\"$1\": \([0-9]*\)\(\.[0-9]\)\?.*/\1\2/p" <<<"$2"; }

snapshot_done() { is 'done' hub_acme "SELECT snapshot_state FROM lifecycle.freshness WHERE stage = 'dev' AND type = 'census'"; }

# all_changed DATABASE RELATION: the large transaction has arrived
all_changed() { is 1000/5000 "$1" "SELECT count(*) FILTER (WHERE reviewed) || '/' || count(*) FROM $2"; }

journey_view() {
	local took rows late began
	await 60 "the snapshot of census is complete" "agent-dev hub" snapshot_done
	took=$(($(ask hub_acme "SELECT (extract(epoch FROM snapshot_at) * 1000)::bigint FROM lifecycle.freshness WHERE stage = 'dev' AND type = 'census'") - $(<"$DIR/run/agents-began")))
	rows=$(same_rows hub_acme dev.census)
	say "dev.census = dev's table, row by row: $(number "$rows") rows, $(number "$took") ms after the agents' start"
	late=$(one_by_one hub_acme dev.census)
	also "100 rows written one at a time were visible: $late"
	echo "BEGIN; UPDATE census SET reviewed = true, changed_at = now() WHERE person_id <= 1000; DELETE FROM census WHERE person_id BETWEEN 4901 AND 5000; COMMIT" | sql dev
	began=$(now_ms)
	await 30 "one transaction of 1,000 updates and 100 deletes is in the view" "agent-dev hub" all_changed hub_acme dev.census
	also "one transaction of 1,000 updates and 100 deletes: visible after $(number $(($(now_ms) - began))) ms, again equal, $(number "$(same_rows hub_acme dev.census)") rows"
	at_hub status >"$DIR/run/status" 2>"$DIR/log/status" || die "stagebridge status failed" status hub
	is 0 hub_acme 'SELECT count(*) FROM lifecycle.quarantined' || die "records were refused: $(ask hub_acme 'SELECT stage, class, reason FROM lifecycle.quarantined LIMIT 1')" hub
	is 0 hub_acme 'SELECT count(*) FROM lifecycle.audit_broken' || die "the record of decisions is not intact" hub
	also "\"stagebridge status\": $(awk 'NR > 1 && $2 == "LIVE"' "$DIR/run/status" | wc -l) stages live, nothing refused, $(ask hub_acme 'SELECT count(*) FROM lifecycle.audit') decisions on record, their hash chain intact"
}

# ---- 4: anonymized data ----

journey_dataset() {
	local began took path file rows status=0
	began=$(now_ms)
	inside train data pull people --from prod --purpose "retrain the income model" --quiet --wait=60s >"$DIR/log/dataset" 2>&1 ||
		die "stagebridge data pull failed" dataset agent-prod agent-train hub
	took=$(($(now_ms) - began))
	path=$(sed -n 's/^delivered //p' "$DIR/log/dataset")
	file=$(find "$path" -type f -name '*.csv' | head -n 1)
	[[ -s $file ]] || die "nothing arrived in $path" dataset agent-train
	rows=$(($(wc -l <"$file") - 1))
	# no name and no address may be anywhere in what arrived, and every person's number is a token now
	[[ $(sed 1d "$file" | grep -cE '^person_[0-9a-z]{26},') == "$rows" ]] || die "a row of $file does not begin with a token" agent-prod
	if grep -rqE 'Person [0-9]|example\.org' "$path"; then die "a raw value left prod: $(grep -rhE 'Person [0-9]|example\.org' "$path" | head -n 1)" agent-prod; fi
	say "people, prod to train: $(number "$rows") rows, $(bytes "$(stat -c %s "$file")"), asked for, anonymized, sealed, delivered in $(number "$took") ms"
	also "a row in prod:   $(ask prod 'SELECT person_id, name, email, age, hours_per_week, education, salary FROM people WHERE person_id = 1' | sed 's/|/, /g')" \
		"a row in train:  $(sed -n 2p "$file")"
	inside train data pull people --from dev --purpose "no such edge" --quiet --wait=30s >"$DIR/log/refused" 2>&1 || status=$?
	((status == 4)) || die "asking dev for it should have been refused (exit code 4), the exit code is $status" refused agent-train hub
	also "the same from dev: $(tail -n 1 "$DIR/log/refused" | cut -c1-110)"
}

# ---- 5: read-only copies ----

journey_copy() {
	local stage late rows text=
	for stage in train explore; do
		await 60 "census has arrived in $stage" "agent-$stage hub" copy_there "$stage"
	done
	late=$(one_by_one train replica.census)
	for stage in train explore; do
		await 30 "the newest row of census is in $stage" "agent-$stage hub" copy_there "$stage"
		rows=$(same_rows "$stage" replica.census)
		text+="${text:+, }$stage $(number "$rows") rows"
	done
	say "dev's census in schema replica of other stages, equal row by row: $text"
	also "100 rows written one at a time in dev were visible in train: $late"
	text=$(psql -XqAt "$PG dbname=train user=analyst" -c 'UPDATE replica.census SET age = 0' 2>&1) && die "an analyst could change the copy" agent-train
	also "an analyst may read them and not write: ${text#*ERROR:  }"
}

# copy_there STAGE: as many rows and as many reviewed ones as dev has
copy_there() { is "$(ask dev "$COPY_SUM public.census")" "$1" "$COPY_SUM replica.census"; }
COPY_SUM="SELECT count(*) || '/' || count(*) FILTER (WHERE reviewed) FROM"
