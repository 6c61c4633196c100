#include "virtio/device/net_tx.h"

#include <span>
#include <utility>

#include "virtio/device/net_offloads.h"

namespace minivmm {

namespace {
// After so many frames the guest is shown that they are done, however many more there are.
constexpr unsigned kBatch = 64;
// Or after so many bytes: large frames take long enough for the guest to make the next ones meanwhile.
constexpr uint64_t kBatchBytes = 64 << 10;
}  // namespace

Result<bool> NetTx::drain(const StopFlag& stop) {
  drained_bytes_ = 0;
  bool sent = false;
  if (waiting_) {
    drained_bytes_ += waiting_->readable_bytes();
    if (!send()) return false;
    queue_.complete(std::move(*waiting_), 0);
    waiting_.reset();
    sent = true;
  }
  bool more = true;
  for (unsigned frames = 0; frames < kBatch && drained_bytes_ < kBatchBytes && !stop.requested(); ++frames) {
    auto popped = queue_.pop();
    if (!popped) {
      if (sent) wire_.flush();
      return std::unexpected(popped.error());
    }
    if (!*popped) {
      more = false;
      break;
    }
    drained_bytes_ += (*popped)->readable_bytes();
    if (prepare(**popped)) {
      if (!send()) {
        waiting_.emplace(std::move(**popped));
        more = false;
        break;
      }
      sent = true;
    }
    queue_.complete(std::move(**popped), 0);
  }
  if (sent) wire_.flush();
  return more;
}

// False: the frame makes no sense, and is dropped.
bool NetTx::prepare(const Chain& chain) {
  const uint64_t bytes = chain.readable_bytes();
  if (bytes < kNetHeaderSize + net::kEthernetHeader || bytes > kMaxFrame) {
    context_.log.guest_fault(settings_.name, "a frame too short or too long");
    return false;
  }
  const auto read = chain.read(0, std::as_writable_bytes(std::span(&header_, 1)));
  MV_CHECK(read);
  if (auto checked = net::check_header(header_, bytes - kNetHeaderSize, settings_.takes); !checked) {
    context_.log.guest_fault(settings_.name, checked.error().what);
    return false;
  }
  pieces_.assign(1, {&header_, sizeof header_});
  const auto sliced = chain.readable_slices(kNetHeaderSize, bytes - kNetHeaderSize, pieces_);
  MV_CHECK(sliced);
  return true;
}

// False: no room. A frame that is refused is lost, as frames are.
bool NetTx::send() {
  const auto sent = wire_.send(pieces_);
  return !sent || *sent;
}

void NetTx::settle() {
  if (!waiting_) return;
  queue_.give_back(std::move(*waiting_));
  waiting_.reset();
}

}  // namespace minivmm
