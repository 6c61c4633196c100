# Fills mv.mib= MiB of memory with files that all differ, and reads them back. What is free in each zone (DMA32: below
# 4 GiB, Normal: above) before and after shows which memory it was.
free_pages() {
  awk -v when="$1" '/^Node/ { zone = $4 } $1 == "pages" && $2 == "free" { print "ZONE", when, zone, $3 }' /proc/zoneinfo
}
mib=512
for word in $(cat /proc/cmdline); do case $word in mv.mib=*) mib=${word#*=} ;; esac; done
mount -t tmpfs -o "size=$((mib + 64))M" tmpfs /tmp
free_pages before
dd if=/dev/urandom of=/tmp/base bs=1M count=16 2>/dev/null
i=0
while [ $i -lt $((mib / 16 - 1)) ]; do
  i=$((i + 1))
  { echo "$i"; cat /tmp/base; } >"/tmp/$i"
done
free_pages after
bad=0
while [ $i -gt 0 ]; do
  { echo "$i"; cat /tmp/base; } | cmp -s - "/tmp/$i" || { echo "memory: file $i is not what was written"; bad=1; }
  i=$((i - 1))
done
exit $bad
