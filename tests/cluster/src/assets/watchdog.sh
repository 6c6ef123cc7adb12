# Removes a cluster when the process that started it lets go of our standard input, however it ended.
# $1 folder of the cluster, $2 name of its bridge, $3 "keep" to leave the folder, $4 where to copy the logs.
# Standard output is the slot's lock file: the slot stays taken until this process ends.
folder=$1 name=$2 keep=$3 logs=$4
trap '' INT TERM HUP
while read -r _; do :; done

# A process belongs to the cluster if it is on the list and works in the cluster's folder.
alive() {
    [ -f "$folder/processes" ] && while read -r pid; do
        [ "$(readlink "/proc/$pid/cwd" 2>/dev/null)" = "$folder" ] && echo "$pid"
    done <"$folder/processes"
}

round=0
while [ "$round" -lt 100 ]; do
    pids=$(alive)
    [ -z "$pids" ] && break
    for pid in $pids; do kill -KILL "-$pid" 2>/dev/null; done
    round=$((round + 1))
    sleep 0.05
done

if [ -e "/sys/class/net/$name" ]; then
    ip link delete "$name" 2>/dev/null
    # containerd keeps a folder per container, named like the container's cgroup.
    round=0
    while [ "$round" -lt 40 ]; do
        left=$(for path in "$folder"/containerd-state/io.containerd.runtime.v2.task/k8s.io/*; do
            [ -d "$path" ] || continue
            find /sys/fs/cgroup -depth -type d -path "*/${path##*/}*" 2>/dev/null
        done)
        [ -z "$left" ] && break
        echo "$left" | while read -r group; do rmdir "$group" 2>/dev/null; done
        round=$((round + 1))
        sleep 0.05
    done
fi

if [ -n "$logs" ]; then
    mkdir -p "$logs" && cp "$folder"/*.log "$logs"/ 2>/dev/null
fi
[ "$keep" = keep ] || rm -rf "$folder"
