# Tells what each disk holds; writes 1 MiB into each that lets it, and tells what it holds then.
for disk in vda vdb vdc; do
  [ -b /dev/$disk ] || continue
  echo "MD5 $disk $(md5sum </dev/$disk | cut -d' ' -f1) ro=$(cat /sys/class/block/$disk/ro)"
  [ "$(cat /sys/class/block/$disk/ro)" = 0 ] || continue
  yes "written to $disk" | dd of=/dev/$disk bs=1M count=1 seek=1 iflag=fullblock conv=notrunc,fsync 2>/dev/null
  echo 3 >/proc/sys/vm/drop_caches
  echo "THEN $disk $(md5sum </dev/$disk | cut -d' ' -f1)"
done
