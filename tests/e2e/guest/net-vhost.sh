# The guest's side of the network cases of tests/e2e/cases/vhost.py: the host is 10.77.0.1, and what is sent to its port
# 5000 comes back from it. mv.chunks=: how many 64 KiB.
set -e
host=10.77.0.1
dev=eth0
chunks=64
for word in $(cat /proc/cmdline); do case $word in mv.chunks=*) chunks=${word#*=} ;; esac; done
up() {
  ip link set $dev up
  ip addr add 10.77.0.2/24 dev $dev
}
# The first frames after a link came up may be lost.
reach() { for _ in 1 2 3 4 5 6 7 8 9 10; do ping -c 1 -W 2 $host >/dev/null && return; done; echo "no answer"; return 1; }
carrier() { while [ "$(cat /sys/class/net/$dev/carrier)" != "$1" ]; do usleep 20000; done; }
there_and_back() {
  dd if=/dev/urandom of=/tmp/data bs=65536 count="$chunks" 2>/dev/null
  sent=$(md5sum </tmp/data)
  back=$(nc $host 5000 </tmp/data | md5sum)
  [ "$sent" = "$back" ] || { echo "sent $sent, and got $back"; return 1; }
}

modprobe virtio_net
up
reach
there_and_back
echo "CHECKED TCP"
ethtool -l $dev | awk '/Combined/ { n = $2 } END { print "QUEUES", n }'

carrier 1
echo PULL-THE-CABLE
carrier 0
echo PLUG-IT-IN
carrier 1
reach
there_and_back
echo "CHECKED cable"

# Queues are stopped and started under traffic.
ping -A -c 1000000 $host >/dev/null 2>&1 &
for _ in 1 2 3 4 5 6 7 8 9 10; do
  ip link set $dev down
  ip link set $dev up
done
reach
kill $! 2>/dev/null || true
for _ in 1 2 3; do
  ping -A -c 1000000 $host >/dev/null 2>&1 &
  rmmod virtio_net
  modprobe virtio_net
  up
done
reach
there_and_back
echo "CHECKED reload"
