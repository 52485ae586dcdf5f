#!/usr/bin/env bash
# BYOL on the pictures of the package at batches of 64, 256 and 1024, as it is and
# transferred from 256, its recipe's:
#
#   launch/batches.sh DIR [--config.a.b=value ...]
#
# From the project's root. It ends with a table: loss (the mean since the row before) and
# kNN accuracy of h against the images seen. The same command goes on where it stopped.
# PYTHON=... picks the interpreter (.venv/bin/python).
set -eu

if (($# == 0)) || [[ $1 == -* ]]; then
  echo "usage: launch/batches.sh DIR [--config.a.b=value ...]" >&2
  exit 2
fi
dir=$1
shift
python=${PYTHON:-.venv/bin/python}

# All see 153,600 images, in rows of 30,720. AdamW wants the rate with the square root of
# the batch; at 256 it is the recipe's.
for run in 256/0 64/0 64/256 1024/0 1024/256; do
  batch=${run%/*}
  "$python" -m simclr_jax.pretrain --config configs/byol_quickstart.py \
    --workdir "$dir/$run" \
    --config.data.batch_size="$batch" --config.transfer_from="${run#*/}" \
    --config.optim.lr_scaling=sqrt --config.optim.lr=0.0003125 \
    --config.optim.length=byol --config.epochs=30.72 \
    --config.log_every=$((2048 / batch)) --config.evaluate.every=$((30720 / batch)) "$@"
done

"$python" - "$dir" <<'END'
import json, pathlib, sys

table = {}
runs = ["256/0", "64/0", "64/256", "1024/0", "1024/256"]
for run in runs:
    losses = []
    for text in (pathlib.Path(sys.argv[1]) / run / "metrics.jsonl").open():
        line = json.loads(text)
        losses.append(line["loss"])
        if "knn_accuracy" in line:
            seen = line["step"] * int(run.partition("/")[0])
            mean, knn = sum(losses) / len(losses), 100 * line["knn_accuracy"]
            table.setdefault(seen, {})[run] = f"{mean:.3f} / {knn:.1f}"
            losses = []

print("Batch/transferred from: loss / kNN accuracy of h in %.\n")
print(f"| images | {' | '.join(runs)} |\n|{'---|' * (len(runs) + 1)}")
for seen, row in sorted(table.items()):
    print(f"| {seen:,} | {' | '.join(row.get(run, '') for run in runs)} |")
END
