// <linux/vhost.h> for C++: it includes <linux/virtio_ring.h>, which is C alone and of which it uses nothing.
#pragma once

// NOLINTNEXTLINE(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp): the guard of that header
#define _LINUX_VIRTIO_RING_H
#include <linux/vhost.h>
#undef _LINUX_VIRTIO_RING_H
