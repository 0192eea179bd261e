#!/bin/sh
# Deploy hook of the demo's stages. The agent has put the release of the artifact into $SB_RELEASE; this "takes it into use": it seals what is
# served (a checksum of every file) in $SERVING, which the settings name. What it prints goes into the promotion's record at the hub.
# It may run twice for the same release after a power cut, so everything is written beside and renamed.
set -eu

mkdir -p "$SERVING"
cd "$SB_RELEASE"
find . -type f -exec sha256sum {} + | sort -k 2 >"$SERVING/files.next"
mv "$SERVING/files.next" "$SERVING/files"
printf '%s\n' "$SB_COMMIT" >"$SERVING/commit.next"
mv "$SERVING/commit.next" "$SERVING/commit"
printf '%s %s %s\n' "$SB_STAGE" "$SB_COMMIT" "$SB_KIND" >>"$SERVING/history"
echo "$SB_STAGE serves commit $SB_COMMIT: $(wc -l <"$SERVING/files") files"
