#!/usr/bin/env bash
# A sweep on GKE through xpk: a workload for each part, each on a TPU v5e machine of eight chips.
#
#     CLUSTER=mine IMAGE=image STORAGE=sweeps NAME=quadratic PARTS=8 bash experiments/launch/xpk.sh
#
# Before: attach a Filestore to the cluster, mounted at /sweeps (`xpk storage attach sweeps
# --type=gcpfilestore --mount-point=/sweeps ...`), and write the sweep to it once:
#
#     python -m experiments.sweep --workdir=/sweeps/NAME --plan --over=...
#
# IMAGE has this repository and its packages. How far it is: the same with --status.
set -euo pipefail
: "${CLUSTER:?the name of the cluster}" "${IMAGE:?the image}" "${STORAGE:?the storage}"
: "${NAME:?the folder of the sweep in /sweeps}" "${PARTS:?how many parts}"
TPU_TYPE=${TPU_TYPE:-v5litepod-8}

for part in $(seq "$PARTS"); do
    xpk workload create \
        --cluster="$CLUSTER" \
        --workload="sweep-$NAME-$part" \
        --tpu-type="$TPU_TYPE" \
        --num-slices=1 \
        --docker-image="$IMAGE" \
        --storage="$STORAGE" \
        --max-restarts=100 \
        --termination-grace-period-seconds=90 \
        --command="python -m experiments.sweep --workdir=/sweeps/$NAME --parts=$part/$PARTS"
done
