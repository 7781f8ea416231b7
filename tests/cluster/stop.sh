#!/usr/bin/env bash
# End the cluster that start.sh made in BASE: its own daemons by their pid files, and the links in /etc/slurm.
base=$(realpath -m "${1:?the folder of the cluster}")
for file in "$base"/run/slurmd.*.pid "$base"/run/slurmctld.pid; do
  pid=$(cat "$file" 2>/dev/null) || continue
  kill "$pid" 2>/dev/null
  for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
done
# A link left behind makes every start of Snakemake on this machine wait ten seconds for a controller that is gone.
for name in slurm.conf gres.conf; do
  if [ "$(readlink "/etc/slurm/$name")" = "$base/$name" ]; then rm -f "/etc/slurm/$name"; fi
done
exit 0
