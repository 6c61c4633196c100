#include "devices/net/links.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>

#include <algorithm>
#include <charconv>
#include <utility>

namespace minivmm {

namespace {

constexpr uint16_t kAcknowledged = NLM_F_ACK;
constexpr uint16_t kCreate = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;

// linux/if_link.h: IFLA_TUN_PERSIST and IFLA_TUN_MULTI_QUEUE, in a tap's IFLA_INFO_DATA (Linux 4.20).
constexpr uint16_t kTunPersist = 6;
constexpr uint16_t kTunMultiQueue = 7;

NetlinkRequest link_request(uint16_t type, uint16_t flags, int index, uint32_t interface_flags = 0) {
  NetlinkRequest request(type, flags);
  ifinfomsg header{};
  header.ifi_index = index;
  header.ifi_flags = interface_flags;
  header.ifi_change = interface_flags;
  request.append(header);
  return request;
}

std::span<const std::byte> bytes_of(const MacAddress& address) {
  return std::as_bytes(std::span(address.bytes));
}

}  // namespace

bool Link::admin_up() const {
  return (flags & IFF_UP) != 0;
}

bool Link::running() const {
  return admin_up() && (flags & IFF_LOWER_UP) != 0;
}

std::optional<Link> parse_link(const NetlinkMessage& message) {
  if (message.type != RTM_NEWLINK && message.type != RTM_DELLINK) return std::nullopt;
  const auto header = message.header<ifinfomsg>();
  // A bridge tells of its ports in the same messages, with its own family: one that leaves it is "deleted".
  if (!header || header->ifi_family != AF_UNSPEC || header->ifi_index <= 0) return std::nullopt;
  const auto attributes = message.attributes(sizeof *header);

  Link link;
  link.index = header->ifi_index;
  link.flags = header->ifi_flags;
  link.name = find_text(attributes, IFLA_IFNAME);
  link.alias = find_text(attributes, IFLA_IFALIAS);
  link.mtu = find_number(attributes, IFLA_MTU).value_or(0);
  link.master = static_cast<int>(find_number(attributes, IFLA_MASTER).value_or(0));
  if (const auto address = find_attribute(attributes, IFLA_ADDRESS);
      address && address->size() == link.address.bytes.size()) {
    std::memcpy(link.address.bytes.data(), address->data(), link.address.bytes.size());
  }
  if (const auto info = find_attribute(attributes, IFLA_LINKINFO)) {
    link.kind = find_text(*info, IFLA_INFO_KIND);
    if (const auto data = find_attribute(*info, IFLA_INFO_DATA); data && link.kind == "tun") {
      link.persistent = find_number(*data, kTunPersist).value_or(0) != 0;
      link.multi_queue = find_number(*data, kTunMultiQueue).value_or(0) != 0;
    }
  }
  return link;
}

bool Ipv4Network::overlaps(const Ipv4Network& other) const {
  const uint32_t common = mask() & other.mask();
  return (address & common) == (other.address & common);
}

std::optional<Ipv4Network> parse_ipv4_network(std::string_view text) {
  const size_t slash = text.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  in_addr address{};
  if (::inet_pton(AF_INET, std::string(text.substr(0, slash)).c_str(), &address) != 1) return std::nullopt;
  const std::string_view digits = text.substr(slash + 1);
  Ipv4Network network{ntohl(address.s_addr), 0};
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), network.prefix);
  if (error != std::errc{} || end != digits.data() + digits.size() || network.prefix > 32)
    return std::nullopt;
  return network;
}

std::string format_ipv4(uint32_t address) {
  return fmt::format("{}.{}.{}.{}", address >> 24, (address >> 16) & 0xff, (address >> 8) & 0xff,
                     address & 0xff);
}

bool is_interface_name(std::string_view name) {
  if (name.empty() || name.size() >= IFNAMSIZ || name == "." || name == "..") return false;
  return std::ranges::all_of(name,
                             [](char c) { return c > ' ' && c < 0x7f && c != '/' && c != ':' && c != '%'; });
}

