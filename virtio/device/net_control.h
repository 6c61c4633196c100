// The driver's commands (virtio 1.2, 5.1.6.5), carried out on plain values.
#pragma once

#include <cstdint>
#include <optional>

#include "virtio/descriptor_chain.h"
#include "virtio/device/net_rx_filter.h"
#include "virtio/device/net_spec.h"

namespace minivmm::net {

// What commands change; power-on has the card's own address in the filter.
struct ControlState {
  RxFilter filter;
  uint16_t pairs = 1;                               // in use
  std::optional<NetOffloads> gives = std::nullopt;  // none: all that was negotiated
  bool announce = false;                            // the driver has been asked to, and has not yet

  void save(StateWriter&) const;
  // `max_pairs`: that the card has.
  static Result<ControlState> parse(const StateReader&, uint16_t max_pairs);
};

struct ControlRules {
  uint64_t features;   // negotiated
  uint16_t max_pairs;  // that the card has
};

// The command in the chain's readable part: class, command, data. Ack::error, and nothing has changed, for
// one that makes no sense or whose feature was not negotiated.
Ack run_command(const Chain& chain, const ControlRules& rules, ControlState& state);

}  // namespace minivmm::net
