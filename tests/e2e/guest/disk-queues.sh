# Two CPUs write to the first disk at once, each through its own queue, and tell the md5 of it all as it was before the disk
# had it; then both read it back at once, past the page cache.
mount -t tmpfs tmpfs /tmp
echo "QUEUES $(ls /sys/block/vda/mq | wc -l)"
chunk() { yes "cpu $1 chunk $2" | head -c 1048576; }
write() {  # CPU: every other MiB
  i=0
  while [ $i -lt 24 ]; do
    chunk "$1" $i >"/tmp/chunk-$1"
    case $((i % 3)) in
      0) taskset $((1 << $1)) dd if="/tmp/chunk-$1" of=/dev/vda bs=4k seek=$(((2 * i + $1) * 256)) oflag=direct conv=notrunc 2>/dev/null ;;
      1) taskset $((1 << $1)) dd if="/tmp/chunk-$1" of=/dev/vda bs=1M seek=$((2 * i + $1)) oflag=direct conv=notrunc 2>/dev/null ;;
      2) taskset $((1 << $1)) dd if="/tmp/chunk-$1" of=/dev/vda bs=64k seek=$(((2 * i + $1) * 16)) conv=notrunc,fsync 2>/dev/null ;;
    esac || return 1
    i=$((i + 1))
  done
}
write 0 &
first=$!
write 1 || exit 1
wait $first || exit 1
sync
echo "WROTE $(i=0; while [ $i -lt 24 ]; do chunk 0 $i; chunk 1 $i; i=$((i + 1)); done | md5sum | cut -d' ' -f1)"
echo 3 >/proc/sys/vm/drop_caches
read_back() { taskset $((1 << $1)) dd if=/dev/vda bs="$2" count="$3" iflag=direct 2>/dev/null | md5sum | cut -d' ' -f1; }
read_back 0 64k 768 >/tmp/md5-0 &
first=$!
read_back 1 1M 48 >/tmp/md5-1
wait $first
echo "READ $(cat /tmp/md5-0) $(cat /tmp/md5-1)"
