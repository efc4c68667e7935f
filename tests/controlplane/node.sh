#!/bin/sh
# Becomes containerd in a mount namespace of its own, in which the usual paths are this node's.
#   node.sh DIR CGROUP      DIR: the node's directory; CGROUP: where the daemons are counted
# All mounts go with the namespace, so nothing is undone by hand.
set -eu
directory=$1 cgroup=$2
for hierarchy in /sys/fs/cgroup/pids /sys/fs/cgroup; do
  if [ -d "$hierarchy/$cgroup" ]; then echo $$ > "$hierarchy/$cgroup/cgroup.procs"; break; fi
done
mount --bind "$directory/kubelet" /var/lib/kubelet
mount -t tmpfs tmpfs /run/netns        # network namespaces of the pods
mount -t tmpfs tmpfs /run/containerd   # sockets of the shims, state of runc
# The kubelet sets these for the whole machine unless it finds the values that it wants.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
  kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  file=$directory/settings/$(echo "${setting%=*}" | tr / .)
  echo "${setting#*=}" > "$file"
  mount --bind "$file" "/proc/sys/${setting%=*}"
done
mount --make-rshared /
exec containerd -c "$directory/containerd.toml"
