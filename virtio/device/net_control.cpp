#include "virtio/device/net_control.h"

#include <cstring>

#include "virtio/device/net_offloads.h"
#include "virtio/spec.h"
#include "vmm/core/state.h"

namespace minivmm::net {

namespace {

using virtio::feature_bit;

enum Field : uint16_t { kFilter = 1, kPairs = 2, kGives = 3, kAnnounce = 4 };
constexpr NetOffloads kAllGives = 0xff;  // all that was negotiated

class Data {  // what follows the command
 public:
  explicit Data(const Chain& chain) : chain_(chain) {}
  uint64_t size() const { return chain_.readable_bytes() - sizeof(Command); }

  // All of the data.
  template <class T>
  std::optional<T> whole() const {
    T out;
    if (size() != sizeof(T) || !at(0, std::as_writable_bytes(std::span(&out, 1)))) return std::nullopt;
    return out;
  }
  bool at(uint64_t offset, std::span<std::byte> out) const {
    return chain_.read(sizeof(Command) + offset, out).has_value();
  }

 private:
  const Chain& chain_;
};

bool set_mode(bool& mode, const Data& data) {
  const auto on = data.whole<uint8_t>();
  if (on) mode = *on != 0;
  return on.has_value();
}

bool run_rx(uint8_t command, const Data& data, RxFilter& filter) {
  switch (command) {
    case kRxPromisc: return set_mode(filter.promisc, data);
    case kRxAllMulti: return set_mode(filter.all_multi, data);
    case kRxAllUni: return set_mode(filter.all_uni, data);
    case kRxNoMulti: return set_mode(filter.no_multi, data);
    case kRxNoUni: return set_mode(filter.no_uni, data);
    case kRxNoBroadcast: return set_mode(filter.no_broadcast, data);
    default: return false;
  }
}

// 5.1.6.5.2: a 32-bit count and so many addresses, at `offset`, which moves behind them.
bool read_table(const Data& data, uint64_t& offset, MacTable& table) {
  uint32_t count = 0;
  if (!data.at(offset, std::as_writable_bytes(std::span(&count, 1)))) return false;
  offset += sizeof count;
  const uint64_t bytes = uint64_t{count} * sizeof(MacAddress);
  if (bytes > data.size() - offset) return false;
  table.overflown = count > MacTable::kMost;
  table.count = table.overflown ? uint8_t{0} : static_cast<uint8_t>(count);
  const bool read = data.at(offset, std::as_writable_bytes(std::span(table.macs).first(table.count)));
  offset += bytes;
  return read;
}

bool set_tables(const Data& data, RxFilter& filter) {
  uint64_t offset = 0;
  MacTable unicast;
  MacTable multicast;
  if (!read_table(data, offset, unicast) || !read_table(data, offset, multicast) || offset != data.size()) {
    return false;
  }
  filter.unicast = unicast;
  filter.multicast = multicast;
  return true;
}

bool set_own(const Data& data, RxFilter& filter) {
  const auto mac = data.whole<MacAddress>();
  if (!mac || mac->is_multicast()) return false;
  filter.own = *mac;
  return true;
}

bool set_vlan(const Data& data, RxFilter& filter, bool on) {
  const auto id = data.whole<uint16_t>();
  if (!id || *id >= filter.vlans.size()) return false;
  filter.vlans[*id] = on;
  return true;
}

bool set_pairs(const Data& data, const ControlRules& rules, ControlState& state) {
  const auto pairs = data.whole<uint16_t>();
  if (!pairs || *pairs == 0 || *pairs > rules.max_pairs) return false;  // 5.1.6.5.5
  state.pairs = *pairs;
  return true;
}

bool set_offloads(const Data& data, const ControlRules& rules, ControlState& state) {
  const auto wanted = data.whole<uint64_t>();
  const uint64_t possible = guest_features(guest_offloads(rules.features));
  if (!wanted || (*wanted & ~possible) != 0) return false;  // 5.1.6.5.6.1
  state.gives = guest_offloads(*wanted);
  return true;
}

bool run(const Command& command, const Data& data, const ControlRules& rules, ControlState& state) {
  const auto agreed = [&rules](unsigned feature) { return (rules.features & feature_bit(feature)) != 0; };
  switch (command.command_class) {
    case kClassRx:
      return agreed(command.command < kRxAllUni ? kFeatureCtrlRx : kFeatureCtrlRxExtra) &&
             run_rx(command.command, data, state.filter);
    case kClassMac:
      if (command.command == kMacTableSet) return agreed(kFeatureCtrlRx) && set_tables(data, state.filter);
      return command.command == kMacAddrSet && agreed(kFeatureCtrlMacAddr) && set_own(data, state.filter);
    case kClassVlan:
      return command.command <= kVlanDel && agreed(kFeatureCtrlVlan) &&
             set_vlan(data, state.filter, command.command == kVlanAdd);
    case kClassAnnounce:
      if (command.command != kAnnounceAck || !agreed(kFeatureGuestAnnounce)) return false;
      return std::exchange(state.announce, false);  // 5.1.6.5.4: only an answer to a request
    case kClassMq:
      return command.command == kMqPairsSet && agreed(kFeatureMq) && set_pairs(data, rules, state);
    case kClassGuestOffloads:
      return command.command == kGuestOffloadsSet && agreed(kFeatureCtrlGuestOffloads) &&
             set_offloads(data, rules, state);
    default: return false;
  }
}

}  // namespace

Ack run_command(const Chain& chain, const ControlRules& rules, ControlState& state) {
  Command command{};
  if (!chain.read(0, std::as_writable_bytes(std::span(&command, 1)))) return Ack::error;
  return run(command, Data(chain), rules, state) ? Ack::ok : Ack::error;
}

void ControlState::save(StateWriter& out) const {
  out.group(kFilter, [this](StateWriter& w) { filter.save(w); });
  out.field(kPairs, pairs);
  out.field(kGives, gives.value_or(kAllGives));
  out.field(kAnnounce, static_cast<uint8_t>(announce ? 1 : 0));
}

Result<ControlState> ControlState::parse(const StateReader& in, uint16_t max_pairs) {
  const auto filters = in.groups(kFilter, 1);
  const auto pairs = in.need<uint16_t>(kPairs);
  const auto announce = in.need<uint8_t>(kAnnounce);
  if (!filters || filters->empty() || !pairs || !announce) {
    return fail(Errc::corrupt, "a saved network card without what its driver has set");
  }
  const auto gives = in.field<NetOffloads>(kGives, kAllGives);
  if (!gives) return std::unexpected(gives.error());
  if (*pairs == 0 || *pairs > max_pairs) {
    return fail(Errc::corrupt, "a saved network card uses queues it does not have");
  }
  if (auto finished = in.finish(); !finished) return std::unexpected(finished.error());
  auto filter = RxFilter::parse(filters->front());
  if (!filter) return std::unexpected(filter.error());
  ControlState state{.filter = *filter, .pairs = *pairs, .announce = *announce != 0};
  if (*gives != kAllGives) state.gives = *gives;
  return state;
}

}  // namespace minivmm::net
