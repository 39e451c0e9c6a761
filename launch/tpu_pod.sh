#!/bin/bash
# A run on all hosts of a TPU pod, from any machine that has gcloud:
#
#   ZONE=us-central2-b launch/tpu_pod.sh POD \
#     --config=configs/flexivit_s_i1k.py --workdir=/shared/run
#
# The repository is ~/tokenlearner_flexivit on every host, and installed there:
# in the environment of `python`, or in VENV=/path/on/the/hosts. The workdir, and
# TFDS_DATA_DIR if you set it, are paths that all hosts share (a bucket mounted
# with gcsfuse). Every host starts the program again while it exits with 75, and
# goes on when this connection is closed. What it says is in ~/RUN.log, its
# process in ~/RUN.pid; RUN=name tells several runs of yours apart. After a host
# was lost and is back, call this again: the run continues. To follow, and to
# save and stop:
#
#   gcloud compute tpus tpu-vm ssh POD --zone=ZONE --worker=0 \
#     --command="tail -f run.log"
#   ZONE=us-central2-b launch/tpu_pod.sh POD stop

set -euo pipefail

pod=${1:?"the first argument is the name of the pod"}
shift
zone=${ZONE:?"set it to the zone of the pod"}
printf -v run '%q' "${RUN:-run}"
printf -v arguments ' %q' "$@"
# Of the other runs on these hosts nothing is known, nor touched.
is_running="[[ -s $run.pid ]] && kill -0 \"\$(<$run.pid)\" 2>/dev/null"
if [[ ${1:-} == stop ]]; then
  command="if $is_running; then kill \"\$(<$run.pid)\"; fi"
else
  command="if $is_running; then echo $run runs already: stop it first; exit 1; fi"
  [[ ${VENV:-} ]] && printf -v command '%s; . %q' "$command" "$VENV/bin/activate"
  [[ ${TFDS_DATA_DIR:-} ]] &&
    printf -v command '%s; export TFDS_DATA_DIR=%q' "$command" "$TFDS_DATA_DIR"
  command+="; cd tokenlearner_flexivit && { setsid launch/gpu_box.sh --multihost"
  command+="$arguments >>~/$run.log 2>&1 </dev/null & echo \$! >~/$run.pid; }"
fi
gcloud compute tpus tpu-vm ssh "$pod" --zone="$zone" --worker=all \
  --command="$command"
