#!/usr/bin/env bash
# A real SLURM cluster for tests, on one machine, thrown away afterwards. Needs root and Debian's packages, no systemd.
#
#   install            what is missing of munge, slurm and mariadb, by apt-get
#   start              the whole cluster; what runs already is left alone
#   stop | purge       end every process | and forget all state
#   status             one line a daemon and sinfo; fails unless all is up
#   env                prints the exports with which sbatch, squeue and the tests find it
#   node-kill N        power cut of node N (n1, n2, ...): all its processes are gone at once
#   node-start N       switch it on again
#   node-pause N | node-resume N      its daemon stops answering | answers again; its jobs run on meanwhile
#   node-freeze N | node-thaw N       the whole node stands still, jobs too | goes on, not knowing of the time lost
#   node-ranks N       process numbers of the ranks that run there, to be killed one by one
#   controller-restart | controller-kill | controller-start
#   drain              cancel all jobs and wait for an empty queue
#   configure          write the configuration anew (after changing a CLUSTER_ variable; then controller-restart)
#
# A node is one slurmd in namespaces of its own (processes, host name, mounts): pid 1 of it is the power switch.
set -euo pipefail

ROOT=${CLUSTER_DIR:-/tmp/masksup-cluster}
NODES=${CLUSTER_NODES:-3}
CPUS=${CLUSTER_CPUS:-4}             # what a node claims to have; the machine may have fewer
GPUS=${CLUSTER_GPUS:-2}             # files that stand for GPUs
read -ra TYPES <<< "${CLUSTER_GPU_TYPES:-a100 a100 v100}" # what n1, n2, ... say their GPUs are, round and round
MEMORY=${CLUSTER_MEMORY:-6000}      # MiB a node claims
GRACE=${CLUSTER_GRACE:-20}          # seconds between preemption's signal and its kill
ACCOUNTING=${CLUSTER_ACCOUNTING:-1} # 0: no database, so sacct does not work
NODE_TIMEOUT=${CLUSTER_NODE_TIMEOUT:-10} # seconds without an answer, after which SLURM calls a node down
USER_SIGNAL=${CLUSTER_USER_SIGNAL:-1} # 0: preemption sends SIGTERM instead of the signal that the job asked for
PORT=${CLUSTER_PORT:-17300}
CONF=$ROOT/etc/slurm.conf
export SLURM_CONF=$CONF

fail() { echo "test_cluster: $*" >&2; exit 1; }
note() { echo "test_cluster: $*"; }
as_root() { [ "$(id -u)" = 0 ] || fail "needs root"; }
node_names() { seq -f 'n%.0f' 1 "$NODES"; }
uses_accounting() { grep -q slurmdbd "$CONF" 2> /dev/null; }

# ---- processes: known by number and start time, so that a number that was used again is never hit -------------------

born() { cut -d' ' -f22 < <(sed 's/([^)]*)/x/' "/proc/$1/stat" 2> /dev/null); }

alive() { # the pid of daemon $1, if it runs
    local pid birth
    { read -r pid birth < "$ROOT/pids/$1"; } 2> /dev/null || return 1
    [ -n "$birth" ] && [ "$(born "$pid")" = "$birth" ] || return 1
    ! grep -q '^State:[[:space:]]*Z' "/proc/$pid/status" 2> /dev/null && echo "$pid"
}

daemon() { # start command $2... as daemon $1, unless it runs
    local name=$1
    shift
    alive "$name" > /dev/null && return
    setsid "$@" < /dev/null >> "$ROOT/log/$name.out" 2>&1 &
    local pid=$!
    echo "$pid $(born "$pid")" > "$ROOT/pids/$name"
}

until_true() { # until_true SECONDS WHAT COMMAND...
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" > /dev/null 2>&1; do
        [ $SECONDS -lt $end ] || fail "$what did not happen in time; see $ROOT/log"
        sleep 0.1
    done
}
gone() { ! alive "$1" > /dev/null; }

end_daemon() { # ask daemon $1 to end, insist after $2 seconds
    local pid end=$((SECONDS + $2))
    pid=$(alive "$1") || { rm -f "$ROOT/pids/$1"; return 0; }
    kill -TERM "$pid" 2> /dev/null || true
    while ! gone "$1" && [ $SECONDS -lt $end ]; do sleep 0.1; done
    gone "$1" || kill -KILL "$pid" 2> /dev/null || true
    rm -f "$ROOT/pids/$1"
}

# ---- packages ----------------------------------------------------------------------------------------------------

