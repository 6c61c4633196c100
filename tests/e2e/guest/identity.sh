# What Linux makes of the SMBIOS tables.
for file in sys_vendor product_name product_uuid product_serial chassis_type bios_vendor; do
  echo "DMI $file $(cat /sys/class/dmi/id/$file)"
done
tr '\0' '\n' </sys/firmware/dmi/entries/11-0/raw | sed -n 's/^.*OEM=/OEM /p'
