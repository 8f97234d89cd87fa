#!/usr/bin/env bash
# A sweep on TPU machines without Kubernetes: one queued resource for each part, with a TPU v5e
# machine of eight chips.
#
#     ZONE=us-west4-a SOURCE=https://host/repository.git NFS=10.0.0.2:/sweeps NAME=quadratic PARTS=8 \
#         bash experiments/launch/tpu_vm.sh
#
# Each machine mounts the file system NFS (such as Filestore), installs the repository SOURCE, does
# its part, and deletes itself. The same command again makes those that are missing, such as Spot
# machines that were taken away: what they had saved is not lost. Before: write the sweep to the file
# system once, from any machine that has it mounted,
#
#     python -m experiments.sweep --workdir=/sweeps/NAME --plan --over=...
#
# How far it is: the same with --status. A machine that deletes itself needs a service account that
# may do that.
set -euo pipefail
: "${ZONE:?the zone}" "${SOURCE:?the repository}" "${NFS:?the file system}"
: "${NAME:?the folder of the sweep in the file system}" "${PARTS:?how many parts}"
TPU_TYPE=${TPU_TYPE:-v5litepod-8}
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}
SCRIPT=$(mktemp)
trap 'rm -f "$SCRIPT"' EXIT

for part in $(seq "$PARTS"); do
    id="sweep-$NAME-$part"
    state=$(gcloud compute tpus queued-resources describe "$id" --zone="$ZONE" \
        --format='value(state.state)' 2>/dev/null || true)
    case "$state" in
        FAILED | SUSPENDED)
            gcloud compute tpus queued-resources delete "$id" --zone="$ZONE" --force --quiet
            ;;
        ?*)
            echo "$id is there: $state"
            continue
            ;;
    esac
    cat >"$SCRIPT" <<END
#!/usr/bin/env bash
apt-get install --yes nfs-common
mkdir -p /sweeps && mount "$NFS" /sweeps
git clone "$SOURCE" /opt/learned_opt && cd /opt/learned_opt
python3 -m venv .venv && .venv/bin/python -m pip install '.[experiments,tpu]'
.venv/bin/python -m experiments.sweep --workdir="/sweeps/$NAME" --parts="$part/$PARTS"
gcloud compute tpus queued-resources delete "$id" --zone="$ZONE" --force --quiet --async
END
    gcloud compute tpus queued-resources create "$id" \
        --node-id="$id" \
        --zone="$ZONE" \
        --accelerator-type="$TPU_TYPE" \
        --runtime-version="$RUNTIME" \
        --metadata-from-file=startup-script="$SCRIPT" \
        --spot
done
