#!/usr/bin/env bash
# Measures MTP on an NVIDIA GPU, without a network: docs/gpu-bench.md.
#
#   scripts/gpu_bench.sh STEP [options]     steps and options: scripts/gpu_bench.sh --help
#   PYTHON=...                              which Python (3.10 or newer) runs it
#   WHEELS=FOLDER                           wheels that this machine lacks; installed once, into build/gpu-bench-wheels
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
path=$root:$root/scripts
if [[ -n ${WHEELS:-} ]]; then
    site=$root/build/gpu-bench-wheels
    if [[ ! -f $site/complete ]]; then
        "$python" -m pip install --quiet --no-index --no-deps --target "$site" --upgrade "$WHEELS"/*.whl
        touch "$site/complete"
    fi
    path=$site:$path
fi
export PYTHONPATH=$path${PYTHONPATH:+:$PYTHONPATH}
exec "$python" -m gpu_bench "$@"
