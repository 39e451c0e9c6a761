#!/bin/bash
# A run on all hosts of a TPU pod, from any machine that has gcloud:
#
#   ZONE=us-central2-b launch/tpu_pod.sh POD \
#     --config=configs/flexivit_s_i1k.py --workdir=/shared/run
#
# The repository is ~/tokenlearner_flexivit on every host, and installed there;
# the workdir is a path that all hosts share (a bucket mounted with gcsfuse).
# Every host starts the program again while it exits with 75. After a host was
# lost and is back, call this again: the run continues. To stop it:
#
#   gcloud compute tpus tpu-vm ssh POD --zone=ZONE --worker=all \
#     --command="pkill gpu_box.sh"

set -euo pipefail

pod=${1:?"the first argument is the name of the pod"}
shift
printf -v arguments ' %q' "$@"
gcloud compute tpus tpu-vm ssh "$pod" \
  --zone="${ZONE:?"set it to the zone of the pod"}" --worker=all \
  --command="cd tokenlearner_flexivit && launch/gpu_box.sh --multihost$arguments"
