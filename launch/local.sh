#!/usr/bin/env bash
# One run in N processes on this machine:
#
#   launch/local.sh N --config NAME --workdir DIR [--config.a.b=value ...]
#
# From the project's root. XLA_FLAGS=--xla_force_host_platform_device_count=2 gives each process two simulated
# devices; PYTHON=... picks the interpreter (.venv/bin/python). Ctrl-C and SIGTERM reach
# every process as SIGTERM. Exit code: 0 if all exit with 0, else 1 or 2 if one does, else
# 75 (a process was preempted or lost: run the same command again).
set -u

grace=30 # seconds for the others to save or exit once one has failed
if ! [[ ${1-} =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/local.sh N --config NAME --workdir DIR" >&2
  exit 2
fi
count=$1
shift

python=${PYTHON:-.venv/bin/python}
free_port='import socket; s = socket.create_server(("", 0)); print(s.getsockname()[1])'
if ! port=$("$python" -c "$free_port"); then
  echo "launch/local.sh: cannot run $python; make env builds .venv" >&2
  exit 2
fi
export JAX_COORDINATOR_ADDRESS="127.0.0.1:$port" JAX_NUM_PROCESSES="$count"

pids=()
for ((k = 0; k < count; k++)); do
  if ((k == 0)); then
    JAX_PROCESS_ID=$k "$python" -m simclr_jax pretrain "$@" &
  else # with the rank before each line
    JAX_PROCESS_ID=$k "$python" -m simclr_jax pretrain "$@" \
      > >(awk -v k="$k" '{ print "[" k "] " $0; fflush() }' >&2) 2>&1 &
  fi
  pids+=($!)
done
trap 'kill -TERM "${pids[@]}" 2>/dev/null' INT TERM

# Until all have ended; the first failure sets the deadline of the others.
code=0 deadline=
while ((${#pids[@]})); do
  alive=()
  for pid in "${pids[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      alive+=("$pid")
      continue
    fi
    wait "$pid"
    status=$?
    if ((status != 0)); then
      deadline=${deadline:-$((SECONDS + grace))}
      case $code,$status in
        [12],*) ;;
        *,[12]) code=$status ;;
        *) code=75 ;;
      esac
    fi
  done
  pids=(${alive[@]+"${alive[@]}"})
  if [ -n "$deadline" ] && ((SECONDS >= deadline)) && ((${#pids[@]})); then
    kill -KILL "${pids[@]}" 2>/dev/null
  fi
  ((${#pids[@]})) && sleep 0.2
done
exit "$code"
