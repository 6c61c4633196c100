#include "virtio/device/rng.h"

#include <fmt/format.h>
#include <sys/random.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "vmm/core/spec_string.h"
#include "vmm/core/state.h"

namespace minivmm {

namespace {

constexpr uint16_t kQueueSize = 64;
// Of a request, however large its buffers: the driver copes with less than it asked for (5.4.6.1: one byte or
// more), and a stop does not wait for long.
constexpr uint64_t kMaxBytes = 65536;
constexpr uint64_t kLeastBurst = 64;  // what Linux asks for at a time

// How many bytes were filled, from the start.
uint32_t fill(const IoVec& pieces) {
  uint64_t filled = 0;
  for (const iovec& piece : pieces) {
    size_t done = 0;
    while (done < piece.iov_len) {
      const ssize_t got =
          ::getrandom(static_cast<std::byte*>(piece.iov_base) + done, piece.iov_len - done, 0);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return static_cast<uint32_t>(filled);
      done += static_cast<size_t>(got);
      filled += static_cast<uint64_t>(got);
    }
  }
  return static_cast<uint32_t>(filled);
}

uint64_t burst_of(uint64_t bytes_per_second) {
  return std::max(kLeastBurst, bytes_per_second / 10);
}

void arm(int timer, std::chrono::nanoseconds wait) {
  constexpr int64_t kSecond = 1'000'000'000;
  const int64_t ns = std::max<int64_t>(wait.count(), 1);
  const itimerspec when{.it_interval = {}, .it_value = {.tv_sec = ns / kSecond, .tv_nsec = ns % kSecond}};
  const int armed = ::timerfd_settime(timer, 0, &when, nullptr);
  MV_CHECK(armed == 0);
}

}  // namespace

VirtioRng::VirtioRng(const Options& options)
    : name_(fmt::format("virtio-rng.{}", options.index)),
      // A larger answer than the bucket holds would be paid off afterwards; a smaller one comes sooner.
      most_(options.bytes_per_second == 0 ? kMaxBytes
                                          : std::min(kMaxBytes, burst_of(options.bytes_per_second))),
      limiter_({}, {.per_second = options.bytes_per_second, .burst = burst_of(options.bytes_per_second)}) {
  if (options.bytes_per_second == 0) return;
  timer_ = UniqueFd(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!timer_) throw_errno("make a timer for --rng");
}

VirtioRng::~VirtioRng() {
  stop_queue(0);
}

VirtioTraits VirtioRng::traits() const {
  return {.type = virtio::kDeviceEntropy,
          .name = "virtio-rng",
          .pci_class = 0x00ff00,  // what does not fit any class
          .features = 0,
          .queue_sizes = {kQueueSize},
          .config_size = 0};
}

Result<void> VirtioRng::start_queue(uint16_t index, Virtqueue&& queue, QueueContext context) {
  MV_CHECK(index == 0 && !runner_);
  const int timer = timer_.get();
  auto runner = QueueRunner::start(
      fmt::format("{} q0", name_.substr(7)), std::move(queue), context,
      std::span(&timer, timer_ ? size_t{1} : size_t{0}),
      {.drain = [this, &log = context.log](Virtqueue& q, unsigned /*which*/,
                                           const StopFlag& stop) { return drain(q, stop, log); },
       .settle = [this](Virtqueue& q, const StopFlag&) { settle(q); }});
  if (!runner) return std::unexpected(runner.error());
  runner_ = std::move(*runner);
  return {};
}

std::optional<Virtqueue> VirtioRng::stop_queue(uint16_t /*index*/) {
  if (!runner_) return std::nullopt;
  Virtqueue queue = runner_->stop();
  runner_.reset();
  return queue;
}

Result<void> VirtioRng::drain(Virtqueue& queue, const StopFlag& stop, Log& log) {
  // All are taken, so that those without credit do not look like work. Leaves off after one queue's worth,
  // for the guest to see what is done.
  for (unsigned taken = 0; taken < queue.size() && !stop.requested(); ++taken) {
    auto popped = queue.pop();
    if (!popped) return std::unexpected(popped.error());
    if (!*popped) break;
    waiting_.push_back(std::move(**popped));
    serve(queue, stop, log);
  }
  serve(queue, stop, log);
  return {};
}

void VirtioRng::serve(Virtqueue& queue, const StopFlag& stop, Log& log) {
  while (!waiting_.empty() && !stop.requested()) {
    Chain& first = waiting_.front();
    const uint64_t size = std::min(first.writable_bytes(), most_);
    if (const auto wait = limiter_.take(size); wait.count() > 0) {
      arm(timer_.get(), wait);
      return;
    }
    Chain chain = std::move(first);
    waiting_.pop_front();
    if (size == 0) log.guest_fault(name_, "a request for random bytes without a buffer");
    pieces_.clear();
    uint32_t filled = 0;
    if (chain.writable_slices(0, size, pieces_)) filled = fill(pieces_);
    queue.complete(std::move(chain), filled);
  }
}

void VirtioRng::settle(Virtqueue& queue) {
  for (; !waiting_.empty(); waiting_.pop_front()) queue.give_back(std::move(waiting_.front()));
}

Result<void> VirtioRng::load(StateReader& in) {
  return in.finish();
}

namespace {

// Bytes a second; 0: no limit.
uint64_t parse_rate(std::string_view text) {
  const SpecString spec("--rng", text, {"rate"});
  if (!spec.head().empty() && spec.head() != "on") {
    throw ConfigError(fmt::format("--rng {}: write on, off or rate=SIZE", text));
  }
  const auto rate = spec.get("rate");
  if (!rate) return 0;
  std::string_view size = *rate;
  if (size.ends_with("/s")) size.remove_suffix(2);
  const auto bytes = parse_size(size);
  if (!bytes || *bytes == 0) {
    throw ConfigError(fmt::format("--rng {}: rate= takes bytes a second: 1024, 64k, 1M", text));
  }
  return *bytes;
}

}  // namespace

std::unique_ptr<VirtioDevice> create_virtio_rng(std::string_view text, const CreateContext& context) {
  if (text == "off") return nullptr;
  return std::make_unique<VirtioRng>(
      VirtioRng::Options{.index = context.index, .bytes_per_second = parse_rate(text)});
}

void check_virtio_rng_spec(std::string_view spec, uint64_t /*memory*/) {
  if (spec != "off") parse_rate(spec);
}

std::string example_virtio_rng_spec(const std::filesystem::path& /*folder*/) {
  return "on";
}

}  // namespace minivmm
