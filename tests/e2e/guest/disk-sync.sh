# Writes for ever to the first disk's 256 slots of 64 KiB, some through the page cache and some past it, and says
# "SYNCED n" once write number n is flushed: from then on it may not be lost.
mkdir -p /tmp
n=0
echo WRITING
while :; do
  slot=$((n * 7919 % 256))
  yes "write $n slot $slot" | head -c 65536 >/tmp/chunk
  case $((n % 3)) in
    0) dd if=/tmp/chunk of=/dev/vda bs=64k seek=$slot conv=notrunc,fsync 2>/dev/null ;;
    1) dd if=/tmp/chunk of=/dev/vda bs=4k seek=$((slot * 16)) oflag=direct conv=notrunc,fsync 2>/dev/null ;;
    2) dd if=/tmp/chunk of=/dev/vda bs=512 seek=$((slot * 128)) conv=notrunc,fsync 2>/dev/null ;;
  esac
  echo "SYNCED $n"
  n=$((n + 1))
done
