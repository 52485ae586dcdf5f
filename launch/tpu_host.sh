#!/usr/bin/env bash
# What every host of launch/tpu_vm.sh does when it boots: IMAGE and the door's words.
set -euo pipefail

image=$1
shift
export HOME=/root # a startup script has none; docker keeps its logins there
gcloud auth configure-docker "${image%%/*}" --quiet

# The same command again for as long as it says 75 (or 134, a lost peer: 139 without
# --init, since a first process cannot abort). The time to stop is for a save.
code=75
while [[ $code == 75 || $code == 134 ]]; do
  docker rm --force simclr_jax >/dev/null 2>&1 || true # of an earlier boot
  code=0
  docker run --name simclr_jax --init --privileged --network host \
    --stop-timeout 300 "$image" pretrain "$@" || code=$?
done
exit "$code"
