# Writes mv.mib= MiB of zeroes-free data to the first disk and tells the md5 of what it wrote, then of what it reads back.
for word in $(cat /proc/cmdline); do case $word in mv.mib=*) mib=${word#*=} ;; esac; done
echo "FILLING $mib"
numbers() { i=0; while [ $i -lt "$mib" ]; do yes "block $i of the fill" | head -c 1048576; i=$((i + 1)); done; }
echo "WROTE $(numbers | tee /dev/vda | md5sum | cut -d' ' -f1)"
sync
echo 3 >/proc/sys/vm/drop_caches
echo "READ $(head -c $((mib << 20)) /dev/vda | md5sum | cut -d' ' -f1)"
