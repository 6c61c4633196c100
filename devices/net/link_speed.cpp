#include "devices/net/link_speed.h"

#include <linux/ethtool.h>
#include <linux/if.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "vmm/core/fd.h"

namespace minivmm {

uint32_t link_speed(const std::string& name) {
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return kLinkSpeedUnknown;
  // The older of the two requests: the speed is all that is wanted, and this one takes no negotiation.
  ethtool_cmd command{};
  command.cmd = ETHTOOL_GSET;
  ifreq request{};
  std::memcpy(request.ifr_name, name.data(), std::min<size_t>(name.size(), IFNAMSIZ - 1));
  request.ifr_data = reinterpret_cast<char*>(&command);
  if (::ioctl(socket.get(), SIOCETHTOOL, &request) != 0) return kLinkSpeedUnknown;
  const uint32_t speed = ethtool_cmd_speed(&command);
  return speed == 0 || speed > kMostLinkSpeed ? kLinkSpeedUnknown : speed;
}

}  // namespace minivmm
