// The device's side of one split virtqueue (virtio 1.2, 2.7). One owner at a time, one thread at a time: the
// transport makes it, start_queue moves it to the device, stop_queue moves it back.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "virtio/descriptor_chain.h"
#include "vmm/core/error.h"
#include "vmm/core/guest_memory.h"
#include "vmm/core/log.h"

namespace minivmm {

class StateReader;
class StateWriter;

// Where the guest put the queue, and how it is to be read.
struct VirtqueueLayout {
  uint16_t size = 0;  // descriptors
  Gpa descriptors{};
  Gpa driver{};  // the available ring
  Gpa device{};  // the used ring

  // Errc::invalid unless the size is a power of two and at most `max_size`, and the three parts are aligned,
  // apart from each other, and each inside one region of RAM (virtio 1.2, 2.7).
  Result<void> check(const GuestMemory&, uint16_t max_size) const;
};

// How far the device has come: what is saved of a queue, beside its layout.
struct VirtqueuePosition {
  uint16_t next_avail = 0;  // free-running, as the rings' indices are
  uint16_t next_used = 0;
  std::vector<uint16_t> given_back;  // heads taken from the ring but not executed: pop() gives them first

  void save(StateWriter&) const;
  static Result<VirtqueuePosition> parse(const StateReader&, uint16_t queue_size);
};

class Virtqueue {
 public:
  struct Options {
    uint16_t max_size;       // that the device offers: also the bound on a chain's descriptors
    bool event_idx = false;  // VIRTIO_F_EVENT_IDX was negotiated
    bool indirect = false;   // VIRTIO_F_INDIRECT_DESC was negotiated
    std::string name;        // for the log: "virtio-blk.0 queue 0"
  };

  // `memory` and `log` outlive the queue. Errors as VirtqueueLayout::check().
  static Result<Virtqueue> create(GuestMemory& memory, const VirtqueueLayout&, VirtqueuePosition, Options,
                                  Log& log);
  Virtqueue(Virtqueue&&) noexcept = default;
  Virtqueue& operator=(Virtqueue&&) noexcept = default;

  uint16_t size() const { return layout_.size; }
  unsigned in_flight() const { return in_flight_; }  // popped and not handed back
  unsigned unpublished() const { return static_cast<uint16_t>(next_used_ - published_); }  // completed

  // The next request, or nothing. A malformed chain never gets here: its head goes back to the guest as used
  // with length 0, and the guest's fault is logged. An error means that the ring itself is nonsense: the
  // queue is broken for good, and the device needs a reset (2.1.2).
  Result<std::optional<Chain>> pop();

  // Whether pop() has something to give: a look at the ring, and no promise.
  bool available() const;

  // Puts the chain into the used ring; `written` is the bytes of its writable part that are new, from its
  // start. The guest sees it at the next publish().
  void complete(Chain&& chain, uint32_t written);
  // Takes back a chain that was not executed; pop() gives it again, here or in the restored machine.
  void give_back(Chain&& chain);

  // Shows the guest all that was completed since the last call. True: it wants an interrupt for them (2.7.7).
  [[nodiscard]] bool publish();
  // The same in two steps, for those that the guest may find by itself meanwhile: show() shows,
  // wants_interrupt() asks about all that was shown since it was asked last. Before the queue stops the
  // second one must have been taken.
  void show();
  unsigned untold() const { return static_cast<uint16_t>(published_ - signalled_); }
  [[nodiscard]] bool wants_interrupt();

  // Asks the guest not to kick while we are looking anyway (2.7.10); a hint.
  void disable_kicks();
  // Asks for kicks again. True: more came in the meantime, for which no kick will come; look again.
  [[nodiscard]] bool enable_kicks();

  // For a data plane outside this process, with nothing in flight: the available ring's index from which it
  // has to go on. Errc::unsupported if requests were given back that do not end what was taken: no index says
  // that.
  Result<uint16_t> hand_over_index() const;
  // It has come this far, by what it says; how much it has put into the used ring is what the guest sees.
  void taken_back(uint16_t next_avail);
  // It has gone without a word. All that is not in the used ring is done again, which is right where requests
  // are used in the order in which they were made available.
  void taken_back_in_order();

  const VirtqueueLayout& layout() const { return layout_; }
  // With nothing in flight.
  VirtqueuePosition position() const;

 private:
  Virtqueue(GuestMemory& memory, const VirtqueueLayout&, VirtqueuePosition&&, Options&&, Log& log,
            std::byte* descriptors, std::byte* driver, std::byte* device);

  uint16_t avail_idx_acquire() const;
  void put_used(uint16_t head, uint32_t written);
  bool take_head(uint16_t& head);
  std::unique_ptr<Chain::Buffers> fresh_buffers();
  std::unexpected<Error> break_queue(const char* what);

  GuestMemory* memory_;
  Log* log_;
  VirtqueueLayout layout_;
  Options options_;
  std::byte* driver_;
  std::byte* device_;
  ChainWalker walker_;
  std::vector<std::unique_ptr<Chain::Buffers>> pool_;
  std::vector<uint16_t> given_back_;
  uint16_t next_avail_;
  uint16_t seen_avail_;  // avail.idx as last loaded: entries up to it are there
  uint16_t next_used_;
  uint16_t published_;  // used.idx as the guest sees it
  uint16_t signalled_;  // used.idx when we last decided on an interrupt
  bool first_publish_ = true;
  bool kicks_disabled_ = false;
  unsigned in_flight_ = 0;
  const char* broken_ = nullptr;
};

}  // namespace minivmm
