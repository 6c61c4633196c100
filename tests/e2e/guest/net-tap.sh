# The guest's side of tests/e2e/cases/net_tap.py: the host is 10.77.0.1, on VLAN 5 10.78.0.1; iperf3 listens there.
set -e
host=10.77.0.1
dev=eth0
up() {
  echo 0 >/proc/sys/net/ipv6/conf/$dev/accept_dad   # or its address could be used only after a second
  ip link set $dev up
  ip addr add 10.77.0.2/24 dev $dev
  ip -6 addr add fd77::2/64 dev $dev
}
# The first frames after a link came up may be lost.
reach() { for _ in 1 2 3 4 5 6 7 8 9 10; do ping -c 1 -W 2 "$@" >/dev/null && return; done; echo "no answer: $*"; return 1; }
carrier() { while [ "$(cat /sys/class/net/$dev/carrier)" != "$1" ]; do usleep 20000; done; }
moved() { cat /sys/class/net/$dev/statistics/$1_bytes; }
# Until two million bytes more have gone each way, far more than what keeps a connection open: after a link came up TCP
# finds out by its own timers.
flows() {
  out=$(($(moved tx) + 2000000)) in=$(($(moved rx) + 2000000)) tries=0
  while [ "$(moved tx)" -lt $out ] || [ "$(moved rx)" -lt $in ]; do
    tries=$((tries + 1))
    [ $tries -lt 3000 ] || { echo "the stream stands still"; return 1; }
    usleep 20000
  done
}
done_with() { echo "CHECKED $1"; }

modprobe -a virtio_net 8021q
up
reach $host
done_with ping
reach fd77::1
done_with IPv6
iperf3 -c $host -n 16M >/dev/null
iperf3 -c $host -n 16M -R >/dev/null
done_with TCP
[ "$(cat /sys/class/net/$dev/mtu)" = 9000 ]
reach -s 8900 $host
done_with jumbo
ethtool -L $dev combined 2
ethtool -l $dev | awk '/^Current/ { now = 1 } now && /Combined/ { print "QUEUES", $2 }'
iperf3 -c $host -n 16M -P 4 >/dev/null
# Queues whose interrupts came.
awk '/virtio[0-9]*-(in|out)put/ { if ($2 + $3 > 0) used++ } END { print "INTERRUPTED", used; exit used < 3 }' /proc/interrupts
done_with multiqueue
ip link add link $dev name $dev.5 type vlan id 5
ip addr add 10.78.0.2/24 dev $dev.5
ip link set $dev.5 up
reach 10.78.0.1
ip link del $dev.5
done_with VLAN

carrier 1
echo PULL-THE-CABLE
carrier 0
echo PLUG-IT-IN
carrier 1
reach $host
done_with cable
echo TAKE-IT-AWAY
carrier 0
echo BRING-IT-BACK
carrier 1
reach $host
iperf3 -c $host -n 4M >/dev/null
done_with device

# One connection each way, which last until the end.
iperf3 -c $host --bidir -t 1200 >/dev/null 2>&1 &
stream=$!
flows
i=0
while [ $i -lt 100 ]; do
  i=$((i + 1))
  ip link set $dev down
  ip link set $dev up
  if [ $((i % 5)) -eq 0 ]; then flows; fi
done
kill -0 $stream   # the same one
ip -6 addr add fd77::2/64 dev $dev
reach $host
reach fd77::1
done_with down-and-up
i=0
while [ $i -lt 5 ]; do
  i=$((i + 1))
  ping -f -c 100000 $host >/dev/null 2>&1 &
  rmmod virtio_net
  modprobe virtio_net
  up
  reach $host
done
kill $(jobs -p) 2>/dev/null || true
reach $host
done_with reload