install_packages() {
    local wanted=(munge slurm-client slurm-wlm-basic-plugins slurmctld slurmd) missing=() name
    [ "$ACCOUNTING" = 0 ] || wanted+=(slurmdbd slurm-wlm-mysql-plugin mariadb-server)
    for name in "${wanted[@]}"; do
        dpkg-query -W -f='${Status}' "$name" 2> /dev/null | grep -q 'ok installed' || missing+=("$name")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        as_root
        apt-get update -qq
        # RUNLEVEL=1: the packages shall not start their own daemons
        DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
            apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
    fi
    note "packages are there: ${wanted[*]}"
}

# ---- configuration ---------------------------------------------------------------------------------------------

configure() {
    local k
    mkdir -p "$ROOT"/{etc,pids,log,state,gpus,munge,sql}
    chmod 755 "$ROOT" "$ROOT"/{etc,pids,log,state,gpus}
    chmod 711 "$ROOT/munge"
    [ -s "$ROOT/munge/key" ] || (umask 077 && head -c 512 /dev/urandom > "$ROOT/munge/key")
    cp /etc/hosts "$ROOT/etc/hosts"
    for ((k = 1; k <= NODES; k++)); do
        echo "127.0.1.$k n$k" >> "$ROOT/etc/hosts"
        mkdir -p "$ROOT/spool/n$k"
    done
    for ((k = 0; k < GPUS; k++)); do
        # SLURM wants a file that exists; a clone of /dev/null looks most like a device
        [ -e "$ROOT/gpus/nvidia$k" ] || mknod "$ROOT/gpus/nvidia$k" c 1 3 2> /dev/null || touch "$ROOT/gpus/nvidia$k"
    done
    slurm_conf > "$CONF"
    printf 'AutoDetect=off\n' > "$ROOT/etc/gres.conf"
    for ((k = 1; k <= NODES && GPUS > 0; k++)); do
        echo "NodeName=n$k Name=gpu Type=$(gpu_type "$k") File=$ROOT/gpus/nvidia[0-$((GPUS - 1))]" >> "$ROOT/etc/gres.conf"
    done
    printf '%s=no\n' CgroupAutomount ConstrainCores ConstrainDevices ConstrainRAMSpace > "$ROOT/etc/cgroup.conf"
    [ "$ACCOUNTING" = 0 ] || accounting_conf
    node_program > "$ROOT/etc/node.sh"
}

gpu_type() { echo "${TYPES[$((($1 - 1) % ${#TYPES[@]}))]}"; }

