#include "virtio/device/fs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "vmm/core/state.h"

namespace minivmm {

namespace {

// 5.11.2: one queue for what must not wait, and request queues.
constexpr uint16_t kRequestQueues = 1;
constexpr uint16_t kQueues = 1 + kRequestQueues;
constexpr uint16_t kQueueSize =
    128;  // QEMU's virtiofsd allocates for each thread as much as one of them holds

// A loaded or emulated host takes its time to start a program in new namespaces. One that ends is noticed.
constexpr std::chrono::seconds kStartPatience{60};

enum Field : uint16_t { kTag = 1, kUsed = 2 };

struct [[gnu::packed]] Config {  // 5.11.4
  char tag[kMaxShareTag];
  uint32_t request_queues;
};
static_assert(sizeof(Config) == 40);

}  // namespace

VirtioFs::VirtioFs(UniqueFd socket, Options options, Log& log)
    : options_(std::move(options)),
      name_(fmt::format("virtio-fs.{}", options_.index)),
      plane_(std::move(socket),
             {.name = name_,
              .queues = kQueues,
              .changed =
                  [this](bool) {
                    if (options_.lost) options_.lost();
                  },
              .greeting = options_.greeting,
              .patience = options_.patience},
             log) {}

VirtioTraits VirtioFs::traits() const {
  return {.type = virtio::kDeviceFs,
          .name = "virtio-fs",
          .pci_class = 0x018000,  // mass storage of another kind
          .features = 0,
          .queue_sizes = std::vector<uint16_t>(kQueues, kQueueSize),
          .config_size = sizeof(Config),
          .unknown = kVhostRingFeatures & ~plane_.features()};
}

void VirtioFs::read_config(uint32_t offset, std::span<std::byte> out) const {
  Config config{};
  std::memcpy(config.tag, options_.tag.data(), std::min(options_.tag.size(), sizeof config.tag));
  config.request_queues = kRequestQueues;
  std::memcpy(out.data(), reinterpret_cast<const std::byte*>(&config) + offset, out.size());
}

Result<void> VirtioFs::start_queue(uint16_t index, Virtqueue&& queue, QueueContext context) {
  used_ = true;
  return plane_.start_queue(index, std::move(queue), context);
}

void VirtioFs::save(StateWriter& out) const {
  out.text(kTag, options_.tag);
  out.field(kUsed, used_);
}

Result<void> VirtioFs::load(StateReader& in) {
  const auto tag = in.text(kTag, kMaxShareTag);
  const auto used = in.need<bool>(kUsed);
  if (!tag || !used) return fail(Errc::corrupt, "a saved share without its tag");
  if (auto finished = in.finish(); !finished) return finished;
  if (*tag != options_.tag) return fail(Errc::invalid, "the share has another tag than the saved one");
  if (*used)
    return fail(Errc::unsupported, "a guest that uses a share cannot be loaded: its open files are gone");
  used_ = false;
  return {};
}

bool fs_shares_memory(std::string_view spec) {
  parse_share_spec(spec);
  return true;
}

std::unique_ptr<VirtioDevice> create_virtio_fs(std::string_view spec, const CreateContext& context) {
  const ShareSpec share = parse_share_spec(spec);
  const auto daemon = std::make_shared<ShareDaemon>(share);
  VirtioFs::Options options{.index = context.index, .tag = share.tag, .greeting = kStartPatience};
  // It lives as long as somebody may ask why it died: as long as the device, whose connection goes first.
  options.lost = [daemon, &log = context.log, folder = share.folder] {
    const std::string reason = daemon->reason();
    log.write(LogLevel::error, fmt::format("the guest has lost {}: {}", folder,
                                           reason.empty() ? "virtiofsd has broken off" : reason));
  };
  try {
    return std::make_unique<VirtioFs>(daemon->take_socket(), std::move(options), context.log);
  } catch (const HostError& error) {
    const std::string reason = daemon->reason();
    if (reason.empty()) throw;
    throw HostError(error.code().value(), fmt::format("cannot share {}: {}", share.folder, reason));
  }
}

}  // namespace minivmm
