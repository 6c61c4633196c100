# Says the first disk's size in sectors, now and whenever it changes, until it has changed once.
first=$(cat /sys/class/block/vda/size)
echo "SIZE $first"
until [ "$(cat /sys/class/block/vda/size)" != "$first" ]; do usleep 50000; done
echo "SIZE $(cat /sys/class/block/vda/size)"
# What is new can be used.
echo hello | dd of=/dev/vda bs=512 seek="$first" conv=notrunc,sync,fsync 2>/dev/null
echo "FOUND $(dd if=/dev/vda bs=512 skip="$first" count=1 2>/dev/null | head -c 5)"
