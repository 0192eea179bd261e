#!/bin/sh
# Runs test programs, SB_TEST_JOBS at a time (default 2), shows the logs of those that fail, and ends with "N passed, N failed". Programs print Check's
# summary or exit non-zero. They share nothing: each has temporary folders, servers and ports of its own.
# usage: run.sh NAME PROGRAM...     (a program fuzz_<name> replays tests/fuzz/corpus/<name>/)
set -u

# one program: its line, and "<passed> <failed>" into PROGRAM.count
run() {
	name=$(basename "$1") log=$1.log corpus=
	rm -f "$1.count"
	case $name in fuzz_*)
		corpus=tests/fuzz/corpus/${name#fuzz_}
		[ -d "$corpus" ] || { echo "  FAIL    $name: no corpus at $corpus"; : >"$log"; echo "0 1" >"$1.count"; return; } ;;
	esac
	timeout "${SB_TEST_TIMEOUT:-120}" "$1" ${corpus:+"$corpus"} >"$log" 2>&1
	rc=$?
	# Check prints "100%: Checks: 12, Failures: 0, Errors: 0"
	n=$(sed -n 's/^[0-9]*%: Checks: \([0-9]*\), Failures: \([0-9]*\), Errors: \([0-9]*\)$/\1 \2 \3/p' "$log" | awk '{c+=$1; f+=$2+$3} END {if (NR) print c, f}')
	if [ -n "$n" ]; then c=${n% *}; f=${n#* }; else c=1; f=0; fi
	[ $rc = 0 ] || [ "$f" -gt 0 ] || f=1
	echo "$((c - f)) $f" >"$1.count"
	if [ "$f" = 0 ]; then echo "  PASS    $name ($c)"; else echo "  FAIL    $name (exit $rc)"; fi
}

if [ "$1" = "--one" ]; then run "$2"; exit 0; fi
name=$1; shift
printf '%s\n' "$@" | xargs -P "${SB_TEST_JOBS:-2}" -n 1 "$0" --one
passed=0 failed=0
for t in "$@"; do
	n=$(cat "$t.count" 2>/dev/null) || n="0 1"
	passed=$((passed + ${n% *})) failed=$((failed + ${n#* }))
	[ "${n#* }" = 0 ] || { echo "== $t"; cat "$t.log"; }
done
echo "$name: $passed passed, $failed failed"
[ $failed = 0 ]
