#include "virtio/device/console.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "virtio/device/console_port.h"
#include "vmm/core/state.h"

namespace minivmm {

namespace {

constexpr uint16_t kQueueSize = 64;
constexpr unsigned kFeatureSize = 0;  // 5.3.3
constexpr unsigned kFeatureMultiport = 1;
constexpr uint16_t kControlReceive = 2;  // 5.3.2: to the guest
constexpr uint16_t kControlTransmit = 3;

struct Config {  // 5.3.4
  uint16_t columns;
  uint16_t rows;
  uint32_t max_ports;
  uint32_t emergency_write;
};
static_assert(sizeof(Config) == 12);

struct Control {  // 5.3.6.2
  uint32_t port;
  uint16_t event;
  uint16_t value;
};
static_assert(sizeof(Control) == 8);
enum Event : uint16_t { kDeviceReady = 0, kPortAdd = 1, kPortReady = 3, kPortOpen = 6, kPortName = 7 };

enum Field : uint16_t { kPort = 1 };

// 5.3.2: the first port's queues, the control queues, the others'.
constexpr uint16_t receive_queue(size_t port) {
  return static_cast<uint16_t>(port == 0 ? 0 : 2 * port + 2);
}

}  // namespace

VirtioConsole::VirtioConsole(unsigned index, std::vector<PortOptions> ports, Log& log)
    : name_(fmt::format("virtio-console.{}", index)),
      log_(log),
      multiport_(!ports.front().name.empty()),
      thread_(name_.substr(7), {.ready = [](uint64_t, uint32_t) {}, .work = [this] { return work(); }}) {
  MV_CHECK(ports.size() <= kMaxPorts && (multiport_ || ports.size() == 1));
  const size_t queues = multiport_ ? 2 * ports.size() + 2 : 2;
  for (size_t i = 0; i < queues; ++i) queues_.emplace_back(thread_, i);
  for (PortOptions& port : ports) {
    const uint16_t receive = receive_queue(ports_.size());
    ports_.push_back(
        std::make_unique<Port>(thread_, queues_[receive], queues_[receive + 1U], std::move(port)));
  }
}

VirtioConsole::~VirtioConsole() {
  thread_.stop();
}

bool VirtioConsole::set_size(uint16_t columns, uint16_t rows) {
  const uint32_t size = columns | uint32_t{rows} << 16;
  return size_.exchange(size) != size;
}

VirtioTraits VirtioConsole::traits() const {
  return {.type = virtio::kDeviceConsole,
          .name = "virtio-console",
          .pci_class = 0x078000,  // a communication controller of no other kind
          .features = virtio::feature_bit(multiport_ ? kFeatureMultiport : kFeatureSize),
          .queue_sizes = std::vector<uint16_t>(queues_.size(), kQueueSize),
          .config_size = sizeof(Config),
          .receive_queues = 0x5555'5555'5555'5555 & ((uint64_t{1} << (queues_.size() - 1)) * 2 - 1)};
}

void VirtioConsole::read_config(uint32_t offset, std::span<std::byte> out) const {
  const uint32_t size = size_;
  const Config config{.columns = static_cast<uint16_t>(size),
                      .rows = static_cast<uint16_t>(size >> 16),
                      .max_ports = static_cast<uint32_t>(ports_.size()),
                      .emergency_write = 0};
  std::memcpy(out.data(), reinterpret_cast<const std::byte*>(&config) + offset, out.size());
}

void VirtioConsole::ack_features(uint64_t features) {
  const DeviceThread::Lock lock(thread_);
  // Without MULTIPORT nobody says that a port is open (5.3.6): there is one, and it is.
  if ((features & virtio::feature_bit(kFeatureMultiport)) == 0) ports_.front()->set_open(true);
}

Result<void> VirtioConsole::start_queue(uint16_t index, Virtqueue&& queue, QueueContext context) {
  const DeviceThread::Lock lock(thread_);
  for (size_t i = 0; i < ports_.size(); ++i) {
    if (receive_queue(i) + 1 == index) ports_[i]->begin_output(queue);
  }
  auto started = queues_.at(index).start(std::move(queue), context);
  for (const auto& port : ports_) port->backend().resume_input();
  return started;
}

std::optional<Virtqueue> VirtioConsole::stop_queue(uint16_t index) {
  const DeviceThread::Lock lock(thread_);
  if (index >= queues_.size()) return std::nullopt;
  for (size_t i = 0; i < ports_.size(); ++i) {
    if (receive_queue(i) + 1 == index) ports_[i]->give_back();
  }
  return queues_[index].stop();
}

void VirtioConsole::reset() {
  const DeviceThread::Lock lock(thread_);
  for (const auto& port : ports_) port->reset();
}

Result<void> VirtioConsole::close() {
  for (const auto& port : ports_) port->backend().flush();
  return {};
}

bool VirtioConsole::work() {
  bool more = false;
  for (const auto& port : ports_) more = port->pump() || more;
  if (!multiport_) return more;
  queues_[kControlTransmit].busy();
  take_control();
  give_control();
  queues_[kControlTransmit].publish();
  queues_[kControlReceive].publish();
  const bool told = std::ranges::none_of(ports_, [](const auto& p) { return p->due.any(); });
  more = (!told && queues_[kControlReceive].idle()) || more;
  return queues_[kControlTransmit].idle() || more;
}

void VirtioConsole::take_control() {
  for (unsigned taken = 0; taken < kQueueSize; ++taken) {
    auto chain = queues_[kControlTransmit].pop();
    if (!chain) return;
    Control message{};
    if (chain->read(0, std::as_writable_bytes(std::span(&message, 1)))) {
      obey(message.port, message.event, message.value);
    } else {
      log_.guest_fault(name_, "a control message that is too short");
    }
    queues_[kControlTransmit].complete(std::move(*chain), 0);
  }
}

void VirtioConsole::obey(uint32_t id, uint16_t event, uint16_t value) {
  if (event == kDeviceReady) {
    for (const auto& port : ports_) port->due.add = value == 1;
    return;
  }
  if (id >= ports_.size()) {
    log_.guest_fault(name_, "a control message for a port that does not exist");
    return;
  }
  Port& port = *ports_[id];
  switch (event) {
    case kPortReady:
      port.known = value == 1;
      port.due.name = port.known;
      port.due.open = port.known;
      return;
    case kPortOpen:
      port.set_open(value == 1);
      port.backend().resume_input();
      return;
    default: log_.guest_fault(name_, "a control message that only a device sends"); return;
  }
}

void VirtioConsole::give_control() {
  for (size_t i = 0; i < ports_.size(); ++i) {
    Port& port = *ports_[i];
    while (port.due.any()) {
      auto chain = queues_[kControlReceive].pop();
      if (!chain) return;
      Control message{.port = static_cast<uint32_t>(i), .event = kPortOpen, .value = 1};
      std::string_view text;
      if (std::exchange(port.due.add, false)) {
        message.event = kPortAdd;
      } else if (std::exchange(port.due.name, false)) {
        message.event = kPortName;
        text = port.name();
      } else {
        port.due.open = false;
        message.value = port.backend().has_peer() ? 1 : 0;
      }
      // A buffer too small loses its message, as 5.3.6.2 has no way to say more.
      const bool fits = chain->writable_bytes() >= sizeof message + text.size();
      if (!fits) log_.guest_fault(name_, "a buffer too small for a control message");
      if (fits) {
        const auto head = chain->write(0, std::as_bytes(std::span(&message, 1)));
        const auto tail = chain->write(sizeof message, std::as_bytes(std::span(text)));
        MV_CHECK(head && tail);
      }
      queues_[kControlReceive].complete(std::move(*chain),
                                        fits ? static_cast<uint32_t>(sizeof message + text.size()) : 0);
    }
  }
}

void VirtioConsole::save(StateWriter& out) const {
  for (const auto& port : ports_) {
    out.group(kPort, [&port](StateWriter& w) { port->save(w); });
  }
}

Result<void> VirtioConsole::load(StateReader& in) {
  const auto groups = in.groups(kPort, kMaxPorts);
  if (!groups) return std::unexpected(groups.error());
  if (groups->size() != ports_.size())
    return fail(Errc::invalid, "the console has other ports than the saved one");
  std::vector<Port::Saved> saved;
  for (const StateReader& group : *groups) {
    auto port = Port::parse(group);
    if (!port) return std::unexpected(port.error());
    saved.push_back(std::move(*port));
  }
  if (auto finished = in.finish(); !finished) return finished;
  const DeviceThread::Lock lock(thread_);
  for (size_t i = 0; i < ports_.size(); ++i) ports_[i]->commit(std::move(saved[i]));
  return {};
}

bool joins_virtio_console(std::string_view spec) {
  return spec != "off" && !parse_console_specs(spec).front().name.empty();
}

std::unique_ptr<VirtioDevice> create_virtio_console(std::string_view text, const CreateContext& context) {
  if (text == "off") return nullptr;
  const std::vector<ConsolePortSpec> specs = parse_console_specs(text);
  if (specs.size() > VirtioConsole::kMaxPorts) {
    throw ConfigError(fmt::format("--console: {} ports with names are too many; {} at most", specs.size(),
                                  VirtioConsole::kMaxPorts));
  }
  std::set<std::string_view> names;
  std::vector<VirtioConsole::PortOptions> ports;
  for (const ConsolePortSpec& spec : specs) {
    if (!names.insert(spec.name).second) {
      throw ConfigError(fmt::format("--console: two ports are called '{}'", spec.name));
    }
    ports.push_back({spec.name, spec.where == "null" ? make_null_serial()
                                : context.serial     ? context.serial(spec.where)
                                                     : nullptr});
    if (!ports.back().backend) {
      throw ConfigError(fmt::format("--console {}: there is nothing but null here", spec.where));
    }
  }
  return std::make_unique<VirtioConsole>(context.index, std::move(ports), context.log);
}

std::string example_virtio_console_spec(const std::filesystem::path& /*folder*/) {
  return "null,name=org.example.one\nnull,name=org.example.two";
}

}  // namespace minivmm
