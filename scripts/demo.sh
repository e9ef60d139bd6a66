#!/usr/bin/env bash
# From nothing to a comparison: click logs shaped like Criteo's with a planted model, DLRM with full tables and with
# ROBE at 1000x. Run again, it goes on where it was: finished steps are kept.
set -euo pipefail
out=${1:-demo}

if [ ! -e "$out/data/manifest.json" ]; then
  robe prepare synthetic "$out/data" --rows 300000 --scale 0.1 --seed 1
fi
robe compare "$out/data" --out "$out/comparison" --methods full,robe --compression 1000 --block-size 4 --progress \
  --set train.epochs=3 --set train.early_stop_patience=1
echo
echo "The page: $out/comparison/index.html"
