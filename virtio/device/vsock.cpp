#include "virtio/device/vsock.h"

#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstring>
#include <utility>

#include "devices/vhost_device.h"
#include "virtio/device/vsock_vhost.h"
#include "vmm/core/run_folder.h"
#include "vmm/core/spec_string.h"
#include "vmm/core/state.h"

namespace minivmm {

namespace {

constexpr uint16_t kQueueSize = 256;
enum Queue : uint16_t { kReceive = 0, kTransmit = 1, kEvent = 2, kQueues = 3 };  // 5.10.2
constexpr uint64_t kListenerTag = kQueues;
static_assert(kListenerTag < VsockMux::kFirstId);
constexpr std::chrono::seconds kPatience{2};  // at the end, with hosts that take nothing, as the console's
constexpr unsigned kBatch = 64;               // packets of each direction, before others may have the lock

enum Field : uint16_t { kCid = 1 };

}  // namespace

VirtioVsock::VirtioVsock(std::unique_ptr<VsockHost> host, const Options& options, Log& log)
    : options_(options),
      name_(fmt::format("virtio-vsock.{}", options.index)),
      log_(log),
      host_(std::move(host)),
      thread_(name_.substr(7), {.ready =
                                    [this](uint64_t tag, uint32_t events) {
                                      if (tag == kListenerTag) mux_.accept();
                                      if (tag >= VsockMux::kFirstId) mux_.ready(tag, events);
                                    },
                                .work = [this] { return work(); }}),
      mux_(
          *host_,
          [this](int fd, uint64_t id) {
            return thread_.watch(fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, id);
          },
          name_, log) {
  for (uint16_t i = 0; i < kQueues; ++i) queues_.emplace_back(thread_, i);
  mux_.set_guest_cid(options_.cid);
  if (host_->listener() >= 0 && !thread_.watch(host_->listener(), EPOLLIN | EPOLLET, kListenerTag)) {
    throw_errno("watch the socket of --vsock");
  }
}

VirtioVsock::~VirtioVsock() {
  thread_.stop();
}

VirtioTraits VirtioVsock::traits() const {
  return {.type = virtio::kDeviceSocket,
          .name = "virtio-vsock",
          .pci_class = 0x078000,  // a communication controller of no other kind
          .features = virtio::feature_bit(vsock::kFeatureStream),
          .queue_sizes = {kQueueSize, kQueueSize, 16},
          .config_size = sizeof(uint64_t),
          .receive_queues = 1U << kReceive | 1U << kEvent};
}

void VirtioVsock::read_config(uint32_t offset, std::span<std::byte> out) const {
  // Without the lock: the CID changes only in load(), with every vCPU parked.
  const uint64_t cid = mux_.guest_cid();
  std::memcpy(out.data(), reinterpret_cast<const std::byte*>(&cid) + offset, out.size());
}

Result<void> VirtioVsock::start_queue(uint16_t index, Virtqueue&& queue, QueueContext context) {
  const DeviceThread::Lock lock(thread_);
  return queues_.at(index).start(std::move(queue), context);
}

std::optional<Virtqueue> VirtioVsock::stop_queue(uint16_t index) {
  const DeviceThread::Lock lock(thread_);
  if (index >= queues_.size()) return std::nullopt;
  return queues_[index].stop();
}

void VirtioVsock::reset() {
  const DeviceThread::Lock lock(thread_);
  mux_.clear();
  reset_event_ = false;
}

Result<void> VirtioVsock::close() {
  const DeviceThread::Lock lock(thread_);
  mux_.finish(kPatience);
  return {};
}

bool VirtioVsock::work() {
  mux_.accept_who_waits();
  queues_[kTransmit].busy();
  const bool more = take_packets();
  give_event();
  give_packets();
  for (ServedQueue& queue : queues_) queue.publish();
  if (more) return true;
  // Each queue's kicks are asked for only where they would change anything.
  const bool sent = mux_.takes_packets() && queues_[kTransmit].idle();
  const bool room = mux_.has_packet() && queues_[kReceive].idle();
  const bool events = reset_event_ && queues_[kEvent].idle();
  return sent || room || events;
}

// True: it has left off before the end of the queue.
bool VirtioVsock::take_packets() {
  for (unsigned taken = 0; taken < kBatch; ++taken) {
    if (!mux_.takes_packets()) return false;  // until the guest has taken some answers
    auto chain = queues_[kTransmit].pop();
    if (!chain) return false;
    vsock::Header header{};
    const bool whole = chain->read(0, std::as_writable_bytes(std::span(&header, 1))).has_value();
    pieces_.clear();
    // By the length in our copy: what the guest does to its own meanwhile changes nothing.
    if (whole && chain->readable_slices(sizeof header, header.len, pieces_)) {
      mux_.from_guest(header, pieces_);
    } else {
      log_.guest_fault(name_, "a packet shorter than it says");
    }
    queues_[kTransmit].complete(std::move(*chain), 0);
  }
  return true;
}

void VirtioVsock::give_packets() {
  for (unsigned given = 0; given < kBatch && mux_.has_packet(); ++given) {
    auto chain = queues_[kReceive].pop();
    if (!chain) return;
    uint32_t written = 0;
    if (give_packet(*chain, written)) {
      queues_[kReceive].complete(std::move(*chain), written);
    } else {
      queues_[kReceive].give_back(std::move(*chain));
    }
  }
}

// False: there was nothing for it after all.
bool VirtioVsock::give_packet(Chain& chain, uint32_t& written) {
  constexpr uint32_t kHeader = sizeof(vsock::Header);
  pieces_.clear();
  if (chain.writable_bytes() <= kHeader ||
      !chain.writable_slices(kHeader, chain.writable_bytes() - kHeader, pieces_)) {
    log_.guest_fault(name_, "a receive buffer too small for a packet");
    return true;
  }
  vsock::Header header{};
  const auto length = mux_.to_guest(header, pieces_);
  if (!length) return false;
  const auto stored = chain.write(0, std::as_bytes(std::span(&header, 1)));
  MV_CHECK(stored);
  written = kHeader + *length;
  return true;
}

void VirtioVsock::give_event() {
  if (!reset_event_) return;
  auto chain = queues_[kEvent].pop();
  if (!chain) return;
  const uint32_t id = vsock::kEventTransportReset;
  const bool stored = chain->write(0, std::as_bytes(std::span(&id, 1))).has_value();
  if (stored) reset_event_ = false;
  queues_[kEvent].complete(std::move(*chain), stored ? sizeof id : 0);
}

void VirtioVsock::save(StateWriter& out) const {
  out.field(kCid, mux_.guest_cid());
}

Result<void> VirtioVsock::load(StateReader& in) {
  const auto cid = in.need<uint64_t>(kCid);
  if (!cid || *cid < vsock::kFirstCid || *cid > vsock::kLastCid) {
    return fail(Errc::corrupt, "a saved socket device without its address");
  }
  if (auto finished = in.finish(); !finished) return finished;
  const DeviceThread::Lock lock(thread_);
  mux_.clear();
  if (!options_.keep_cid) mux_.set_guest_cid(*cid);
  reset_event_ = true;
  return {};
}

namespace {

uint64_t parse_cid(const std::string& text) {
  uint64_t cid = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), cid);
  if (error != std::errc{} || end != text.data() + text.size() || cid < vsock::kFirstCid ||
      cid > vsock::kLastCid) {
    throw ConfigError(fmt::format("--vsock cid={}: a guest's address is a number from {} to {}", text,
                                  vsock::kFirstCid, vsock::kLastCid));
  }
  return cid;
}

