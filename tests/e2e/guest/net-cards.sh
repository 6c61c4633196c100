# A card on each of the host's networks: the guest's side of tests/e2e/cases/net_tap.py.
set -e
modprobe -a virtio_net
reach() { for _ in 1 2 3 4 5 6 7 8 9 10; do ping -c 1 -W 2 "$@" >/dev/null && return; done; echo "no answer: $*"; return 1; }
done_with() { echo "CHECKED $1"; }
# The address that DHCP gives; without a route but the network's own.
cat >/tmp/lease <<'SH'
#!/bin/sh
[ "$1" != bound ] || ip addr add "$ip/$mask" dev "$interface"
[ "$1" != bound ] || echo "LEASE $interface $ip/$mask router=$router"
SH
chmod +x /tmp/lease
lease() { ip link set "$1" up; udhcpc -f -n -q -i "$1" -s /tmp/lease -t 10 -T 2 >/tmp/lease.out 2>&1; cat /tmp/lease.out; }

lease eth0
reach 192.168.56.1
ping -c 3 192.168.56.1 >/dev/null
iperf3 -c 192.168.56.1 -n 4M >/dev/null
ip link set eth0 down
done_with hostonly

ip link set eth1 up
ip addr add 10.80.0.2/24 dev eth1
reach 10.80.0.1
iperf3 -c 10.80.0.1 -n 4M >/dev/null
ip link set eth1 down
done_with macvtap

# passt gives the guest the host's own address; the host's services are at the router's.
lease eth2
grep -q 'LEASE eth2 10.77.0.1/24 router=10.77.0.254' /tmp/lease.out
iperf3 -c 10.77.0.254 -n 4M >/dev/null
iperf3 -c 10.77.0.254 -n 4M -R >/dev/null
done_with passt

ip link set eth3 up
[ "$(cat /sys/class/net/eth3/carrier)" = 0 ]
[ "$(cat /sys/class/net/eth[0-3]/address | sort -u | wc -l)" = 4 ]
done_with null
