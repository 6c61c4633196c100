// Numbers of the network device (virtio 1.2, 5.1), each with its section.
#pragma once

#include <cstddef>
#include <cstdint>

#include "devices/net/net_backend.h"

namespace minivmm::net {

// 5.1.3 feature bits
enum Feature : unsigned {
  kFeatureCsum = 0,
  kFeatureGuestCsum = 1,
  kFeatureCtrlGuestOffloads = 2,
  kFeatureMtu = 3,
  kFeatureMac = 5,
  kFeatureGuestTso4 = 7,
  kFeatureGuestTso6 = 8,
  kFeatureGuestEcn = 9,
  kFeatureHostTso4 = 11,
  kFeatureHostTso6 = 12,
  kFeatureHostEcn = 13,
  kFeatureMrgRxbuf = 15,
  kFeatureStatus = 16,
  kFeatureCtrlVq = 17,
  kFeatureCtrlRx = 18,
  kFeatureCtrlVlan = 19,
  kFeatureCtrlRxExtra = 20,
  kFeatureGuestAnnounce = 21,
  kFeatureMq = 22,
  kFeatureCtrlMacAddr = 23,
  kFeatureGuestUso4 = 54,  // these three: virtio 1.3
  kFeatureGuestUso6 = 55,
  kFeatureHostUso = 56,
  kFeatureSpeedDuplex = 63,
};

// 5.1.4 device configuration layout, up to what the features we offer cover
struct [[gnu::packed]] Config {
  uint8_t mac[6];
  uint16_t status;
  uint16_t max_virtqueue_pairs;
  uint16_t mtu;
  uint32_t speed;  // Mbit/s
  uint8_t duplex;
};
static_assert(sizeof(Config) == 17);
inline constexpr uint16_t kStatusLinkUp = 1;
inline constexpr uint16_t kStatusAnnounce = 2;
inline constexpr uint8_t kDuplexFull = 1;

// 5.1.6 what stands before each frame
struct Header {
  uint8_t flags = 0;
  uint8_t gso_type = 0;
  uint16_t hdr_len = 0;
  uint16_t gso_size = 0;
  uint16_t csum_start = 0;
  uint16_t csum_offset = 0;
  uint16_t num_buffers = 0;
  bool operator==(const Header&) const = default;
};
static_assert(sizeof(Header) == kNetHeaderSize);
inline constexpr uint8_t kHeaderNeedsCsum = 1;
inline constexpr uint8_t kHeaderDataValid = 2;
inline constexpr uint8_t kGsoNone = 0;
inline constexpr uint8_t kGsoTcp4 = 1;
inline constexpr uint8_t kGsoTcp6 = 4;
inline constexpr uint8_t kGsoUdp = 5;     // virtio 1.3
inline constexpr uint8_t kGsoEcn = 0x80;  // or'ed into one for TCP

inline constexpr size_t kEthernetHeader = 14;
inline constexpr size_t kVlanTag = 4;

// 5.1.6.5 the control queue
struct Command {
  uint8_t command_class;
  uint8_t command;
};
enum class Ack : uint8_t { ok = 0, error = 1 };
inline constexpr uint8_t kClassRx = 0;
inline constexpr uint8_t kRxPromisc = 0;
inline constexpr uint8_t kRxAllMulti = 1;
inline constexpr uint8_t kRxAllUni = 2;  // from here on: CTRL_RX_EXTRA
inline constexpr uint8_t kRxNoMulti = 3;
inline constexpr uint8_t kRxNoUni = 4;
inline constexpr uint8_t kRxNoBroadcast = 5;
inline constexpr uint8_t kClassMac = 1;
inline constexpr uint8_t kMacTableSet = 0;
inline constexpr uint8_t kMacAddrSet = 1;
inline constexpr uint8_t kClassVlan = 2;
inline constexpr uint8_t kVlanAdd = 0;
inline constexpr uint8_t kVlanDel = 1;
inline constexpr uint8_t kClassAnnounce = 3;
inline constexpr uint8_t kAnnounceAck = 0;
inline constexpr uint8_t kClassMq = 4;
inline constexpr uint8_t kMqPairsSet = 0;
inline constexpr uint8_t kClassGuestOffloads = 5;
inline constexpr uint8_t kGuestOffloadsSet = 0;

}  // namespace minivmm::net