struct ParsedSpec {
  std::optional<uint64_t> cid;
  std::optional<std::string> path;
  bool vhost = false;
};

ParsedSpec parse(std::string_view text) {
  const SpecString spec("--vsock", text, {"cid", "path", "vhost"});
  if (!spec.head().empty() && spec.head() != "on") {
    throw ConfigError(fmt::format("--vsock {}: write on, off, or cid=N[,path=PATH|,vhost=on]", text));
  }
  ParsedSpec parsed{.cid = std::nullopt, .path = spec.get("path")};
  if (const auto cid = spec.get("cid")) parsed.cid = parse_cid(*cid);
  if (parsed.path) check_vsock_path(*parsed.path);
  parsed.vhost = spec.get_switch("vhost", false);
  if (parsed.vhost && parsed.path)
    throw ConfigError(
        fmt::format("--vsock {}: with vhost=on there is no path, but AF_VSOCK on the host", text));
  return parsed;
}

// No other machine of this host has it: process ids are unique, and at most 2^22.
uint64_t own_cid(unsigned attempt) {
  return (uint64_t{1} << 16) + static_cast<uint64_t>(::getpid()) + (uint64_t{attempt} << 23);
}

std::string default_path(uint64_t cid) {
  return (run_folder() / fmt::format("vsock-{}.sock", cid)).string();
}

}  // namespace

std::unique_ptr<VirtioDevice> create_virtio_vsock(std::string_view text, const CreateContext& context) {
  if (text == "off") return nullptr;
  const auto [given, path, vhost] = parse(text);
  if (vhost) {
    auto device = std::make_unique<VirtioVhostVsock>(
        open_vhost_device("vsock", "--vsock vhost=on"),
        VirtioVhostVsock::Options{.index = context.index, .cid = given}, context.log);
    context.log.write(LogLevel::info,
                      fmt::format("vsock: the guest is {} to the host's kernel", device->cid()));
    return device;
  }
  const auto make = [&context, keep_cid = given.has_value()](uint64_t cid, std::string where) {
    auto host = std::make_unique<UnixVsockHost>(std::move(where));
    context.log.write(LogLevel::info,
                      fmt::format("vsock: the guest is {}, the host's socket {}", cid, host->path()));
    return std::make_unique<VirtioVsock>(
        std::move(host), VirtioVsock::Options{.index = context.index, .cid = cid, .keep_cid = keep_cid},
        context.log);
  };
  if (given || path) {
    const uint64_t cid = given ? *given : own_cid(0);
    return make(cid, path ? *path : default_path(cid));
  }
  for (unsigned attempt = 0;; ++attempt) {  // one program may run many machines
    const uint64_t cid = own_cid(attempt);
    try {
      return make(cid, default_path(cid));
    } catch (const HostError& error) {
      if (error.code().value() != EADDRINUSE || attempt == 255) throw;
    }
  }
}

void check_virtio_vsock_spec(std::string_view spec, uint64_t /*memory*/) {
  if (spec != "off") parse(spec);
}

std::string example_virtio_vsock_spec(const std::filesystem::path& folder) {
  return fmt::format("cid=3,path={}", (folder / "vsock").string());
}

}  // namespace minivmm
