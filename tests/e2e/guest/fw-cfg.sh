# The fw_cfg device as Linux's driver shows it: each file's size and checksum.
modprobe qemu_fw_cfg || exit 1
cd /sys/firmware/qemu_fw_cfg || exit 1
echo "FW-CFG rev $(cat rev)"
for file in $(find by_name -type l); do
  echo "FW-CFG file ${file#by_name/} $(cat "$file/size") $(md5sum <"$file/raw" | cut -d ' ' -f 1)"
done
echo "FW-CFG driver $(basename "$(readlink -f /sys/bus/acpi/devices/QEMU0002:00/physical_node/driver)")"
grep fw_cfg /proc/ioports
echo FW-CFG-END
