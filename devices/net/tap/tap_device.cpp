#include "devices/net/tap/tap_device.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

#include "vmm/core/error.h"

namespace minivmm {

namespace {

// linux/if_tun.h since Linux 6.2; Debian 12's headers lack them.
constexpr unsigned kTunUso4 = 0x20;
constexpr unsigned kTunUso6 = 0x40;

constexpr short kTapFlags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;

short flags_for(bool multi_queue) {
  return static_cast<short>(kTapFlags | (multi_queue ? IFF_MULTI_QUEUE : 0));
}

template <class T>
int control(int fd, unsigned long request, T argument) {
  return ::ioctl(fd, request, argument) == 0 ? 0 : errno;
}

unsigned kernel_offloads(NetOffloads offloads) {
  using namespace net_offload;
  if ((offloads & kChecksum) == 0) return 0;  // the rest stands on it
  unsigned flags = TUN_F_CSUM;
  if ((offloads & kTso4) != 0) flags |= TUN_F_TSO4;
  if ((offloads & kTso6) != 0) flags |= TUN_F_TSO6;
  if ((offloads & kTsoEcn) != 0 && (offloads & (kTso4 | kTso6)) != 0) flags |= TUN_F_TSO_ECN;
  if ((offloads & kUso) != 0) flags |= kTunUso4 | kTunUso6;
  return flags;
}

}  // namespace

int attach_tap(int fd, std::string& name, bool multi_queue) {
  ifreq request{};
  request.ifr_flags = flags_for(multi_queue);
  std::memcpy(request.ifr_name, name.data(), std::min<size_t>(name.size(), IFNAMSIZ - 1));
  if (const int error = control(fd, TUNSETIFF, &request)) return error;
  name.assign(request.ifr_name, ::strnlen(request.ifr_name, IFNAMSIZ));
  return 0;
}

int attach_macvtap(int fd, bool multi_queue) {
  ifreq request{};
  request.ifr_flags = flags_for(multi_queue);
  return control(fd, TUNSETIFF, &request);
}

TapIdentity identify_tap(int fd) {
  ifreq request{};
  if (::ioctl(fd, TUNGETIFF, &request) != 0 || (request.ifr_flags & IFF_TAP) == 0) {
    const int error = errno == 0 ? EINVAL : errno;
    throw HostError(error, fmt::format("--net fd={}: not an open tap device; open {} with IFF_TAP, IFF_NO_PI "
                                       "and IFF_VNET_HDR and leave it to minivmm",
                                       fd, kTapPath));
  }
  TapIdentity identity{.name = std::string(request.ifr_name, ::strnlen(request.ifr_name, IFNAMSIZ)),
                       .address = {},
                       .vnet_header = (request.ifr_flags & IFF_VNET_HDR) != 0,
                       .multi_queue = (request.ifr_flags & IFF_MULTI_QUEUE) != 0};
  ifreq hardware{};
  if (::ioctl(fd, SIOCGIFHWADDR, &hardware) == 0)
    std::memcpy(identity.address.bytes.data(), hardware.ifr_hwaddr.sa_data, identity.address.bytes.size());
  return identity;
}

int prepare_tap(int fd) {
  int header_size = kNetHeaderSize;
  if (const int error = control(fd, TUNSETVNETHDRSZ, &header_size)) return error;
  int little_endian = 1;
  if (const int error = control(fd, TUNSETVNETLE, &little_endian)) return error;
  int unlimited = INT_MAX;
  if (const int error = control(fd, TUNSETSNDBUF, &unlimited)) return error;
  if (const int error = set_tap_offloads(fd, 0)) return error;
  const int status = ::fcntl(fd, F_GETFL);
  if (status < 0 || ::fcntl(fd, F_SETFL, status | O_NONBLOCK) < 0 || ::fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
    return errno;
  return 0;
}

NetOffloads tap_offloads(int fd) {
  using namespace net_offload;
  NetOffloads offloads = kChecksum | kTso4 | kTso6 | kTsoEcn;
  // A kernel that does not know USO refuses it to be asked for, and would drop what the guest sends of it.
  if (set_tap_offloads(fd, offloads | kUso) == 0) offloads |= kUso;
  set_tap_offloads(fd, 0);
  return offloads;
}

int set_tap_offloads(int fd, NetOffloads offloads) {
  return control(fd, TUNSETOFFLOAD, static_cast<unsigned long>(kernel_offloads(offloads)));
}

int enable_tap_queue(int fd, bool on) {
  ifreq request{};
  request.ifr_flags = on ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE;
  return control(fd, TUNSETQUEUE, &request);
}

bool tap_is_attached(int fd) {
  ifreq request{};
  return ::ioctl(fd, TUNGETIFF, &request) == 0;
}

}  // namespace minivmm
