// One port of a console device: bytes between its two queues and a back end on the host. What waits is
// bounded both ways: input by kInputRoom, output by the guest's own buffers.
#pragma once

#include <optional>
#include <vector>

#include "virtio/device/console.h"
#include "vmm/core/state.h"

namespace minivmm {

// Everything but SerialPort's calls happens under the thread's lock.
class VirtioConsole::Port final : public SerialPort {
 public:
  Port(DeviceThread& thread, ServedQueue& receive, ServedQueue& transmit, PortOptions options);
  Port(const Port&) = delete;
  Port& operator=(const Port&) = delete;
  ~Port() override;

  // On the event loop's thread; these take the lock.
  size_t input_room() override;
  void input(std::span<const std::byte> data) override;
  void output_drained() override { thread_.wake(); }
  void peer_changed() override;

  const std::string& name() const { return name_; }
  SerialBackend& backend() { return *backend_; }

  // What control messages say of it (5.3.6.2).
  bool known = false;  // the driver has it
  struct Due {         // what the driver is to be told, in this order
    bool add = false;
    bool name = false;
    bool open = false;
    bool any() const { return add || name || open; }
  } due;
  void set_open(bool open);  // by a program in the guest

  // The transmit queue starts. A new one, as after its reset, has nothing of which the host has some already.
  void begin_output(const Virtqueue& queue);
  bool pump();       // both ways; true: there is more to do
  void give_back();  // what is in hand; before the transmit queue stops
  void reset();
  void save(StateWriter&) const;
  struct Saved {
    bool known;
    bool open;
    std::vector<std::byte> input;
    uint64_t output_done;
  };
  static Result<Saved> parse(const StateReader&);
  void commit(Saved saved);

 private:
  void pump_input();
  bool pump_output();

  DeviceThread& thread_;
  ServedQueue& receive_;
  ServedQueue& transmit_;
  const std::string name_;
  std::unique_ptr<SerialBackend> backend_;
  bool open_ = false;
  bool refused_ = false;          // input: the back end waits for resume_input()
  std::vector<std::byte> input_;  // for the guest
  std::optional<Chain> output_;   // in hand
  uint64_t output_done_ = 0;      // bytes of the chain in hand, or of the first to come, that the host has
};

}  // namespace minivmm
