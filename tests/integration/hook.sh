#!/bin/sh
# Deploy hook of the tests: says what it was given; fails when the artifact holds a file FAIL.
set -eu
echo "hook stage=${SB_STAGE} origin=${SB_ORIGIN} artifact=${SB_ARTIFACT} commit=${SB_COMMIT}" | tee -a "$HOOK_LOG"
[ ! -e "$SB_RELEASE/FAIL" ] || { echo "the artifact asks to fail"; exit 3; }
