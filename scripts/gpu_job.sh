#!/usr/bin/env bash
# One quantcliff run on one GPU, as a batch job of any scheduler.
#
# quantcliff asks a language model and its int8 and int4 builds the same questions and says, stratum by stratum, which
# build got worse. CONFIG (YAML, see configs/) names the models and the questions. The results go into a folder that a
# later job continues where this one stopped, so a job that runs out of time is simply submitted again.
#
#   bash scripts/gpu_job.sh configs/demo.yaml                              on a machine with a GPU
#   sbatch --gres=gpu:1 --mem=64G --time=4:00:00 scripts/gpu_job.sh CONFIG   Slurm
#   qsub -l select=1:ngpus=1 -- "$PWD/scripts/gpu_job.sh" CONFIG             PBS
#   bsub -gpu num=1 bash scripts/gpu_job.sh CONFIG                         LSF
#
# Everything after CONFIG goes to `quantcliff run` as it is, such as --limit 20 or --shard 2/8. Several GPUs of a Slurm or
# Kubernetes cluster share the work with `quantcliff submit`: see docs/clusters.md.
#
# Settings, all optional, as environment variables:
#   QUANTCLIFF   the command to run (default: .venv/bin/quantcliff, which `make install` makes, of the folder that the
#                job was submitted from or of this file's checkout; else `quantcliff` on PATH)
#   DEVICE       cuda (default), cuda:1, cpu ...
#   OUTPUT       where run folders are made (default: what the config says)
#   OFFLINE      1: never look for a model hub; all models are local folders or already in the hub's cache
#   HF_HOME      where the hub's cache lies (the node's default otherwise); a shared folder saves downloads
#
# Exit code, which the scheduler sees as the job's: 0 every gating stratum passed, 1 one failed, 2 the config or the
# command is wrong, 3 inconclusive, 4 the run is incomplete or its sides cannot be compared.
set -euo pipefail
trap 'exit 4' ERR # not with 1, which says that a candidate failed: nothing was run

if [ $# -lt 1 ]; then
  echo "usage: gpu_job.sh CONFIG [options of quantcliff run]" >&2
  exit 2
fi
config=$1
shift

# Schedulers start a job in the submitter's folder or elsewhere, and may run a copy of this file from a spool folder.
cd "${SLURM_SUBMIT_DIR:-${PBS_O_WORKDIR:-$PWD}}"
script=${BASH_SOURCE[0]}
if [ -n "${SLURM_JOB_ID:-}" ] && [ "$(basename "$script")" = slurm_script ]; then # a copy: Slurm knows the original
  script=$(scontrol show job "$SLURM_JOB_ID" 2>/dev/null | sed -n 's/^ *Command=\(.*gpu_job\.sh\).*/\1/p')
fi
here=$(cd "$(dirname "${script:-$0}")/.." && pwd)
for quantcliff in "${QUANTCLIFF:-}" "$PWD/.venv/bin/quantcliff" "$here/.venv/bin/quantcliff" quantcliff; do
  [ -n "$quantcliff" ] && command -v "$quantcliff" >/dev/null && break
done
if ! command -v "$quantcliff" >/dev/null; then
  echo "gpu_job.sh: quantcliff is not installed; run \`make install\` in its checkout, or name it in QUANTCLIFF" >&2
  exit 2
fi

if [ "${OFFLINE:-0}" = 1 ]; then
  export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1
fi
# A batch log is no terminal: lines appear as they are written.
export PYTHONUNBUFFERED=1

echo "gpu_job.sh: $(uname -n), $(date -u +%Y-%m-%dT%H:%M:%SZ), $quantcliff run $config $*"
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>/dev/null ||
  echo "gpu_job.sh: nvidia-smi shows no GPU here"

# exec: a signal from the scheduler reaches quantcliff itself, and its exit code is the job's.
set -- ${OUTPUT:+--output "$OUTPUT"} "$@"
[[ " $*" == *" --device"* ]] || set -- --device "${DEVICE:-cuda}" "$@"
exec "$quantcliff" run "$config" "$@"