slurm_conf() {
    local host k
    host=$(hostname -s)
    cat << END
ClusterName=masksup
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$((PORT + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until its old credential has expired: 120 s by default, too long for tests.
AuthInfo=socket=$ROOT/munge/socket,cred_expire=5
StateSaveLocation=$ROOT/state
SlurmdSpoolDir=$ROOT/spool/%n
SlurmctldPidFile=$ROOT/state/controller.pid
SlurmdPidFile=$ROOT/spool/%n/slurmd.pid
SlurmctldLogFile=$ROOT/log/slurmctld.log
SlurmdLogFile=$ROOT/log/slurmd-%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
DebugFlags=NO_CONF_HASH
LogTimeFormat=iso8601_ms
# Containers have no control groups to give away.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5
MpiDefault=none
SwitchType=switch/none
# Short, so that a lost node is noticed within a test.
SlurmdTimeout=$NODE_TIMEOUT
SlurmctldTimeout=30
MessageTimeout=10
BatchStartTimeout=10
KillWait=5
UnkillableStepTimeout=180
MinJobAge=600
InactiveLimit=0
CompleteWait=0
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,bf_continue,sched_interval=2,batch_sched_delay=0,max_rpc_cnt=0,preempt_youngest_first
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=256
PriorityType=priority/multifactor
JobRequeue=1
EnforcePartLimits=ALL
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MaxArraySize=10001
SlurmdParameters=config_overrides
GresTypes=gpu
END
    [ "$USER_SIGNAL" = 0 ] || echo "SlurmctldParameters=preempt_send_user_signal"
    if [ "$ACCOUNTING" = 0 ]; then
        echo "AccountingStorageType=accounting_storage/none"
    else
        cat << END
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((PORT + 2))
AccountingStoragePass=$ROOT/munge/socket
AccountingStorageTRES=gres/gpu
END
    fi
    for ((k = 1; k <= NODES; k++)); do
        echo "NodeName=n$k NodeHostname=$host NodeAddr=127.0.1.$k Port=$((PORT + 10 + k)) CPUs=$CPUS Boards=1" \
            "SocketsPerBoard=1 CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=$MEMORY Gres=gpu:$(gpu_type "$k"):$GPUS State=UNKNOWN"
    done
    local common="Nodes=n[1-$NODES] MaxTime=1-0 DefaultTime=30 State=UP"
    echo "PartitionName=low Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=$GRACE $common"
    echo "PartitionName=high Default=NO PriorityTier=10 PreemptMode=OFF $common"
}

accounting_conf() {
    (umask 077 && cat > "$ROOT/etc/slurmdbd.conf") << END
AuthType=auth/munge
AuthInfo=socket=$ROOT/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((PORT + 2))
SlurmUser=root
PidFile=$ROOT/state/slurmdbd.pid
LogFile=$ROOT/log/slurmdbd.log
DebugLevel=info
CommitDelay=1
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((PORT + 3))
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_accounting
END
    cat > "$ROOT/etc/mariadb.cnf" << END
[mariadbd]
user=root
datadir=$ROOT/sql/data
socket=$ROOT/sql/socket
pid-file=$ROOT/sql/pid
log-error=$ROOT/log/mariadbd.log
bind-address=127.0.0.1
port=$((PORT + 3))
skip-name-resolve
skip-log-bin
performance_schema=OFF
innodb_buffer_pool_size=32M
innodb_log_file_size=8M
innodb_flush_log_at_trx_commit=0
innodb_doublewrite=0
innodb_lock_wait_timeout=900
max_connections=20
END
}

node_program() { # pid 1 of a node: keeps slurmd, reaps orphans, and stays as long as a job step lives
    cat << 'END'
name=$1 root=$2
mount --bind "$root/etc/hosts" /etc/hosts
hostname "$name"
export SLURM_CONF=$root/etc/slurm.conf
slurmd -D -N "$name" -f "$SLURM_CONF" &
slurmd=$!
trap 'kill -TERM $slurmd 2> /dev/null' TERM
while kill -0 $slurmd 2> /dev/null; do wait $slurmd; done
trap 'exit 0' TERM
while grep -qs slurmstepd /proc/[0-9]*/comm; do sleep 0.5 & wait $!; done
END
}

# ---- daemons -----------------------------------------------------------------------------------------------------

sql() { mariadb --no-defaults -uroot -S "$ROOT/sql/socket" "$@"; }
munge_answers() { munge -S "$ROOT/munge/socket" -n | unmunge -S "$ROOT/munge/socket"; }
controller_answers() { scontrol ping | grep -q 'is UP'; }
nodes_answer() { [ "$(sinfo -h -N -p low -o %T | grep -cvE 'down|unk|\*|boot|future')" = "$NODES" ]; }

start_munge() {
    alive munged > /dev/null && return
    rm -f "$ROOT"/munge/socket*
    daemon munged munged --foreground --num-threads=2 --key-file="$ROOT/munge/key" --socket="$ROOT/munge/socket" \
        --pid-file="$ROOT/munge/pid" --log-file="$ROOT/log/munged.log" --seed-file="$ROOT/munge/seed"
    until_true 15 "an answer of munge" munge_answers
}

start_accounting() {
    uses_accounting || return 0
    if [ ! -d "$ROOT/sql/data/mysql" ]; then
        rm -rf "$ROOT/sql/data"
        mkdir -p "$ROOT/sql/data"
        mariadb-install-db --no-defaults --user=root --datadir="$ROOT/sql/data" --skip-test-db \
            --auth-root-authentication-method=normal > "$ROOT/log/mariadb-install.out" 2>&1
    fi
    daemon mariadbd mariadbd --defaults-file="$ROOT/etc/mariadb.cnf"
    until_true 60 "an answer of the database" sql -e 'SELECT 1'
    sql -e "CREATE DATABASE IF NOT EXISTS slurm_accounting;
            CREATE USER IF NOT EXISTS slurm@'127.0.0.1' IDENTIFIED BY 'slurm';
            GRANT ALL ON slurm_accounting.* TO slurm@'127.0.0.1';"
    daemon slurmdbd slurmdbd -D # finds its configuration beside SLURM_CONF
    until_true 60 "an answer of slurmdbd" sacctmgr -n show cluster
}

start_controller() {
    daemon slurmctld slurmctld -D -f "$CONF"
    until_true 60 "an answer of the controller" controller_answers
}

start_node() {
    daemon "node-$1" unshare --fork --kill-child --pid --mount-proc --uts --mount --propagation private \
        bash "$ROOT/etc/node.sh" "$1" "$ROOT"
}

children() { cat "/proc/$1/task/$1/children" 2> /dev/null; }

power_switch() { # pid, as seen from outside, of the node's pid 1
    local outside
    outside=$(alive "node-$1") || return 1
    children "$outside" | tr ' ' '\n' | grep -m1 .
}

node_daemon() {
    local pid
    for pid in $(children "$(power_switch "$1")"); do
        [ "$(cat "/proc/$pid/comm" 2> /dev/null)" = slurmd ] && echo "$pid" && return
    done
    fail "node $1 has no slurmd"
}

has_daemon() { (node_daemon "$1"); }

node_ranks() { # processes that slurmstepd started as ranks, or as their keepers: neither srun, which has the same words, nor loader workers
    local pid parent
    for pid in $(descendants "$(power_switch "$1")"); do
        parent=$(awk '/^PPid:/ { print $2 }' "/proc/$pid/status" 2> /dev/null) || continue
        [ "$(cat "/proc/$parent/comm" 2> /dev/null)" = slurmstepd ] || continue
        tr '\0' ' ' < "/proc/$pid/cmdline" 2> /dev/null | grep -q -- '^[^ ]*python[^ ]* .*-m launch.start.\(rank\|keeper\) ' && echo "$pid"
    done
    return 0
}

descendants() { # all processes below pid $1
    local pid
    for pid in $(children "$1"); do echo "$pid"; descendants "$pid"; done
}

kill_node() {
    local switch
    switch=$(power_switch "$1") && kill -KILL "$switch" 2> /dev/null || true
    end_daemon "node-$1" 3
}

stop_node() { # slurmd first, so that it signs off; then the power
    local switch end=$((SECONDS + 3))
    if switch=$(power_switch "$1"); then
        kill -CONT "$switch" $(descendants "$switch") 2> /dev/null || true
        kill -TERM "$switch" 2> /dev/null || true
        while ! gone "node-$1" && [ $SECONDS -lt $end ]; do sleep 0.1; done
    fi
    kill_node "$1"
}

# ---- the whole ---------------------------------------------------------------------------------------------------

start() {
    as_root
    local name
    for name in munged slurmctld slurmd unshare; do
        command -v $name > /dev/null || fail "found no $name, expected Debian's packages: run '$0 install'"
    done
    alive slurmctld > /dev/null || configure
    start_munge
    start_accounting
    start_controller
    for name in $(node_names); do start_node "$name"; done
    until_true 90 "all $NODES nodes up" nodes_answer
    note "up after $SECONDS s; eval \"\$($0 env)\""
}

stop() {
    as_root
    local file
    for file in "$ROOT"/pids/node-*; do
        [ -e "$file" ] && stop_node "${file##*/node-}"
    done
    end_daemon slurmctld 15
    end_daemon slurmdbd 15
    end_daemon mariadbd 20
    end_daemon munged 5
    note "stopped"
}

status() {
    local name pid all=0 expected=(munged slurmctld)
    uses_accounting && expected+=(mariadbd slurmdbd)
    for name in "${expected[@]}" $(node_names | sed 's/^/node-/'); do
        if pid=$(alive "$name"); then echo "$name up, pid $pid"; else echo "$name down"; all=1; fi
    done
    [ $all = 0 ] && sinfo -N -o '%8N %8P %10T %G' && nodes_answer
}

drain() {
    local jobs
    jobs=$(squeue -h -o %A | sort -u)
    [ -z "$jobs" ] || scancel $jobs || true
    until_true 90 "an empty queue" sh -c '[ -z "$(squeue -h)" ]'
}

node=${2:-}
case ${1:-} in
    node-*) [ -n "$node" ] && node_names | grep -qx "$node" || fail "$1 '$node': expected one of" $(node_names) ;;
esac
case ${1:-} in
    install) install_packages ;;
    configure | start | stop | status | drain) "$1" ;;
    purge) stop; rm -rf -- "${ROOT:?}" ;;
    env) echo "export SLURM_CONF='$CONF'" ;;
    node-kill) kill_node "$node" ;;
    node-start) start_node "$node" ;;
    node-pause) kill -STOP "$(node_daemon "$node")" ;;
    node-resume)
        until_true 20 "a slurmd of $node" has_daemon "$node"
        kill -CONT "$(node_daemon "$node")"
        ;;
    node-ranks) node_ranks "$node" ;;
    node-freeze) kill -STOP $(descendants "$(power_switch "$node")") ;;
    node-thaw) kill -CONT $(descendants "$(power_switch "$node")") ;;
    controller-restart) end_daemon slurmctld 30; start_controller ;;
    controller-kill) kill -KILL "$(alive slurmctld)" ;;
    controller-start) start_controller ;;
    *) sed -n '2,20s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
