#!/bin/sh
# A SLURM of two nodes on one host, to try `visionquant sweep --executor slurm`: where jobs go, and what becomes of lost
# ones. Times measured on it mean nothing. As root; on Debian: apt-get install slurmctld slurmd slurm-client munge
#
#   scripts/slurm_on_one_host.sh start FOLDER     # then: export SLURM_CONF=FOLDER/slurm.conf
#   scripts/slurm_on_one_host.sh node FOLDER n2   # begins a node's daemon, e.g. one that was killed
#   scripts/slurm_on_one_host.sh stop FOLDER
#
# n1 has --gres gpu:rtx:1, n2 has gpu:h100:1; there is no accounting.
set -eu
[ $# -ge 2 ] || { sed -n 's/^# *\(scripts.*\)/\1/p' "$0" >&2; exit 2; }
for tool in slurmctld slurmd squeue munged; do
  command -v $tool >/dev/null || { echo "slurm_on_one_host: $tool is not installed; apt-get install slurmctld slurmd slurm-client munge" >&2; exit 1; }
done
mkdir -p "$2"
folder=$(cd "$2" && pwd) host=$(hostname -s)

end() { # NAME: the daemon whose number NAME.pid holds
  [ ! -f "$folder/$1.pid" ] || kill "$(cat "$folder/$1.pid")" 2>/dev/null || true
}

case $1 in
start)
  mkdir -p "$folder/state" "$folder/spool-n1" "$folder/spool-n2"
  touch "$folder/rtx" "$folder/h100" # a device has to be a file
  cat > "$folder/slurm.conf" <<CONF
ClusterName=onehost
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=17000
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=10
JobRequeue=1
SlurmdParameters=config_overrides
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdSpoolDir=$folder/spool-%n
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmdLogFile=$folder/slurmd-%n.log
GresTypes=gpu
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=1 RealMemory=4000 Gres=gpu:rtx:1
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=1 RealMemory=4000 Gres=gpu:h100:1
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
CONF
  cat > "$folder/gres.conf" <<CONF
NodeName=n1 Name=gpu Type=rtx File=$folder/rtx
NodeName=n2 Name=gpu Type=h100 File=$folder/h100
CONF
  if ! munge -n >/dev/null 2>&1; then
    install -d -o munge -g munge -m 0755 /run/munge
    runuser -u munge -- munged
  fi
  slurmctld -f "$folder/slurm.conf"
  slurmd -N n1 -f "$folder/slurm.conf"
  slurmd -N n2 -f "$folder/slurm.conf"
  ;;
node) slurmd -N "$3" -f "$folder/slurm.conf" ;;
stop) for name in slurmd-n1 slurmd-n2 slurmctld; do end $name; done ;;
*) echo "slurm_on_one_host: start, node or stop, not $1" >&2; exit 2 ;;
esac
