# Runs in the guests of tools/bench net. mv.cards=ADDRESS/BITS,... are the addresses of eth0, eth1, ...; then
# mv.jobs=KIND:CARD:HOST:SECONDS,... are run one after the other, or, without any, the others are served.
# For each job: JOB-BEGIN N, then JOB-END N VALUE FRAMES INTERRUPTS. VALUE: kbit/s, datagrams/s, or ns for a round trip.
# FRAMES: those that the card has sent and received meanwhile, large segments counted as one.
port=5301
small=18   # bytes: with UDP's, IP's and Ethernet's headers the shortest frame there is, 60 bytes

interrupts() { awk '/virtio/ { for (i = 2; i <= NF && $i ~ /^[0-9]+$/; i++) n += $i } END { print n + 0 }' /proc/interrupts; }
frames() { cat "/sys/class/net/$1/statistics/rx_packets" "/sys/class/net/$1/statistics/tx_packets" | awk '{ n += $1 } END { print n }'; }

# The receiver's line: [ ID] INTERVAL sec TRANSFERRED UNIT RATE Kbits/sec receiver
tcp() { iperf3 -f k "$@" >/tmp/out 2>&1 && awk '/receiver/ { print $7 }' /tmp/out; }
per_second() { net_probe "$@" 2>&1 >/tmp/out && awk '{ printf "%.0f\n", $1 * 1e9 / $2 }' /tmp/out; }
ns_each() { net_probe "$@" 2>&1 >/tmp/out && awk '{ printf "%.0f\n", $2 / $1 }' /tmp/out; }

job() { # KIND HOST SECONDS
  case $1 in
    tcp-out) tcp -c "$2" -t "$3" ;;
    tcp-in) tcp -c "$2" -t "$3" -R ;;
    small-out) per_second send "$2" $port "$3" $small ;;
    small-in) per_second receive "$2" $port "$3" $small ;;
    rr-tcp | rr-udp) ns_each "$1" "$2" $port "$3" ;;
  esac
}

jobs=
for word in $(cat /proc/cmdline); do
  case $word in mv.jobs=*) jobs=${word#*=} ;; mv.cards=*) cards=${word#*=} ;; esac
done
modprobe virtio_net
number=0
for address in $(echo "$cards" | tr ',' ' '); do
  echo 1 >"/proc/sys/net/ipv6/conf/eth$number/disable_ipv6"
  ip addr add "$address" dev "eth$number"
  ip link set "eth$number" up
  number=$((number + 1))
done
if [ -z "$jobs" ]; then
  iperf3 -s >/dev/null 2>&1 &
  net_probe serve $port &
  echo SERVER-UP
  wait
fi
number=0
for job in $(echo "$jobs" | tr ',' ' '); do
  number=$((number + 1))
  set -- $(echo "$job" | tr ':' ' ')
  tries=0
  until ping -c 1 -W 2 "$3" >/dev/null; do tries=$((tries + 1)); [ $tries -lt 10 ] || break; done
  before_interrupts=$(interrupts)
  before_frames=$(frames "$2")
  echo "JOB-BEGIN $number"
  value=$(job "$1" "$3" "$4")
  after_frames=$(frames "$2")
  after_interrupts=$(interrupts)
  [ "$value" ] || { cat /tmp/out; exit 1; }
  echo "JOB-END $number $value $((after_frames - before_frames)) $((after_interrupts - before_interrupts))"
done
