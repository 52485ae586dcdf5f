#!/usr/bin/env bash
# The startup script of every host of launch/tpu_vm.sh: IMAGE and arguments of pretrain.
set -euo pipefail

image=$1
shift
export HOME=/root # unset in startup scripts; docker stores its logins there
gcloud auth configure-docker "${image%%/*}" --quiet

# Repeats the command while its exit code is 75 (or 134, a lost peer; 139 without --init,
# since process 1 cannot abort). The stop timeout is for a save.
code=75
while [[ $code == 75 || $code == 134 ]]; do
  docker rm --force simclr_jax >/dev/null 2>&1 || true # of an earlier boot
  code=0
  docker run --name simclr_jax --init --privileged --network host \
    --stop-timeout 300 "$image" pretrain "$@" || code=$?
done
exit "$code"
