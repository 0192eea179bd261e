#!/bin/sh
# Health check of the demo's stages: what is served is, file by file, what was deployed. A no here puts the former release back. Try it: merge a
# commit with a file named SICK and watch the promotion stop at dev.
set -eu

if [ -e "$SB_RELEASE/SICK" ]; then
	echo "the release holds a file SICK: not healthy"
	exit 1
fi
[ "$(cat "$SERVING/commit")" = "$SB_COMMIT" ] || { echo "$SERVING serves another commit"; exit 1; }
cd "$SB_RELEASE"
sha256sum --quiet --check "$SERVING/files"
