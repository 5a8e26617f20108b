#!/bin/sh
# Start NVIDIA's library: ft-worker DEGREE. Orders on standard input, answers on standard output.
set -eu
degree=${1:?usage: ft-worker DEGREE}
set -- /opt/conda/bin/python3 /opt/ft/python/ft_worker.py /opt/ft/lib/libth_transformer.so
if [ "$degree" = 1 ]; then
    exec "$@"
fi
# Without privileges, ranks of one container share memory by copying twice.
export OMPI_MCA_btl_vader_single_copy_mechanism=none
exec mpirun --allow-run-as-root -n "$degree" "$@"
