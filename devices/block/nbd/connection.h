// One connection to an NBD server, negotiated and ready for commands. One thread at a time uses it.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "devices/block/nbd/library.h"
#include "vmm/core/fd.h"

namespace minivmm::nbd {

using Clock = std::chrono::steady_clock;

// Where the server is.
struct Endpoint {
  std::string uri;                 // NBD's URI specification: "nbd://host:port/export"
  bool uri_may_name_files = true;  // TLS keys
};

// What the server said of the export; bytes.
struct ExportInfo {
  uint64_t size = 0;
  uint32_t minimum_block = 1;
  uint32_t preferred_block = 4096;
  uint32_t maximum_payload = uint32_t{32} << 20;
  bool read_only = false;
  bool can_flush = false;
  bool can_trim = false;
  bool can_zero = false;
  bool can_map = false;  // base:allocation
};

class Connection {
 public:
  // Blocks until the server is ready for commands, until `deadline`, or until `cancel` (may be null) is
  // signalled. Null: `why` says why, in one line.
  static std::unique_ptr<Connection> open(std::shared_ptr<const Library> library, const Endpoint& endpoint,
                                          Clock::time_point deadline, const EventFd* cancel,
                                          std::string& why);
  // The same over a connected socket.
  static std::unique_ptr<Connection> open(std::shared_ptr<const Library> library, UniqueFd socket,
                                          Clock::time_point deadline, std::string& why);
  ~Connection();  // closes at once; no buffer of a command in flight is touched afterwards
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  nbd_handle* handle() const { return handle_; }
  const Library& library() const { return *library_; }
  const ExportInfo& info() const { return info_; }
  // Neither lost, nor closed by the server.
  bool alive() const;
  // Waits for the server, for `wake` (may be null), or for `timeout_ms` (-1: for ever), and lets libnbd go
  // on: completions are called from here.
  void step(const EventFd* wake, int timeout_ms);
  // Tells the server that we go, if it listens; waits a moment for it to close.
  void disconnect();

 private:
  explicit Connection(std::shared_ptr<const Library> library) : library_(std::move(library)) {}
  bool create(std::string& why);
  bool negotiate(Clock::time_point deadline, const EventFd* cancel, std::string& why);
  bool learn(std::string& why);
  void keep_alive() const;
  std::string last_error() const;

  std::shared_ptr<const Library> library_;
  nbd_handle* handle_ = nullptr;
  ExportInfo info_;
  std::string step_error_;
};

}  // namespace minivmm::nbd