std::optional<Link> Links::find(const std::string& name) {
  NetlinkRequest request = link_request(RTM_GETLINK, kAcknowledged, 0);
  request.attribute(IFLA_IFNAME, name);
  std::optional<Link> found;
  socket_.request(request, [&](const NetlinkMessage& message) { found = parse_link(message); });
  return found;
}

std::optional<Link> Links::find(int index) {
  NetlinkRequest request = link_request(RTM_GETLINK, kAcknowledged, index);
  std::optional<Link> found;
  socket_.request(request, [&](const NetlinkMessage& message) { found = parse_link(message); });
  return found;
}

std::vector<Link> Links::all() {
  NetlinkRequest request = link_request(RTM_GETLINK, NLM_F_DUMP, 0);
  std::vector<Link> links;
  socket_.request(request, [&](const NetlinkMessage& message) {
    if (auto link = parse_link(message)) links.push_back(std::move(*link));
  });
  return links;
}

int Links::set_flags(int index, uint32_t on) {
  NetlinkRequest request = link_request(RTM_NEWLINK, kAcknowledged, index, on);
  return socket_.request(request);
}

int Links::set_mtu(int index, uint32_t mtu) {
  NetlinkRequest request = link_request(RTM_NEWLINK, kAcknowledged, index);
  request.attribute(IFLA_MTU, mtu);
  return socket_.request(request);
}

int Links::set_master(int index, int bridge) {
  NetlinkRequest request = link_request(RTM_NEWLINK, kAcknowledged, index);
  request.attribute(IFLA_MASTER, static_cast<uint32_t>(bridge));
  return socket_.request(request);
}

int Links::set_address(int index, const MacAddress& address) {
  NetlinkRequest request = link_request(RTM_NEWLINK, kAcknowledged, index);
  request.attribute(IFLA_ADDRESS, bytes_of(address));
  return socket_.request(request);
}

int Links::set_alias(int index, const std::string& alias) {
  NetlinkRequest request = link_request(RTM_NEWLINK, kAcknowledged, index);
  request.attribute(IFLA_IFALIAS, alias);
  return socket_.request(request);
}

int Links::remove(int index) {
  NetlinkRequest request = link_request(RTM_DELLINK, kAcknowledged, index);
  return socket_.request(request);
}

int Links::add_bridge(const std::string& name, const MacAddress& address, const std::string& alias) {
  NetlinkRequest request = link_request(RTM_NEWLINK, kCreate, 0);
  request.attribute(IFLA_IFNAME, name);
  request.attribute(IFLA_ADDRESS, bytes_of(address));
  const size_t info = request.begin_nested(IFLA_LINKINFO);
  request.attribute(IFLA_INFO_KIND, std::string_view("bridge"));
  request.end_nested(info);
  if (const int error = socket_.request(request)) return error;
  // Not taken in the request that creates.
  const auto made = find(name);
  return made ? set_alias(made->index, alias) : ENODEV;
}

int Links::add_macvtap(const MacvtapPlan& plan) {
  NetlinkRequest request = link_request(RTM_NEWLINK, kCreate, plan.index);
  request.attribute(IFLA_IFNAME, plan.name);
  request.attribute(IFLA_LINK, static_cast<uint32_t>(plan.lower));
  if (plan.address) request.attribute(IFLA_ADDRESS, bytes_of(*plan.address));
  request.attribute(IFLA_NUM_TX_QUEUES, plan.queues);
  request.attribute(IFLA_NUM_RX_QUEUES, plan.queues);
  const size_t info = request.begin_nested(IFLA_LINKINFO);
  request.attribute(IFLA_INFO_KIND, std::string_view("macvtap"));
  const size_t data = request.begin_nested(IFLA_INFO_DATA);
  request.attribute(IFLA_MACVLAN_MODE, plan.mode);
  request.end_nested(data);
  request.end_nested(info);
  return socket_.request(request);
}

}  // namespace minivmm
