# The guest's side of the virtiofs case of tests/e2e/cases/vhost.py: "work" may be written to, "lib" may not.
set -e
modprobe -a virtiofs
mkdir -p /work /lib-share
mount -t virtiofs work /work
mount -t virtiofs lib /lib-share

sums() { (cd "$1" && find . -type f | sort | while read -r file; do md5sum "$file"; done | md5sum | cut -c1-32); }
echo "SHARE tree $(sums /work/tree)"
cp -r /work/tree /work/copy
echo "SHARE copy $(sums /work/copy)"
dd if=/dev/urandom of=/work/made bs=65536 count=64 2>/dev/null
sync
echo "SHARE made $(md5sum </work/made | cut -c1-32)"
echo text >/work/gone
mv /work/gone "/work/another name"
ln -s "another name" /work/link
[ "$(cat /work/link)" = text ]
rm /work/link

echo "SHARE lib $(sums /lib-share)"
# The guest may believe what it likes: it is the host that says no.
mount -o remount,rw /lib-share
for try in 'echo x >/lib-share/new' 'echo x >>/lib-share/file' 'rm /lib-share/file' 'mkdir /lib-share/folder' \
  'chmod 600 /lib-share/file' 'mv /lib-share/file /lib-share/moved'; do
  if (eval "$try") 2>/tmp/error; then echo "SHARE went through: $try"; exit 1; fi
  grep -q 'Read-only file system' /tmp/error
done
echo "SHARE refused"
i=0
while [ $i -lt 20 ]; do
  i=$((i + 1))
  umount /work
  mount -t virtiofs work /work
done
[ "$(cat "/work/another name")" = text ]
echo "SHARE mounted again"
