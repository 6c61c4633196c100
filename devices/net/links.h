// The host's network interfaces, asked for and changed by rtnetlink(7). What changes one returns 0 or an
// errno value: the caller knows what it was for.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "devices/net/mac_address.h"
#include "devices/net/netlink.h"

namespace minivmm {

struct Link {
  int index = 0;
  std::string name;
  std::string kind;  // "bridge", "tun", "macvtap", "veth"; empty: none of these (a real card)
  std::string alias;
  uint32_t flags = 0;  // IFF_*
  uint32_t mtu = 0;
  int master = 0;  // the index of the bridge it is a port of; 0: none
  MacAddress address;
  bool multi_queue = false;  // of a tap
  bool persistent = false;   // of a tap

  bool admin_up() const;
  bool running() const;  // up, and with a carrier
};

// nullopt: the message is not about an interface, or makes no sense.
std::optional<Link> parse_link(const NetlinkMessage& message);

struct Ipv4Network {
  uint32_t address = 0;  // host byte order; of the host in this network
  uint8_t prefix = 0;    // bits
  uint32_t mask() const { return prefix == 0 ? 0 : ~uint32_t{0} << (32 - prefix); }
  bool overlaps(const Ipv4Network& other) const;
};
std::optional<Ipv4Network> parse_ipv4_network(std::string_view text);  // "192.168.56.1/24"
std::string format_ipv4(uint32_t address);

// A name the kernel takes: 1 to 15 bytes, no '/', ':', '%' or space.
bool is_interface_name(std::string_view name);

class Links {
 public:
  std::optional<Link> find(const std::string& name);
  std::optional<Link> find(int index);
  std::vector<Link> all();

  int set_flags(int index, uint32_t on);  // IFF_UP, IFF_ALLMULTI
  int set_mtu(int index, uint32_t mtu);
  int set_master(int index, int bridge);  // 0: leave the one it is in
  int set_address(int index, const MacAddress& address);
  int remove(int index);

  int add_bridge(const std::string& name, const MacAddress& address, const std::string& alias);
  struct MacvtapPlan {
    std::string name;
    int index;      // its own, which no other may have
    int lower;      // the index of the interface it sits on
    uint32_t mode;  // MACVLAN_MODE_*
    std::optional<MacAddress> address;
    uint32_t queues;
  };
  int add_macvtap(const MacvtapPlan& plan);
  int set_alias(int index, const std::string& alias);

  struct Address {
    int link;
    Ipv4Network network;
  };
  std::vector<Address> ipv4_addresses();
  int add_ipv4_address(int index, const Ipv4Network& network);

  // An entry of the neighbour table that lasts: EEXIST when the address has one already.
  int add_neighbour(int index, uint32_t address, const MacAddress& mac);
  int remove_neighbour(int index, uint32_t address);
  std::optional<MacAddress> find_neighbour(int index, uint32_t address);

 private:
  NetlinkSocket socket_;
};

}  // namespace minivmm
