#!/bin/sh
# Runs test programs, shows those that fail, and ends with "N passed, N failed". Programs print Check's summary or exit non-zero.
# usage: run.sh NAME PROGRAM... [-- FUZZ_PROGRAM...]   (a fuzz program replays tests/fuzz/corpus/<name>/)
set -u
name=$1; shift
fuzz=0 passed=0 failed=0
for t in "$@"; do
	if [ "$t" = "--" ]; then fuzz=1; continue; fi
	log=$t.log
	args=
	if [ $fuzz = 1 ]; then
		base=$(basename "$t"); args=tests/fuzz/corpus/${base#fuzz_}
		[ -d "$args" ] || { echo "  FAIL    $base: no corpus at $args"; failed=$((failed + 1)); continue; }
	fi
	# shellcheck disable=SC2086
	timeout "${SB_TEST_TIMEOUT:-120}" "$t" $args >"$log" 2>&1
	rc=$?
	# Check prints "100%: Checks: 12, Failures: 0, Errors: 0"
	n=$(sed -n 's/^[0-9]*%: Checks: \([0-9]*\), Failures: \([0-9]*\), Errors: \([0-9]*\)$/\1 \2 \3/p' "$log" | awk '{c+=$1; f+=$2+$3} END {if (NR) print c, f}')
	if [ -n "$n" ]; then c=${n% *}; f=${n#* }; else c=1; f=0; [ $rc = 0 ] || f=1; fi
	[ $rc = 0 ] || [ "$f" -gt 0 ] || f=1
	passed=$((passed + c - f)); failed=$((failed + f))
	if [ "$f" = 0 ]; then echo "  PASS    $(basename "$t") ($c)"; else echo "  FAIL    $(basename "$t") (exit $rc)"; cat "$log"; fi
done
echo "$name: $passed passed, $failed failed"
[ $failed = 0 ]
