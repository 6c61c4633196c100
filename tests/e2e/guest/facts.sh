# What the guest sees of its machine, one fact a line.
echo "FACT nproc $(nproc)"
echo "FACT text $(sed -n 's/^\([0-9a-f]*\) T _text$/\1/p' /proc/kallsyms)"
echo "FACT clocksource $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
echo "FACT year $(date +%Y)"
echo "FACT rng $(cat /sys/class/misc/hw_random/rng_current)"
echo "FACT random $(dd if=/dev/hwrng bs=32 count=1 2>/dev/null | xxd -p -c 32)"
for disk in /sys/class/block/vd*; do
  [ -e "$disk" ] || continue
  echo "FACT disk ${disk##*/} sectors=$(cat "$disk/size") ro=$(cat "$disk/ro") serial=$(cat "$disk/serial") driver=$(basename "$(readlink -f "$disk/device/../")")"
done
while read -r line; do echo "IOMEM $line"; done </proc/iomem
# Level warn (4) and worse; the facility is in the higher bits, and the kernel's is 0.
dmesg -r | grep '^<[0-4]>' | sed 's/^<\([0-4]\)>\[ *[0-9.]*\] /DMESG \1 /'
echo FACTS-END
