# Writes 256 MiB to the first disk, in 16 chunks of which no two are alike, and tells their md5 as it was before the disk had them.
# In writes of 1 MiB: smaller ones than a page would each read the page from the disk first.
mount -t tmpfs tmpfs /tmp
dd if=/dev/urandom of=/tmp/chunk bs=1M count=16 2>/dev/null
md5=$(
  i=0
  while [ $i -lt 16 ]; do
    printf 'chunk %010d' $i | dd of=/tmp/chunk conv=notrunc 2>/dev/null
    dd if=/tmp/chunk of=/dev/vda bs=1M seek=$((16 * i)) conv=notrunc 2>/dev/null
    cat /tmp/chunk
    i=$((i + 1))
  done | md5sum | cut -d' ' -f1
)
sync
echo "MD5 $md5"
