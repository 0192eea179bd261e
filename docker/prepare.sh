#!/bin/sh
# Makes what the compose files mount as secrets: keys, passwords, tokens. Nothing that is there is touched.
# usage (as root): docker/prepare.sh DIR STAGE...       e.g. docker/prepare.sh docker/secrets dev train prod
# Keys are made by `stagebridge` from PATH, or else by the image: set IMAGE to its name.
# These are development keys: root.key signs the keyring and belongs offline on a real installation.
set -eu
[ $# -ge 2 ] || { echo "usage: prepare.sh DIR STAGE..." >&2; exit 1; }
dir=$1; shift
owner=${OWNER:-65532:65532}   # who runs in the image; secret files of anybody else are refused
tenant=${TENANT:-acme}
umask 077

mkdir -p "$dir"
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
secret() { # NAME [TEXT]
	[ -e "$dir/$1" ] || printf '%s\n' "${2:-$(random)}" >"$dir/$1"
}

for stage in "$@"; do
	secret "pg-$stage"
	secret "pgpass-$stage" "db-$stage:5432:*:stagebridge:$(cat "$dir/pg-$stage")"
	secret "pseudonym-$stage"
done
secret pg-hub
secret pgpass-hub "db-hub:5432:*:stagebridge_hub:$(cat "$dir/pg-hub")"
for token in admin manager gitea-hook; do secret "$token.token"; done
secret gitea.token "replace-me-with-a-token-of-gitea"

chmod 0700 "$dir"
chown -R "$owner" "$dir"
if [ ! -e "$dir/keys/keyring.json" ]; then
	stages=$(echo "$*" | tr ' ' ',')
	if command -v stagebridge >/dev/null 2>&1; then
		stagebridge keys dev "$dir/keys" --tenant "$tenant" --stages "$stages"
	else
		docker run --rm -v "$(cd "$dir" && pwd):/secrets" "${IMAGE:-stagebridge:local}" stagebridge keys dev /secrets/keys --tenant "$tenant" --stages "$stages"
	fi
	chown -R "$owner" "$dir/keys"
fi
echo "secrets for $* are in $dir"
