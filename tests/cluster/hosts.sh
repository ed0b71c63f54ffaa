#!/usr/bin/env bash
# Hosts of a cluster on one machine, for tests: each has its own network, processes, files (copy on write over this machine's),
# HOME, /tmp, /dev/shm, name and sshd. Needs root, namespaces, iproute2, openssh-server and rsync.
#
#   hosts.sh up DIR NAME...         make the hosts (10.77.0.1, .2, ...) and print "ready"; they live until stdin ends or this
#                                   process dies. The last one plays the laptop: it has the key to the others. DIR: an empty
#                                   folder. By hand: sleep infinity | hosts.sh up DIR h1 h2 h3 lap &
#   hosts.sh on DIR NAME CMD...     run a command on a host, with an empty environment and HOME=/root
#   hosts.sh link DIR NAME up|down  plug a host's network cable in, or pull it
#   hosts.sh down DIR               end all hosts and every process on them
#
# PYTHON: an interpreter with Ray, MLflow and the requirements of this project; hosts read its packages and have an environment
# of their own, ~/fedsmu_env, on top. All is inside the namespaces of one process: the hosts have no way to the network of this
# machine, several runs do not meet, and when that process ends nothing is left but files in DIR.
set -euo pipefail
command=$1 dir=$2; shift 2

make_layer() {  # what all hosts have on top of this machine's files
  local layer=$1 base site; shift
  base=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')
  site=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  mkdir -p "$layer"
  mount -t tmpfs layer "$layer"  # a layer must not lie inside of another
  mkdir -p "$layer"/etc/ssh "$layer"/opt/site
  "$PYTHON" -m venv --without-pip "$layer/env"
  echo /opt/site > "$(echo "$layer"/env/lib/python3*/site-packages)/base.pth"
  for name in pip ray mlflow uvicorn; do
    sed '1s|.*|#!/root/fedsmu_env/bin/python|' "$base/$name" > "$layer/env/bin/$name"
    chmod +x "$layer/env/bin/$name"
  done
  mount --bind -o ro "$site" "$layer/opt/site"
  ssh-keygen -A -f "$layer" > /dev/null
  { echo 127.0.0.1 localhost; local n=0 name; for name; do n=$((n + 1)); echo "10.77.0.$n $name"; done; } > "$layer/etc/hosts"
}

make_home() {  # HOME of a host: an environment, pip without a network, the key that lets the others in
  mkdir -p "$1"/.ssh "$1"/.config/pip
  cp -a "$dir/layer/env" "$1/fedsmu_env"
  cp "$dir/key.pub" "$1/.ssh/authorized_keys"
  printf '[global]\nno-index = true\n[install]\nno-build-isolation = false\n' > "$1/.config/pip/pip.conf"
  echo '. ~/.bashrc' > "$1/.profile"
  touch "$1/.bashrc"
}

make_host() {  # NAME NUMBER: its network and files
  local root=$dir/$1/root python
  python=$("$PYTHON" -c 'import sys; print(sys.base_prefix)')
  ip netns add "$1"
  ip link add "$1" type veth peer name eth0 netns "$1"
  ip link set "$1" master bridge up
  ip -n "$1" link set lo up
  ip -n "$1" link set eth0 up
  ip -n "$1" addr add "10.77.0.$2/24" dev eth0
  ip -n "$1" route add default via 10.77.0.254  # nobody: Ray takes the address of the default route as its own
  mkdir -p "$dir/$1"
  mount -t tmpfs -o size=4g host "$dir/$1"
  mkdir "$dir/$1"/{up,work,root}
  mount -t overlay -o "lowerdir=$dir/layer:/,upperdir=$dir/$1/up,workdir=$dir/$1/work" host "$root"
  mount --bind -o ro "$dir/layer/opt/site" "$root/opt/site"
  mount -t tmpfs -o mode=1777 host "$root/tmp"
  mount -t tmpfs -o mode=700 host "$root/root"
  mount -t tmpfs -o mode=755 host "$root/run"
  mount -t sysfs -o ro host "$root/sys"
  mount --bind /dev "$root/dev"
  mount -t tmpfs -o mode=1777,size=8g host "$root/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=0666 host "$root/dev/pts"
  mkdir -p "$root/run/sshd" "$root$python"
  mount --bind -o ro "$python" "$root$python"
  make_home "$root/root"
}

start_host() {  # NAME: its processes; sshd is the first, and takes over orphans
  ip netns exec "$1" unshare --pid --fork --kill-child --mount --uts --ipc -- sh -c "
    hostname $1; mount -t proc proc '$dir/$1/root/proc'; cd /
    exec chroot '$dir/$1/root' /usr/sbin/sshd -D -e" </dev/null >/dev/null 2>"$dir/$1.sshd" &
  until pgrep -P $! > "$dir/$1.pid"; do sleep 0.05; done
}

inside() {  # all of it, in namespaces of our own; NAME...
  mount -t proc proc /proc
  mount -t tmpfs netns /run
  ip link set lo up
  ip link add bridge type bridge
  ip link set bridge up
  ssh-keygen -q -t ed25519 -N '' -f "$dir/key"
  make_layer "$dir/layer" "$@"
  local number=0 name
  for name; do number=$((number + 1)); make_host "$name" "$number"; done
  for name; do start_host "$name"; done
  local laptop=$dir/${!#}/root/root
  cp "$dir/key" "$laptop/.ssh/id_ed25519"
  echo 'export PATH=~/fedsmu_env/bin:$PATH' > "$laptop/.bashrc"
  for number in $(seq $#); do
    until ip netns exec "$1" bash -c "exec 3<>/dev/tcp/10.77.0.$number/22" 2>/dev/null; do sleep 0.05; done
  done
  echo ready
  cat > /dev/null || true
}

case $command in
  up)
    : "${PYTHON:?the interpreter of an environment with Ray}"
    echo $$ > "$dir/pid"
    exec unshare --mount --net --pid --uts --ipc --fork --kill-child -- "$0" inside "$dir" "$@" ;;
  inside) inside "$@" ;;
  on)
    name=$1; shift
    exec nsenter -t "$(pgrep -P "$(cat "$dir/pid")")" --mount --pid -- \
      nsenter -t "$(cat "$dir/$name.pid")" --mount --uts --ipc --net --pid --root -- \
      env -i -C /root HOME=/root USER=root TERM=xterm LANG=C.UTF-8 \
      PATH=/root/fedsmu_env/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin "$@" ;;
  link) exec nsenter -t "$(pgrep -P "$(cat "$dir/pid")")" --net ip link set "$1" "$2" ;;
  down) kill -9 "$(cat "$dir/pid")" ;;
  *) echo "usage: $0 up|on|link|down DIR NAME..." >&2; exit 2 ;;
esac
