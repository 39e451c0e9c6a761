#!/bin/bash
# A run on one machine, with all its GPUs; from the repository:
#
#   launch/gpu_box.sh --config=configs/flexivit_s_i1k.py --workdir=/data/run
#
# The program exits with 75 when a signal made it save and stop; the same command
# is then started again, and the run continues. Any other exit code is passed on.
# A signal to this script (Ctrl-C, docker stop) is handed to the program, and
# nothing is started again: the exit code is 75, and the next call continues.

stop() {
  stopping=yes
  kill -"$1" "$!"
}
trap 'stop INT' INT
trap 'stop TERM' TERM HUP
set -m # Else the program would ignore Ctrl-C, or get it twice.

code=75 stopping=
while [[ $code == 75 && ! $stopping ]]; do
  python -m tokenlearner_flexivit.main "$@" &
  # A signal ends `wait`, but the program goes on until it has saved.
  while kill -0 "$!" 2>/dev/null; do wait "$!"; done
  wait "$!"
  code=$?
done
exit "$code"
