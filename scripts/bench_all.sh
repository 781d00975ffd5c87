#!/bin/sh
# Every table of docs/performance.md and docs/reliability.md, each as a Markdown file.
#
#   sh scripts/bench_all.sh DISK OUT [TABLE...]
#
# DISK: a folder on the disk to measure (50 GB free for io-16gb, 15 GB for the others). OUT: where the tables go.
# TABLE: only these, of: startup header quant quant-1gb io-1gb io-4gb io-16gb io-tensors io-xfs io-btrfs memory faults.
# PYTHON names the interpreter (default: python). io-xfs and io-btrfs need root, a free loop device and mkfs.
set -eu
disk=$1 out=$2
shift 2
[ $# -gt 0 ] || set -- startup header quant quant-1gb io-1gb io-4gb io-16gb io-tensors io-xfs io-btrfs memory faults
cd "$(dirname "$0")/.."
mkdir -p "$out"
python=${PYTHON:-python}

table() {
    case $1 in
    startup) $python scripts/bench_startup.py --repeats 20 ;;
    header) $python scripts/bench_header.py --tensors 100 1000 20000 ;;
    quant) $python scripts/bench_quant.py --repeats 9 --folder "$disk" ;;
    quant-1gb) $python scripts/bench_quant.py --rows 122880 --types BF16 --threads 2 --repeats 3 --folder "$disk" ;;
    io-1gb) $python scripts/bench_io.py --gb 1 --repeats 5 --folder "$disk" ;;
    io-4gb) $python scripts/bench_io.py --gb 4 --repeats 5 --folder "$disk" ;;
    io-16gb) $python scripts/bench_io.py --gb 16 --repeats 3 --without gguf_new_metadata --folder "$disk" ;;
    io-tensors) $python scripts/bench_io.py --gb 1 --tensors 100 1000 20000 --repeats 3 --folder "$disk" ;;
    io-xfs) $python scripts/bench_io.py --gb 4 --image xfs --repeats 3 --without gguf_new_metadata --folder "$disk" ;;
    io-btrfs) $python scripts/bench_io.py --gb 4 --image btrfs --repeats 3 --without gguf_new_metadata --folder "$disk" ;;
    memory) $python -m pytest -n 0 -m "" -s tests/test_memory.py --basetemp "$disk/mtpgraft-memory" ;;
    faults) $python -m pytest -n 0 -m "" -s tests/test_faults.py ;;
    *) echo "no such table: $1" >&2; return 2 ;;
    esac
}

for name; do
    echo "$name ..." >&2
    { echo "<!-- $(date -u +%Y-%m-%d), load $(cut -d' ' -f1 /proc/loadavg 2>/dev/null || echo unknown) -->"; table "$name"; } >"$out/$name.md"
done
