#!/usr/bin/env bash
# One run on Cloud TPU, v2 to v6e, in one slice or several, as a queued resource:
#
#   launch/tpu_vm.sh NAME ZONE TYPE SLICES IMAGE --config NAME --workdir gs://BUCKET/DIR
#
# Every host runs launch/tpu_host.sh when it boots. FLAGS="--spot ..." has more arguments
# of gcloud. See launch/tpu_vm.md.
set -euo pipefail

if (($# < 6)) || ! [[ $4 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/tpu_vm.sh NAME ZONE TYPE SLICES IMAGE --config NAME --workdir gs://BUCKET/DIR" >&2
  exit 2
fi
name=$1 zone=$2 type=$3 slices=$4
shift 4

case $type in
  v6e-*) runtime=v2-alpha-tpuv6e ;;
  v5p-*) runtime=v2-alpha-tpuv5 ;;
  v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
  v[234]-*) runtime=tpu-ubuntu2204-base ;;
  *)
    echo "launch/tpu_vm.sh: no runtime known for $type; there are v2-, v3-, v4-, v5litepod-, v5p- and v6e-" >&2
    exit 2
    ;;
esac
nodes=(--node-id="$name")
if ((slices > 1)); then
  nodes=(--node-count="$slices" --node-prefix="$name")
fi
read -ra flags <<<"${FLAGS-}"

# The startup script: tpu_host.sh with the image and the arguments of pretrain.
host=$(mktemp)
trap 'rm -f "$host"' EXIT
{
  echo '#!/usr/bin/env bash'
  printf 'set --'
  printf ' %q' "$@"
  echo
  cat "$(dirname "$0")/tpu_host.sh"
} >"$host"

gcloud compute tpus queued-resources create "$name" --zone="$zone" \
  --accelerator-type="$type" --runtime-version="$runtime" "${nodes[@]}" \
  ${flags[@]+"${flags[@]}"} --metadata-from-file=startup-script="$host"
