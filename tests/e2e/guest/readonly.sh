# Tries to write to a read-only disk in every way there is.
echo "RO $(cat /sys/class/block/vda/ro)"
blockdev --setrw /dev/vda && echo "SETRW took effect: $(blockdev --getro /dev/vda)"
if dd if=/dev/zero of=/dev/vda bs=4096 count=1 conv=fsync 2>/dev/null; then echo "WRITE went through"; else echo "WRITE refused"; fi
