# Tells the md5 of the mv.bytes= bytes that are typed at the console.
for word in $(cat /proc/cmdline); do case $word in mv.bytes=*) bytes=${word#*=} ;; esac; done
stty raw -echo
echo SERIAL-READY
md5=$(head -c "$bytes" | md5sum | cut -d' ' -f1)
stty sane
echo "SERIAL-MD5 $md5"
