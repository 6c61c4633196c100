// Puts the guest's IPv4 fragments together before anything judges them: only the first has ports, and
// libslirp's own reassembly has neither a bound nor a good record (CVE-2019-14378).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "devices/net/user/packet.h"

namespace minivmm::user_net {

class Reassembly {
 public:
  // A fragment, as parse_packet() gives it. Once its datagram is whole: that, as a frame, valid until the
  // next call. Fragments have to come in order, as every stack sends them; TCP's are dropped, as it never has
  // any.
  std::optional<std::span<uint8_t>> add(const Packet& fragment);

 private:
  // Datagrams in the making at once; the oldest gives way.
  static constexpr size_t kSlots = 4;
  struct Slot {
    std::vector<uint8_t> frame;  // as far as it has come
    uint32_t used = 0;
  };
  Slot* begin(const Packet& first);
  Slot* slot_of(const Packet& fragment);

  std::array<Slot, kSlots> slots_;
  std::vector<uint8_t> whole_;
  uint32_t now_ = 0;
};

}  // namespace minivmm::user_net
