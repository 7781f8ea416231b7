#!/usr/bin/env bash
# Start a throw-away SLURM on this machine: munge, one controller, several node daemons; no systemd, no accounting. As root.
#   apt-get install -y --no-install-recommends slurm-wlm munge
#   tests/cluster/start.sh BASE      everything that it writes is in BASE, except two links in /etc/slurm
set -euo pipefail
base=$(realpath -m "${1:?a folder for the cluster}")
nodes=3
host=$(hostname -s)
if pgrep -x slurmctld >/dev/null; then
  echo "start.sh: a slurmctld is running on this machine already" >&2
  exit 1
fi
mkdir -p "$base"/{state,log,spool,run} /etc/slurm

install -d -o munge -g munge -m 0755 /run/munge # munge.key is made when the package is installed
if ! munge -n </dev/null >/dev/null 2>&1; then
  runuser -u munge -- /usr/sbin/munged
  for _ in $(seq 50); do munge -n </dev/null >/dev/null 2>&1 && break; sleep 0.1; done
fi

# Memory limits: without cgroups nothing enforces them but the accounting gatherer, which looks every second and kills.
# A dead node is noticed after SlurmdTimeout; on a loaded machine a slow one must not be taken for dead.
# MinJobAge: for how long SLURM knows of a job that has ended. Tests ask at their end, so it is longer than they take.
{
  cat <<CONF
ClusterName=lorcbench
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$base/state
SlurmdSpoolDir=$base/spool/%n
SlurmctldPidFile=$base/run/slurmctld.pid
SlurmdPidFile=$base/run/slurmd.%n.pid
SlurmctldLogFile=$base/log/slurmctld.log
SlurmdLogFile=$base/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=100000,bf_interval=5
SlurmctldTimeout=30
SlurmdTimeout=30
KillWait=2
MinJobAge=36000
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
DefMemPerCPU=500
SlurmdParameters=config_overrides
GresTypes=gpu
CONF
  for number in $(seq "$nodes"); do
    gpu=$([ "$number" = 1 ] && echo "Gres=gpu:2" || true) # cards in name only, to see where jobs that ask for one go
    cores=$([ "$number" = 1 ] && echo 4 || echo 2) # n1 has room for more jobs than cards
    weight=$([ "$number" = 3 ] && echo 1 || echo 10)
    echo "NodeName=n$number NodeHostname=$host NodeAddr=127.0.0.1 Port=$((17000 + number))" \
      "CPUs=${CPUS_PER_NODE:-$cores} RealMemory=${MEMORY_PER_NODE:-8000} $gpu Weight=$weight State=UNKNOWN"
  done
  echo "PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP"
  echo "PartitionName=doomed Nodes=n[2-3] MaxTime=INFINITE State=UP" # n3 first: the node that a test takes away
  echo "PartitionName=gpu Nodes=n1 MaxTime=INFINITE State=UP"
} >"$base/slurm.conf"
printf 'NodeName=n1 Name=gpu File=/dev/%s\n' null zero >"$base/gres.conf" # any two devices
# Not by SLURM_CONF: Snakemake's job step takes that out of the environment of its srun.
ln -sfn "$base/slurm.conf" /etc/slurm/slurm.conf
ln -sfn "$base/gres.conf" /etc/slurm/gres.conf

slurmctld -c # forgets the jobs of a cluster that was here before
for number in $(seq "$nodes"); do
  mkdir -p "$base/spool/n$number"
  slurmd -N "n$number"
done
for _ in $(seq 100); do
  [ "$(sinfo -h -N -t idle -o %N 2>/dev/null | sort -u | wc -l)" = "$nodes" ] && exit 0
  sleep 0.2
done
echo "start.sh: the nodes did not come up; see $base/log" >&2
exit 1
