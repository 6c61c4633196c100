# Runs in the guest of tools/bench blk: the jobs named by mv.jobs=DISK:RW:BLOCKSIZE:DEPTH:SECONDS,... one after the other.
# For each: JOB-BEGIN N, then JOB-END N IOS MILLISECONDS MEAN-LATENCY-US INTERRUPTS.
interrupts() { awk '/virtio/ { for (i = 2; i <= NF && $i ~ /^[0-9]+$/; i++) n += $i } END { print n + 0 }' /proc/interrupts; }

for word in $(cat /proc/cmdline); do case $word in mv.jobs=*) jobs=${word#*=} ;; esac; done
modprobe virtio_pci 2>/dev/null
mkdir -p /tmp
number=0
for job in $(echo "$jobs" | tr ',' ' '); do
  number=$((number + 1))
  set -- $(echo "$job" | tr ':' ' ')
  engine=libaio
  [ "$4" != 1 ] || engine=psync
  before=$(interrupts)
  echo "JOB-BEGIN $number"
  /usr/bin/fio --name=job "--filename=/dev/$1" --direct=1 "--rw=$2" "--bs=$3" "--iodepth=$4" "--ioengine=$engine" \
    "--runtime=$5" --time_based --clocksource=clock_gettime --norandommap --randrepeat=0 --output-format=terse --terse-version=3 >/tmp/out 2>/tmp/err ||
    { cat /tmp/out /tmp/err; exit 1; }
  after=$(interrupts)
  # fio(1), "TERSE OUTPUT": read and write each have KiB, bandwidth, IOPS, ms; ...; mean total latency in us.
  tail -n 1 /tmp/out | awk -F ';' -v n="$number" -v i=$((after - before)) \
    '{ o = $8 > 0 ? 0 : 41; printf "JOB-END %d %d %d %s %d\n", n, $(8 + o) * $(9 + o) / 1000 + 0.5, $(9 + o), $(40 + o), i }'
done
