#!/bin/sh
# Pages that the programs write themselves: config/REFERENCE.md (settings) and docs/promotion-states.md (diagram).
# usage: docs.sh [--check] BUILD     --check: changes nothing, fails when a page is not what the programs say
set -eu
check=0
[ "${1:-}" != "--check" ] || { check=1; shift; }
[ $# -eq 1 ] || { echo "usage: docs.sh [--check] BUILD" >&2; exit 1; }
case $1 in /*) build=$1 ;; *) build=$(pwd)/$1 ;; esac
cd "$(dirname "$0")/../.."
agent=$build/broker-agent/broker-agent
hub=$build/lifecycle-hub/lifecycle-hub
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT

{
	echo "# Settings"
	echo
	echo "All settings of both daemons. Made by \`make docs\` from the programs' own tables: change \`settings.c\`, not this page."
	echo
	"$agent" --print-reference
	echo
	"$hub" --print-reference
} >"$new/REFERENCE.md"
{
	echo "# States of a promotion"
	echo
	echo "Made by \`make docs\` from the table that hub, agent and command line share. What it means: [promotion.md](promotion.md)."
	echo
	"$hub" --print-fsm >"$new/fsm"
	if grep -q '^```' "$new/fsm"; then
		cat "$new/fsm"
	else
		echo '```mermaid'
		cat "$new/fsm"
		echo '```'
	fi
} >"$new/promotion-states.md"

rc=0
put() { # FILE TARGET
	if [ $check = 0 ]; then
		cmp -s "$new/$1" "$2" || { cp "$new/$1" "$2"; chmod 0644 "$2"; echo "wrote $2"; }
	elif ! diff -u "$2" "$new/$1" >&2; then
		echo "docs: $2 is not what the programs say: run make docs" >&2
		rc=1
	fi
}
put REFERENCE.md config/REFERENCE.md
put promotion-states.md docs/promotion-states.md
exit $rc
