# Runs as the first process of PID and mount namespaces of its own: when it is killed, the kernel ends every container
# process, and every mount of the node goes with it. Usual paths are bound to folders of the cluster, so that nodes do
# not share state. $1 is the program to become; containerd starts first.
set -e
folder=$PWD
for path in /var/lib/kubelet /var/log/pods /var/log/containers /run/containerd /run/netns /var/lib/cni; do
    mkdir -p "$path" "$folder/node$path"
    mount --bind "$folder/node$path" "$path"
done
# Containers see later mounts of the node, as on a machine of its own.
mount --make-rshared /
containerd --config "$folder/containerd.toml" >>"$folder/containerd.log" 2>&1 &
round=0
until ctr --address "$folder/containerd.sock" version >/dev/null 2>&1; do
    round=$((round + 1))
    [ "$round" -lt 300 ] || { echo "containerd does not answer, see containerd.log" >&2; exit 1; }
    sleep 0.1
done
touch "$folder/containerd.ready"
while ! [ -e "$folder/kubelet.start" ]; do sleep 0.05; done
exec "$@"
