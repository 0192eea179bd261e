#!/usr/bin/env bash
# MLflow's tracking store in two versions, a real application on PostgreSQL: a virtual environment with the new one, and beside it the old one, whose
# database the new one upgrades.
# usage: mlflow.sh install                  once; prints the folder: bin/python has the new version, PYTHONPATH=<folder>/old puts the old one before it
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

LISTS=$SERVICES_DIR/mlflow
MINUTES=10   # of one attempt to fetch; about one is usual

fetch() {
	rm -rf "$1"
	python3 -m venv "$1" &&
		timeout $((MINUTES * 60)) "$1/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: -r "$LISTS/requirements.txt" &&
		timeout $((MINUTES * 60)) "$1/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --no-deps --target "$1/old" -r "$LISTS/old.txt"
}

install_mlflow() {
	local cache
	need python3 "install python3 and python3-venv"
	cache=$(cache_dir)
	DIR=$cache/mlflow-$(cat "$LISTS"/*.txt | sha256sum | cut -c1-12)
	[[ ! -e $DIR/.complete ]] || return 0
	lock "$cache/.lock-mlflow" 8 1800
	[[ ! -e $DIR/.complete ]] || return 0
	# at its final place from the start: the scripts of an environment name their own folder
	retry 4 fetch "$DIR" >&2 || die "could not install the packages of $LISTS"
	: >"$DIR/.complete"
	exec 8>&-
}

case ${1:-} in
install) install_mlflow; echo "$DIR" ;;
*) sed -n 's/^# usage: /usage: /p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
