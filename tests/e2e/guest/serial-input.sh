# Tells the md5 of the 1 MiB that is typed at the console.
stty raw -echo
echo SERIAL-READY
md5=$(head -c 1048576 | md5sum | cut -d' ' -f1)
stty sane
echo "SERIAL-MD5 $md5"
