#!/usr/bin/env bash
# raybd-job STUDY [OPTIONS]: what a cluster runs instead of `raybd run STUDY [OPTIONS]`.
#
# `raybd run` goes on where it was, so this may be started as often as the cluster likes. But a scheduler retries every
# exit other than 0, and "nothing feasible" (3) and "the gate refused" (4) are results: the same search would only find
# the same again. They are reported, with the report that says why, and end the job as finished. All else keeps its code.
set -u

raybd run "$@" &
child=$!
# Pods, Ray jobs and Slurm end a job with TERM. It must reach raybd, which bash would otherwise wait for.
trap 'kill -TERM "$child" 2>/dev/null' TERM INT
wait "$child"
status=$?
while kill -0 "$child" 2>/dev/null; do # a signal ended the wait, not raybd
  wait "$child"
  status=$?
done

say() { echo "raybd-job: $*" >&2; }
case "$status" in
  0) say "exit 0: promoted" ;;
  3) say "exit 3: nothing feasible; finished, see the run's report.html"; status=0 ;;
  4) say "exit 4: the gate refused; finished, see the run's report.html"; status=0 ;;
  2) say "exit 2: bad input; starting it again will not help" ;;
  *) say "exit $status: not finished; start it again and it goes on" ;;
esac
exit "$status"
