#!/usr/bin/env bash
# Runs a quantcliff bundle on a machine without a network. scripts/offline_bundle.sh made this folder.
#
#   bash run_on_node.sh                          run the config that was packed
#   bash run_on_node.sh quantcliff doctor        run another command of quantcliff
#   bash run_on_node.sh python -m pytest files   run anything else, with the same packages
#
# Settings, all optional:
#   PYTHON   the node's Python, the one that has torch (default: python3)
#   INTO     where to unpack and run (default: the folder `node` beside this file); results stay in there
#
# Exit codes: the command's own; before it runs, 2 for a wrong Python and 4 for a missing or damaged part, or if it
# cannot be unpacked and installed.
set -euo pipefail
shopt -s nullglob

wanted="@PYTHON_VERSION@" # the wheels inside are for this Python
bundle=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
into=${INTO:-$bundle/node}

say() { echo "run_on_node.sh: $*" >&2; }
# Until the command runs nothing here ends in 1, with which quantcliff says that a candidate failed.
trap 'say "cannot unpack or install it (see above): free some space, and give the command again"; exit 4' ERR

# 1. The right Python, and every part whole.
python=$(command -v "${PYTHON:-python3}") || { say "no ${PYTHON:-python3} on this machine; name one in PYTHON"; exit 2; }
found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ "$found" != "$wanted" ]; then
  say "the wheels are for Python $wanted and $python is $found; name a $wanted in PYTHON, or pack with --python $found"
  exit 2
fi
# This script is the last line of the list: one that was cut short would leave parts unchecked.
(cd "$bundle" && sha256sum --check --strict --quiet SHA256SUMS && grep -q '  run_on_node.sh$' SHA256SUMS) || {
  say "a part is missing or damaged (see above); copy it here again"
  exit 4
}

# 2. Unpack and install, once per bundle. Whatever a run left in the folder stays. The packages' folder is called
# site-packages because dill, with which datasets hashes what it caches, knows installed modules by that name.
digest=$(sha256sum <"$bundle/SHA256SUMS" | cut -d ' ' -f 1)
if [ "$(cat "$into/.ready" 2>/dev/null)" != "$digest" ]; then
  mkdir -p "$into"
  rm -rf "$into/.ready" "$into/wheels" "$into/spares" "$into/models" "$into/files" "$into/site-packages" "$into/config.yaml"
  # The parts of the list and no others: a longer bundle may have been in the folder before.
  (cd "$bundle" && sed -n 's/^[0-9a-f]*  \(bundle\.tar\.[0-9]*\)$/\1/p' SHA256SUMS | xargs cat) | tar -x -f - -C "$into" --no-same-owner
  # What the node's own packages should have brought along is taken from the spares where it is missing.
  missing=$("$python" - "$into"/spares/*.whl <<'CODE'
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

for wheel in map(Path, sys.argv[1:]):
    try:
        version(wheel.name.partition("-")[0])
    except PackageNotFoundError:
        print(wheel)
CODE
  )
  # --no-deps: what is on the node stays as it is.
  mapfile -t missing <<<"$missing"
  "$python" -m pip --disable-pip-version-check install --quiet --root-user-action ignore \
    --no-index --no-deps --no-cache-dir --no-compile \
    --target "$into/site-packages" "$into"/wheels/*.whl ${missing[0]:+"${missing[@]}"}
  rm -rf "$into/wheels" "$into/spares"
  PYTHONPATH="$into/site-packages${PYTHONPATH:+:$PYTHONPATH}" "$python" -m pip --disable-pip-version-check check >"$into/check.log" ||
    say "pip check has remarks on the node's packages and these: see $into/check.log"
  echo "$digest" >"$into/.ready"
fi

# 3. Run. Nothing looks for a model hub that cannot be reached.
export PYTHONPATH="$into/site-packages${PYTHONPATH:+:$PYTHONPATH}" PATH="$into/site-packages/bin:$PATH"
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1
cd "$into"
if [ $# -eq 0 ]; then
  [ -f config.yaml ] || { say "this bundle holds no config; name a command"; exit 2; }
  set -- quantcliff run config.yaml
fi
case $1 in
  quantcliff) shift && set -- "$python" -m harness "$@" ;;
  python | python3) shift && set -- "$python" "$@" ;;
esac
exec "$@"
