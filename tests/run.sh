#!/usr/bin/env bash
# Everything: build, lint, unit and fuzz replay, component, integration against real servers, the demo once. Ends with "N passed, N failed".
set -uo pipefail
cd "$(dirname "$0")/.."
export WERROR=${WERROR:-}
jobs=$(nproc)
log=${SB_TEST_LOG:-build/test.log}
mkdir -p "$(dirname "$log")"
: >"$log"
passed=0 failed=0

# runs a step; counts its "N passed, N failed" line, or the step itself
step() {
	local name=$1 start=$SECONDS out rc line
	shift
	echo "== $name"
	out=$(mktemp)
	"$@" > >(tee "$out") 2>&1
	rc=$?
	wait
	cat "$out" >>"$log"
	line=$(grep -aoE '[0-9]+ passed, [0-9]+ failed' "$out" | tail -1)
	rm -f "$out"
	if [ -n "$line" ]; then
		local p=${line%% passed*} f=${line#*, }
		f=${f%% failed*}
		passed=$((passed + p)) failed=$((failed + f))
		[ "$rc" = 0 ] || [ "$f" -gt 0 ] || failed=$((failed + 1))
	elif [ "$rc" = 0 ]; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "== $name FAILED with exit $rc"
	fi
	echo "== $name: $((SECONDS - start)) s"
	return "$rc"
}

step packages make -s deps WITH_TEST=1
step build make -j"$jobs" all || { echo "$passed passed, $failed failed"; exit 1; }
# the servers are fetched while the unit tests run
(for s in kafka gitea postgres mlflow "postgres 14" "postgres 16" "postgres 17"; do read -ra s <<<"$s"; "tests/services/${s[0]}.sh" install "${s[@]:1}" || exit 1; done) >"$log.services" 2>&1 &
services=$!
step lint make -s lint
step check make -j"$jobs" check
step component make -j"$jobs" check-component
if ! wait $services; then
	echo "== services could not be installed:"
	tail -30 "$log.services"
	failed=$((failed + 1))
fi
step integration python3 tests/integration/run.py
step demo make -s demo ARGS=--once
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
