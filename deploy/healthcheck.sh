#!/bin/sh
# Is this container's Ray node well? Where none runs (a driver, MLflow) there is nothing to ask, and that is no illness.
# `ray health-check` is what KubeRay waits with: it succeeds if the head's GCS answers with the same Ray version.
# A worker whose head is gone is ill, so it fails there, too.
for name in "${PROC:-/proc}"/[0-9]*/comm; do
  read -r command < "$name" 2>/dev/null || continue # it ended while we looked
  if [ "$command" = raylet ]; then
    exec timeout 20 ray health-check
  fi
done
exit 0
