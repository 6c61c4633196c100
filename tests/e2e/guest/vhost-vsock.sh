# The guest's side of the vhost-vsock case of tests/e2e/cases/vhost.py.
set -e
modprobe -a vmw_vsock_virtio_transport
dd if=/dev/urandom of=/tmp/data bs=65536 count=64 2>/dev/null
echo "LINK sent $(md5sum </tmp/data | cut -c1-32)"
echo "LINK answer $(vsock send 2 8080 </tmp/data)"
! vsock send 2 8081 </dev/null 2>/tmp/error || exit 1
echo "LINK nobody $(cat /tmp/error)"
vsock echo 1234
echo "LINK echoed"
