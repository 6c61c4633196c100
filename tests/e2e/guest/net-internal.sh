# One of two guests on a private network, by mv.role=: the server waits for the client, which measures and then tells it
# to stop.
set -e
role=server
for word in $(cat /proc/cmdline); do case $word in mv.role=*) role=${word#*=} ;; esac; done
modprobe -a virtio_net
ip link set eth0 up
if [ $role = server ]; then
  ip addr add 10.79.0.1/24 dev eth0
  iperf3 -s -1 >/dev/null                 # one measurement each
  iperf3 -s -1 >/dev/null
  nc -l -p 7 >/tmp/said
  echo "SAID $(cat /tmp/said)"
else
  ip addr add 10.79.0.2/24 dev eth0
  until ping -c 1 -W 2 10.79.0.1 >/dev/null; do :; done
  until iperf3 -c 10.79.0.1 -n 16M; do usleep 200000; done
  until iperf3 -c 10.79.0.1 -n 16M -R; do usleep 200000; done
  until echo goodbye | nc 10.79.0.1 7; do usleep 200000; done
fi
