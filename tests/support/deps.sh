#!/bin/sh
# Installs Debian or Ubuntu packages by name, only those that are missing, and says so. --if-missing: silent when nothing is.
set -eu
quiet=0
[ "${1:-}" != "--if-missing" ] || { quiet=1; shift; }
missing=
for p in "$@"; do
	dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
# a tool that is there without its package (a JDK or Go installed by hand) counts
keep=
for p in $missing; do
	case $p in
	default-jdk-headless) command -v javac >/dev/null 2>&1 && continue ;;
	golang-go) command -v go >/dev/null 2>&1 && continue ;;
	maven) command -v mvn >/dev/null 2>&1 && continue ;;
	python3 | python3-venv | python3-pip) command -v python3 >/dev/null 2>&1 && python3 -c 'import venv' 2>/dev/null && continue ;;
	gcc) command -v gcc >/dev/null 2>&1 && continue ;;
	pkg-config) command -v pkg-config >/dev/null 2>&1 && continue ;;
	esac
	keep="$keep $p"
done
if [ -z "$keep" ]; then
	[ $quiet = 1 ] || echo "all packages are there"
	exit 0
fi
echo "installing missing packages:$keep"
if ! command -v apt-get >/dev/null 2>&1; then
	echo "this is neither Debian nor Ubuntu: install the equivalents of these packages yourself" >&2
	exit 1
fi
sudo=
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null 2>&1 || { echo "not root and no sudo: run as root: apt-get install$keep" >&2; exit 1; }
	sudo=sudo
fi
try() {
	n=1
	until "$@"; do
		[ $n -lt 4 ] || { echo "gave up after $n tries: $*" >&2; return 1; }
		n=$((n + 1))
		sleep $((n * 3)) # between tries of a network download
	done
}
try $sudo apt-get update -q
# shellcheck disable=SC2086
try $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $keep
