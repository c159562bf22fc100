#!/usr/bin/env bash
# Packs a quantcliff run for a machine that reaches no network: wheels, a model, a config, in parts of at most 60 MiB.
#
#   scripts/offline_bundle.sh --config configs/demo.yaml --python 3.12 --out bundle/
#
# The models that the config names are packed with it: folders, hub ids (fetched here), smollm2 (made here). Copy the
# folder bundle/ to the node, by whatever way files get there, and run one command on it:
#
#   bash bundle/run_on_node.sh
#
# That verifies the parts, joins and unpacks them, installs the wheels beside what the node has (its torch stays), and
# runs the config; its exit code is quantcliff's. `scripts/offline_bundle.sh --help` lists everything.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
if [ ! -x "$(command -v "$python")" ]; then
  echo "offline_bundle.sh: $python is not there; run \`make install\` first, or name a Python in PYTHON" >&2
  exit 2
fi
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$python" "$root/scripts/offline_bundle.py" "$@"
