#include "virtio/device/console_port.h"

#include <algorithm>
#include <array>
#include <utility>

namespace minivmm {

namespace {
constexpr unsigned kBatch = 64;  // chains of each direction, before others may have the lock
constexpr size_t kChunk = 4096;  // bytes copied at a time
// Of output in one go. Buffers may overlap, so that a chain may have far more bytes than the guest has RAM.
constexpr uint64_t kMostOutput = 256U << 10;
enum Field : uint16_t { kKnown = 1, kOpen = 2, kInput = 3, kOutputDone = 4 };
}  // namespace

VirtioConsole::Port::Port(DeviceThread& thread, ServedQueue& receive, ServedQueue& transmit,
                          PortOptions options)
    : thread_(thread),
      receive_(receive),
      transmit_(transmit),
      name_(std::move(options.name)),
      backend_(std::move(options.backend)) {
  backend_->connect(this);
}

VirtioConsole::Port::~Port() {
  backend_->connect(nullptr);
}

size_t VirtioConsole::Port::input_room() {
  const DeviceThread::Lock lock(thread_);
  // What comes while no program has the port open, Linux throws away; so it waits on the host.
  const size_t room = open_ && receive_.usable() ? kInputRoom - input_.size() : 0;
  if (room == 0) refused_ = true;
  return room;
}

void VirtioConsole::Port::input(std::span<const std::byte> data) {
  const DeviceThread::Lock lock(thread_);
  if (!open_) return;  // closed since the back end asked for room: nobody is there to read it
  data = data.first(std::min(data.size(), kInputRoom - input_.size()));
  input_.insert(input_.end(), data.begin(), data.end());
  pump_input();
  receive_.publish();
  if (!input_.empty()) thread_.wake();  // to wait for the guest's buffers
}

void VirtioConsole::Port::peer_changed() {
  const DeviceThread::Lock lock(thread_);
  due.open = known;
  thread_.wake();
}

void VirtioConsole::Port::set_open(bool open) {
  open_ = open;
  if (!open) input_.clear();  // it was for the program that has gone
}

void VirtioConsole::Port::pump_input() {
  for (unsigned given = 0; given < kBatch && !input_.empty(); ++given) {
    auto chain = receive_.pop();
    if (!chain) break;
    const size_t n = std::min<uint64_t>(chain->writable_bytes(), input_.size());
    const auto stored = chain->write(0, std::span(input_).first(n));
    MV_CHECK(stored);
    input_.erase(input_.begin(), input_.begin() + static_cast<ptrdiff_t>(n));
    receive_.complete(std::move(*chain), static_cast<uint32_t>(n));
  }
  const bool room = open_ && receive_.usable() && input_.size() <= kInputRoom / 2;
  if (room && std::exchange(refused_, false)) backend_->resume_input();
}

// True: it has left off before the end of the queue.
bool VirtioConsole::Port::pump_output() {
  std::array<std::byte, kChunk> chunk;
  uint64_t moved = 0;
  for (unsigned taken = 0; taken < kBatch; ++taken) {
    if (!output_) {
      output_ = transmit_.pop();
      if (!output_) return false;
    }
    while (output_done_ < output_->readable_bytes()) {
      if (moved >= kMostOutput) return true;
      const auto part =
          std::span(chunk).first(std::min<uint64_t>(chunk.size(), output_->readable_bytes() - output_done_));
      const auto copied = output_->read(output_done_, part);
      MV_CHECK(copied);
      const size_t written = backend_->write(part);
      output_done_ += written;
      moved += written;
      if (written < part.size()) return false;  // until output_drained()
    }
    transmit_.complete(std::move(*output_), 0);
    output_.reset();
    output_done_ = 0;
  }
  return true;
}

void VirtioConsole::Port::begin_output(const Virtqueue& queue) {
  if (queue.position().given_back.empty()) output_done_ = 0;
}

bool VirtioConsole::Port::pump() {
  transmit_.busy();
  pump_input();
  const bool more = pump_output();
  receive_.publish();
  transmit_.publish();
  if (more) return true;
  const bool room = !input_.empty() && receive_.idle();
  const bool sent = !output_ && transmit_.idle();
  return room || sent;
}

void VirtioConsole::Port::give_back() {
  if (!output_) return;
  transmit_.give_back(std::move(*output_));
  output_.reset();
}

void VirtioConsole::Port::reset() {
  known = false;
  due = {};
  open_ = false;
  input_.clear();
  output_done_ = 0;
}

void VirtioConsole::Port::save(StateWriter& out) const {
  out.field(kKnown, static_cast<uint8_t>(known));
  out.field(kOpen, static_cast<uint8_t>(open_));
  out.bytes(kInput, input_);
  out.field(kOutputDone, output_done_);
}

Result<VirtioConsole::Port::Saved> VirtioConsole::Port::parse(const StateReader& in) {
  const auto known = in.need<uint8_t>(kKnown);
  const auto open = in.need<uint8_t>(kOpen);
  const auto input = in.bytes(kInput, kInputRoom);
  const auto done = in.need<uint64_t>(kOutputDone);
  if (!known || !open || !input || !done)
    return fail(Errc::corrupt, "a saved console port without its state");
  if (auto finished = in.finish(); !finished) return std::unexpected(finished.error());
  return Saved{*known != 0, *open != 0, {input->begin(), input->end()}, *done};
}

void VirtioConsole::Port::commit(Saved saved) {
  known = saved.known;
  due = {.add = false, .name = false, .open = known};  // the host's end may be another one
  open_ = saved.open;
  input_ = std::move(saved.input);
  output_done_ = saved.output_done;
  backend_->resume_input();
}

}  // namespace minivmm
