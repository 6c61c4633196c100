# The guest's side of tests/e2e/cases/links.py: vsock, console, balloon and rng, one step after the other.
set -e
modprobe -a vmw_vsock_virtio_transport virtio_console virtio_balloon

seconds() { cut -d ' ' -f 1 /proc/uptime; }
began=$(seconds)
size=$(dd if=/dev/hwrng bs=1024 count=48 2>/dev/null | wc -c)
echo "LINK rng $(cat /sys/class/misc/hw_random/rng_current) $size $began $(seconds)"

# To the host: 4 MiB, and the host's answer to them.
dd if=/dev/urandom of=/tmp/data bs=65536 count=64 2>/dev/null
echo "LINK sent $(md5sum </tmp/data | cut -c1-32)"
echo "LINK answer $(vsock send 2 80 </tmp/data)"
! vsock send 2 81 </dev/null 2>/tmp/error || exit 1
echo "LINK nobody $(cat /tmp/error)"
rm /tmp/data
# From the host.
vsock echo 1234
echo "LINK echoed"
# The driver goes and comes under traffic.
driver=/sys/bus/virtio/drivers/vmw_vsock_virtio_transport
device=$(basename "$driver"/virtio*)
for round in 1 2 3; do
  yes "traffic of round $round" | vsock send 2 82 >/dev/null 2>&1 &
  read -r go
  echo "$device" >$driver/unbind
  ! wait $! || exit 1
  echo "$device" >$driver/bind
done
echo "LINK rebound $(echo hello | vsock send 2 82)"

# A shell on the console, and a port found by its name.
stty -F /dev/hvc0 -echo
setsid sh -c 'exec sh </dev/hvc0 >/dev/hvc0 2>&1' &
find_agent() {
  for port in /sys/class/virtio-ports/*; do
    [ "$(cat "$port/name" 2>/dev/null)" != org.example.test ] || agent=/dev/${port##*/}
  done
}
find_agent
echo "LINK port $agent"
exec 3<>"$agent"
until read -r line <&3; do usleep 100000; done   # there is an end of file until somebody is at the other end
echo "agent heard $line" >&3
exec 3>&-
driver=/sys/bus/virtio/drivers/virtio_console
device=$(readlink -f "/sys/class/virtio-ports/${agent##*/}/device")
device=${device##*/}
cat /dev/zero 2>/dev/null >"$agent" &   # "yes" does not end at an error
read -r go
echo "$device" >$driver/unbind
! wait $! || exit 1
echo "$device" >$driver/bind
agent=
until [ -e "$agent" ]; do usleep 50000; find_agent; done
echo "LINK again $agent"
echo "agent is back" >"$agent"

# Memory: 96 MiB used and freed again go back to the host by themselves, and the balloon has its size.
mkdir -p /mnt
mount -t tmpfs -o size=120M tmpfs /mnt
dd if=/dev/zero of=/mnt/much bs=1M count=96 2>/dev/null
echo "LINK filled"
read -r go
rm /mnt/much
echo "LINK freed"
read -r go
echo "LINK ballooned $(sed -n 's/^balloon_inflate //p' /proc/vmstat)"
