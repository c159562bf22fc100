#!/usr/bin/env bash
# The engine's benchmark against lm_eval on one CUDA GPU: one command, under ten minutes, no network.
#
#   bash scripts/bench_gpu.sh                     in a checkout, on a machine with a GPU
#   bash scripts/bench_gpu.sh pack bundle/        in a checkout with a network: packs wheels, model and benchmark into parts
#                                                 of at most 60 MiB; what follows goes to scripts/offline_bundle.sh, such
#                                                 as --python 3.11
#   bash bundle/bench_gpu.sh                      on a node with a GPU and no network, from the packed folder
#
# It prints a short table last, and leaves cuda.json and cuda.md in OUT. Whatever follows the command (but `pack`) goes to
# scripts/bench_engine.py, such as --quick, --device cpu or --cases choices.
#
# Settings, all optional:
#   PYTHON   the Python that has torch (default: .venv/bin/python of the checkout; on a node python3)
#   OUT      where the table goes (default: results/engine; on a node the folder `engine` beside this file)
#   MINUTES  when to give up (default: 10)
#
# Exit code: 0 when the table is there, 2 where the command is wrong, 124 after MINUTES.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
say() { echo "bench_gpu.sh: $*" >&2; }

if [ "${1:-}" = pack ]; then
  [ $# -ge 2 ] || { say "pack needs a folder: bash scripts/bench_gpu.sh pack bundle/"; exit 2; }
  out=$2
  shift 2
  root=$(dirname "$here")
  model=$("${PYTHON:-$root/.venv/bin/python}" -c 'from harness.models.smollm2 import smollm2_checkpoint as c; print(c())')
  bash "$here/offline_bundle.sh" --model "smollm2=$model" --include "$here" --out "$out" "$@"
  cp "$here/bench_gpu.sh" "$out/"
  echo "and then: bash $(basename "$out")/bench_gpu.sh"
  exit 0
fi

if [ -f "$here/SHA256SUMS" ]; then
  out=${OUT:-$here/engine}
  # The bundle holds one model; its folder's name is known only once it is unpacked.
  run=(bash "$here/run_on_node.sh" bash -c 'exec "$0" files/scripts/bench_engine.py --model models/* "$@"' "${PYTHON:-python3}")
else
  root=$(dirname "$here")
  out=${OUT:-$root/results/engine}
  python=${PYTHON:-$root/.venv/bin/python}
  command -v "$python" >/dev/null || { say "$python is not there; run \`make install\` first, or name a Python in PYTHON"; exit 2; }
  run=("$python" "$here/bench_engine.py")
fi

case " $* " in
  *" --device "*) device=() ;;
  *) device=(--device cuda) ;;
esac
case $out in
  /*) ;;
  *) out=$PWD/$out ;;
esac
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>/dev/null || say "nvidia-smi shows no GPU here"
exec timeout "$((60 * ${MINUTES:-10}))" "${run[@]}" "${device[@]}" --out "$out" "$@"
