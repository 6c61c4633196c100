# The guest's side of tests/e2e/cases/links.py: a balloon, whose driver comes when all memory has been used once.
set -e
count() { sed -n "s/^balloon_$1 //p" /proc/vmstat; }
mkdir -p /mnt
mount -t tmpfs -o size=200M tmpfs /mnt
dd if=/dev/zero of=/mnt/much bs=1M count=128 2>/dev/null
echo "BALLOON filled"
read -r go
rm /mnt/much
modprobe virtio_balloon
until [ "$(count inflate)" -ge 32768 ]; do usleep 50000; done
echo "BALLOON inflated"
read -r go
# More than there is without the balloon's pages: it gives them back, as nobody else can.
dd if=/dev/zero of=/mnt/much bs=1M count=128 2>/dev/null
echo "BALLOON deflated $(count deflate)"
read -r go
rm /mnt/much
# The driver takes all with it that is left, and asks for it again.
rmmod virtio_balloon
echo "BALLOON gone $(count inflate) $(count deflate)"
modprobe virtio_balloon
until [ "$(count inflate)" -ge 65536 ]; do usleep 50000; done
echo "BALLOON back"
