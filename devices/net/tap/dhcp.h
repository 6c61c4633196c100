// The least of a DHCP server (RFC 2131): one address for each card that asks, and no router or name server,
// because there is nothing to be reached.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "devices/net/links.h"
#include "devices/net/mac_address.h"

namespace minivmm {

struct DhcpServer {
  Ipv4Network network;  // its address in the network it serves
  MacAddress mac;
};

// Which address that card has; nullopt: none is left.
using DhcpLease = std::function<std::optional<uint32_t>(const MacAddress& card)>;

// `frame` is an Ethernet frame from a guest. The one to answer it with; nullopt: it is no question for us.
std::optional<std::vector<std::byte>> answer_dhcp(const DhcpServer& server, std::span<const std::byte> frame,
                                                  const DhcpLease& lease);

// The addresses that are given out, as offsets from the network's: those from 101 on where there are many.
struct DhcpRange {
  uint32_t first;
  uint32_t count;
};
DhcpRange dhcp_range(const Ipv4Network& network);

}  // namespace minivmm
