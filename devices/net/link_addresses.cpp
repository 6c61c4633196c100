// The part of Links that is about IPv4 addresses: an interface's own, and those of its neighbours.
#include <arpa/inet.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>

#include "devices/net/links.h"

namespace minivmm {

namespace {

constexpr uint16_t kCreate = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;

NetlinkRequest neighbour_request(uint16_t type, uint16_t flags, int index, uint32_t address) {
  NetlinkRequest request(type, flags);
  ndmsg header{};
  header.ndm_family = AF_INET;
  header.ndm_ifindex = index;
  header.ndm_state = NUD_PERMANENT;
  request.append(header);
  request.attribute(NDA_DST, htonl(address));
  return request;
}

}  // namespace

std::vector<Links::Address> Links::ipv4_addresses() {
  NetlinkRequest request(RTM_GETADDR, NLM_F_DUMP);
  ifaddrmsg header{};
  header.ifa_family = AF_INET;
  request.append(header);
  std::vector<Address> addresses;
  socket_.request(request, [&](const NetlinkMessage& message) {
    const auto found = message.header<ifaddrmsg>();
    if (message.type != RTM_NEWADDR || !found || found->ifa_family != AF_INET) return;
    const auto local = find_number(message.attributes(sizeof *found), IFA_LOCAL);
    if (!local || found->ifa_prefixlen > 32) return;
    addresses.push_back({static_cast<int>(found->ifa_index), {ntohl(*local), found->ifa_prefixlen}});
  });
  return addresses;
}

int Links::add_ipv4_address(int index, const Ipv4Network& network) {
  NetlinkRequest request(RTM_NEWADDR, kCreate);
  ifaddrmsg header{};
  header.ifa_family = AF_INET;
  header.ifa_prefixlen = network.prefix;
  header.ifa_index = static_cast<uint32_t>(index);
  request.append(header);
  request.attribute(IFA_LOCAL, htonl(network.address));
  request.attribute(IFA_ADDRESS, htonl(network.address));
  request.attribute(IFA_BROADCAST, htonl(network.address | ~network.mask()));
  return socket_.request(request);
}

int Links::add_neighbour(int index, uint32_t address, const MacAddress& mac) {
  NetlinkRequest request = neighbour_request(RTM_NEWNEIGH, kCreate, index, address);
  request.attribute(NDA_LLADDR, std::as_bytes(std::span(mac.bytes)));
  return socket_.request(request);
}

int Links::remove_neighbour(int index, uint32_t address) {
  NetlinkRequest request = neighbour_request(RTM_DELNEIGH, NLM_F_ACK, index, address);
  return socket_.request(request);
}

std::optional<MacAddress> Links::find_neighbour(int index, uint32_t address) {
  NetlinkRequest request(RTM_GETNEIGH, NLM_F_DUMP);
  ndmsg header{};
  header.ndm_family = AF_INET;
  header.ndm_ifindex = index;
  request.append(header);
  std::optional<MacAddress> mac;
  socket_.request(request, [&](const NetlinkMessage& message) {
    const auto found = message.header<ndmsg>();
    if (message.type != RTM_NEWNEIGH || !found || found->ndm_ifindex != index) return;
    const auto attributes = message.attributes(sizeof *found);
    const auto hardware = find_attribute(attributes, NDA_LLADDR);
    if (find_number(attributes, NDA_DST) != htonl(address) || !hardware || hardware->size() != 6) return;
    mac.emplace();
    std::memcpy(mac->bytes.data(), hardware->data(), mac->bytes.size());
  });
  return mac;
}

}  // namespace minivmm
