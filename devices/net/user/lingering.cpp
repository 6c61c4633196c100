#include "devices/net/user/lingering.h"

#include <algorithm>
#include <utility>

namespace minivmm::user_net {

void Lingering::add(const Packet& last) {
  if (ended_.size() == kMost) ended_.pop_front();  // goes by itself
  Ended ended{
      .guest = last.source, .host = last.destination, .reset = {}, .size = last.transport + kTcpHeader};
  std::copy_n(last.frame.begin(), ended.size, ended.reset.begin());
  Packet reset = last;
  reset.frame = std::span(ended.reset).first(ended.size);
  uint8_t* const ip = reset.frame.data() + kEthernetHeader;
  if (last.v6) {
    store16(ip + 4, kTcpHeader);
  } else {
    store16(ip + 2, kIpv4Header + kTcpHeader);
    fill_in_ipv4_sum(reset.frame);
  }
  store32(reset.header() + 4, last.sequence + static_cast<uint32_t>(last.payload_size()) + 1);
  reset.header()[12] = kTcpHeader / 4 << 4;
  reset.header()[13] = kTcpRst | kTcpAck;
  fill_in_transport_sum(reset);
  ended_.push_back(ended);
}

void Lingering::forget(const Packet& opening) {
  std::erase_if(ended_, [&](const Ended& ended) {
    return ended.guest == opening.source && ended.host == opening.destination;
  });
}

std::span<const uint8_t> Lingering::let_go() {
  if (ended_.empty()) return {};
  gone_ = ended_.front();
  ended_.pop_front();
  return std::span(gone_->reset).first(gone_->size);
}

}  // namespace minivmm::user_net
