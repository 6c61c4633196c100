#include "virtio/device/balloon.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "vmm/core/spec_string.h"
#include "vmm/core/state.h"

namespace minivmm {

namespace {

// 5.5.2. The specification's place for reporting is 4; QEMU's, where free page hints are not offered, is 3,
// and Linux looks there in those versions that count only the queues that exist. A guest uses one of the two.
enum Queue : uint16_t { kInflate, kDeflate, kStatistics, kReportingCounted, kReporting, kQueues };
constexpr uint16_t kQueueSize = 128;

// 5.5.3
constexpr unsigned kFeatureMustTellHost = 0;
constexpr unsigned kFeatureStatistics = 1;
constexpr unsigned kFeatureDeflateOnOom = 2;
constexpr unsigned kFeaturePagePoison = 4;
constexpr unsigned kFeatureReporting = 5;

struct Config {  // 5.5.4
  uint32_t num_pages;
  uint32_t actual;
  uint32_t free_page_hint_cmd_id;
  uint32_t poison_val;
};
static_assert(sizeof(Config) == 16);

struct [[gnu::packed]] Statistic {  // 5.5.6.3
  uint16_t tag;
  uint64_t value;
};
static_assert(sizeof(Statistic) == 10);
constexpr size_t kMaxStatistics = 64;  // of one buffer; there are ten tags

// Of one request; drivers send 256, or 1024. Each may cost a system call.
constexpr uint64_t kMaxPages = 4096;
constexpr unsigned kRequests = 16;  // of a queue, before others may have the lock

enum Field : uint16_t { kTarget = 1, kActual = 2, kPoison = 3 };

std::optional<uint64_t>* field_of(BalloonStats& stats, uint16_t tag) {
  switch (tag) {  // 5.5.6.4
    case 0: return &stats.swapped_in;
    case 1: return &stats.swapped_out;
    case 2: return &stats.major_faults;
    case 3: return &stats.minor_faults;
    case 4: return &stats.free;
    case 5: return &stats.total;
    case 6: return &stats.available;
    case 7: return &stats.caches;
    case 8: return &stats.huge_page_allocations;
    case 9: return &stats.huge_page_failures;
    default: return nullptr;
  }
}

// Errc::invalid: more than the configuration space can say.
Result<uint32_t> pages_of(uint64_t bytes) {
  if (bytes / BalloonPages::kPage > UINT32_MAX) return fail(Errc::invalid, "a balloon is at most 16 TiB");
  return static_cast<uint32_t>(bytes / BalloonPages::kPage);
}

}  // namespace

VirtioBalloon::VirtioBalloon(const Options& options, Log& log)
    : options_(options),
      name_(fmt::format("virtio-balloon.{}", options.index)),
      log_(log),
      target_(pages_of(options.size).value_or(UINT32_MAX)),
      thread_(name_.substr(7), {.ready = [](uint64_t, uint32_t) {}, .work = [this] { return work(); }}) {
  for (uint16_t i = 0; i < kQueues; ++i) queues_.emplace_back(thread_, i);
}

VirtioBalloon::~VirtioBalloon() {
  thread_.stop();
}

VirtioTraits VirtioBalloon::traits() const {
  using virtio::feature_bit;
  uint64_t features =
      feature_bit(kFeatureMustTellHost) | feature_bit(kFeatureStatistics) | feature_bit(kFeaturePagePoison);
  if (options_.deflate_on_oom) features |= feature_bit(kFeatureDeflateOnOom);
  if (options_.reporting) features |= feature_bit(kFeatureReporting);
  return {.type = virtio::kDeviceBalloon,
          .name = "virtio-balloon",
          .pci_class = 0x00ff00,  // what does not fit any class
          .features = features,
          .queue_sizes = std::vector<uint16_t>(options_.reporting ? kQueues : kReportingCounted, kQueueSize),
          .config_size = sizeof(Config),
          .receive_queues = 1U << kStatistics};
}

void VirtioBalloon::read_config(uint32_t offset, std::span<std::byte> out) const {
  const Config config{
      .num_pages = target_, .actual = actual_, .free_page_hint_cmd_id = 0, .poison_val = poison_};
  std::memcpy(out.data(), reinterpret_cast<const std::byte*>(&config) + offset, out.size());
}

void VirtioBalloon::write_config(uint32_t offset, std::span<const std::byte> in) {
  Config config{.num_pages = 0, .actual = actual_, .free_page_hint_cmd_id = 0, .poison_val = poison_};
  std::memcpy(reinterpret_cast<std::byte*>(&config) + offset, in.data(), in.size());
  actual_ = config.actual;
  most_ = std::max<uint32_t>(most_, config.actual);
  poison_ = config.poison_val;
}

Result<void> VirtioBalloon::start_queue(uint16_t index, Virtqueue&& queue, QueueContext context) {
  const DeviceThread::Lock lock(thread_);
  if (!pages_) pages_.emplace(context.memory);
  return queues_.at(index).start(std::move(queue), context);
}

std::optional<Virtqueue> VirtioBalloon::stop_queue(uint16_t index) {
  const DeviceThread::Lock lock(thread_);
  if (index >= queues_.size()) return std::nullopt;
  // Its figures are read again where it goes on, which does no harm.
  if (index == kStatistics && statistics_) {
    queues_[index].give_back(std::move(*statistics_));
    statistics_.reset();
  }
  return queues_[index].stop();
}

Result<bool> VirtioBalloon::resize(std::optional<uint64_t> bytes) {
  if (!bytes) return false;
  const auto pages = pages_of(*bytes);
  if (!pages) return std::unexpected(pages.error());
  return target_.exchange(*pages) != *pages;
}

void VirtioBalloon::reset() {
  const DeviceThread::Lock lock(thread_);
  acked_ = 0;
  actual_ = 0;
  poison_ = 0;
  pages_.reset();
  const std::scoped_lock stats_lock(stats_mutex_);
  handed_over_ = false;  // the figures stay, and say how old they are
}

bool VirtioBalloon::work() {
  for (ServedQueue& queue : queues_) queue.busy();
  bool more = take_pages(kInflate);
  more = take_pages(kDeflate) || more;
  more = take_reports(kReportingCounted) || more;
  more = take_reports(kReporting) || more;
  take_statistics();
  for (ServedQueue& queue : queues_) {
    queue.publish();
    more = queue.idle() || more;
  }
  return more;
}

// True: it has left off before the end of the queue.
bool VirtioBalloon::take_pages(uint16_t index) {
  for (unsigned taken = 0; taken < kRequests; ++taken) {
    auto chain = queues_[index].pop();
    if (!chain) return false;
    // 5.5.6: an array of page numbers. What is past the bound keeps its memory, which is no harm.
    const uint64_t count = chain->readable_bytes() / sizeof(uint32_t);
    if (count > kMaxPages) log_.guest_fault(name_, "more page numbers than one request can hold");
    batch_.resize(std::min(count, kMaxPages));
    const auto copied = chain->read(0, std::as_writable_bytes(std::span(batch_)));
    MV_CHECK(copied);
    note(index == kInflate ? pages_->inflate(batch_) : pages_->deflate(batch_));
    queues_[index].complete(std::move(*chain), 0);
  }
  return true;
}

void VirtioBalloon::note(const BalloonPages::Outcome& outcome) {
  if (outcome.outside) log_.guest_fault(name_, "a page number outside RAM");
  if (outcome.refused) log_.guest_fault(name_, "the host did not take back pages of guest memory");
}

bool VirtioBalloon::take_reports(uint16_t index) {
  if (index >= queues_.size()) return false;
  for (unsigned taken = 0; taken < kRequests; ++taken) {
    auto chain = queues_[index].pop();
    if (!chain) return false;
    // 5.5.6.7: the device must not change a page to anything but the poison value, and we can only make
    // zeroes.
    const bool poisoned = (acked_ & virtio::feature_bit(kFeaturePagePoison)) != 0 && poison_ != 0;
    BalloonPages::Outcome outcome;
    if (!poisoned) {
      for (const GuestMemory::Range& range : chain->writable_ranges()) {
        if (!queues_[index].memory().discard(range.base, range.size)) outcome.refused = true;
      }
    }
    note(outcome);
    queues_[index].complete(std::move(*chain), 0);
  }
  return true;
}

// The guest's buffer stays here until stats() wants new figures (5.5.6.3).
void VirtioBalloon::take_statistics() {
  for (unsigned taken = 0; taken < kQueueSize; ++taken) {
    auto chain = queues_[kStatistics].pop();
    if (!chain) return;
    if (statistics_) {  // a driver has one only
      queues_[kStatistics].complete(std::move(*statistics_), 0);
      statistics_.reset();
    }
    parse_statistics(*chain);
    statistics_.emplace(std::move(*chain));
  }
}

void VirtioBalloon::parse_statistics(const Chain& chain) {
  std::array<Statistic, kMaxStatistics> figures{};
  const size_t count = std::min<uint64_t>(kMaxStatistics, chain.readable_bytes() / sizeof(Statistic));
  const auto copied = chain.read(0, std::as_writable_bytes(std::span(figures).first(count)));
  MV_CHECK(copied);
  const std::scoped_lock lock(stats_mutex_);
  stats_ = {};
  for (const Statistic& figure : std::span(figures).first(count)) {
    if (auto* const field = field_of(stats_, figure.tag)) *field = figure.value;
  }
  // The buffer that a driver hands over before it was ever asked may be empty.
  if (count != 0) stats_.time = std::chrono::steady_clock::now();
  ++stats_count_;
  handed_over_ = true;
  stats_came_.notify_all();
}

BalloonStats VirtioBalloon::stats(std::chrono::milliseconds patience) {
  uint64_t seen = 0;
  bool asked = false;
  {
    const DeviceThread::Lock lock(thread_);
    const std::scoped_lock stats_lock(stats_mutex_);
    seen = stats_count_;
    asked = queues_[kStatistics].usable() && handed_over_;
    if (statistics_) {
      queues_[kStatistics].complete(std::move(*statistics_), 0);
      statistics_.reset();
      queues_[kStatistics].publish();
    }
  }
  std::unique_lock lock(stats_mutex_);
  if (asked) stats_came_.wait_for(lock, patience, [&] { return stats_count_ != seen; });
  BalloonStats stats = stats_;
  stats.target = uint64_t{target_} * BalloonPages::kPage;
  stats.actual = uint64_t{actual_} * BalloonPages::kPage;
  stats.most = uint64_t{most_} * BalloonPages::kPage;
  return stats;
}

void VirtioBalloon::save(StateWriter& out) const {
  out.field(kTarget, target_.load());
  out.field(kActual, actual_.load());
  out.field(kPoison, poison_.load());
}

Result<void> VirtioBalloon::load(StateReader& in) {
  const auto target = in.need<uint32_t>(kTarget);
  const auto actual = in.need<uint32_t>(kActual);
  const auto poison = in.need<uint32_t>(kPoison);
  if (!target || !actual || !poison) return fail(Errc::corrupt, "a saved balloon without its size");
  if (auto finished = in.finish(); !finished) return finished;
  target_ = *target;
  actual_ = *actual;
  poison_ = *poison;
  return {};
}

namespace {

// `host_page` in bytes: huge pages that are given back are no longer reserved, and when the guest wants them
// again there may be none, which ends it. So nothing of that kind happens unless it is asked for.
VirtioBalloon::Options parse(std::string_view text, uint64_t memory, uint64_t host_page) {
  const SpecString spec("--balloon", text, {"size", "deflate-on-oom", "reporting"});
  if (!spec.head().empty() && spec.head() != "on") {
    throw ConfigError(fmt::format("--balloon {}: write on, off, or size=SIZE", text));
  }
  VirtioBalloon::Options options{.size = spec.get_size("size", 0),
                                 .deflate_on_oom = spec.get_switch("deflate-on-oom", true),
                                 .reporting = spec.get_switch("reporting", host_page == kPageSize)};
  if (!pages_of(options.size)) throw ConfigError(fmt::format("--balloon {}: 16 TiB at most", text));
  if (memory != 0 && options.size >= memory) {
    throw ConfigError(fmt::format("--balloon {}: the guest has {} in all", text, format_size(memory)));
  }
  return options;
}

}  // namespace

std::unique_ptr<VirtioDevice> create_virtio_balloon(std::string_view text, const CreateContext& context) {
  if (text == "off") return nullptr;
  VirtioBalloon::Options options = parse(text, context.memory, context.host_page);
  options.index = context.index;
  return std::make_unique<VirtioBalloon>(options, context.log);
}

void check_virtio_balloon_spec(std::string_view spec, uint64_t memory) {
  if (spec != "off") parse(spec, memory, kPageSize);
}

std::string example_virtio_balloon_spec(const std::filesystem::path& /*folder*/) {
  return "size=64k";
}

}  // namespace minivmm
